"""Importance sampling: its probabilities and weights, and that it errs less than equal ones."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from colm import CoresetSelector
from colm.coreset.balanced_sampling import balanced_sampling
from colm.coreset.importance_sampling import (
    FLOOR,
    importance_sampling,
    inclusion_probabilities,
)
from tests.coreset.test_balanced_sampling import FALSE_ALARM, chance, features, seeded


def parts(rows, target=None):
    """How large a part of the gradient each row is, by definition, one row after the other."""
    n = len(rows)
    counts = torch.ones(n) if target is None else target
    shares = [float(count / counts.sum()) for count in counts]
    mean = sum(share * row for share, row in zip(shares, rows, strict=True))
    return [n * p * float((row - mean).norm()) for p, row in zip(shares, rows, strict=True)]


def slow_probabilities(sizes, budget):
    """In proportion to size and floor; the largest is certain for as long as it has more than 1."""
    floored = [size + FLOOR * sum(sizes) / len(sizes) for size in sizes]
    certain: set[int] = set()
    while True:
        others = [i for i in range(len(sizes)) if i not in certain]
        left = sum(floored[i] for i in others)
        found = {i: (budget - len(certain)) * floored[i] / left for i in others}
        largest = max(others, key=lambda i: found[i], default=None)
        if largest is None or found[largest] < 1 or budget == len(certain):
            return [1.0 if i in certain else found[i] for i in range(len(sizes))]
        certain.add(largest)


@pytest.mark.parametrize("budget", [1, 3, 5, 7])
@pytest.mark.parametrize("by_tokens", [False, True], ids=["equal", "by tokens"])
def test_weights_are_one_over_the_probabilities_of_a_slow_twin(budget, by_tokens):
    for seed in range(8):
        rows = features(seed, 7, 4)
        target = torch.arange(1, 8) if by_tokens else None
        wanted = slow_probabilities(parts(rows, target), budget)
        found = importance_sampling(rows, budget, target=target, generator=seeded(seed))
        expected = [1 / wanted[row] for row in found.indices.tolist()]
        assert found.weights.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_rows_are_kept_as_often_as_their_probabilities_say():
    """However unlike they are; a right draw fails once in a million."""
    rows, target = features(1, 8, 3), torch.arange(1, 9)
    wanted = slow_probabilities(parts(rows, target), 4)
    assert max(wanted) == 1
    assert min(wanted) < 0.3
    generator, draws = seeded(0), 600
    counts = torch.zeros(8, dtype=torch.int64)
    for _ in range(draws):
        counts[importance_sampling(rows, 4, target=target, generator=generator).indices] += 1
    for count, probability in zip(counts.tolist(), wanted, strict=True):
        if probability == 1:
            assert count == draws
        else:
            assert chance(count, draws, probability) > FALSE_ALARM / 8


def squared_error(rows, target, kept, weights):
    shares = target[kept] * weights
    mean = (target / target.sum()) @ rows
    return float(((shares / shares.sum()) @ rows[kept] - mean).square().sum())


def heavy(seed, n, d):
    """Rows at nearly right angles, of norms as unlike as those of long and short examples."""
    generator = seeded(seed)
    sizes = torch.rand(n, 1, generator=generator, dtype=torch.float64) ** -1
    return sizes.clamp(max=20) * torch.randn(n, d, generator=generator, dtype=torch.float64)


def test_it_errs_less_than_equal_probabilities_and_less_than_half_as_much_where_parts_differ():
    target = torch.ones(16, dtype=torch.float64)
    by_size, equal = [], []
    for seed in range(60):
        rows = heavy(seed, 16, 200)
        one = importance_sampling(rows, 8, generator=seeded(seed))
        by_size.append(squared_error(rows, target, one.indices, one.weights.double()))
        other = balanced_sampling(rows, 8, generator=seeded(seed))
        equal.append(squared_error(rows, target, other.indices, torch.ones(8).double()))
    assert sum(by_size) < 0.5 * sum(equal)


def test_what_features_do_not_see_is_right_on_average():
    """By weight; without the weights, what comes with large gradients would be seen too often."""
    generator, weighted, plain = seeded(3), [], []
    for seed in range(400):
        rows = heavy(seed, 8, 6)
        unseen = rows.norm(dim=1).log()
        found = importance_sampling(rows, 3, generator=generator)
        weights = found.weights.double()
        # Totals are what is right on average; a ratio of two is but nearly so.
        weighted.append(float(weights @ unseen[found.indices] - unseen.sum()) / 8)
        plain.append(float(unseen[found.indices].mean() - unseen.mean()))
    errors = [
        abs(float(torch.tensor(found).mean() / torch.tensor(found).std() * math.sqrt(400)))
        for found in (weighted, plain)
    ]
    assert errors[0] < 4
    assert errors[1] > 10


@settings(deadline=None, derandomize=True, database=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 10**6), st.booleans())
def test_probabilities_add_up_and_weights_are_bounded(n, budget, seed, zeros):
    budget = min(budget, n)
    norms = torch.rand(n, generator=seeded(seed), dtype=torch.float64) ** -2
    if zeros:
        norms[: n // 2] = 0
    found = inclusion_probabilities(norms, budget)
    assert found.sum() == pytest.approx(budget)
    assert ((found > 0) & (found <= 1)).all()
    assert found.min() >= budget / n * FLOOR / (1 + FLOOR) * (1 - 1e-9)
    assert (found.argsort(stable=True) == norms.argsort(stable=True)).all() or budget > 1


@pytest.mark.parametrize("factor", [1e-12, 1e9])
def test_units_play_no_part(factor):
    rows = features(4)
    for seed in range(5):
        one = importance_sampling(rows, 5, generator=seeded(seed))
        other = importance_sampling(rows * factor, 5, generator=seeded(seed))
        assert other.indices.tolist() == one.indices.tolist()
        assert other.error == pytest.approx(one.error * factor)


def test_all_or_alike():
    rows = features(2)
    everything = importance_sampling(rows, 12, generator=seeded(0))
    assert everything.indices.tolist() == list(range(12))
    assert everything.weights.tolist() == [1.0] * 12
    assert everything.error < 1e-9 * float(rows.norm())
    alike = importance_sampling(rows[:1].repeat(6, 1), 2, generator=seeded(0))
    assert alike.weights.tolist() == pytest.approx([3.0, 3.0])


def test_the_selector_weighs_and_follows_label_tokens():
    rows, tokens = features(9, 10, 4).float(), torch.tensor([1] * 9 + [1000])
    selector = CoresetSelector("importance_sampling", example_weights="label_tokens")
    assert selector.selector.defaults["weighted"]
    kept = [
        selector.select(rows, 4, label_tokens=tokens, keys=list(range(10)), step=step)
        for step in range(10)
    ]
    assert {1.0} < {float(weight) for found in kept for weight in found.weights}
    # The long one has nearly all label tokens.
    assert sum(9 in found.indices.tolist() for found in kept) >= 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.full((3, 2), torch.nan)}, "features.*finite"),
        ({"budget": 4}, "budget.* 1 .* 3.* 4"),
        ({"noise": -1.0}, "noise.*negative"),
        ({"target": torch.tensor([1.0, 0, 1])}, "target must have 3 positive entries"),
        ({"generator": None}, "generator must be"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"features": torch.rand(3, 2), "budget": 1, "generator": seeded(0)} | change
    with pytest.raises(ValueError, match=message):
        importance_sampling(**arguments)
