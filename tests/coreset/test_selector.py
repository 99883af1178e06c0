"""The whole selection step: small sources, moments, what is left out, what is restored."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from colm import CoresetSelector, available_selectors, register_selector
from colm.coreset import registry
from colm.coreset.candidates import Observed
from colm.coreset.features import AdamMoments
from colm.coreset.medoids import source_medoids
from colm.coreset.selection import matching_error

SIZES = {"large": 900, "wide": 700, "tiny": 30}


def candidates(n=24, d=10, seed=0):
    """Features that do not start at zero, and sources of which one is small."""
    generator = torch.Generator().manual_seed(seed)
    features = 3 + torch.randn(n, d, generator=generator)
    names = ["large", "wide", "tiny", "large", "wide", "large"]
    return features, [names[i % 6] for i in range(n)]


def observed(features):
    return Observed(gradients=features, losses=features.square().sum(1))


def test_small_sources_are_kept_and_the_rest_are_medoids_of_large_ones():
    features, sources = candidates()
    selection = CoresetSelector("colm", source_sizes=SIZES, kept_dimensions=4).select(
        features, 12, sources=sources, keys=range(24)
    )
    whole = [row for row, name in enumerate(sources) if name == "tiny"]
    others = torch.tensor([row for row, name in enumerate(sources) if name != "tiny"])
    codes = torch.tensor([["large", "wide"].index(sources[row]) for row in others])
    normalised = AdamMoments(10).normalize(features[others])
    medoids = source_medoids(normalised, codes, 8, kept_dimensions=4, tie_tolerance=1e-4)
    assert selection.kept_whole == 4
    assert selection.indices.tolist() == whole + others[medoids.indices].tolist()
    assert selection.weights.tolist() == [1.0] * 4 + medoids.weights.tolist()
    assert selection.weights.sum() == 24
    assert selection.matching_error == matching_error(normalised, medoids.indices)


def test_moments_follow_what_was_selected_from_large_sources():
    features, sources = candidates()
    selector = CoresetSelector("colm", source_sizes=SIZES)
    selection = selector.select(features, 12, sources=sources)
    expected = AdamMoments(10)
    expected.update(features[selection.indices[selection.kept_whole :]])
    state = selector.state_dict()
    torch.testing.assert_close(state["moments.exp_avg"], expected.exp_avg)
    torch.testing.assert_close(state["moments.exp_avg_sq"], expected.exp_avg_sq)
    again, _ = candidates(seed=1)
    first = selector.select(again, 12, sources=sources).indices
    fresh = CoresetSelector("colm", source_sizes=SIZES).select(again, 12, sources=sources).indices
    assert first.tolist() != fresh.tolist()


def test_without_sizes_small_sources_go_by_what_was_seen():
    features, _ = candidates(20)
    sources = ["common"] * 17 + ["rare"] * 3
    selection = CoresetSelector("colm").select(features, 10, sources=sources)
    assert selection.indices[:3].tolist() == [17, 18, 19]
    assert selection.kept_whole == 3


@pytest.mark.parametrize(
    ("small_sources", "kept_whole"),
    [("auto", 4), ("none", 0), (["wide"], 8), (["tiny", "wide"], 12), ([], 0)],
)
def test_which_sources_are_kept_whole(small_sources, kept_whole):
    features, sources = candidates()
    selector = CoresetSelector("colm", source_sizes=SIZES, small_sources=small_sources)
    assert selector.select(features, 16, sources=sources).kept_whole == kept_whole


def test_too_many_of_small_sources_go_through_the_selection_with_one_warning():
    features, sources = candidates()
    selector = CoresetSelector("colm", source_sizes=SIZES, small_sources=["large"])
    with pytest.warns(UserWarning, match="12 candidates of small sources.*budget of 6") as caught:
        first, _again = (selector.select(features, 6, sources=sources) for _ in range(2))
    assert len(caught) == 1
    assert len(first.indices) == 6
    assert first.kept_whole == 0
    assert {sources[row] for row in first.indices} == {"large"}
    # The moments are of large sources, and none was selected from.
    assert selector.state_dict()["moments.step"] == 0


def test_what_is_left_to_choose_among_are_the_large_sources():
    features, sources = candidates()
    selector = CoresetSelector("colm", source_sizes=SIZES)
    contested = selector.split(12, sources=sources)
    large = [row for row, name in enumerate(sources) if name != "tiny"]
    assert contested.rows.tolist() == large
    selection = selector.choose(contested, features[large])
    known = CoresetSelector("colm", source_sizes=SIZES).select(features, 12, sources=sources)
    assert selection.indices.tolist() == known.indices.tolist()
    # Nothing to choose: the budget is that of the small sources, or of all candidates.
    for budget in (4, 24, 99):
        assert len(selector.split(budget, sources=sources).rows) == 0


@pytest.mark.parametrize("criterion", ["gradient", "weight", "weight_gradient", "random"])
@pytest.mark.parametrize("kept", [1, 4, 10])
def test_along_one_direction_it_plays_no_part_which_dimensions_are_kept(criterion, kept):
    """Distances of SSM are those of numbers, whatever the dimensions: its ablations are moot."""
    along, sources = candidates(d=1)
    features = along * torch.linspace(0.5, 2, 10)

    def selected(**options):
        selector = CoresetSelector("ssm", normalization="none", small_sources="none", **options)
        chosen = selector.select(features, 8, sources=sources, weight=torch.ones(10))
        return chosen.indices.tolist()

    expected = selected(kept_dimensions=10)
    assert selected(kept_dimensions=kept, dimension_criterion=criterion) == expected


@pytest.mark.parametrize("name", ["colm", "mean_matching"])
def test_rows_that_are_not_finite_are_left_out(name):
    features, sources = candidates()
    features[3, 2] = math.nan
    features[7, 0] = math.inf
    selector = CoresetSelector(name, small_sources="none", normalization="none")
    with pytest.warns(UserWarning, match="2 candidates have NaN") as caught:
        selection, _again = (selector.select(features, 12, sources=sources) for _ in range(2))
    assert len(caught) == 1
    assert selection.non_finite.tolist() == [3, 7]
    finite = [row for row in range(24) if row not in (3, 7)]
    alone = CoresetSelector(name, small_sources="none", normalization="none").select(
        features[finite], 12, sources=[sources[row] for row in finite]
    )
    assert selection.indices.tolist() == [finite[row] for row in alone.indices]


def test_fewer_finite_rows_than_the_budget_are_all_kept():
    features = torch.full((6, 2), math.nan)
    features[4] = 1.0
    with pytest.warns(UserWarning, match="5 candidates"):
        selection = CoresetSelector("mean_matching").select(features, 3)
    assert selection.indices.tolist() == [4]


@pytest.mark.parametrize("name", ["colm", "mean_matching", "random"])
def test_the_first_r_are_not_what_is_kept(name):
    features, sources = candidates()
    selection = CoresetSelector(name, small_sources="none").select(features, 12, sources=sources)
    assert sorted(selection.indices.tolist()) != list(range(12))
    assert len(set(selection.indices.tolist())) == 12


def test_none_keeps_everything():
    features, sources = candidates()
    selection = CoresetSelector("none").select(features, 3, sources=sources)
    assert selection.indices.tolist() == list(range(24))


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from(["colm", "mean_matching", "random"]))
def test_any_budget_gives_distinct_candidates(n, budget, name):
    features = keyed_features(n)
    selection = CoresetSelector(name).select(features, budget)
    assert len(set(selection.indices.tolist())) == len(selection.indices) == min(n, budget)
    assert selection.indices.max() < n


def keyed_features(n):
    return 1 + torch.randn(n, 3, generator=torch.Generator().manual_seed(n))


def test_with_keys_even_what_is_kept_whole_comes_in_their_order():
    features, sources = candidates()
    keys = [f"{(7 * row) % 24:02d}" for row in range(24)]
    by_key = sorted(range(24), key=keys.__getitem__)
    selector = CoresetSelector("colm", source_sizes=SIZES)
    selection = selector.select(features, 12, sources=sources, keys=keys)
    small = [row for row in by_key if sources[row] == "tiny"]
    assert selection.indices[:4].tolist() == small != sorted(small)
    everyone = selector.select(features, 24, sources=sources, keys=keys)
    assert everyone.indices.tolist() == by_key
    plain = CoresetSelector("colm", source_sizes=SIZES, reference_behaviour=True)
    selection = plain.select(features, 12, sources=sources, keys=keys)
    assert selection.indices[:4].tolist() == sorted(small)


def test_what_was_observed_may_come_in_parts():
    features, sources = candidates()
    losses = features.square().sum(1)
    losses[5] = math.inf

    def select(observed, name="colm"):
        selector = CoresetSelector(name, small_sources="none")
        return selector.select(observed, 12, sources=sources)

    with pytest.warns(UserWarning, match="1 candidates have NaN or infinite gradients"):
        seen = select(Observed(gradients=features, losses=losses))
    assert seen.non_finite.tolist() == [5]
    # What a selector does not need is no reason to leave a candidate out where nothing is needed.
    assert select(Observed(losses=losses), "random").non_finite.tolist() == []


@pytest.mark.parametrize("keys", [None, list(range(24))[::-1]])
@pytest.mark.parametrize("name", ["colm", "random", "selective_backprop"])
def test_splitting_and_choosing_is_selecting(name, keys):
    features, sources = candidates()
    seen = observed(features)
    options = {"small_sources": ["tiny"], "normalization": "adam"}
    in_two, in_one = CoresetSelector(name, **options), CoresetSelector(name, **options)
    for _ in range(2):
        contested = in_two.split(12, sources=sources, keys=keys)
        rows = contested.rows
        assert sorted([*contested.whole.tolist(), *rows.tolist()]) == list(range(24))
        assert {sources[row] for row in contested.whole.tolist()} == {"tiny"}
        assert contested.budget == 12 - len(contested.whole) > 0
        chosen = in_two.choose(contested, Observed(seen.gradients[rows], seen.losses[rows]))
        selection = in_one.select(seen, 12, sources=sources, keys=keys)
        for part, whole in zip(vars(chosen).values(), vars(selection).values(), strict=True):
            assert torch.equal(torch.as_tensor(part), torch.as_tensor(whole)) or whole != whole
    states = in_two.state_dict(), in_one.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize(
    ("name", "budget", "kept"), [("colm", 24, 24), ("colm", 4, 4), ("none", 3, 24)]
)
def test_where_nothing_is_to_be_chosen_nothing_need_be_seen(name, budget, kept):
    _, sources = candidates()
    selector = CoresetSelector(name, small_sources=["tiny"])
    contested = selector.split(budget, sources=sources)
    assert len(contested.rows) == contested.budget == 0
    selection = selector.choose(contested, None)
    assert len(selection.indices) == kept
    assert selection.kept_whole == (4 if budget == 4 else 0)
    assert "moments.step" not in selector.state_dict()


def test_moments_and_matching_error_are_of_gradients_that_were_needed():
    features, sources = candidates()
    selector = CoresetSelector("top_loss", small_sources="none")
    selection = selector.select(
        Observed(gradients=features, losses=features.sum(1)), 12, sources=sources
    )
    assert math.isnan(selection.matching_error)
    assert "moments.step" not in selector.state_dict()


@pytest.mark.parametrize(
    "name",
    [
        "colm",
        "mean_matching",
        "gradient_matching",
        "balanced_sampling",
        "importance_sampling",
        "small_random",
        "selective_backprop",
    ],
)
def test_state_survives_a_round_trip(name):
    features, sources = candidates()
    selector = CoresetSelector(name, normalization="adam")
    selector.select(observed(features), 12, sources=sources)
    restored = CoresetSelector(name, normalization="adam")
    restored.load_state_dict(selector.state_dict())
    assert restored.state_dict().keys() == selector.state_dict().keys()
    for seed in (1, 2):
        features, sources = candidates(seed=seed)
        expected = selector.select(observed(features), 12, sources=sources).indices
        found = restored.select(observed(features), 12, sources=sources).indices
        fresh = (
            CoresetSelector(name, normalization="adam")
            .select(observed(features), 12, sources=sources)
            .indices
        )
        assert found.tolist() == expected.tolist() != fresh.tolist()


def test_a_random_choice_depends_on_seed_and_step_alone():
    features, _ = candidates()

    def kept(seed, step):
        torch.rand(1)  # global random state plays no part
        return CoresetSelector("random", seed=seed).select(features, 12, step=step).indices.tolist()

    assert kept(0, 5) == kept(0, 5)
    assert len({tuple(kept(seed, step)) for seed in range(3) for step in range(3)}) == 9


def test_random_keeps_each_candidate_equally_often():
    """900 draws of 4 of 8: each count is within 5 standard deviations of its mean of 450."""
    counts = Counter()
    for step in range(900):
        rows = CoresetSelector("random").select(torch.zeros(8, 1), 4, step=step).indices
        counts.update(rows.tolist())
    assert len(counts) == 8
    assert all(abs(count - 450) < 5 * 15 for count in counts.values())


def test_a_selector_of_ones_own():
    @register_selector("longest_for_this_test", needs=())
    def longest(candidates, budget, generator):
        return candidates.label_tokens.argsort(descending=True)[:budget]

    try:
        assert "longest_for_this_test" in available_selectors()
        selection = CoresetSelector("longest_for_this_test").select(
            None, 2, sources=["a"] * 4, label_tokens=torch.tensor([3, 9, 1, 5])
        )
        assert selection.indices.tolist() == [1, 3]
        with pytest.raises(ValueError, match="exists already"):
            register_selector("longest_for_this_test")(longest)
    finally:
        del registry._SELECTORS["longest_for_this_test"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"selector": "best"}, "selector.*colm, ssm, .*, none.* 'best'"),
        ({"distance": "l7"}, "distance.*l1, l2, cosine.* 'l7'"),
        ({"allocation": "fair"}, "allocation.*balanced"),
        ({"normalization": "sgd"}, "normalization.*adam, rms, none"),
        ({"dimension_criterion": "luck"}, "dimension_criterion.*gradient"),
    ],
)
def test_unknown_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        CoresetSelector(**arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ((torch.zeros(3, 2), 0, None), "budget.*whole.* 1.* 0"),
        ((torch.zeros(3, 2), 2, ["a"]), "1 sources were passed for 3 rows"),
        ((None, 2, None), "Pass sources"),
        ((None, 1, ["a", "b"]), "'colm' needs gradients"),
        ((None, 1, []), "no candidates"),
        ((lambda rows: torch.zeros(3, 2), 1, ["a"] * 4), "call split"),
        ((Observed(torch.zeros(3, 2), torch.zeros(2)), 1, None), "3 of gradients, 2 of losses"),
    ],
)
def test_bad_calls_are_refused(call, message):
    features, budget, sources = call
    with pytest.raises(ValueError, match=message):
        CoresetSelector("colm").select(features, budget, sources=sources)


def test_what_was_seen_is_of_the_rows_to_choose_among():
    selector = CoresetSelector("colm", small_sources="none")
    contested = selector.split(1, sources=["a"] * 4)
    with pytest.raises(ValueError, match="3 were observed of 4 candidates"):
        selector.choose(contested, torch.zeros(3, 2))


def test_unknown_needs_are_refused():
    with pytest.raises(ValueError, match=r"needs must be of gradients, losses, .* 'features'"):
        register_selector("curious_for_this_test", needs=("losses", "features"))
