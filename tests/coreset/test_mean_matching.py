"""Mean matching against a herding that anyone can check, all its swaps, and exhaustive search."""

import math
from itertools import combinations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from colm.coreset.mean_matching import mean_matching


def error_of(rows: Tensor, chosen: list[int]) -> float:
    rows = rows.double()
    return (rows[chosen].mean(0) - rows.mean(0)).norm().item()


def herding(rows: Tensor, budget: int) -> list[int]:
    """Add the row that leaves the mean of those chosen closest to the mean of all."""
    chosen: list[int] = []
    for _ in range(budget):
        others = [j for j in range(len(rows)) if j not in chosen]
        chosen.append(min(others, key=lambda j: error_of(rows, [*chosen, j])))
    return chosen


def random_rows(seed: int, n: int, d: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(n, 1, generator=generator, dtype=torch.float64) + 0.1
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) * scale + 2).to(dtype)


def best_swap(rows: Tensor, chosen: list[int]) -> float:
    """The least error that one swap of a chosen row for another leaves."""
    others = [j for j in range(len(rows)) if j not in chosen]
    swaps = product(range(len(chosen)), others)
    errors = [error_of(rows, [*chosen[:i], j, *chosen[i + 1 :]]) for i, j in swaps]
    return min(errors, default=math.inf)


shapes = st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@given(seed=st.integers(0, 10**6), shape=shapes, d=st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_is_never_worse_than_its_greedy_start_and_no_swap_is_left(seed, shape, d) -> None:
    n, budget = shape
    rows = random_rows(seed, n, d)
    found = mean_matching(rows, budget)
    chosen = found.indices.tolist()
    assert len(set(chosen)) == budget
    assert found.error == pytest.approx(error_of(rows, chosen), abs=1e-6)
    assert error_of(rows, chosen) <= error_of(rows, herding(rows, budget)) + 1e-9
    assert error_of(rows, chosen) <= best_swap(rows, chosen) + 1e-6


def test_herding_stays_in_its_order_where_no_swap_improves() -> None:
    stayed = 0
    for seed in range(30):
        rows = random_rows(seed, 8, 2)
        start = herding(rows, 4)
        if error_of(rows, start) < best_swap(rows, start):
            stayed += 1
            assert mean_matching(rows, 4).indices.tolist() == start
    assert stayed >= 5


@given(seed=st.integers(0, 10**6), shape=shapes)
@settings(max_examples=60, deadline=None)
def test_with_a_tolerance_noise_changes_no_row(seed, shape) -> None:
    """Whole numbers, which tie often; the mirrored half makes the mean exact."""
    n, budget = shape
    generator = torch.Generator().manual_seed(seed)
    half = torch.randint(-2, 3, (n, 2), generator=generator).double()
    rows = torch.cat([half, -half])
    noisy = rows + 1e-7 * (torch.rand(2 * n, 2, generator=generator) - 0.5)
    exact = mean_matching(rows, budget, tie_tolerance=1e-5)
    again = mean_matching(noisy, budget, tie_tolerance=1e-5)
    assert again.indices.tolist() == exact.indices.tolist()
    assert exact.error <= error_of(rows, herding(rows, budget)) + 0.05


def test_of_tied_swaps_the_first_is_made() -> None:
    """Herding picks 0, then 1; with -1 for 0 the mean is exact, and row 2 is the first of those."""
    rows = torch.tensor([[0.0], [1.0], [-1.0], [1.0], [-1.0]])
    assert mean_matching(rows, 2).indices.tolist() == [2, 1]
    rows[2] -= 1e-7
    assert sorted(mean_matching(rows, 2).indices.tolist()) == [1, 4]
    assert mean_matching(rows, 2, tie_tolerance=1e-5).indices.tolist() == [2, 1]


@pytest.mark.parametrize("budget", [1, 2, 3, 4])
def test_is_close_to_the_best_set_and_far_from_the_first_rows(budget: int) -> None:
    ours, best, first = 0.0, 0.0, 0.0
    for seed in range(20):
        rows = random_rows(seed, 8, 4)
        ours += mean_matching(rows, budget).error
        best += min(error_of(rows, list(c)) for c in combinations(range(8), budget))
        first += error_of(rows, list(range(budget)))
    assert ours <= 1.15 * best
    assert first >= 1.5 * best


@given(seed=st.integers(0, 10**6), n=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_one_of_n_is_the_row_closest_to_the_mean(seed: int, n: int) -> None:
    rows = random_rows(seed, n, 3)
    errors = [error_of(rows, [i]) for i in range(n)]
    found = mean_matching(rows, 1)
    assert errors[found.indices.item()] == min(errors)


@pytest.mark.parametrize("n", [1, 2, 17])
def test_all_of_n_leave_no_error(n: int) -> None:
    found = mean_matching(random_rows(n, n, 3), n)
    assert sorted(found.indices.tolist()) == list(range(n))
    assert found.error < 1e-7


def test_swaps_find_what_herding_misses() -> None:
    for seed in range(5):
        rows = random_rows(seed, 30, 6)
        found = mean_matching(rows, 15)
        assert found.error < 0.9 * error_of(rows, herding(rows, 15))
        assert found.error <= best_swap(rows, found.indices.tolist()) + 1e-9


@pytest.mark.parametrize("change", [lambda x: x + 1e6, lambda x: x * 1e-6, lambda x: -x])
def test_moving_scaling_and_mirroring_change_no_row(change) -> None:
    rows = random_rows(11, 30, 4)
    chosen = mean_matching(rows, 9).indices.tolist()
    assert mean_matching(change(rows), 9).indices.tolist() == chosen


def test_float32_far_from_zero_is_matched_as_well_as_near_it() -> None:
    rows = (random_rows(12, 64, 50, torch.float32) * 1024).round() / 1024
    far = rows + 1024
    assert torch.equal(far - 1024, rows)
    assert mean_matching(far, 16).indices.tolist() == mean_matching(rows, 16).indices.tolist()


def test_follows_a_permutation_of_the_rows() -> None:
    rows = random_rows(13, 30, 4)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    permuted = mean_matching(rows[order], 9)
    assert order[permuted.indices].tolist() == mean_matching(rows, 9).indices.tolist()


def test_balanced_copies_are_matched_exactly() -> None:
    rows = random_rows(14, 1, 6).repeat(10, 1)
    assert mean_matching(rows, 4).indices.tolist() == [0, 1, 2, 3]
    mirrored = torch.cat([rows, -rows])
    found = mean_matching(mirrored, 6)
    assert sum(found.indices < 10) == 3
    assert found.error < 1e-7


def test_wide_features_are_the_sum_of_their_parts() -> None:
    rows = random_rows(15, 12, 20_000, torch.float32)
    found = mean_matching(rows, 5)
    assert found.error == pytest.approx(error_of(rows, found.indices.tolist()), rel=1e-9)
    narrow = torch.zeros(12, 20_000)
    narrow[:, -4:] = rows[:, -4:]
    assert mean_matching(narrow, 5).indices.tolist() == (
        mean_matching(rows[:, -4:], 5).indices.tolist()
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_floats_are_widened_first(dtype: torch.dtype) -> None:
    rows = random_rows(16, 20, 6, dtype).requires_grad_()
    found = mean_matching(rows, 7)
    assert found.indices.dtype == torch.int64
    assert found.indices.tolist() == mean_matching(rows.detach().double(), 7).indices.tolist()


@pytest.mark.parametrize(("n", "budget"), [(3, 0), (3, 4), (0, 0), (0, 1)])
def test_a_budget_out_of_range_is_refused(n: int, budget: int) -> None:
    message = rf"^budget.* 1 .* {n}.* {budget}\.$"
    with pytest.raises(ValueError, match=message):
        mean_matching(torch.ones(n, 2), budget)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    rows = torch.ones(3, 2)
    rows[1, 1] = value
    with pytest.raises(ValueError, match=r"features.*finite"):
        mean_matching(rows, 2)


def test_what_is_not_a_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"features must be a matrix.* shape \[3\]"):
        mean_matching(torch.ones(3), 1)
