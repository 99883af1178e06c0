"""What training says on a console: one readable line for each entry of the trainer's log.

``transformers`` prints the entry itself, as a dictionary that has two numbers for each source. A
command says what a person reads while it trains; the entry stays whole in ``trainer_state.json``
and goes whole to the trackers. A trainer that a program makes keeps what ``transformers`` prints:
notebooks and other tools read it, and expect it.
"""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback, TrainerState
from transformers.trainer_callback import ProgressCallback

from colm.reports.summaries import evaluation_name, number
from colm.runs.saying import Say, duration_in_words
from colm.training.trainer import CoresetTrainerMixin

_GAP = "   "
#: What every entry has beside what it is about.
_OF_EVERY_ENTRY = {"epoch", "step", "total_flos", "num_input_tokens_seen"}


def log_line(
    logs: Mapping[str, Any],
    step: int,
    total: int | None = None,
    *,
    drawn: int | None = None,
    step_seconds: float | None = None,
    seconds_left: float | None = None,
    peak_bytes: int | None = None,
) -> str:
    """Return an entry of a trainer's log in a line.

    Args:
        logs: The entry.
        step: Optimizer steps taken.
        total: Of how many; ``None`` where that is not known.
        drawn: Examples of a step, for an entry that does not say so.
        step_seconds: That a step took, likewise.
        seconds_left: Of the whole run.
        peak_bytes: The most that was held on the accelerator.

    Returns:
        The step first; then of a training step its loss, what was kept or drawn, time and memory,
        of an evaluation its losses, of the end how long it took, and of anything else all numbers.

    Example:
        >>> entry = {"loss": 1.25, "colm/kept": 8.0, "colm/candidates": 16.0, "grad_norm": 3.0}
        >>> log_line(entry, 7, 100, step_seconds=0.5, seconds_left=46.5)
        'step   7/100   loss 1.250   kept 8 of 16   0.50 s a step   46 s left'
        >>> log_line({"eval_loss": 1.5, "eval_runtime": 2.0}, 7)
        'step 7   evaluation loss 1.500   took 2 s'
    """
    if "train_runtime" in logs:
        took = duration_in_words(logs["train_runtime"])
        mean = _known(logs, "train_loss", lambda loss: f"mean loss {number(loss)}")
        return _GAP.join([f"trained to step {step} in {took}", *mean])
    place = f"step {step}" if total is None else f"step {step:>{len(str(total))}}/{total}"
    if "loss" in logs:
        parts = [f"loss {number(logs['loss'])}", *_kept(logs, drawn)]
        logged = _logged_seconds(logs)
        seconds = step_seconds if logged is None else logged
        parts += [] if seconds is None else [f"{seconds:.{2 if seconds >= 0.1 else 3}f} s a step"]
        parts += [f"{duration_in_words(seconds_left)} left"] if seconds_left is not None else []
        parts += [f"peak {peak_bytes / 1e9:.2f} GB"] if peak_bytes else []
    elif losses := [key for key in logs if key.startswith("eval_") and key.endswith("loss")]:
        parts = [f"{evaluation_name(key)} {number(logs[key])}" for key in losses]
        runtime = next((key for key in logs if key.endswith("_runtime")), "")
        parts += _known(logs, runtime, lambda seconds: f"took {duration_in_words(seconds)}")
    else:
        others = {key: value for key, value in logs.items() if key not in _OF_EVERY_ENTRY}
        parts = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in others.items()]
    return _GAP.join([place, *parts])


def _known(logs: Mapping[str, Any], key: str, tell: Callable[[Any], str]) -> list[str]:
    return [tell(logs[key])] if key in logs else []


def _kept(logs: Mapping[str, Any], drawn: int | None) -> list[str]:
    """How many examples were kept of how many, or were drawn where all are trained on."""
    kept, candidates = logs.get("colm/kept"), logs.get("colm/candidates", drawn)
    if candidates is None:
        return []
    of_all = kept is None or kept == candidates
    return [f"drew {candidates:.4g}" if of_all else f"kept {kept:.4g} of {candidates:.4g}"]


def _logged_seconds(logs: Mapping[str, Any]) -> float | None:
    """What a step took, selecting and training together, where the entry has it."""
    training = logs.get("colm/training_seconds")
    return None if training is None else float(training + logs.get("colm/selection_seconds", 0.0))


class StepLines(TrainerCallback):
    """Says a line for each entry of the log, in the first process alone.

    Args:
        say: Takes the lines.
        has_end: Whether the run's number of steps is known.
        drawn: Examples of a step, in all processes.
        clock: Returns seconds.
    """

    def __init__(
        self,
        say: Say,
        has_end: bool = True,
        drawn: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say, self._has_end, self._drawn, self._clock = say, has_end, drawn, clock
        # When the run began and when it last logged, and after how many steps.
        self._began = self._last = (clock(), 0)

    def on_train_begin(self, _args: Any, state: TrainerState, *_: Any, **__: Any) -> None:
        """Start the clock, and say after which step a resumed run goes on."""
        self._began = self._last = (self._clock(), state.global_step)
        if state.global_step and state.is_world_process_zero:
            is_over = self._has_end and state.global_step >= state.max_steps
            place = f"{state.global_step}/{state.max_steps}" if self._has_end else state.global_step
            self._say(
                f"resumed after step {place}{': nothing is left to train' if is_over else ''}"
            )

    def on_log(
        self,
        _args: Any,
        state: TrainerState,
        _control: Any,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Say the entry's line."""
        if not state.is_world_process_zero or not logs:
            return
        now, step = self._clock(), state.global_step
        since, steps = now - self._last[0], step - self._last[1]
        self._last = (now, step)
        line = log_line(
            logs,
            step,
            state.max_steps if self._has_end else None,
            drawn=self._drawn,
            step_seconds=since / steps if steps else None,
            seconds_left=self._seconds_left(state, now),
            peak_bytes=_peak_bytes(),
        )
        self._say(line)

    def _seconds_left(self, state: TrainerState, now: float) -> float | None:
        """How long the rest takes, if it goes on as it did since this process began to train."""
        (began, first), step = self._began, int(state.global_step)
        if not self._has_end or step <= first:
            return None
        return (now - began) / (step - first) * (int(state.max_steps) - step)


class LinesAboveBar(ProgressCallback):
    """The bar of ``transformers``, without the entries that it would print.

    Args:
        say: Takes a line while there is no bar.
    """

    def __init__(self, say: Say) -> None:
        super().__init__()
        self._say_plainly = say

    def on_log(self, *_: Any, **__: Any) -> None:
        """Leave the entry to who says lines."""

    def say(self, line: str, kept: bool = True) -> None:  # noqa: ARG002 - as of any Say
        """Write a line above the bar."""
        if self.training_bar is None:
            self._say_plainly(line)
        else:
            self.training_bar.write(line)


def say_log(trainer: CoresetTrainerMixin, say: Say, has_end: bool = True) -> None:
    """Let a trainer say its log in lines, in the place of the entries that it would print.

    Args:
        trainer: One that draws a table of its own in a notebook goes on to do so.
        say: Takes the lines; where there is a bar, which is on a terminal alone, they are written
            above it.
        has_end: Whether the number of steps is known.
    """
    drawn = trainer.candidates_and_kept[0] * trainer.args.world_size
    if trainer.pop_callback(PrinterCallback) is not None:
        trainer.add_callback(StepLines(say, has_end, drawn))
    elif trainer.pop_callback(ProgressCallback) is not None:
        if sys.stderr.isatty():
            bar = LinesAboveBar(say)
            trainer.add_callback(bar)
            say = bar.say
        trainer.add_callback(StepLines(say, has_end, drawn))


def _peak_bytes() -> int | None:
    """The most that this process held on its accelerator; ``None`` where that is not known."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
