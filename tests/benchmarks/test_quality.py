"""`benchmarks quality` and what runs its arms: runs are kept, not run again, and never mixed."""

import json
import sys

import pytest

from benchmarks import record
from benchmarks.measure import draw_rules, pace, quality, side_block
from colm.coreset import registry
from tests.training.conftest import make_records

SETTING = ["--n", "4", "--r", "2", "--micro_batch", "2", "--max_length", "64", "--held_out", "2"]
RUN = ["--steps", "2", "--measure_every", "1", "--seeds", "3", "--arms", "plain r", "plain n"]


@pytest.fixture
def run(tiny_model_folder, tmp_path, monkeypatch):
    """Run a benchmark's main with its results in a folder of the test."""
    data = tmp_path / "mine.jsonl"
    rows = [
        {"prompt": one["prompt"], "completion": one["completion"], "source": one["source"]}
        for one in make_records()
    ]
    data.write_text("\n".join(map(json.dumps, rows)))
    # What a benchmark registers is gone after the test.
    monkeypatch.setattr(registry, "_SELECTORS", dict(registry._SELECTORS))
    monkeypatch.setattr(quality, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")

    def main(module, *options):
        given = ["--data", str(data), "--model", tiny_model_folder, *SETTING, *options]
        monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, given)])
        module.main()
        return tmp_path / "results"

    return main


@pytest.mark.slow
def test_runs_are_kept_and_not_run_again(run, monkeypatch):
    folder = run(quality, *RUN) / "quality" / "mine"
    results = {path.name: json.loads(path.read_text()) for path in folder.iterdir()}
    assert set(results) == {"plain-r-seed3.json", "plain-n-seed3.json"}
    cheap, whole = results["plain-r-seed3.json"], results["plain-n-seed3.json"]
    # What costs less goes on for longer.
    assert [row["steps"] for row in cheap["repeats"]] == [0, 1, 2, 3, 4]
    assert [row["steps"] for row in whole["repeats"]] == [0, 1, 2]
    assert cheap["repeats"][0] == whole["repeats"][0] != cheap["repeats"][-1]
    assert cheap["summary"]["macro"] == cheap["repeats"][-1]["macro"]
    losses = [v for k, v in cheap["repeats"][-1].items() if k.startswith("loss/")]
    assert cheap["summary"]["macro"] == pytest.approx(sum(losses) / len(losses))
    assert [entry["step"] for entry in whole["settings"]["log"]] == [1, 2]
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    run(quality, *RUN)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with pytest.raises(SystemExit, match=r"learning_rate=0\.001, not 0\.1.*--label"):
        run(quality, *RUN, "--learning_rate", "0.1")


@pytest.mark.slow
def test_the_small_model_trains_from_nothing_in_any_regime(run):
    options = ["--from_scratch", "--regime", "wrong", "--steps", "2", "--measure_every", "1"]
    folder = run(quality, *options, "--seeds", "0", "1", "--arms", "plain n") / "quality"
    first, other = (
        json.loads((folder / "mine-wrong-from-scratch" / f"plain-n-seed{seed}.json").read_text())
        for seed in (0, 1)
    )
    assert first["repeats"][0]["macro"] != other["repeats"][0]["macro"]
    seconds = [row["cpu_seconds"] for row in first["repeats"]]
    assert seconds[0] == 0 < seconds[1] < seconds[2]
    assert first["repeats"][-1]["macro"] < first["repeats"][0]["macro"]


@pytest.mark.slow
def test_paces_are_of_all_turns(run):
    folder = run(pace, "--arms", "plain r", "balanced sampling", "--turns", "2")
    (path,) = (folder / "pace").glob("*.json")
    result = json.loads(path.read_text())
    assert len(result["repeats"]) == 2
    ours, theirs = (
        sum(row[f"{name}/seconds"] for row in result["repeats"])
        for name in ("balanced sampling", "plain r")
    )
    assert result["summary"]["plain r_over_plain_r"] == 1
    assert result["summary"]["balanced sampling_over_plain_r"] == pytest.approx(ours / theirs)


def test_files_are_sources_unless_they_name_theirs(tmp_path):
    choices, named = tmp_path / "copa-train.jsonl", tmp_path / "named.jsonl"
    row = {"prompt": "Why?", "candidates": ["rain", "sun"], "label": 1}
    choices.write_text(json.dumps(row))
    named.write_text(json.dumps({"instruction": "1+1", "output": "2", "source": "sums"}))
    rows = list(quality.load_data([str(choices), str(named)]))
    assert [row["source"] for row in rows] == ["copa-train", "sums"]
    assert [row["completion"][-1]["content"] for row in rows] == ["sun", "2"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--n", "5", "--r", "2"], "--n must be a multiple of --r"),
        (["--steps", "30", "--measure_every", "20"], "--steps must be a multiple"),
        (["--arms", "nothing"], "invalid choice: 'nothing'"),
    ],
)
def test_bad_options_are_named(options, said, capsys):
    with pytest.raises(SystemExit):
        quality.parse(options)
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_another_rule_draws_otherwise(run, tmp_path, monkeypatch):
    monkeypatch.setattr(draw_rules, "RESULTS", tmp_path / "results")
    # Shares change after rounds of eight steps.
    length = ["--steps", "30", "--measure_every", "30", "--seeds", "0"]
    folder = run(draw_rules, "--rules", "fall", "loss", *length) / "draw_rules" / "mine"
    fall, loss = (
        json.loads((folder / f"{rule}-seed0.json").read_text()) for rule in ("fall", "loss")
    )
    assert fall["summary"]["steps"] == loss["summary"]["steps"] == 30
    assert fall["summary"]["macro"] != loss["summary"]["macro"]


@pytest.mark.slow
def test_a_side_block_is_trained_as_long_as_lora(run):
    options = ["--turns", "2", "--steps", "2", "--block_rates", "0.001", "0.01"]
    (path,) = (run(side_block, *options) / "side_block").iterdir()
    result = json.loads(path.read_text())
    found = result["summary"]
    for arm in side_block.ARMS:
        assert found[f"{arm}/steps"] == max(1, round(2 / found[f"{arm}/over_reference"]))
        assert found[f"{arm}/macro"] > 0
    assert found[f"{side_block.REFERENCE}/over_reference"] == 1
    assert found["side block, n/saved_bytes"] < found["LoRA, n/saved_bytes"]
    assert found["side block, n/optimizer_bytes"] < found["LoRA, n/optimizer_bytes"]
    tried = {
        row["side block, n/learning_rate"]: row["side block, n/macro"]
        for row in result["repeats"]
        if "side block, n/learning_rate" in row
    }
    assert set(tried) == {0.001, 0.01}
    assert found["side block, n/macro"] == min(tried.values())
    assert found["side block, r by CoLM/learning_rate"] == min(tried, key=lambda rate: tried[rate])
