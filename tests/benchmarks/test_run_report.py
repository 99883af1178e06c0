"""Runs of the benchmark ``quality`` as ``colm report`` shows runs."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.page import run_report
from benchmarks.page.run_report import read_run
from colm.reports import headline, join_comparisons
from colm.reports.summaries import settings_table
from tests.reports.test_runs import log, save_state


def quality_result(path: Path, seed: int = 0, **changes) -> Path:
    """A file as ``benchmarks/measure/quality.py`` writes it, measured at steps 0, 2 and 4."""
    entries = log(4)
    entries[1]["colm/training_seconds"] = entries[3]["colm/training_seconds"] = 30.0
    repeats = [
        {"steps": float(step), "macro": loss, "micro": loss - 0.1, "small": loss + 0.1}
        | {"loss/sums": loss - 0.1, "loss/dates": loss + 0.1}
        for step, loss in ((0, 3.0), (2, 2.0), (4, 1.5 + seed / 10))
    ]
    result = {
        "benchmark": "quality",
        "versions": {"torch": "2.13.0"},
        "machine": {"processor": "some x 2", "threads": 2},
        "settings": {
            "data": None,
            "n": 8,
            "r": 4,
            "arm": "CoLM",
            "seed": seed,
            "options": {"preset": "colm"},
            "sources": {"sums": 900, "dates": 100},
            "small_sources": ["dates"],
            "log": entries,
        },
        "repeats": repeats,
    } | changes
    path.write_text(json.dumps(result))
    return path


def test_a_quality_result_has_scores_and_measurements(tmp_path) -> None:
    comparison = read_run(quality_result(tmp_path / "colm-seed0.json"))
    (arm,) = comparison.arms
    assert arm.name == "CoLM, seed 0"
    assert comparison.before.macro == 3.0
    assert arm.scores.loss_by_source == pytest.approx({"sums": 1.4, "dates": 1.6})
    assert arm.evaluations() == {"eval_macro_loss": ([0, 2, 4], [3.0, 2.0, 1.5])}
    assert comparison.small_sources == ["dates"]
    assert arm.seconds_at([4]) == [8.0]
    assert any("median" in note for note in comparison.notes)
    assert arm.settings["preset"] == "colm"
    assert "log" not in arm.settings


@pytest.mark.parametrize(
    "changes", [{"settings": {}}, {"repeats": []}, {"repeats": [{"steps": 0}]}, {"settings": 3}]
)
def test_half_a_quality_result_is_refused(tmp_path, changes: dict) -> None:
    path = quality_result(tmp_path / "half.json", **changes)
    with pytest.raises(ValueError, match=r"half\.json: not a whole result"):
        read_run(path)


@pytest.mark.slow
def test_results_and_runs_stand_side_by_side(tmp_path, monkeypatch, capsys) -> None:
    mine = save_state(tmp_path / "mine", 4, 4)
    quality = [quality_result(tmp_path / f"{seed}.json", seed) for seed in (0, 1)]
    joined = join_comparisons([read_run(path) for path in (mine, *quality)])
    assert [arm.name for arm in joined.arms] == ["mine", "CoLM, seed 0", "CoLM, seed 1"]
    assert "seed" in {row[0] for row in settings_table(joined).rows}
    two = join_comparisons([read_run(path) for path in quality])
    assert two.before.macro == 3.0
    assert headline(two) == (
        "CoLM, seed 0 ends 6.2% lower in held-out loss than CoLM, seed 1 after 4 steps"
    )
    page = tmp_path / "all.html"
    monkeypatch.setattr(sys, "argv", ["run_report", *map(str, quality), f"--output={page}"])
    run_report.main()
    assert page.read_text("utf-8").count("<h3>Sources kept over time") == 2
    assert str(page) in capsys.readouterr().out
