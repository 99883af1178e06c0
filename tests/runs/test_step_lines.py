"""A line for each entry of the log: what it says, who prints it, and that the log stays whole."""

import itertools
import json
import math
from pathlib import Path

import pytest
from transformers import TrainerState

from colm.cli import main
from colm.runs.step_lines import StepLines, log_line


@pytest.mark.parametrize(
    ("logs", "line"),
    [
        (
            {
                "loss": 1.0,
                "colm/candidates": 15.5,
                "colm/kept": 8.0,
                "colm/kept/sums": 5.0,
                "colm/selection_seconds": 0.25,
                "colm/training_seconds": 1.5,
            },
            "step  7/120   loss 1.000   kept 8 of 15.5   1.75 s a step   2 min 00 s left"
            "   peak 1.50 GB",
        ),
        (
            {"loss": math.nan},
            "step  7/120   loss not finite   drew 16   9.00 s a step   2 min 00 s left"
            "   peak 1.50 GB",
        ),
        (
            {"eval_loss": 2.0, "eval_macro_loss": 2.5, "eval_runtime": 61.0, "epoch": 1.0},
            "step  7/120   evaluation loss 2.000   held-out loss, macro 2.500   took 1 min 01 s",
        ),
        ({"train_runtime": 59.0, "train_loss": 1.5}, "trained to step 7 in 59 s   mean loss 1.500"),
        ({"mine": 1.23456, "note": "x", "epoch": 1.0}, "step  7/120   mine 1.235   note x"),
    ],
)
def test_an_entry_is_a_line(logs: dict, line: str) -> None:
    known = {"drawn": 16, "step_seconds": 9.0, "seconds_left": 120.0, "peak_bytes": 1_500_000_000}
    assert log_line(logs, 7, 120, **known).replace("step   7", "step  7") == line


def test_only_the_first_process_prints_and_time_counts_from_where_it_began() -> None:
    said: list[str] = []
    lines = StepLines(said.append, clock=map(float, itertools.count(0, 10)).__next__)
    state = TrainerState(global_step=5, max_steps=9, is_world_process_zero=False)
    lines.on_log(None, state, None, logs={"loss": 1.0})
    assert not said
    state.is_world_process_zero = True
    lines.on_train_begin(None, state)  # resumed after step 5, at second 10
    state.global_step = 7
    lines.on_log(None, state, None, logs={"loss": 1.0})
    assert said == ["resumed after step 5/9", "step 7/9   loss 1.000   5.00 s a step   10 s left"]


@pytest.mark.parametrize(
    ("step", "has_end", "line"),
    [
        (9, True, "resumed after step 9/9: nothing is left to train"),
        (9, False, "resumed after step 9"),
    ],
)
def test_a_resumed_run_says_where_it_goes_on(step: int, has_end: bool, line: str) -> None:
    said: list[str] = []
    state = TrainerState(global_step=step, max_steps=9)
    StepLines(said.append, has_end).on_train_begin(None, state)
    assert said == [line]


@pytest.mark.slow
@pytest.mark.parametrize("with_bar", [False, True])
def test_a_run_prints_lines_and_logs_what_it_did(
    tmp_path: Path, tiny_model_folder: Path, capsys, monkeypatch, with_bar: bool
) -> None:
    data = tmp_path / "train.jsonl"
    rows = [{"question": f"{i}?", "answer": str(i), "source": "ab"[i % 2]} for i in range(24)]
    data.write_text("\n".join(map(json.dumps, rows)))
    if with_bar:
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    options = (
        *(f"--model_name_or_path={tiny_model_folder}", f"--dataset_name={data}", "--max_steps=6"),
        *("--per_device_train_batch_size=2", "--bf16=false", "--gradient_checkpointing=false"),
        *("--logging_steps=3", "--report_to=none", "--save_strategy=no", "--test_split_size=4"),
        *("--eval_strategy=steps", "--eval_steps=6", f"--disable_tqdm={not with_bar}"),
    )
    assert main(["sft", *options, f"--output_dir={tmp_path / 'out'}"]) == 0
    shown = capsys.readouterr()
    lines = [line.split("   ") for line in shown.out.splitlines()]
    assert [line[0].rpartition(" in ")[0] or line[0] for line in lines] == [
        *("step 3/6", "step 6/6", "step 6/6", "trained to step 6")
    ]
    assert lines[0][2] == "kept 2 of 4"
    assert lines[2][1].startswith("evaluation loss ")
    assert ("/6 [" in shown.err) == with_bar
    log = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert {"grad_norm", "learning_rate", "colm/kept/a"} <= set(log[0])
