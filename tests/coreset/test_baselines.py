"""Each baseline against a version of it that anyone can check; then what all selectors share."""

import math
from collections import Counter
from itertools import permutations
from statistics import median

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from colm import CoresetSelector, available_selectors
from colm.coreset.candidates import OBSERVATIONS, Observed
from colm.coreset.medoids import source_medoids
from colm.coreset.registry import get_selector

SELECTORS = available_selectors()
every_selector = pytest.mark.parametrize("name", SELECTORS)
numbers = st.lists(st.integers(-5, 5), min_size=2, max_size=12)
seeds = st.integers(0, 10**6)


def keep(name, budget, n, *, observed=None, step=0, **options):
    """Rows kept of n candidates of one source whose keys are their rows."""
    tokens, sources = options.pop("label_tokens", None), options.pop("sources", ["one"] * n)
    selection = CoresetSelector(name, **options).select(
        observed, budget, sources=sources, label_tokens=tokens, keys=range(n), step=step
    )
    return selection.indices.tolist()


def draw_numbers(seed, *shape):
    return 1 + torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(numbers, st.data())
@settings(deadline=None)
def test_top_loss_sorts_by_loss(losses, data):
    budget = data.draw(st.integers(1, len(losses) - 1))
    observed = Observed(losses=torch.tensor(losses).float())
    by_loss = sorted(range(len(losses)), key=lambda row: -losses[row])
    assert keep("top_loss", budget, len(losses), observed=observed) == by_loss[:budget]


@given(numbers, st.data())
@settings(deadline=None)
def test_longest_sorts_by_label_tokens(lengths, data):
    budget = data.draw(st.integers(1, len(lengths) - 1))
    tokens = torch.tensor(lengths) + 5
    by_length = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    assert keep("longest", budget, len(lengths), label_tokens=tokens) == by_length[:budget]


@given(numbers, st.data())
@settings(deadline=None)
def test_middle_perplexity_sorts_by_distance_from_the_median(losses, data):
    budget = data.draw(st.integers(1, len(losses) - 1))
    observed = Observed(losses=torch.tensor(losses).float())
    distance = [abs(loss - median(losses)) for loss in losses]
    nearest = sorted(range(len(losses)), key=distance.__getitem__)
    assert keep("middle_perplexity", budget, len(losses), observed=observed) == nearest[:budget]


@pytest.mark.parametrize("normalization", ["adam", "none"])
def test_gradient_norm_sorts_by_the_raw_gradient(normalization):
    for seed in range(10):
        gradients = draw_numbers(seed, 9, 4)
        norms = [math.hypot(*row) for row in gradients.tolist()]
        largest = sorted(range(9), key=lambda row: -norms[row])
        kept = keep("gradient_norm", 4, 9, observed=gradients, normalization=normalization)
        assert kept == largest[:4]


def drawn_one_after_the_other(weights, budget):
    """Probability of each set, from every order in which it can be drawn."""
    found = Counter()
    for order in permutations(range(len(weights)), budget):
        left, probability = sum(weights), 1.0
        for row in order:
            probability *= weights[row] / left
            left -= weights[row]
        found[frozenset(order)] += probability
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("budget", "beta"), [(1, 3), (2, 1)])
def test_selective_backprop_draws_by_percentile(budget, beta):
    """2,000 draws: each set comes up as often as it should, within 5 standard deviations."""
    losses = torch.tensor([0.7, 0.1, 9.0, 0.7])
    expected = drawn_one_after_the_other([x**beta for x in (0.75, 0.25, 1.0, 0.75)], budget)
    counts = Counter(
        frozenset(keep("selective_backprop", budget, 4, observed=Observed(losses=losses), step=i))
        for i in range(2000)
    )
    for rows, probability in expected.items():
        deviation = math.sqrt(2000 * probability * (1 - probability))
        assert abs(counts[rows] - 2000 * probability) < 5 * deviation


def test_selective_backprop_depends_on_seed_and_step_alone():
    observed = Observed(losses=draw_numbers(0, 16))

    def kept(seed, step):
        torch.rand(1)  # global random state plays no part
        return tuple(keep("selective_backprop", 8, 16, observed=observed, seed=seed, step=step))

    assert kept(0, 5) == kept(0, 5)
    assert len({kept(seed, step) for seed in range(3) for step in range(3)}) == 9


def greedy_medoids(rows, budget):
    """Facility location on cosines, by trying everything; of ties the first."""
    n = len(rows)
    cosine = [
        [
            sum(map(math.prod, zip(x, y, strict=True))) / math.hypot(*x) / math.hypot(*y)
            for y in rows
        ]
        for x in rows
    ]
    least = min(map(min, cosine))
    chosen = []
    for _ in range(budget):
        worth = {
            j: math.fsum(max(cosine[i][s] for s in [*chosen, j]) - least for i in range(n))
            for j in range(n)
            if j not in chosen
        }
        chosen.append(min(j for j in worth if worth[j] >= max(worth.values()) - 1e-9))
    return chosen


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_hidden_facility_location_finds_the_medoids_of_all_sources_together(dtype):
    for seed in range(10):
        hidden = draw_numbers(seed, 10, 3).to(dtype)
        sources = ["one", "two"] * 5
        observed = Observed(hidden=hidden)
        kept = keep("hidden_facility_location", 4, 10, observed=observed, sources=sources)
        assert kept == greedy_medoids(hidden.double().tolist(), 4)


def test_hidden_facility_location_counts_its_clusters():
    hidden = torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.1, 0.0], [0.0, 0.0, 1.0], [3.0, -0.1, 0.0]])
    selector = CoresetSelector("hidden_facility_location")
    selection = selector.select(Observed(hidden=hidden), 2, sources=["one"] * 4)
    assert dict(zip(selection.indices.tolist(), selection.weights.tolist(), strict=True)) == {
        0: 3.0,
        2: 1.0,
    }


def test_small_random_keeps_small_sources_and_draws_the_rest():
    """900 draws of 2 of 6: each is drawn within 5 standard deviations of 300 times."""
    sources = ["large"] * 6 + ["small"] * 2
    counts = Counter()
    for step in range(900):
        counts.update(keep("small_random", 4, 8, sources=sources, step=step))
    assert counts[6] == counts[7] == 900
    assert all(abs(counts[row] - 300) < 5 * math.sqrt(900 / 3 * 2 / 3) for row in range(6))


@pytest.mark.parametrize("seed", range(5))
def test_ssm_is_its_algorithm_1(seed):
    """Each pick adds the most there is to add, by estimates that each keep their own largest h.

    Sources play no part: all 14 are one pool. Of equal gains any will do.
    """
    slopes, direction = draw_numbers(seed, 14, 1) - 1, draw_numbers(seed + 10, 1, 9) - 1
    estimates = (slopes * direction).double()
    kept = estimates.abs().argsort(dim=1, descending=True)[:, :4]
    sparse = torch.zeros_like(estimates).scatter(1, kept, estimates.gather(1, kept))
    alike = 100 - (sparse[:, None] - sparse[None]).abs().sum(2)

    def covered(rows):
        return float(alike[rows].amax(0).sum()) if rows else 0.0

    sources = ["large"] * 10 + ["small"] * 3 + ["tiny"]
    chosen = keep(
        "ssm", 6, 14, observed=estimates.float(), sources=sources, seed=seed, kept_dimensions=4
    )
    for place, row in enumerate(chosen):
        most = max(covered([*chosen[:place], other]) for other in range(14))
        assert covered([*chosen[:place], row]) == pytest.approx(most, abs=1e-4)


@pytest.mark.parametrize("allocation", ["proportional", "balanced", "none"])
def test_ssm_is_the_medoids_of_all_sources_small_ones_too(allocation):
    gradients = draw_numbers(1, 20, 6)
    sources = ["a"] * 13 + ["b"] * 5 + ["c"] * 2
    codes = torch.tensor(["abc".index(source) for source in sources])
    medoids = source_medoids(
        gradients, codes, 9, allocation=allocation, kept_dimensions=3, tie_tolerance=1e-5
    )
    selection = CoresetSelector(
        "ssm", normalization="none", allocation=allocation, kept_dimensions=3
    ).select(gradients, 9, sources=sources, keys=range(20))
    assert selection.kept_whole == 0
    assert selection.indices.tolist() == medoids.indices.tolist()
    assert selection.weights.tolist() == medoids.weights.tolist()
    assert selection.weights.sum() == 20


def everything_of(n, seed):
    losses = draw_numbers(seed, n).abs()
    gradients, hidden, prompt = (draw_numbers(seed + i, n, 3) for i in range(3))
    return Observed(gradients, losses, hidden, prompt)


@every_selector
@given(n=st.integers(1, 12), budget=st.integers(1, 12), seed=seeds)
@settings(max_examples=20, deadline=None)
def test_what_all_selectors_keep(name, n, budget, seed):
    """As many as asked for, once each, of those there are, the same again; no global randomness."""
    seen = everything_of(n, seed)
    tokens = torch.arange(n) % 3
    before = torch.get_rng_state()
    first, again = (
        keep(name, budget, n, observed=seen, label_tokens=tokens, seed=seed) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert len(first) == len(set(first)) == (n if name == "none" else min(n, budget))
    assert set(first) <= set(range(n))
    assert first == again


@every_selector
def test_a_selector_is_shown_what_it_needs_and_no_more(name):
    needs, tokens = get_selector(name).needs, torch.arange(8)
    everything = everything_of(8, 0)
    selector = CoresetSelector(name)
    contested = selector.split(3, sources=["one"] * 8, keys=range(8), label_tokens=tokens, step=0)
    rows = contested.rows
    assert not needs or rows.tolist() == list(range(8))
    shown = Observed(**{need: getattr(everything, need)[rows] for need in needs}) if needs else None
    kept = selector.choose(contested, shown).indices.tolist()
    assert kept == keep(name, 3, 8, observed=everything, label_tokens=tokens)
    for missing in needs:
        others = {need: getattr(everything, need) for need in OBSERVATIONS if need != missing}
        with pytest.raises(ValueError, match=f"'{name}' needs {missing} of candidates"):
            keep(name, 3, 8, observed=Observed(**others))


def test_longest_says_what_it_needs():
    with pytest.raises(ValueError, match="'longest' needs label_tokens"):
        keep("longest", 3, 8)
