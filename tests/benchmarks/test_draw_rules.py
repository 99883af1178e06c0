"""Rules of adaptive draws that are compared: their weights."""

import pytest
import torch

from benchmarks.measure.draw_rules import by_loss, by_power_law, fall_of_power_law


def test_a_power_law_falls_as_its_derivative_says():
    seen = torch.arange(1, 30, dtype=torch.float64) * 16
    exact = 0.5 + 3 * seen**-0.4
    fall = 3 * 0.4 * float(seen[-1]) ** -1.4
    assert float(fall_of_power_law(seen, exact)) == pytest.approx(fall, rel=0.02)
    assert fall_of_power_law(seen, exact.flip(0)) == 0
    assert fall_of_power_law(seen[:2], exact[:2]) == 0


def rounds_of(*losses):
    """Ten rounds of sources with these losses at each, 16 examples and 50 tokens a round."""
    losses = torch.tensor(losses, dtype=torch.float64).T
    tokens = torch.full_like(losses, 50.0)
    seen = torch.arange(1, len(losses) + 1, dtype=torch.float64)[:, None] * 16
    return torch.stack([seen.expand_as(losses), losses * tokens, tokens], 1)


def test_rules_tell_high_losses_and_falling_ones_apart():
    falling = [2.0 * (1 + place) ** -0.5 for place in range(10)]
    rounds = rounds_of([3.0] * 10, falling)
    assert by_loss(rounds).tolist() == pytest.approx([3.0, 0.85], abs=0.1)
    flat, fallen = by_power_law(rounds).tolist()
    assert flat < 1e-9 < fallen
