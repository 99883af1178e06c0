"""The order that candidates are looked at in: theirs, and not that of the batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from colm.coreset.candidates import Candidates, SelectionOptions, order_by_content, order_by_key

seeds = st.integers(0, 10**6)


def permutation(n, seed):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


@given(st.lists(st.integers(-9, 9) | st.integers(10**9, 10**12), min_size=1, max_size=9), seeds)
@settings(deadline=None)
def test_keys_sort_their_candidates_wherever_they_stand(keys, seed):
    order = permutation(len(keys), seed).tolist()
    sources = ["one"] * len(keys)
    shuffled = [keys[row] for row in order]
    rows = order_by_key(shuffled, sources).tolist()
    assert [shuffled[row] for row in rows] == sorted(keys)
    assert order_by_key(torch.tensor(shuffled), sources).tolist() == rows


def test_equal_keys_go_by_source_and_then_as_given():
    assert order_by_key(["x", "x", "a", "x"], ["2", "1", "3", "1"]).tolist() == [2, 1, 3, 0]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([1, 2], r"^2 keys were passed for 3 candidates\.$"),
        ([1, "a", 2], r"^keys must be all strings or all numbers; got int, str\.$"),
    ],
)
def test_bad_keys_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        order_by_key(keys, ["a", "b", "c"])


def candidates(n, d, seed, **parts):
    generator = torch.Generator().manual_seed(seed)
    gradients = 2 + torch.randn(n, d, generator=generator)
    return Candidates(torch.zeros(n).long(), SelectionOptions(), gradients=gradients, **parts)


@given(n=st.integers(1, 12), d=st.integers(1, 40), seed=seeds)
@settings(deadline=None)
def test_content_is_ordered_alike_wherever_it_stands(n, d, seed):
    given_order = candidates(n, d, seed)
    shuffled = given_order.take(permutation(n, seed + 1))
    ordered, again = (one.take(order_by_content(one)) for one in (given_order, shuffled))
    assert torch.equal(ordered.gradients, again.gradients)


@given(seed=seeds)
@settings(deadline=None)
def test_a_small_relative_error_leaves_the_order(seed):
    exact = candidates(12, 30, seed)
    noise = 1 + 1e-7 * torch.randn(12, 30, generator=torch.Generator().manual_seed(seed + 1))
    noisy = Candidates(exact.sources, exact.options, gradients=exact.gradients * noise)
    assert order_by_content(noisy).tolist() == order_by_content(exact).tolist()


def test_whole_numbers_come_before_what_was_computed():
    everyone = candidates(4, 3, 0, label_tokens=torch.tensor([8, 3, 3, 9]))
    assert order_by_content(everyone).tolist()[2:] == [0, 3]
    by_source = Candidates(torch.tensor([1, 0, 0, 1]), everyone.options, **everyone.observed)
    assert set(order_by_content(by_source).tolist()[:2]) == {1, 2}


def test_candidates_that_nothing_tells_apart_stay_as_given():
    nothing = Candidates(torch.zeros(3).long(), SelectionOptions())
    alike = Candidates(torch.zeros(3).long(), SelectionOptions(), losses=torch.ones(3))
    assert order_by_content(nothing).tolist() == order_by_content(alike).tolist() == [0, 1, 2]


def test_features_wider_than_a_block_and_rows_that_are_not_finite_are_ordered():
    wide = torch.zeros(3, 9000)
    wide[:, -1] = torch.tensor([1.0, torch.nan, -1.0])
    order = order_by_content(Candidates(torch.zeros(3).long(), SelectionOptions(), gradients=wide))
    assert order.tolist() in ([0, 1, 2], [2, 1, 0])
