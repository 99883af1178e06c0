"""The error of a selection in feature space, against a random choice of as many."""

import pytest
import torch

from colm.coreset.selection import matching_error
from colm.randomness import keyed_generator


@pytest.mark.parametrize("by_tokens", [False, True])
def test_matching_error_is_one_for_a_random_choice_on_average(by_tokens):
    """Its square has mean 1; of 400 draws the mean is within 5 standard errors of it.

    Where rows count differently 1 is right to first order only, hence the many rows.
    """
    n, k = (200, 75) if by_tokens else (16, 6)
    generator = torch.Generator().manual_seed(16)
    features = 1 + torch.randn(n, 3, generator=generator)
    target = torch.randint(5, 15, (n,), generator=generator) if by_tokens else None
    squares = []
    for step in range(400):
        rows = torch.randperm(n, generator=keyed_generator(step))[:k]
        squares.append(matching_error(features, rows, target=target) ** 2)
    mean = sum(squares) / 400
    spread = (sum((square - mean) ** 2 for square in squares) / 399) ** 0.5
    assert abs(mean - 1) < 5 * spread / 20


def test_weights_can_make_up_for_what_is_left_out():
    features = torch.tensor([[0.0], [0.0], [0.0], [8.0]])
    rows = torch.tensor([0, 3])
    assert matching_error(features, rows) > 0.5
    assert matching_error(features, rows, torch.tensor([3.0, 1.0])) == pytest.approx(0, abs=1e-6)


def test_a_row_that_counts_twice_is_a_row_given_twice():
    """The mean is that of the rows repeated; the error is in that mean's units."""
    features = torch.tensor([[1.0], [2.0], [6.0]])
    target = torch.tensor([2.0, 1.0, 1.0])
    middle = torch.tensor([[2.5]])
    exact = torch.cat([features, middle])
    target = torch.cat([target, torch.tensor([1e-9])])
    assert matching_error(exact, torch.tensor([3]), target=target) == pytest.approx(0, abs=1e-4)
