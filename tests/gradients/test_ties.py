"""The largest scores against sorting by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from colm.coreset.features import largest, sparsify

scores_and_count = st.lists(st.integers(-4, 4), min_size=1, max_size=12).flatmap(
    lambda scores: st.tuples(st.just(scores), st.integers(0, len(scores)))
)


@given(scores_and_count)
@settings(deadline=None)
def test_without_tolerance_it_is_a_stable_sort(drawn):
    scores, count = drawn
    expected = sorted(range(len(scores)), key=lambda i: -scores[i])[:count]
    assert largest(torch.tensor(scores).float(), count).tolist() == expected


@given(scores_and_count, st.integers(0, 10**6))
@settings(deadline=None)
def test_noise_below_the_tolerance_changes_nothing(drawn, seed):
    scores, count = drawn
    noise = torch.rand(len(scores), generator=torch.Generator().manual_seed(seed)) - 0.5
    noisy = torch.tensor(scores) + 1e-3 * noise
    expected = largest(torch.tensor(scores).float(), count)
    assert set(largest(noisy, count, 0.01).tolist()) == set(expected.tolist())


def test_the_tolerance_is_around_the_last_one_kept():
    scores = torch.tensor([1.0, 9.0, 5.2, 5.0, 4.9, 3.0])
    assert largest(scores, 2, 0.15).tolist() == [1, 2]
    assert largest(scores, 3, 0.15).tolist() == [1, 2, 3]
    assert largest(scores, 2, 0.35).tolist() == [1, 2]
    assert largest(scores.flip(0), 2, 0.35).tolist() == [4, 1]


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.bfloat16])
def test_any_number_will_do(dtype):
    assert largest(torch.tensor([7, 9, 8], dtype=dtype), 2).tolist() == [1, 2]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_dimensions_as_large_up_to_rounding_are_kept_from_the_first(sign):
    features = sign * torch.tensor([[0.5, 3.0, 3.00001, 8.0]])
    assert sparsify(features, 2).tolist() == [3, 2]
    assert sparsify(features, 2, tie_tolerance=1e-5).tolist() == [3, 1]
    assert sparsify(features, 9, tie_tolerance=1e-5).tolist() == [3, 2, 1, 0]
