"""Rounding at random: right on average, exact where it can be, and no small update lost."""

import pytest
import torch

from colm.memory.subspaces.rounding import round_to


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_mean_is_what_was_rounded(sign, share):
    """Between 1 and the next bfloat16, 1 + 2^-7."""
    value = sign * (1 + share * 2**-7)
    rounded = round_to(torch.full((40_000,), value), torch.bfloat16, "stochastic", generator())
    assert set(rounded.tolist()) == {sign * 1.0, sign * (1 + 2**-7)}
    assert rounded.double().mean().item() == pytest.approx(value, abs=5e-5)


def test_what_is_exact_stays():
    exact = torch.randn(1000).bfloat16()
    assert torch.equal(round_to(exact.float(), torch.bfloat16, "stochastic", generator()), exact)
    zeros = torch.zeros(5)
    assert torch.equal(round_to(zeros, torch.bfloat16, "stochastic", generator()), zeros.bfloat16())


def test_small_updates_add_up_at_random_and_are_lost_otherwise():
    start = torch.ones(2000, dtype=torch.bfloat16)
    ended = {}
    for rounding in ("stochastic", "nearest"):
        weight, source = start, generator()
        for _ in range(200):
            weight = round_to(weight.float() + 1e-3, torch.bfloat16, rounding, source)
        ended[rounding] = weight.double().mean().item()
    assert ended["nearest"] == 1.0
    assert ended["stochastic"] == pytest.approx(1.2, abs=2e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_other_types_are_rounded_to_the_nearest(dtype):
    values = torch.randn(100, dtype=torch.float64)
    assert torch.equal(round_to(values, dtype, "stochastic"), values.to(dtype))


def test_an_unknown_rounding_is_refused():
    with pytest.raises(ValueError, match=r"rounding.*stochastic, nearest.* 'up'"):
        round_to(torch.ones(1), torch.bfloat16, "up")
