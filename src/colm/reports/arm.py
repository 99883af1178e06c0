"""An arm is one way of training: what its trainer logged, and how good its model became."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from colm.reports.run_names import clean

LogEntry = Mapping[str, Any]

#: No loss, time or count of a run is larger; what 32 bits hold ends a little below.
LARGEST = 1e39
#: Values at the end of a log that are averaged.
TAIL = 5
#: Larger whole numbers are no longer told apart where they are drawn.
MOST_STEPS = 2**53


@dataclass(frozen=True)
class Scores:
    """How good a model is on held-out examples.

    Attributes:
        macro: Loss, mean over sources.
        micro: Loss, mean over examples of the mixture.
        small_sources: Loss, mean over the small sources; ``None`` without any.
        loss_by_source: Loss of each source.
        answers: Score of its answers, 0 to 1, mean over sources; ``None`` where nothing scores.
        answers_by_source: Score of each source.
    """

    macro: float
    micro: float
    small_sources: float | None
    loss_by_source: Mapping[str, float]
    answers: float | None = None
    answers_by_source: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """One way of training: its name, its model's scores, and what its trainer logged.

    Attributes:
        name: As it is shown.
        scores: Of its model on held-out examples; ``None`` where that was not measured.
        log_history: Entries of the trainer's log, in the order of their steps.
        settings: What sets it apart from others, as it is to be read.
        accuracies: Share of right answers on sets of questions, by the set's name.
        steps: Optimiser steps that it took; those of its log by default.
        planned_steps: Steps that it was to take; ``None`` where that is not known.
        seed: Of the run, as it is to be read; empty where it is not known.
        recipe: A digest of all that decides the run but its seed; empty where it is not known.
        others: The same with other seeds, which is shown together with it and not by itself.
    """

    name: str
    scores: Scores | None
    log_history: Sequence[LogEntry]
    settings: Mapping[str, str] = field(default_factory=dict)
    accuracies: Mapping[str, float] = field(default_factory=dict)
    steps: int | None = None
    planned_steps: int | None = None
    seed: str = ""
    recipe: str = ""
    others: Sequence["Arm"] = ()

    def steps_taken(self) -> int:
        """Return how many optimiser steps it took.

        Returns:
            0 or more.
        """
        return self.steps if self.steps is not None else max(self.series("loss")[0], default=0)

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Return what was logged under a key, step by step.

        Args:
            key: For instance ``"loss"`` or ``"colm/matching_error"``.

        Returns:
            The steps, and the values at them; both empty where the key was never logged.
        """
        logged = [entry for entry in self._steps() if key in entry]
        return [int(entry["step"]) for entry in logged], [as_number(entry[key]) for entry in logged]

    def evaluations(self) -> dict[str, tuple[list[int], list[float]]]:
        """Return the losses of evaluations while training.

        Returns:
            Steps and losses by the key that they were logged under, such as ``eval_loss``.
        """
        found: dict[str, tuple[list[int], list[float]]] = {}
        for entry in self.log_history:
            for key in entry:
                if key.startswith("eval_") and key.endswith("loss") and "step" in entry:
                    steps, losses = found.setdefault(key, ([], []))
                    steps.append(int(entry["step"]))
                    losses.append(as_number(entry[key]))
        return found

    def last_logged(self, key: str) -> float | None:
        """Return what was logged last under a key, in whatever entry.

        Args:
            key: For instance ``"train_runtime"``, which only the end of training logs.

        Returns:
            The value; ``None`` where the key was never logged.
        """
        values = [entry[key] for entry in self.log_history if key in entry]
        return as_number(values[-1]) if values else None

    def mean(self, key: str) -> float | None:
        """Return the mean of what was logged under a key.

        Args:
            key: As for ``series``.

        Returns:
            The mean over logged steps, those that are not finite left out; ``None`` where there is
            none.
        """
        values = [value for value in self.series(key)[1] if math.isfinite(value)]
        return sum(values) / len(values) if values else None

    def by_source(self, key: str) -> dict[str, float]:
        """Return the mean of ``<key>/<source>`` for every source; a step without one counts as 0.

        Args:
            key: ``"colm/candidates"`` or ``"colm/kept"``.

        Returns:
            Examples a step, by source.
        """
        steps = list(self._steps())
        prefix = f"{key}/"
        names = sorted({name for entry in steps for name in entry if name.startswith(prefix)})
        return {
            name.removeprefix(prefix): sum(as_number(e.get(name, 0.0)) for e in steps) / len(steps)
            for name in names
        }

    def share_by_source(self, key: str) -> dict[str, float]:
        """Return the share that each source has of what was logged under ``<key>/<source>``.

        Args:
            key: ``"colm/candidates"``, ``"colm/kept"`` or ``"colm/label_tokens"``.

        Returns:
            0 to 1 for each source; nothing where the sum is not above 0.
        """
        means = self.by_source(key)
        total = sum(means.values())
        return {source: mean / total for source, mean in means.items()} if total > 0 else {}

    def tail(self, key: str) -> float | None:
        """Return the mean of what was logged last under a key.

        Args:
            key: As for ``series``.

        Returns:
            Of ``TAIL`` values at most; ``None`` where none of them is finite.
        """
        values = [value for value in self.series(key)[1][-TAIL:] if math.isfinite(value)]
        return sum(values) / len(values) if values else None

    def share_kept(self) -> dict[str, float]:
        """Return the share of each source's candidates that was trained on.

        Returns:
            0 to 1 for each source that had candidates.
        """
        kept = self.by_source("colm/kept")
        candidates = self.by_source("colm/candidates")
        return {source: kept.get(source, 0.0) / n for source, n in candidates.items() if n}

    def share_kept_over_time(self, source: str, parts: int) -> list[float]:
        """Return the share of a source's candidates that was trained on, from beginning to end.

        Args:
            source: Its name.
            parts: Of how many equal parts of the log, at least 1.

        Returns:
            0 to 1 for each part, of which there are no more than entries; NaN for a part in which
            the source had no candidates.
        """
        entries = [entry for entry in self._steps() if "colm/kept" in entry]
        parts = min(parts, len(entries))
        shares = []
        for part in range(parts):
            chunk = entries[part * len(entries) // parts : (part + 1) * len(entries) // parts]
            kept, drawn = (
                sum(as_number(entry.get(f"colm/{key}/{source}", 0.0)) for entry in chunk)
                for key in ("kept", "candidates")
            )
            shares.append(kept / drawn if drawn else math.nan)
        return shares

    def share_from(self, sources: Sequence[str], key: str = "colm/kept") -> list[float]:
        """Return, for each step, the share of its examples that is from some sources.

        Args:
            sources: Names of the sources.
            key: ``"colm/kept"`` or ``"colm/candidates"``.

        Returns:
            One number from 0 to 1 for each step at which ``key`` was logged; NaN for one with none.
        """
        return [
            sum(float(entry.get(f"{key}/{source}", 0.0)) for source in sources) / entry[key]
            if entry[key]
            else math.nan
            for entry in self._steps()
            if key in entry
        ]

    def seconds_at(self, steps: Sequence[int]) -> list[float] | None:
        """Return the seconds that selecting and training had taken after some steps.

        What is logged is a mean over the steps since the entry before; between two entries the
        time is taken to pass evenly.

        Args:
            steps: Numbers of optimiser steps.

        Returns:
            Seconds, NaN for a step after the last of the log; ``None`` where an entry lacks them.
        """
        known = [(0, 0.0)]
        for entry in self._steps():
            step, (last, passed) = int(entry["step"]), known[-1]
            seconds = as_number(entry.get("colm/training_seconds", math.nan))
            seconds += as_number(entry.get("colm/selection_seconds", 0.0))
            if not math.isfinite(seconds):
                return None
            known.append((step, passed + seconds * (step - last)))
        return [_interpolate(known, step) for step in steps] if known[1:] else None

    def step_seconds(self) -> tuple[float | None, float | None]:
        """Return the mean seconds a step of selecting and of training; ``None`` if not logged.

        Returns:
            Selection, training.
        """
        return self.mean("colm/selection_seconds"), self.mean("colm/training_seconds")

    def whole_step_seconds(self) -> float | None:
        """Return the mean seconds of a step, selecting and training together.

        Returns:
            The sum of what was logged; ``None`` where nothing was.
        """
        known = [seconds for seconds in self.step_seconds() if seconds is not None]
        return sum(known) if known else None

    def peak_bytes(self) -> tuple[str, float] | None:
        """Return the most memory that training held beyond what lay there when it began.

        Returns:
            Where, ``"accelerator"`` or ``"process"``, and bytes; ``None`` where ``transformers``
            was not asked to log memory.
        """
        for place, key in (("accelerator", "train_mem_gpu"), ("process", "train_mem_cpu")):
            stayed = self.last_logged(f"{key}_alloc_delta")
            freed = self.last_logged(f"{key}_peaked_delta")
            if stayed is not None and freed is not None and math.isfinite(stayed + freed):
                return place, max(0.0, stayed + freed)
        return None

    def _steps(self) -> list[LogEntry]:
        """The entries of training steps, without those of evaluation and of the end."""
        return [entry for entry in self.log_history if "loss" in entry and "step" in entry]


def clean_log(entries: Any) -> list[dict[str, float]]:
    """Return the entries of a trainer's log that have a step, in its order, with their numbers.

    Args:
        entries: ``log_history`` as read from a file.

    Returns:
        What is a number of each entry, as ``as_number`` has it, under names that can be shown;
        ``step`` is an ``int``.

    Raises:
        ValueError: That is no list of mappings, or a step is none that a run takes.

    Example:
        >>> clean_log([{"step": 2, "loss": 1.5, "note": "x"}, {"step": 1, "loss": 2.0}, {}])
        [{'step': 1, 'loss': 2.0}, {'step': 2, 'loss': 1.5}]
    """
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise ValueError("log_history is not a list of entries")
    stepped = [entry for entry in entries if is_whole(entry.get("step"))]
    for entry in stepped:
        if not 0 <= entry["step"] <= MOST_STEPS:
            raise ValueError(f"log_history has a step {entry['step']!r:.40}, which no run takes")
    numbers = [
        {clean(key): as_number(value) for key, value in entry.items() if _is_number(value)}
        | {"step": entry["step"]}
        for entry in stepped
    ]
    return sorted(numbers, key=lambda entry: entry["step"])


def as_number(value: Any) -> float:
    """Return a number that can be added up and drawn.

    JSON has whole numbers of any length, and a run that diverges logs what is finite and means
    nothing.

    Args:
        value: A number.

    Returns:
        The same as a float; infinite where it is beyond ``LARGEST``.

    Raises:
        TypeError: It is no number.

    Example:
        >>> as_number(3), as_number(10**400), as_number(-1e300)
        (3.0, inf, -inf)
    """
    if not _is_number(value):
        raise TypeError(f"not a number: {value!r:.40}")
    if abs(value) <= LARGEST or (isinstance(value, float) and math.isnan(value)):
        return float(value)
    return math.inf if value > 0 else -math.inf


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number, and not true or false.

    Args:
        value: As read from JSON.

    Returns:
        Whether it counts something, or might.
    """
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _interpolate(points: Sequence[tuple[int, float]], x: int) -> float:
    """The value at ``x`` on the line through points of growing x; NaN beyond them."""
    for (left, before), (right, after) in pairwise(points):
        if left <= x <= right and left < right:
            return before + (after - before) * (x - left) / (right - left)
    return math.nan
