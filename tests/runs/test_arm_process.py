"""Arms that really train: turns, measurements, resuming, and processes that are killed."""

import json
import os
import random
import time
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from colm.reports.run_folder import read_run_folder
from colm.run_record import read_record
from colm.runs.compare import ComparisonPlan, compare
from colm.runs.comparison_file import GIVEN_UP, TRAINED, read_state
from colm.runs.players import ArmProcess
from tests.runs.threads import LONGEST_SECONDS, InThread
from tests.training.processes import LOADED_ONCE

SIZES = {"adding": 24, "copying": 24, "rare": 6}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = random.Random(0)
    rows = [
        {"instruction": f"{source} {rng.randrange(99)}?", "output": str(n % 7), "source": source}
        for source, size in SIZES.items()
        for n in range(size)
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def recipe(tiny_model_folder: Path, data: Path) -> list[str]:
    return [
        f"--model_name_or_path={tiny_model_folder}",
        f"--dataset_name={data}",
        "--per_device_train_batch_size=4",
        "--learning_rate=1e-2",
        "--warmup_steps=0.1",
        "--num_train_epochs=3",
        "--bf16=false",
        "--gradient_checkpointing=false",
        "--logging_steps=1",
        "--use_peft=true",
        # Threads share the generator that draws dropout; processes have one each.
        "--lora_dropout=0.0",
    ]


class Stopped(BaseException):
    """The comparison is interrupted."""


def plan_of(recipe: list[str], folder: Path, **options) -> ComparisonPlan:
    given = {
        "arms": ["colm"],
        "plain": ["plain"],
        "minutes": 10 / 60,
        "turns": 2,
        "seeds": 1,
        "held_out": 4,
    }
    return ComparisonPlan(recipe=recipe, folder=folder, **(given | options))


def measured(comparing) -> dict:
    return {
        each.arm: [(m["step"], m["seconds"], m["scores"]) for m in each.measured]
        for each in comparing.state.runs
    }


@pytest.mark.slow
def test_arms_train_in_turns_and_interrupted_ones_go_on_to_the_same_losses(
    recipe: list[str], tmp_path: Path
) -> None:
    whole = compare(
        plan_of(recipe, tmp_path / "whole", keep_models=True), lambda *_, **__: None, InThread
    )
    losses = measured(whole)
    assert set(losses) == {"colm", "plain", "small_random"}
    for points in losses.values():
        (first, _, early), (last, seconds, late) = points
        assert 0 < first < last
        assert seconds >= 10
        assert late["macro"] < early["macro"] < whole.state.before["macro"]
        assert set(late["loss_by_source"]) == set(SIZES)
    assert whole.state.data["sizes"] == {"adding": 20, "copying": 20, "rare": 5}
    assert whole.state.data["small"] == ["rare"]
    assert losses["plain"] != losses["small_random"]
    model = tmp_path / "whole" / "plain-seed42" / "model"
    assert (model / "adapter_model.safetensors").is_file()
    log = json.loads((tmp_path / "whole" / "colm-seed42" / "trainer_state.json").read_text())
    assert log["max_steps"] == log["global_step"] == losses["colm"][-1][0]
    read = read_run_folder(tmp_path / "whole" / "colm-seed42", "colm")
    assert not read.notes
    record = read_record(tmp_path / "whole" / "colm-seed42")
    assert record.command == "colm compare"
    assert "max_steps" not in record.options
    assert record.model["use_peft"]
    assert Path(record.data["dataset_name"]).name == "train.jsonl"
    rates = [entry["learning_rate"] for entry in log["log_history"] if "learning_rate" in entry]
    assert rates[-1] == rates[-2] == 1e-2  # constant after the warm-up

    lines = []

    def interrupting(line: str, kept: bool = True) -> None:
        lines.append(line)
        if "turn 1/2" in line and sum("turn" in each for each in lines) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        compare(plan_of(recipe, tmp_path / "again"), interrupting, InThread)
    again = compare(plan_of(recipe, tmp_path / "again"), lambda *_, **__: None, InThread)
    assert measured(again) == losses


@pytest.mark.slow
def test_a_data_set_that_fails_one_arm_is_that_arms_alone(
    recipe: list[str], tmp_path: Path
) -> None:
    plan = plan_of(recipe, tmp_path / "out", arms=["wild:learning_rate=1e30", "even"])
    found = compare(plan, lambda *_, **__: None, InThread).state.runs
    states = {each.arm: each for each in found}
    assert states["wild"].state == GIVEN_UP
    assert "diverged" in states["wild"].message
    assert states["even"].state == states["plain"].state == TRAINED


@pytest.mark.slow
def test_a_model_that_is_not_there_is_one_error(recipe: list[str], tmp_path: Path) -> None:
    recipe = [*recipe, f"--model_name_or_path={tmp_path / 'nowhere'}"]
    with pytest.raises(ValueError, match="nowhere"):
        compare(plan_of(recipe, tmp_path / "out"), lambda *_, **__: None, InThread)


def comparing(recipe: list[str], folder: Path, seconds: float = 3) -> ComparisonPlan:
    return plan_of(recipe, folder, arms=["even"], minutes=seconds / 60, turns=3)


def unheard(line: str, kept: bool = True) -> None:
    """What a comparison says goes nowhere."""


def wait_for(folder: Path, runs: int, process: BaseProcess) -> None:
    """Wait until a comparison has measured as many runs."""
    end = time.monotonic() + LONGEST_SECONDS
    while process.is_alive() and time.monotonic() < end:
        state = read_state(folder) if (folder / "compare.json").is_file() else None
        if state and sum(bool(run.measured) for run in state.runs) >= runs:
            return
        time.sleep(0.05)
    raise AssertionError("nothing was measured")


def processes_in(folder: Path) -> list[int]:
    """Processes that have a file open below a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/fd/2"):
        try:
            target = os.readlink(entry)
        except OSError:
            continue
        if target.startswith(f"{folder}/"):
            found.append(int(entry.parts[2]))
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)  # processes load the libraries
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
def test_a_killed_comparison_leaves_no_process_and_goes_on(
    recipe: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    # Forked from one that has loaded the libraries and done nothing else.
    context = get_context("forkserver")
    context.set_forkserver_preload(LOADED_ONCE)
    first = context.Process(target=compare, args=(comparing(recipe, folder), unheard))
    first.start()
    try:
        wait_for(folder, 1, first)
    finally:
        first.kill()
        first.join()
    end = time.monotonic() + LONGEST_SECONDS
    while processes_in(folder) and time.monotonic() < end:
        time.sleep(0.05)
    assert not processes_in(folder)
    before = read_state(folder)
    after = compare(comparing(recipe, folder), unheard, InThread).state
    for old, new in zip(before.runs, after.runs, strict=True):
        assert new.state == TRAINED
        assert list(new.measured)[: len(old.measured)] == list(old.measured)
    assert "step 1   loss " in (folder / "even-seed42" / "log.txt").read_text()
    assert not processes_in(folder)


@pytest.mark.slow
def test_a_process_that_is_killed_is_an_arm_that_failed(recipe: list[str], tmp_path: Path) -> None:
    class Killed(ArmProcess):
        def ask(self, message: dict | None = None) -> dict:
            if message is not None and message["do"] == "train":
                self._process.kill()
            return super().ask(message)

    def start(job: dict, log: Path) -> object:
        return Killed(job, log) if "even" in job["folder"] else InThread(job, log)

    plan = plan_of(recipe, tmp_path / "out", arms=["even"])
    found = {each.arm: each for each in compare(plan, lambda *_, **__: None, start).state.runs}
    assert found["plain"].state == TRAINED
    assert found["even"].state == GIVEN_UP
    assert "SIGKILL" in found["even"].message
