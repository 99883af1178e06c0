"""Facility location from features, a few rows of similarities at a time, beside all at once."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from colm.coreset.facility_location import (
    FacilityLocation,
    facility_location,
    facility_location_from_features,
)
from colm.coreset.similarity import METRICS, distances_to, pairwise_distances, similarity


def clustered(n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = 5 * torch.randn(6, 4, generator=generator)
    rows = torch.randn(n, 4, generator=generator)
    return (centres[torch.randint(6, (n,), generator=generator)] + rows).to(dtype)


def all_at_once(features: Tensor, metric: str) -> Tensor:
    distances = distances_to(features, features, metric)
    return distances.max() - distances


def plain_greedy(matrix: Tensor, budget: int) -> tuple[list[int], list[float]]:
    """Picks and gains, all summed anew at every step, in float64, one example after the other."""
    rows = matrix.double().numpy()
    cover = np.minimum(rows.min(1), 0)
    picks: list[int] = []
    added: list[float] = []
    for _ in range(budget):
        gains = np.maximum(rows - cover[:, None], 0).sum(0)
        gains[picks] = -np.inf
        picks.append(int(gains.argmax()))
        added.append(float(gains[picks[-1]]))
        cover = np.maximum(cover, rows[:, picks[-1]])
    return picks, added


def assert_same(found: FacilityLocation, expected: FacilityLocation) -> None:
    for field, other in zip(found, expected, strict=True):
        assert field.dtype == other.dtype
        assert field.tolist() == other.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "budget", "rows_at_once"), [(60, 60, 1), (300, 100, 16)])
def test_equals_the_whole_matrix_bit_for_bit(n, budget, rows_at_once, metric, dtype) -> None:
    features = clustered(n, dtype=dtype)
    found = facility_location_from_features(features, budget, metric, rows_at_once=rows_at_once)
    assert_same(found, facility_location(all_at_once(features, metric), budget))
    assert found.indices.tolist() == plain_greedy(all_at_once(features, metric), budget)[0]
    assert found.indices.tolist() != list(range(budget))


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 40),
    share=st.floats(0, 1),
    rows_at_once=st.integers(1, 50),
    tolerance=st.sampled_from([0.0, 0.5, 3.0, 1e6]),
    metric=st.sampled_from(METRICS),
)
@settings(max_examples=150, deadline=None)
def test_ties_are_those_of_the_whole_matrix(
    seed, n, share, rows_at_once, tolerance, metric
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # On a small lattice, zeros and copies among them, most things are tied.
    features = torch.randint(-1, 2, (n, 2), generator=generator).float()
    budget = max(1, round(share * n))
    found = facility_location_from_features(
        features, budget, metric, tie_tolerance=tolerance, rows_at_once=rows_at_once
    )
    matrix = all_at_once(features, metric)
    assert_same(found, facility_location(matrix, budget, tie_tolerance=tolerance))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_gains_are_those_of_the_plain_greedy_to_the_last_bit(scale, dtype) -> None:
    matrix = all_at_once(clustered(200, dtype=torch.float64), "l2").to(dtype) * scale
    picks, gains = plain_greedy(matrix, 200)
    found = facility_location(matrix, 200)
    assert found.indices.tolist() == picks
    assert found.gains.tolist() == torch.tensor(gains, dtype=dtype).tolist()


@pytest.mark.parametrize("seed", range(6))
def test_rounding_decides_only_where_the_plain_greedy_rounds(seed: int) -> None:
    """Entries of many magnitudes, as float32: sums depend on their order, in the last bits."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(150, 150, generator=generator).mul(6).exp()
    matrix[:, 1::2] = matrix[:, ::2].flip(0)[torch.randperm(150, generator=generator)]
    assert facility_location(matrix, 150).indices.tolist() == plain_greedy(matrix, 150)[0]


@pytest.mark.parametrize("jitter", [0.0, 1e-15])
def test_sums_that_only_rounding_tells_apart_are_those_of_the_plain_greedy(jitter: float) -> None:
    """On a turned grid many gains are the same sum, of other terms in another order."""
    grid = torch.cartesian_prod(torch.arange(14.0), torch.arange(14.0)).double()
    turn = torch.tensor([[0.8, 0.6], [-0.6, 0.8]], dtype=torch.float64) * torch.pi
    noise = torch.randn(grid.shape, generator=torch.Generator().manual_seed(0)).double()
    matrix = all_at_once(grid @ turn + jitter * noise, "l2")
    picks, gains = plain_greedy(matrix, 196)
    found = facility_location(matrix, 196)
    assert found.indices.tolist() == picks
    assert found.gains.tolist() == gains


@pytest.mark.parametrize("unit", [1.0, 0.1])
@pytest.mark.parametrize("neighbours", [3, 10])
@pytest.mark.parametrize("seed", range(3))
def test_ties_among_neighbours_go_to_the_first_at_every_budget(seed, neighbours, unit) -> None:
    """Everyone resembles a few others; in tenths, the order of a sum decides its last bit."""
    n, generator = 120, torch.Generator().manual_seed(seed)
    matrix = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        others = torch.randperm(n, generator=generator)[:neighbours]
        matrix[i, others] = unit * torch.randint(1, 6, (neighbours,), generator=generator).double()
    picks, gains = plain_greedy(matrix, n)
    for budget in range(1, n + 1, 1 + neighbours):
        found = facility_location(matrix, budget)
        assert found.indices.tolist() == picks[:budget]
        assert found.gains.tolist() == gains[:budget]
        covered_by = matrix[:, picks[:budget]].numpy().argmax(1)
        assert found.weights.tolist() == [(covered_by == place).sum() for place in range(budget)]


class LargestTensor(TorchDispatchMode):
    """Notes the bytes of the largest tensor that any operation returns."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.bytes = max(self.bytes, leaf.untyped_storage().nbytes())
        return result


def test_never_holds_all_similarities() -> None:
    n = 1000
    features = clustered(n)

    def choose(rows: Tensor) -> FacilityLocation:
        return facility_location_from_features(rows, len(rows) // 4, "l2", rows_at_once=32)

    with LargestTensor() as largest:
        choose(features[:50])  # imports what it needs
        tracemalloc.start()
    try:
        with largest:
            found = choose(features)
        # NumPy's arrays; PyTorch's memory is not seen by it.
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    block = 4 * n * 32
    assert largest.bytes <= 2 * block
    assert peak <= 20 * block < n * n * 4
    assert_same(found, facility_location(all_at_once(features, "l2"), n // 4))


@pytest.mark.parametrize("metric", METRICS)
def test_a_distance_is_the_same_whoever_it_is_computed_with(metric: str) -> None:
    features = clustered(70, seed=2)
    features[5] = 0
    features[6] = features[7]
    distances = distances_to(features, features, metric)
    # Those of a matrix come from inner products, which round.
    exact = pairwise_distances(features.double(), metric)
    torch.testing.assert_close(distances.double(), exact, atol=1e-5, rtol=1e-5)
    assert torch.equal(distances, distances.T)
    for part in ([3], [5, 6, 69], list(range(40, 70))):
        assert torch.equal(distances_to(features, features[part], metric), distances[part])
    zero_and_itself = 1.0 if metric == "cosine" else 0.0
    assert distances[5, 5] == zero_and_itself
    assert distances[6, 7] == distances[6, 6] == 0


def test_l1_is_the_similarity_of_training() -> None:
    features = clustered(80, seed=4)
    assert torch.equal(all_at_once(features, "l1"), similarity(features, "l1"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.ones(3)}, "features must be a matrix"),
        ({"features": torch.full((3, 2), torch.nan)}, "features.*finite.* NaN"),
        ({"budget": 0}, "budget.* 1 .* 3.* 0"),
        ({"budget": 4}, "budget.* 1 .* 3.* 4"),
        ({"metric": "l3"}, "distance.*l1, l2, cosine.* 'l3'"),
        ({"rows_at_once": 0}, "rows_at_once must be .*at least 1.* 0"),
        ({"tie_tolerance": -1.0}, "tie_tolerance.*negative.* -1.0"),
    ],
)
def test_bad_input_is_refused_by_name(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        facility_location_from_features(**{"features": torch.eye(3)[:, :2], "budget": 2} | change)
