"""SPSA is right on average: the mean over directions is the gradient, to stated confidence.

A z-test of many linear functionals of the estimate at once: each is right in the mean, or the test
rejects. Together they reject what is right with a probability of at most `FALSE_ALARM` (Bonferroni;
directions come from a fixed seed, so a pass stays one). What is biased is rejected below.
"""

import math
from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from colm.gradients.value_gradients import ValueGradients
from tests.gradients.architectures import build
from tests.gradients.oracle import assert_close, examples, padded

FALSE_ALARM = 1e-6
NUM_DIRECTIONS = 600
EPS = 1e-3


def rejects(slopes: Tensor, directions: Tensor, exact: Tensor) -> bool:
    """Whether estimates ``slopes [k, n] x directions [k, d]`` are off ``exact [n, d]`` on average.

    The functionals: fixed random ones, and the gradients themselves, which tell scale best.
    """
    random = torch.randn(8, exact.shape[1], generator=torch.Generator().manual_seed(2)).double()
    functionals = torch.cat([random, exact])
    samples = slopes.unsqueeze(2) * (directions @ functionals.T).unsqueeze(1)
    errors = samples.mean(0) - exact @ functionals.T
    scores = errors / (samples.std(0) / math.sqrt(len(samples)))
    return bool(scores.abs().max() > NormalDist().inv_cdf(1 - FALSE_ALARM / (2 * scores.numel())))


@pytest.fixture(scope="module")
def estimated():
    """A model of 64 weights in V, its slopes along many directions, and its exact gradients."""
    torch.manual_seed(0)
    model = build("gpt2", n_embd=8, n_head=2, n_inner=8, n_layer=1)
    batch = padded(*examples((6, 8)))
    features = ValueGradients(
        model, "zeroth_order", num_directions=NUM_DIRECTIONS, perturbation_scale=EPS
    )
    directions = features.draw_directions(torch.Generator().manual_seed(1))
    slopes, _, _ = features.slopes(batch, directions)
    flat = directions[0].flatten(1).double()
    few = features(batch, [directions[0][:3]]).features
    assert_close(few, slopes[:3].T @ flat[:3] / 3)
    return slopes, flat, ValueGradients(model)(batch).features


@pytest.mark.slow
def test_the_mean_over_directions_is_unbiased(estimated):
    assert not rejects(*estimated)


BIASED = {
    "without 1 / 2 eps": lambda slopes, z: (slopes * 2 * EPS, z),
    "without the half": lambda slopes, z: (slopes * 2, z),
    "the other way round": lambda slopes, z: (-slopes, z),
    "half as long": lambda slopes, z: (slopes / 2, z),
    "along one direction only": lambda slopes, z: (
        slopes[:1].expand_as(slopes) * (1 + 1e-9 * slopes),
        z[:1].expand_as(z),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BIASED)
def test_a_biased_estimate_is_rejected(name, estimated):
    slopes, directions, exact = estimated
    assert rejects(*BIASED[name](slopes, directions), exact)


@pytest.mark.slow
@pytest.mark.parametrize("draw", ["uniform", "positive"])
def test_directions_of_another_second_moment_are_rejected(draw, estimated):
    """E[z z^T] must be the identity: a third of it is that of numbers between -1 and 1."""
    _, z, exact = estimated
    assert not rejects(z @ exact.T, z, exact)
    z = torch.rand(z.shape, generator=torch.Generator().manual_seed(3)).double() * 2 - 1
    assert not rejects(3 * z @ exact.T, z, exact)
    z = z if draw == "uniform" else math.sqrt(3) * z.abs()
    assert rejects(z @ exact.T, z, exact)


def is_standard_normal(values: Tensor) -> bool:
    """Kolmogorov and Smirnov's test, which rejects what is normal with `FALSE_ALARM`."""
    values = values.double().flatten().sort().values
    expected = torch.special.ndtr(values)
    steps = torch.arange(len(values) + 1, dtype=torch.float64) / len(values)
    distance = max((steps[1:] - expected).max(), (expected - steps[:-1]).max())
    return bool(distance < math.sqrt(-math.log(FALSE_ALARM / 2) / (2 * len(values))))


def test_directions_are_standard_normal_and_their_own():
    features = ValueGradients(build("llama"), "zeroth_order", num_directions=64)
    (directions,) = features.draw_directions(torch.Generator().manual_seed(1))
    assert is_standard_normal(directions)
    flat = directions.flatten(1).double()
    products = flat @ flat.T / flat.shape[1]
    pairs = products[~torch.eye(len(flat), dtype=torch.bool)] * math.sqrt(flat.shape[1])
    assert pairs.abs().max() < NormalDist().inv_cdf(1 - FALSE_ALARM / (2 * pairs.numel()))


@pytest.mark.parametrize(
    "draw",
    [
        lambda shape: (torch.rand(shape) - 0.5) * math.sqrt(12),
        lambda shape: torch.randint(2, shape) * 2.0 - 1,
        lambda shape: torch.randn(shape) * 1.05,
        lambda shape: torch.randn(shape).clamp(-2, 2),
    ],
    ids=["uniform", "signs", "wide", "clamped"],
)
def test_other_directions_are_told_from_normal(draw):
    torch.manual_seed(0)
    assert not is_standard_normal(draw((64, 512)))
