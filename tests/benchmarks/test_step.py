"""The step benchmark on random weights, and the script that runs it on an accelerator."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import record, shapes
from benchmarks.measure import step

ROOT = Path(__file__).parents[2]
TINY = "--shape tiny --n 6 --r 4 --micro_batch 2 --max_length 32 --repeats 2 --dtype float32"


def run(monkeypatch, tmp_path, options):
    """Run the benchmark in this process; its result."""
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["step", *options.split()])
    step.main()
    (path,) = (tmp_path / "step").glob("*.json")
    return json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*small sources")
@pytest.mark.parametrize("options", ["--selector gradient_matching --plain", "--full"])
def test_a_tiny_shape_is_timed(monkeypatch, tmp_path, options):
    result = run(monkeypatch, tmp_path, f"{TINY} {options}")
    assert len(result["repeats"]) == 2
    summary = result["summary"]
    kinds = ["colm"]
    others = ["ideal"]
    if "--plain" in options:
        others += ["plain_r", "plain_n"]
    wanted = {f"{kind}_over_{other}" for kind in kinds for other in others}
    assert {name for name in summary if "_over_" in name} == wanted | {
        "colm_over_ideal_least",
        "colm_over_ideal_most",
    }
    row = result["repeats"][0]
    assert row["colm_seconds"] == (row["colm_before_seconds"] + row["colm_after_seconds"]) / 2


def test_the_shapes_are_those_of_the_models(monkeypatch):
    """Parameters without the weights: what their model cards say, in millions."""
    sizes = {"phi-2": 2780, "smollm2": 135, "llama-3-8b": 8030}
    for name, expected in sizes.items():
        with torch.device("meta"):
            model = shapes.AutoModelForCausalLM.from_config(shapes.SHAPES[name].config())
        millions = sum(weight.numel() for weight in model.parameters()) / 1e6
        assert millions == pytest.approx(expected, rel=0.01)
        targets = shapes.SHAPES[name].lora().target_modules
        names = {module.rpartition(".")[2] for module, _ in model.named_modules()}
        assert isinstance(targets, str) or set(targets) <= names


def test_random_examples_are_like_text():
    dataset = shapes.random_examples(300, vocabulary=1000, max_length=64, seed=1)
    lengths = [len(tokens) for tokens in dataset["input_ids"]]
    assert 16 <= min(lengths) < 20
    assert max(lengths) == 64
    assert 25 < sum(lengths) / 300 < 40
    tokens = [token for row in dataset["input_ids"] for token in row[:-1]]
    assert min(tokens) == shapes.FIRST_WORD
    assert 900 < max(tokens) < 1000
    # Half of the words are the few most frequent.
    assert sorted(tokens)[len(tokens) // 2] < 60
    assert len(set(dataset["source"])) == shapes.SOURCES
    for example in dataset:
        labelled = [label for label in example["labels"] if label != -100]
        assert 0 < len(labelled) < len(example["labels"]) == len(example["input_ids"])
        assert example["input_ids"][-len(labelled) :] == labelled
    assert dataset[:] == shapes.random_examples(300, 1000, 64, seed=1)[:]


def stub(tmp_path, body):
    """A program in place of Python that notes what it was asked to run."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n{body}\n')
    path.chmod(0o755)
    return str(path)


def accelerator(tmp_path, body="exit 0", **variables):
    """Run the script on the stub: its exit code, and the calls."""
    environment = (
        os.environ
        | {"PYTHON": stub(tmp_path, body), "BENCHMARK_RESULTS": str(tmp_path)}
        | variables
    )
    script = ROOT / "benchmarks" / "accelerator.sh"
    done = subprocess.run(
        [script], env=environment, timeout=60, check=False, capture_output=True, text=True
    )
    calls = tmp_path / "calls"
    lines = calls.read_text().splitlines() if calls.exists() else []
    return done.returncode, [shlex.split(line)[1:] for line in lines]


def test_the_script_runs_lora_and_full_at_both_ratios(monkeypatch, tmp_path):
    code, calls = accelerator(tmp_path)
    assert code == 0
    steps = [call[2:] for call in calls if call[:2] == ["benchmarks", "step"]]
    found = set()
    for call in steps:
        monkeypatch.setattr(sys, "argv", ["step", *call])
        options = step.parse()
        assert options.shape == "phi-2"
        assert options.plain
        found.add((options.n, options.r, options.full))
    assert found == {(128, 64, False), (128, 64, True), (128, 32, False), (128, 32, True)}


def test_the_script_goes_on_after_a_failure_and_says_so(tmp_path):
    code, calls = accelerator(tmp_path, "exit 3", SHAPE="llama-3-8b")
    assert code == 1
    assert [call for call in calls if "--full" in call] == []
    assert len([call for call in calls if call[:2] == ["benchmarks", "step"]]) == 2


@pytest.mark.slow
def test_the_script_keeps_its_limit(tmp_path):
    code, calls = accelerator(tmp_path, "sleep 20", LIMIT_SECONDS="6")
    assert code == 1
    assert len(calls) == 1
