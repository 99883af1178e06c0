"""Arms start the same and draw the same; what is shown meanwhile."""

import io
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from colm.cli.terminal import Saying
from colm.runs.arms import ArmOptions, Setting, compare
from colm.runs.pretrained import load_model, load_tokenizer
from colm.runs.progress import StepProgress, selection_in_words
from colm.runs.saying import AnsweringProgress, duration_in_words

ARMS = [
    ArmOptions("CoLM", {"selector": "colm"}),
    ArmOptions("random", {"selector": "random", "small_sources": ["none"]}),
]


@pytest.fixture
def setting(tiny_model_folder: Path, dataset: Dataset, tmp_path: Path) -> Setting:
    def probe(model, examples) -> dict:
        state = {name: p.detach().clone() for name, p in model.named_parameters()}
        return {"state": state, "columns": examples.column_names, "training": model.training}

    return Setting(
        load_model=lambda: load_model(tiny_model_folder, "float32"),
        tokenizer=load_tokenizer(tiny_model_folder),
        train=dataset,
        held_out=dataset.select(range(3)),
        evaluate=probe,
        adapter_dir=tmp_path / "adapter",
        options={
            "max_steps": 8,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "bf16": False,
            "seed": 8,
        },
    )


@pytest.mark.slow
def test_arms_share_start_and_candidates_but_not_what_they_keep(setting: Setting) -> None:
    lines: dict[str, list[str]] = {"CoLM": [], "random": []}
    result = compare(
        ARMS,
        setting,
        lambda arm: StepProgress(lambda line, _: lines[arm.name].append(line), ["rare"]),
    )
    colm, random = result.arms
    drawn, losses = (
        [
            [{k: v for k, v in e.items() if k.startswith(key)} for e in arm.log_history]
            for arm in result.arms
        ]
        for key in ("colm/candidates", "loss")
    )
    assert drawn[0] == drawn[1]
    assert losses[0] != losses[1]
    rare = [
        (e.get("colm/kept/rare", 0), e.get("colm/candidates/rare", 0)) for e in colm.log_history
    ]
    assert sum(candidates for _, candidates in rare) > 0
    assert all(kept == candidates for kept, candidates in rare)
    assert sum(e.get("colm/kept/rare", 0) for e in random.log_history) < sum(k for k, _ in rare)
    assert "labels" in colm.metrics["columns"]

    frozen = [name for name in result.before["state"] if "lora" not in name]
    trained = [name for name in result.before["state"] if "lora_B" in name]
    for arm in result.arms:
        assert all(torch.equal(arm.metrics["state"][n], result.before["state"][n]) for n in frozen)
        assert any(
            not torch.equal(arm.metrics["state"][n], result.before["state"][n]) for n in trained
        )
    assert (setting.adapter_dir / "adapter_model.safetensors").is_file()
    for arm_lines in lines.values():
        assert [line.split("   ")[0] for line in arm_lines] == [f"step {n}/8" for n in range(1, 9)]
        assert "kept 4 of 8: small sources " in arm_lines[0]


@pytest.mark.slow
def test_the_same_arm_twice_gives_the_same_model(setting: Setting) -> None:
    one, other = compare([ARMS[0], ARMS[0]], setting).arms
    state, twin = one.metrics["state"], other.metrics["state"]
    assert all(torch.equal(state[name], twin[name]) for name in state)


def test_no_arm_is_refused(setting: Setting) -> None:
    with pytest.raises(ValueError, match="at least one arm"):
        compare([], setting)


class Ticks:
    """A clock that advances two seconds at each look."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 2
        return self.now


def show_steps(steps: int) -> list[tuple[str, bool]]:
    from transformers import TrainerState

    shown: list[tuple[str, bool]] = []
    progress = StepProgress(lambda line, kept: shown.append((line, kept)), clock=Ticks())
    progress.on_train_begin(None, None, None)
    for step in range(1, steps + 1):
        state = TrainerState(global_step=step, max_steps=steps)
        progress.on_log(None, state, None, logs={"loss": 1.0 / step})
        progress.on_log(None, state, None, logs={"eval_loss": 3.0})
    return shown


def test_a_line_tells_step_loss_and_time_left() -> None:
    shown = show_steps(12)
    assert len(shown) == 12
    assert shown[2][0] == "step  3/12   loss 0.333   2.0 s a step   18 s left"
    assert [place for place, (_, kept) in enumerate(shown, 1) if kept] == [1, 5, 10, 12]


@pytest.mark.parametrize(
    ("logs", "small", "words"),
    [
        ({}, ["b"], ""),
        ({"colm/kept": 4, "colm/candidates": 8}, [], "kept 4 of 8"),
        (
            {
                "colm/kept": 4,
                "colm/candidates": 8,
                "colm/kept/b": 2,
                "colm/candidates/b": 3,
                "colm/kept/a": 2,
                "colm/candidates/a": 5,
            },
            ["b", "absent"],
            "kept 4 of 8: small sources 2/3, large 2/5",
        ),
    ],
)
def test_selection_in_words(logs: dict, small: list[str], words: str) -> None:
    assert selection_in_words(logs, small) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (7290, "2 h 01 min"),
    ],
)
def test_durations_round_up_to_the_next_unit(seconds: float, words: str) -> None:
    assert duration_in_words(seconds) == words


def test_answering_is_told_as_it_begins_ends_and_now_and_then() -> None:
    told, now = [], iter([0.0, 1.0, 11.0, 81.0, 90.0])
    progress = AnsweringProgress(
        lambda line, kept=True: told.append((line, kept)), clock=lambda: next(now)
    )
    for done in (2, 4, 6, 8):
        progress("sums", "chain", done, 8)
    assert [kept for _, kept in told] == [True, False, True, True]
    assert told[0][0] == "sums  chain  2/8"
    assert "sums  chain  4/8  5.0 s a question, 20 s left" in told[1][0]


def test_on_a_terminal_a_line_that_need_not_stay_is_written_over() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    watched, piped = Terminal(), io.StringIO()
    for stream in (watched, piped):
        say = Saying(stream)
        say("1/2", kept=False)
        say("2/2")
    assert watched.getvalue() == "\r\x1b[K1/2\r\x1b[K2/2\n"
    assert piped.getvalue() == "2/2\n"
