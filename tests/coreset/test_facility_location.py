"""The lazy greedy against a plain greedy that anyone can check, and against exhaustive search."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from colm.coreset.facility_location import facility_location
from colm.coreset.similarity import similarity


def objective(matrix: Tensor, chosen: list[int]) -> float:
    """f(S): what each row's best representative is worth, summed."""
    return matrix[:, chosen].double().amax(1).sum().item()


def plain_greedy(matrix: Tensor, budget: int) -> list[int]:
    """Try everything at every step; of ties, keep the first."""
    chosen: list[int] = []
    for _ in range(budget):
        others = [j for j in range(len(matrix)) if j not in chosen]
        values = [objective(matrix, [*chosen, j]) for j in others]
        chosen.append(others[values.index(max(values))])
    return chosen


def greedy_by_gains(matrix: Tensor, budget: int) -> list[int]:
    """The same with all gains computed anew at every step, in float64, for larger inputs."""
    rows = matrix.double().numpy()
    cover = np.zeros(len(rows))
    chosen: list[int] = []
    for _ in range(budget):
        gains = np.maximum(rows - cover[:, None], 0).sum(0)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        cover = np.maximum(cover, rows[:, chosen[-1]])
    return chosen


def tolerant_greedy(matrix: Tensor, budget: int, tolerance: float) -> list[int]:
    """The same, but of all gains within the tolerance of the largest keep the first."""
    columns = matrix.T.double().contiguous()
    cover = columns.amin(0).clamp(max=0)
    chosen: list[int] = []
    for _ in range(budget):
        gains = (columns - cover).clamp(min=0).sum(1)
        gains[chosen] = -torch.inf
        chosen.append(int((gains >= gains.max() - tolerance).nonzero()[0]))
        cover = torch.maximum(cover, columns[chosen[-1]])
    return chosen


def random_similarity(seed: int, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return similarity(rows).to(dtype)


def whole_numbers(seed: int, n: int, low: int, high: int) -> Tensor:
    """An asymmetric matrix full of ties, in which float sums are exact."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high + 1, (n, n), generator=generator).float()


shapes = st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@given(seed=st.integers(0, 10**6), shape=shapes, low=st.integers(-3, 0), high=st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_equals_the_plain_greedy_to_the_last_tie(seed, shape, low, high) -> None:
    n, budget = shape
    matrix = whole_numbers(seed, n, low, high)
    assert facility_location(matrix, budget).indices.tolist() == plain_greedy(matrix, budget)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("n", "budget"), [(40, 40), (179, 179), (400, 150)])
def test_a_lazy_look_never_changes_a_pick(n: int, budget: int, dtype: torch.dtype) -> None:
    matrix = random_similarity(n, n, dtype)
    assert facility_location(matrix, budget).indices.tolist() == greedy_by_gains(matrix, budget)


def test_threads_never_change_a_pick() -> None:
    matrix, before = random_similarity(0, 300), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = facility_location(matrix, 60).indices.tolist()
    finally:
        torch.set_num_threads(before)
    assert found == greedy_by_gains(matrix, 60)


@pytest.mark.parametrize("n", [180, 600])
def test_ties_among_many_go_to_the_first(n: int) -> None:
    matrix = whole_numbers(n, n, 0, 2)
    assert facility_location(matrix, 60).indices.tolist() == greedy_by_gains(matrix, 60)
    assert facility_location(torch.ones(n, n), 5).indices.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("tolerance", [0.0, 0.3, 20.0, 1e9])
@pytest.mark.parametrize(("n", "budget"), [(1, 1), (40, 40), (300, 120)])
def test_a_tolerance_ties_gains_and_the_first_is_picked(n, budget, tolerance) -> None:
    matrix = random_similarity(n, n)
    found = facility_location(matrix, budget, tie_tolerance=tolerance)
    assert found.indices.tolist() == tolerant_greedy(matrix, budget, tolerance)
    assert found.weights.sum() == n


@given(seed=st.integers(0, 10**6), shape=shapes, low=st.integers(-3, 0))
@settings(max_examples=60, deadline=None)
def test_with_a_tolerance_noise_changes_no_pick(seed, shape, low) -> None:
    n, budget = shape
    matrix = whole_numbers(seed, n, low, 3)
    noise = torch.rand(n, n, generator=torch.Generator().manual_seed(seed)) - 0.5
    exact = facility_location(matrix, budget)
    noisy = facility_location(matrix + 1e-3 * noise, budget, tie_tolerance=0.5)
    assert noisy.indices.tolist() == exact.indices.tolist()


@given(
    seed=st.integers(0, 10**6),
    shape=st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))),
)
@settings(max_examples=60, deadline=None)
def test_comes_within_the_bound_of_the_best_set(seed, shape) -> None:
    n, budget = shape
    matrix = random_similarity(seed, n)
    best = max(objective(matrix, list(chosen)) for chosen in combinations(range(n), budget))
    found = objective(matrix, facility_location(matrix, budget).indices.tolist())
    assert found >= (1 - 1 / math.e) * best - 1e-9


@given(seed=st.integers(0, 10**6), shape=shapes, low=st.integers(-3, 0))
@settings(max_examples=60, deadline=None)
def test_gains_never_rise_and_add_up(seed, shape, low) -> None:
    n, budget = shape
    matrix = whole_numbers(seed, n, low, 5)
    chosen = facility_location(matrix, budget)
    gains = chosen.gains.tolist()
    assert gains == sorted(gains, reverse=True)
    at_worst = matrix.amin(1).clamp(max=0).sum().item()
    assert sum(gains) == objective(matrix, chosen.indices.tolist()) - at_worst


@given(seed=st.integers(0, 10**6), shape=shapes)
@settings(max_examples=60, deadline=None)
def test_weights_count_whom_each_stands_for(seed, shape) -> None:
    n, budget = shape
    matrix = whole_numbers(seed, n, 0, 3)
    chosen = facility_location(matrix, budget)
    counts = [0] * budget
    for row in matrix[:, chosen.indices].tolist():
        counts[row.index(max(row))] += 1
    assert chosen.weights.tolist() == counts
    assert sum(counts) == n


def test_finds_the_middle_of_each_cluster_wherever_it_stands() -> None:
    centres = torch.tensor([0.0, 100.0, 250.0])
    rows = torch.cat([centre + torch.tensor([-9.0, 4.0, 0.0, -2.0, 1.0]) for centre in centres])
    chosen = facility_location(similarity(rows[:, None]), 3)
    assert sorted(rows[chosen.indices].tolist()) == centres.tolist()
    assert chosen.weights.tolist() == [5, 5, 5]


def test_follows_a_permutation_of_the_examples() -> None:
    matrix = random_similarity(1, 30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    chosen = facility_location(matrix, 7)
    permuted = facility_location(matrix[order][:, order], 7)
    assert order[permuted.indices].tolist() == chosen.indices.tolist()
    assert permuted.weights.tolist() == chosen.weights.tolist()


@pytest.mark.parametrize("change", [lambda s: s * 4, lambda s: s + 8, lambda s: s - 8])
def test_scaling_and_shifting_change_no_pick(change) -> None:
    matrix = whole_numbers(4, 25, 0, 20)
    before = facility_location(matrix, 9)
    after = facility_location(change(matrix), 9)
    assert after.indices.tolist() == before.indices.tolist()
    assert after.gains[1:].tolist() in (before.gains[1:].tolist(), (4 * before.gains[1:]).tolist())


def test_a_copy_of_every_example_doubles_clusters_and_is_never_needed() -> None:
    matrix = random_similarity(8, 15)
    once = facility_location(matrix, 4)
    twice = facility_location(matrix.repeat(2, 2), 4)
    assert twice.indices.tolist() == once.indices.tolist()
    assert twice.weights.tolist() == (2 * once.weights).tolist()
    beyond = facility_location(matrix.repeat(2, 2), 30)
    assert sorted(beyond.indices[:15].tolist()) == list(range(15))
    assert beyond.gains[15:].tolist() == [0.0] * 15


@pytest.mark.parametrize("n", [1, 2, 13])
def test_the_whole_batch_keeps_everyone_for_themselves(n: int) -> None:
    chosen = facility_location(random_similarity(n, n), n)
    assert sorted(chosen.indices.tolist()) == list(range(n))
    assert chosen.weights.tolist() == [1.0] * n


def test_columns_represent_rows() -> None:
    matrix = torch.tensor([[1.0, 5.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 1.0]])
    assert facility_location(matrix, 1).indices.tolist() == [1]
    assert facility_location(matrix.T, 1).indices.tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
def test_computes_in_float32_or_wider(dtype: torch.dtype) -> None:
    matrix = whole_numbers(5, 12, 0, 9)
    chosen = facility_location(matrix.to(dtype).requires_grad_(dtype.is_floating_point), 5)
    expected = facility_location(matrix.double(), 5)
    computed = torch.promote_types(dtype, torch.float32)
    assert chosen.indices.dtype == torch.int64
    assert chosen.gains.dtype == chosen.weights.dtype == computed
    for field, other in zip(chosen, expected, strict=True):
        assert field.tolist() == other.tolist()


@pytest.mark.parametrize(("n", "budget"), [(3, 0), (3, 4), (3, -1), (0, 0), (0, 1)])
def test_a_budget_out_of_range_is_refused(n: int, budget: int) -> None:
    message = rf"^budget.* 1 .* {n}.* {budget}\.$"
    with pytest.raises(ValueError, match=message):
        facility_location(torch.ones(n, n), budget)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    matrix = torch.ones(3, 3)
    matrix[1, 2] = value
    with pytest.raises(ValueError, match=r"similarity.*finite"):
        facility_location(matrix, 1)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 2)])
def test_what_is_not_square_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"similarity must be a square matrix.* shape"):
        facility_location(torch.ones(shape), 1)
