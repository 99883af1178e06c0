"""Gradient matching against exhaustive search over supports, and its relations."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from colm.coreset.candidates import Observed
from colm.coreset.coreset_selector import CoresetSelector
from colm.coreset.gradient_matching import gradient_matching
from colm.coreset.mean_matching import mean_matching


def features(seed, n=12, d=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    heavy = torch.rand(n, 1, generator=generator, dtype=dtype) ** -1
    return heavy * torch.randn(n, d, generator=generator, dtype=dtype)


def objective(rows, shares, target, noise):
    """The docstring's formula, term by term."""
    centred = rows - target @ rows
    full = torch.zeros(len(rows), dtype=rows.dtype)
    full[shares[0]] = shares[1]
    seen = (full @ centred).square().sum()
    return float(seen + noise * (centred.square().sum(1) @ (full - target).square()))


def best_shares(rows, support, target, noise):
    """The best of all subsets of the support in which every share is positive: slow and plain."""
    centred = rows - target @ rows
    part, penalty = centred[support], noise * centred.square().sum(1)
    matrix = part @ part.T + torch.diag(penalty[support] + 1e-12)
    linear = penalty[support] * target[support]
    found = []
    for size in range(1, len(support) + 1):
        for active in map(list, itertools.combinations(range(len(support)), size)):
            bordered = torch.ones(size + 1, size + 1, dtype=rows.dtype)
            bordered[:size, :size], bordered[size, size] = matrix[active][:, active], 0
            right = torch.cat([linear[active], torch.ones(1, dtype=rows.dtype)])
            shares = torch.linalg.solve(bordered, right)[:size]
            if (shares >= 0).all():
                full = torch.zeros(len(support), dtype=rows.dtype)
                full[active] = shares
                found.append((objective(rows, (support, full), target, noise), full))
    return min(found, key=lambda pair: pair[0])[1]


def shares_of(chosen, target):
    shares = chosen.weights.double() * target[chosen.indices]
    return chosen.indices, shares / shares.sum()


targets = pytest.mark.parametrize("by_tokens", [False, True], ids=["equal", "by tokens"])


def target_of(by_tokens, n=12):
    counts = torch.arange(1, n + 1, dtype=torch.float64) if by_tokens else torch.ones(n).double()
    return counts / counts.sum()


@targets
@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_shares_are_the_best_that_the_chosen_can_have(seed, noise, by_tokens):
    rows, target = features(seed), target_of(by_tokens)
    chosen = gradient_matching(rows, 5, target=target, noise=noise)
    shares = best_shares(rows, chosen.indices, target, noise)
    best = objective(rows, (chosen.indices, shares), target, noise)
    mine = objective(rows, shares_of(chosen, target), target, noise)
    assert mine <= best + 1e-6 * objective(
        rows, (chosen.indices[:1], torch.ones(1).double()), target, noise
    )
    assert (chosen.weights >= 0).all()


@targets
@pytest.mark.parametrize("seed", range(4))
def test_close_to_the_best_of_all_subsets(seed, by_tokens):
    """Forward selection is no optimum; on these it stays within a factor of three of one."""
    rows, target = features(seed, n=8), target_of(by_tokens, 8)
    chosen = gradient_matching(rows, 3, target=target, noise=0.3)
    best = min(
        objective(rows, (support, best_shares(rows, support, target, 0.3)), target, 0.3)
        for support in map(torch.tensor, itertools.combinations(range(8), 3))
    )
    assert objective(rows, shares_of(chosen, target), target, 0.3) <= 3 * best + 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_beats_an_unweighted_choice_where_gradients_have_heavy_tails(seed):
    rows = features(seed, n=64, d=40)
    assert gradient_matching(rows, 32, noise=0.0).error < 0.9 * mean_matching(rows, 32).error


@given(st.integers(0, 10**6), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_relations(seed, budget):
    rows = features(seed)
    chosen = gradient_matching(rows, budget)
    assert len(set(chosen.indices.tolist())) == budget
    shifted = gradient_matching(rows * 3.0 + 7.0, budget)
    assert shifted.indices.tolist() == chosen.indices.tolist()
    torch.testing.assert_close(shifted.weights, chosen.weights, rtol=1e-4, atol=1e-5)


def test_all_of_all_is_the_mean_itself():
    chosen = gradient_matching(features(0), 12)
    torch.testing.assert_close(chosen.weights, torch.ones(12), rtol=1e-5, atol=1e-5)
    assert chosen.error < 1e-6


def test_an_outlier_is_kept_with_the_weight_it_has_among_all():
    rows = features(1, n=16, d=3)
    rows[5] *= 1e3
    chosen = gradient_matching(rows, 4)
    assert 5 in chosen.indices
    weight = float(chosen.weights[chosen.indices.tolist().index(5)])
    assert weight == pytest.approx(1.0, abs=0.05)


def test_equal_rows_need_no_more_than_one_weight():
    chosen = gradient_matching(torch.ones(6, 2), 3)
    assert len(set(chosen.indices.tolist())) == 3
    assert torch.isfinite(chosen.weights).all()
    assert chosen.error < 1e-9


def test_repeating_an_example_by_its_tokens_is_the_same_target():
    """A target of 2 for a row is that row given twice."""
    rows = features(3, n=6, d=4)
    twice = torch.cat([rows, rows[:1]])
    by_target = gradient_matching(rows, 6, target=torch.tensor([2.0, 1, 1, 1, 1, 1]), noise=0.0)
    mean = (by_target.weights.double() * torch.tensor([2.0, 1, 1, 1, 1, 1])[by_target.indices]) @ (
        rows[by_target.indices]
    )
    torch.testing.assert_close(mean / 7, twice.mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(3), 1), "matrix"),
        ((torch.ones(3, 2), 4), "between 1 and the number of examples, 3"),
        ((torch.full((3, 2), torch.nan), 1), "finite"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        gradient_matching(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"noise": -1.0}, "noise"), ({"target": torch.tensor([1.0, 0, 1])}, "3 positive entries")],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        gradient_matching(torch.rand(3, 2), 1, **options)


def test_as_a_selector_label_tokens_decide_what_is_matched():
    rows = features(4, n=10, d=4).float()
    tokens = torch.tensor([100, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    keys = list(range(10))

    def selection(example_weights):
        selector = CoresetSelector(
            "gradient_matching", normalization="rms", example_weights=example_weights
        )
        return selector.select(Observed(gradients=rows), 3, label_tokens=tokens, keys=keys)

    by_tokens, equal = selection("label_tokens"), selection("equal")
    assert 0 in by_tokens.indices
    scaled = rows / rows.square().mean(0).sqrt()
    wanted = gradient_matching(scaled, 3, target=tokens, tie_tolerance=1e-5)
    assert by_tokens.indices.tolist() == wanted.indices.tolist()
    torch.testing.assert_close(by_tokens.weights, wanted.weights)
    assert by_tokens.indices.tolist() != equal.indices.tolist()


def test_label_tokens_must_be_known():
    selector = CoresetSelector("gradient_matching", example_weights="label_tokens")
    with pytest.raises(ValueError, match="label_tokens"):
        selector.select(torch.rand(4, 3), 2)


def test_however_much_is_tied_no_row_is_picked_twice():
    torch.manual_seed(0)
    chosen = gradient_matching(torch.randn(9, 4), 8, tie_tolerance=0.5)
    assert sorted(set(chosen.indices.tolist())) == sorted(chosen.indices.tolist())
