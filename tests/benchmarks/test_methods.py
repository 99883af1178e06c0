"""`benchmarks methods`: rates are searched for, runs are kept, and quicker ones go on."""

import json
import sys

import pytest

from benchmarks.measure import methods, quality
from benchmarks.measure.methods import MOST_RATES, find_rate
from benchmarks.ways import REFERENCE, WAYS
from colm.planning.methods import MEMORY_METHODS
from tests.training.conftest import make_records

SETTING = ["--from_scratch", "--steps=2", "--measure_every=1", "--held_out=2", "--max_length=64"]
SETTING += ["--n=4", "--r=2", "--rank=2", "--refresh=1", "--warmup_steps=0", "--seeds=3"]


def test_every_method_of_a_plan_is_compared_and_the_reference_goes_first():
    assert {method.name for method in MEMORY_METHODS} <= set(WAYS)
    assert methods.parse(["--ways", "LoRA", REFERENCE]).ways == [REFERENCE, "LoRA"]
    for way in WAYS.values():
        assert way.rate_of is None or WAYS[way.rate_of].rate_of is None


@pytest.mark.parametrize("best", [1e-3, 3e-3, 3e-4])
def test_the_search_ends_at_the_lowest_loss(best):
    tried = []

    def loss_of(rate):
        tried.append(rate)
        return abs(rate - best)

    assert find_rate(1e-3, loss_of) == pytest.approx(best, rel=0.2)
    assert len(tried) == len(set(tried)) <= MOST_RATES


@pytest.mark.slow
def test_runs_have_bytes_times_and_losses_and_are_not_run_again(tmp_path, monkeypatch, capsys):
    data = tmp_path / "mine.jsonl"
    rows = [
        {name: one[name] for name in ("prompt", "completion", "source")} for one in make_records()
    ]
    data.write_text("\n".join(map(json.dumps, rows)))
    for module in (quality, methods):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    ways = [REFERENCE, "zeroth order", "random subspaces"]
    given = ["--data", str(data), *SETTING, "--learning_rates=0.01", "--ways", *ways]
    monkeypatch.setattr(sys, "argv", ["benchmark", *given])
    methods.main()
    folder = tmp_path / "results" / "methods" / "mine-from-scratch"
    found = {path.name: json.loads(path.read_text()) for path in folder.iterdir()}
    names = ["adamw-all-weights", "adamw-all-weights-colm", "zeroth-order"]
    names += ["random-subspaces", "random-subspaces-colm"]
    assert set(found) == {f"{name}-lr0.01-seed3.json" for name in names}
    whole, blind, small = (
        found[f"{name}-lr0.01-seed3.json"]["summary"] for name in names[::2][:2] + names[3:4]
    )
    assert whole["optimizer_bytes"] > small["optimizer_bytes"] > blind["optimizer_bytes"] == 0
    assert whole["gradient_bytes"] > small["gradient_bytes"] > blind["gradient_bytes"] == 0
    assert whole["saved_bytes"] > small["saved_bytes"] > blind["saved_bytes"] == 0
    for one in found.values():
        summary, steps = one["summary"], [row["steps"] for row in one["repeats"]]
        assert summary["steps"] == 2
        assert steps == [float(step) for step in range(len(steps))]
        took = one["repeats"][-1]["cpu_seconds"]
        assert took >= whole["cpu_seconds"] or len(steps) == 1 + 2 * methods.MOST_STEPS
        held = summary["weight_bytes"] + summary["optimizer_bytes"] + summary["step_bytes"]
        assert summary["total_bytes"] == held
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    methods.main()
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert "done before" in capsys.readouterr().out
