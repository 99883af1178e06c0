"""Kept dimensions against a sort in plain Python."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from colm.coreset.features import CRITERIA, sparsify


def random_rows(seed: int, n: int, d: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def best(score: list[float], kept: int) -> list[int]:
    return sorted(range(len(score)), key=lambda k: -abs(score[k]))[:kept]


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 9), st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_keeps_the_highest_scores_first(seed: int, n: int, d: int, kept: int) -> None:
    normalised, gradients = random_rows(seed, n, d), random_rows(seed + 1, n, d)
    weight = random_rows(seed + 2, 1, d)[0]
    mean = [sum(column) / n for column in normalised.T.tolist()]
    product = [w * sum(g) / n for w, g in zip(weight.tolist(), gradients.T.tolist(), strict=True)]
    expected = {"gradient": mean, "weight": weight.tolist(), "weight_gradient": product}
    for criterion, score in expected.items():
        found = sparsify(normalised, kept, criterion, weight=weight, gradients=gradients)
        assert found.tolist() == best(score, kept)
        assert found.dtype == torch.int64


def test_the_mean_decides_not_the_largest_entry() -> None:
    rows = torch.tensor([[100.0, 3.0, -5.0], [-100.0, 3.0, -5.0]])
    assert sparsify(rows, 2).tolist() == [2, 1]


def test_a_weight_may_have_any_shape_and_need_gradient() -> None:
    weight = torch.tensor([[1.0, -4.0], [2.0, 3.0]], requires_grad=True)
    found = sparsify(torch.ones(1, 4), 2, "weight", weight=weight)
    assert found.tolist() == [1, 3]
    assert not found.requires_grad


@pytest.mark.parametrize("kept", [1, 3, 8, 20])
def test_random_dimensions_are_distinct_and_come_from_the_generator(kept: int) -> None:
    rows = torch.ones(2, 8)
    before = torch.get_rng_state()
    draws = [
        sparsify(rows, kept, "random", generator=torch.Generator().manual_seed(seed)).tolist()
        for seed in (1, 1, 2, 3, 4)
    ]
    assert draws[0] == draws[1]
    assert len({tuple(draw) for draw in draws}) > 1
    assert all(len(set(draw)) == min(kept, 8) and set(draw) <= set(range(8)) for draw in draws)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("criterion", "given_inputs", "message"),
    [
        ("size", {}, f"{', '.join(CRITERIA)}.* 'size'"),
        ("weight", {}, "dimension_criterion='weight' needs a weight of 3 entries"),
        ("weight", {"weight": torch.ones(2)}, "needs a weight of 3 entries"),
        ("weight_gradient", {"weight": torch.ones(3)}, "'weight_gradient' needs gradients"),
        ("weight_gradient", {"gradients": torch.ones(2, 3)}, "needs a weight of 3 entries"),
        ("random", {}, "dimension_criterion='random' needs a generator"),
    ],
)
def test_a_criterion_without_its_input_is_refused(criterion, given_inputs, message) -> None:
    with pytest.raises(ValueError, match=message):
        sparsify(torch.ones(2, 3), 1, criterion, **given_inputs)


@pytest.mark.parametrize("kept", [0, -1])
def test_fewer_than_one_dimension_is_refused(kept: int) -> None:
    with pytest.raises(ValueError, match=f"kept_dimensions.* 1.* {kept}"):
        sparsify(torch.ones(2, 3), kept)
