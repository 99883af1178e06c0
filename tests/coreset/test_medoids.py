"""The source-wise composition against the same steps spelled out for one source at a time."""

import math

import pytest
import torch
from torch import Tensor

from colm.coreset.medoids import source_medoids
from colm.coreset.mixture import allocate


def medoids_by_hand(
    rows: list[list[float]], budget: int, kept_dimensions: int, *, last: bool = True
) -> list[int]:
    """Sparsify, compare by l1, and choose greedily; of ties, take the last, or the first."""
    n, d = len(rows), len(rows[0])
    score = [abs(sum(row[k] for row in rows)) for k in range(d)]
    kept = sorted(range(d), key=lambda k: -score[k])[:kept_dimensions]
    distance = [[math.fsum(abs(x[k] - y[k]) for k in kept) for y in rows] for x in rows]
    largest = max(max(line) for line in distance)
    chosen: list[int] = []
    for _ in range(budget):
        others = [j for j in range(n) if j not in chosen]
        cost = {
            j: math.fsum(largest - min(line[s] for s in [*chosen, j]) for line in distance)
            for j in others
        }
        chosen.append(max(others, key=lambda j: (cost[j], j if last else -j)))
    return chosen


def whole_numbers(seed: int, n: int, d: int) -> Tensor:
    """Rows whose sums are exact, so that equal gains are equal in any order of summing."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-9999, 10_000, (n, d), generator=generator).float()


def random_sources(seed: int, n: int) -> Tensor:
    return torch.randint(0, 3, (n,), generator=torch.Generator().manual_seed(seed)) * 5 - 2


@pytest.mark.parametrize("tie_tolerance", [None, 0.0, 1e-7])
@pytest.mark.parametrize("allocation", ["proportional", "balanced", "none"])
@pytest.mark.parametrize("seed", range(8))
def test_equals_the_steps_by_hand(seed: int, allocation: str, tie_tolerance: float | None) -> None:
    rows, sources = whole_numbers(seed, 24, 7), random_sources(seed, 24)
    if allocation == "none":
        groups = [list(range(24))]
    else:
        names = sorted(set(sources.tolist()))
        groups = [[i for i in range(24) if sources[i] == name] for name in names]
    shares = allocate([len(group) for group in groups], 11, allocation)
    expected = []
    for group, share in zip(groups, shares, strict=True):
        medoids = medoids_by_hand(rows[group].tolist(), share, 3, last=tie_tolerance is None)
        expected += [group[j] for j in medoids]
    found = source_medoids(
        rows,
        sources,
        11,
        allocation=allocation,
        kept_dimensions=3,
        tie_tolerance=tie_tolerance,
    )
    assert found.indices.tolist() == expected
    assert len(found.gains) == len(found.weights) == 11


def test_mutual_neighbours_are_tied_and_either_convention_picks_one() -> None:
    rows = torch.tensor([[0.0], [1.0], [100.0], [101.0]])
    sources = torch.zeros(4, dtype=torch.int64)
    assert source_medoids(rows, sources, 2).indices.tolist() == [2, 1]
    assert source_medoids(rows, sources, 2, tie_tolerance=1e-5).indices.tolist() == [1, 2]


@pytest.mark.parametrize("error", [1 - 1e-6, 1 + 1e-6])
def test_dimensions_that_are_equally_large_up_to_rounding_are_tied(error: float) -> None:
    rows = torch.tensor([[1.0, 2.0 * error], [2.0, 9.0 * error], [9.0, 1.0 * error]])
    sources = torch.zeros(3, dtype=torch.int64)
    exact = source_medoids(rows, sources, 1, kept_dimensions=1, tie_tolerance=0.0)
    assert exact.indices.tolist() == ([0] if error > 1 else [1])
    tied = source_medoids(rows, sources, 1, kept_dimensions=1, tie_tolerance=1e-5)
    assert tied.indices.tolist() == [1]


def test_each_source_keeps_its_own_dimensions() -> None:
    rows = torch.zeros(6, 4)
    rows[:3, 0], rows[3:, 1] = torch.tensor([1.0, 2.0, 9.0]), torch.tensor([9.0, 2.0, 1.0])
    rows[:3, 2], rows[3:, 3] = torch.tensor([-50.0, 0.0, 50.0]), torch.tensor([50.0, -50.0, 0.0])
    sources = torch.tensor([0, 0, 0, 1, 1, 1])
    kept_one = source_medoids(rows, sources, 2, kept_dimensions=1)
    assert kept_one.indices.tolist() == [1, 4]
    assert source_medoids(rows, sources, 2).indices.tolist() == [1, 5]


def test_clusters_are_counted_within_their_source() -> None:
    rows, sources = whole_numbers(3, 30, 4), random_sources(3, 30)
    found = source_medoids(rows, sources, 12)
    for name in sources.unique():
        mine = sources[found.indices] == name
        assert found.weights[mine].sum() == (sources == name).sum()


def test_numbers_of_sources_only_order_them() -> None:
    rows, sources = whole_numbers(4, 30, 4), random_sources(4, 30)
    found = source_medoids(rows, sources, 12).indices.tolist()
    assert source_medoids(rows, sources * 100 + 7, 12).indices.tolist() == found
    backwards = source_medoids(rows, -sources, 12, allocation="balanced").indices.tolist()
    assert sources[backwards].tolist() == sorted(sources[backwards].tolist(), reverse=True)


@pytest.mark.parametrize("n", [0, 1, 6])
def test_nothing_to_choose_is_an_empty_choice(n: int) -> None:
    found = source_medoids(torch.ones(n, 3), torch.zeros(n, dtype=torch.int64), 0)
    assert [len(field) for field in found] == [0, 0, 0]
    assert found.indices.dtype == torch.int64


@pytest.mark.parametrize("allocation", ["proportional", "balanced", "none"])
def test_the_whole_batch_is_kept(allocation: str) -> None:
    found = source_medoids(
        whole_numbers(5, 9, 2), random_sources(5, 9), 9, allocation=allocation, kept_dimensions=99
    )
    assert sorted(found.indices.tolist()) == list(range(9))
    assert sum(found.weights.tolist()) == 9


def test_random_dimensions_come_from_the_generator_alone() -> None:
    rows, sources = whole_numbers(6, 40, 30), random_sources(6, 40)

    def choose(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        found = source_medoids(
            rows, sources, 9, kept_dimensions=2, criterion="random", generator=generator
        )
        return found.indices.tolist()

    before = torch.get_rng_state()
    assert choose(1) == choose(1)
    assert len({tuple(choose(seed)) for seed in range(5)}) > 1
    assert torch.equal(torch.get_rng_state(), before)


def test_weight_and_gradients_reach_the_criterion() -> None:
    rows = torch.tensor([[0.0, 8.0], [4.0, 4.0], [5.0, 0.0], [9.0, 5.0]])
    sources = torch.zeros(4, dtype=torch.int64)

    def choose(criterion: str, weight: list[float]) -> int:
        found = source_medoids(
            rows,
            sources,
            1,
            kept_dimensions=1,
            criterion=criterion,
            weight=torch.tensor(weight),
            gradients=torch.tensor([[1.0, 3.0]]).repeat(4, 1),
        )
        return found.indices.item()

    first, second = choose("weight", [2.0, 1.0]), choose("weight", [1.0, 2.0])
    assert (first, second) == (2, 3)
    assert choose("weight_gradient", [2.0, 1.0]) == second
    assert choose("weight_gradient", [4.0, 1.0]) == first


def test_each_source_goes_by_its_own_gradients() -> None:
    rows = torch.tensor([[0.0, 8.0], [4.0, 4.0], [5.0, 0.0], [9.0, 5.0]]).repeat(2, 1)
    gradients = torch.tensor([[3.0, 0.0]] * 4 + [[0.0, 2.0]] * 4)
    found = source_medoids(
        rows,
        torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]),
        2,
        kept_dimensions=1,
        criterion="weight_gradient",
        weight=torch.ones(2),
        gradients=gradients,
    )
    assert found.indices.tolist() == [2, 7]


def test_a_source_without_a_share_is_left_out() -> None:
    sources = torch.tensor([0] * 9 + [1, 2])
    found = source_medoids(whole_numbers(7, 11, 3), sources, 2, allocation="balanced")
    assert 0 in sources[found.indices]
    assert len(found.indices) == 2


@pytest.mark.parametrize("budget", [-1, 4])
def test_a_budget_out_of_range_is_refused(budget: int) -> None:
    with pytest.raises(ValueError, match=rf"^budget.* 0 .* 3.* {budget}\.$"):
        source_medoids(torch.ones(3, 2), torch.zeros(3, dtype=torch.int64), budget)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"distance": "l3"}, "distance.*l1"),
        ({"allocation": "fair"}, "allocation.*balanced"),
        ({"criterion": "size", "kept_dimensions": 1}, "dimension_criterion.*gradient"),
    ],
)
def test_an_unknown_option_is_refused(option: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source_medoids(torch.ones(3, 2), torch.zeros(3, dtype=torch.int64), 1, **option)
