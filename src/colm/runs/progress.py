"""What is said while a model trains: one line a step, in words."""

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from colm.names import shown_name
from colm.runs.saying import Say, duration_in_words

#: Every so many steps a line is worth keeping, for instance in a log file.
KEPT_EVERY = 5
_VERY_LARGE = 1e6


class StepProgress(TrainerCallback):
    """Tells of each logged step: its loss, what was selected, and how long the rest will take.

    Args:
        say: Takes the lines.
        small_sources: The sources that count as small, of which the line says how many were kept.
        clock: Returns seconds.
    """

    def __init__(
        self,
        say: Say,
        small_sources: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say = say
        self._small_sources = small_sources
        self._clock = clock
        self._began = clock()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._began = self._clock()

    def on_log(
        self,
        _args: TrainingArguments,
        state: TrainerState,
        _control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Show a line for a training step; other logs are passed over."""
        if not logs or "loss" not in logs:
            return
        step, steps = state.global_step, state.max_steps
        seconds = (self._clock() - self._began) / step
        parts = [
            f"step {step:>{len(str(steps))}}/{steps}",
            f"loss {_loss_in_words(float(logs['loss']))}",
            selection_in_words(logs, self._small_sources),
            f"{seconds:.1f} s a step",
            f"{duration_in_words(seconds * (steps - step))} left",
        ]
        kept = step in (1, steps) or step % KEPT_EVERY == 0
        self._say("   ".join(part for part in parts if part), kept)


def selection_in_words(logs: Mapping[str, Any], small_sources: Collection[str] = ()) -> str:
    """Return what the selection of a step kept, from what it logged.

    Args:
        logs: With ``colm/kept``, ``colm/candidates`` and their parts by source, where selected.
        small_sources: Names of the small sources.

    Returns:
        A few words; empty where nothing was selected.

    Example:
        >>> selection_in_words({"colm/kept": 8, "colm/candidates": 16})
        'kept 8 of 16'
    """
    if "colm/candidates" not in logs:
        return ""
    words = f"kept {logs['colm/kept']:.0f} of {logs['colm/candidates']:.0f}"
    if not small_sources:
        return words
    small, drawn = (
        sum(logs.get(f"colm/{key}/{shown_name(source)}", 0) for source in small_sources)
        for key in ("kept", "candidates")
    )
    large, all_large = logs["colm/kept"] - small, logs["colm/candidates"] - drawn
    return f"{words}: small sources {small:.0f}/{drawn:.0f}, large {large:.0f}/{all_large:.0f}"


def _loss_in_words(loss: float) -> str:
    """Three decimals, or a power of ten where a run diverges."""
    return f"{loss:.3g}" if abs(loss) >= _VERY_LARGE else f"{loss:.3f}"
