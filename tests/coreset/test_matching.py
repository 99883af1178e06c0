"""The error of a selection: against a random choice, and against the gradient (Theorem 4.1)."""

import math

import pytest
import torch

from colm.coreset.matching import matching_error, selection_error
from colm.coreset.randomness import keyed_generator


def test_matching_error_is_one_for_a_random_choice_on_average():
    """Its square has mean 1; of 400 draws the mean is within 5 standard errors of it."""
    features = 1 + torch.randn(16, 3, generator=torch.Generator().manual_seed(16))
    squares = []
    for step in range(400):
        rows = torch.randperm(16, generator=keyed_generator(step))[:6]
        squares.append(matching_error(features, rows) ** 2)
    mean = sum(squares) / 400
    spread = (sum((square - mean) ** 2 for square in squares) / 399) ** 0.5
    assert abs(mean - 1) < 5 * spread / 20


@pytest.mark.parametrize(("errors", "holds"), [([3.0, 4.0], True), ([5.0, 5.5], False)])
def test_the_condition_is_about_the_mean_error(errors, holds):
    ratio = selection_error(torch.tensor(errors), torch.tensor([5.0, 5.0]))
    assert (ratio <= 1) == holds
    assert ratio == pytest.approx(sum(errors) / 10)


def test_what_is_known_of_the_gradients_noise_is_taken_off():
    """On average over batches, to 5 standard errors, the ratio is that of the true gradient."""
    generator = torch.Generator().manual_seed(3)
    true = torch.tensor([0.6, -0.8])
    examples = true + 3 * torch.randn(4000, 16, 2, generator=generator)
    mean = examples.mean(1)
    variances = examples.var(1).sum(1) / 16
    norms, errors = mean.norm(dim=1), torch.full((4000,), 0.5)
    spread = (norms.square() - variances).std() / 4000**0.5
    corrected = selection_error(errors, norms, variances)
    assert abs((0.5 / corrected) ** 2 - 1) < 5 * spread
    assert selection_error(errors, norms) < 0.4


def test_no_steps_and_no_gradient_left():
    nothing = torch.zeros(0)
    assert math.isnan(selection_error(nothing, nothing))
    one = torch.ones(1)
    assert selection_error(one, one, 2 * one) == math.inf
    assert selection_error(one, 0 * one) == math.inf


def test_one_number_a_step():
    with pytest.raises(ValueError, match="one error, norm and variance a step"):
        selection_error(torch.ones(2), torch.ones(3))
