"""Distances and similarities against loops over pairs, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from colm.coreset.similarity import METRICS, pairwise_distances, similarity, sizes


def l1(x: list[float], y: list[float]) -> float:
    return sum(abs(a - b) for a, b in zip(x, y, strict=True))


def l2(x: list[float], y: list[float]) -> float:
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)))


def cosine(x: list[float], y: list[float]) -> float:
    product = sum(a * b for a, b in zip(x, y, strict=True))
    return 1 - product / (l2(x, [0] * len(x)) * l2(y, [0] * len(y)))


ORACLES = {"l1": l1, "l2": l2, "cosine": cosine}


def random_rows(seed: int, n: int, d: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) + 0.5


def test_every_metric_has_an_oracle() -> None:
    assert set(METRICS) == set(ORACLES)


@pytest.mark.parametrize("metric", METRICS)
@given(seed=st.integers(0, 99), n=st.sampled_from([0, 1, 2, 7, 30]), d=st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_distances_equal_a_loop_over_pairs(metric: str, seed: int, n: int, d: int) -> None:
    rows = random_rows(seed, n, d)
    looped = [[ORACLES[metric](x, y) for y in rows.tolist()] for x in rows.tolist()]
    expected = torch.tensor(looped, dtype=torch.float64).reshape(n, n)
    torch.testing.assert_close(pairwise_distances(rows, metric), expected, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("metric", METRICS)
def test_similarity_is_the_largest_distance_minus_the_distance(metric: str) -> None:
    rows = random_rows(3, 12, 4)
    distances = pairwise_distances(rows, metric)
    found = similarity(rows, metric)
    assert torch.equal(found, distances.max() - distances)
    assert found.min() == 0


@pytest.mark.parametrize("metric", ["l1", "l2"])
def test_moving_all_rows_changes_nothing_and_scaling_scales(metric: str) -> None:
    rows = random_rows(5, 9, 3)
    distances = pairwise_distances(rows, metric)
    torch.testing.assert_close(pairwise_distances(rows + 7, metric), distances)
    torch.testing.assert_close(pairwise_distances(rows * 3, metric), distances * 3)


def test_cosine_sees_directions_alone() -> None:
    rows = random_rows(6, 9, 3)
    scales = torch.arange(1, 10, dtype=torch.float64)[:, None]
    scaled = pairwise_distances(rows * scales, "cosine")
    torch.testing.assert_close(scaled, pairwise_distances(rows, "cosine"))


def test_a_row_of_zeros_is_at_cosine_distance_one_from_every_row() -> None:
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert pairwise_distances(rows, "cosine")[0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("given_dtype", "computed"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64,) * 2],
)
def test_computes_in_float32_or_wider(
    metric: str, given_dtype: torch.dtype, computed: torch.dtype
) -> None:
    rows = random_rows(7, 5, 3).to(given_dtype)
    found = similarity(rows, metric)
    assert found.dtype == computed
    assert torch.equal(found, similarity(rows.to(computed), metric))


@pytest.mark.parametrize("metric", METRICS)
def test_autocast_does_not_narrow_it(metric: str) -> None:
    rows = random_rows(8, 30, 5).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = similarity(rows, metric)
    assert torch.equal(found, similarity(rows, metric))


@pytest.mark.parametrize("compare", [pairwise_distances, similarity])
def test_an_unknown_metric_is_refused_with_the_choices(compare) -> None:
    with pytest.raises(ValueError, match=r"^distance.*l1, l2, cosine.* 'l3'\.$"):
        compare(torch.ones(2, 2), "l3")


def test_no_rows_have_no_similarities() -> None:
    assert similarity(torch.ones(0, 3)).shape == (0, 0)


@pytest.mark.parametrize("metric", ["l1", "l2"])
def test_a_size_is_the_distance_from_zero(metric: str) -> None:
    rows = random_rows(3, 7, 5)
    expected = [ORACLES[metric](row, [0.0] * 5) for row in rows.tolist()]
    assert sizes(rows, metric).tolist() == pytest.approx(expected, rel=1e-6)
    assert sizes(rows.bfloat16(), metric).dtype == torch.float32


def test_to_the_cosine_all_are_of_one_size() -> None:
    assert sizes(random_rows(4, 3, 5), "cosine").tolist() == [1.0, 1.0, 1.0]
