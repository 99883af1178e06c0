"""Rules of adaptive draws that are compared: their weights, and that a run draws by them."""

import json

import pytest
import torch

from benchmarks import record
from benchmarks.measure import draw_rules
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


@pytest.mark.slow
def test_a_rule_is_run_and_kept(tmp_path, monkeypatch):
    for module in (record, draw_rules):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    options = ["--from_scratch", "--dtype", "float32", "--n", "4", "--r", "2", "--micro_batch", "2"]
    options += ["--max_length", "64", "--held_out", "2", "--steps", "26", "--measure_every", "26"]
    draw_rules.main(["--rules", "loss", *options, "--seeds", "0", "--label", "mine"])
    found = json.loads((tmp_path / "draw_rules" / "mine" / "loss-seed0.json").read_text())
    assert found["summary"]["steps"] == 26
