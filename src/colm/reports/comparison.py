"""What a report is made of: plain data about ways of training, written and read as JSON.

An arm is one way of training; the first of a comparison is the one that the report is about, the
others are what it is held against.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LogEntry = Mapping[str, Any]


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
    """One way of training: its name, its model's scores, and what its trainer logged."""

    name: str
    scores: Scores
    log_history: Sequence[LogEntry]

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Return what was logged under a key, step by step.

        Args:
            key: For instance ``"loss"`` or ``"colm/matching_error"``.

        Returns:
            The steps, and the values at them; both empty where the key was never logged.
        """
        logged = [entry for entry in self._steps() if key in entry]
        return [int(entry["step"]) for entry in logged], [float(entry[key]) for entry in logged]

    def mean(self, key: str) -> float | None:
        """Return the mean of what was logged under a key.

        Args:
            key: As for ``series``.

        Returns:
            The mean over logged steps; ``None`` where the key was never logged.
        """
        _, values = self.series(key)
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
            name.removeprefix(prefix): sum(float(e.get(name, 0.0)) for e in steps) / len(steps)
            for name in names
        }

    def share_kept(self) -> dict[str, float]:
        """Return the share of each source's candidates that was trained on.

        Returns:
            0 to 1 for each source that had candidates.
        """
        kept = self.by_source("colm/kept")
        candidates = self.by_source("colm/candidates")
        return {source: kept.get(source, 0.0) / n for source, n in candidates.items() if n}

    def share_from(self, sources: Sequence[str], key: str = "colm/kept") -> list[float]:
        """Return, for each step, the share of its examples that is from some sources.

        Args:
            sources: Names of the sources.
            key: ``"colm/kept"`` or ``"colm/candidates"``.

        Returns:
            One number from 0 to 1 for each step at which ``key`` was logged.
        """
        return [
            sum(float(entry.get(f"{key}/{source}", 0.0)) for source in sources) / entry[key]
            for entry in self._steps()
            if entry.get(key)
        ]

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

    def _steps(self) -> list[LogEntry]:
        """The entries of training steps, without those of evaluation and of the end."""
        return [entry for entry in self.log_history if "loss" in entry and "step" in entry]


@dataclass(frozen=True)
class Comparison:
    """Ways of training held against each other.

    Attributes:
        arms: The first is the one the report is about.
        before: Scores of the model that all of them started from.
        source_sizes: Training examples of each source.
        small_sources: The sources that count as small.
        settings: What else describes the run, as it is to be read.
        versions: Of the software.
        notes: Sentences a reader must know.
    """

    arms: Sequence[Arm]
    before: Scores
    source_sizes: Mapping[str, int]
    small_sources: Sequence[str]
    settings: Mapping[str, str]
    versions: Mapping[str, str]
    notes: Sequence[str] = ()

    def save(self, path: str | Path) -> Path:
        """Write everything as JSON.

        Args:
            path: File to write.

        Returns:
            The same path.
        """
        path = Path(path)
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", "utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Comparison":
        """Read what ``save`` wrote.

        Args:
            path: The JSON file.

        Returns:
            An equal comparison.

        Raises:
            ValueError: The file holds something else.
        """
        try:
            data = json.loads(Path(path).read_text("utf-8"))
            arms = [
                Arm(arm["name"], Scores(**arm["scores"]), arm["log_history"])
                for arm in data.pop("arms")
            ]
            return cls(arms=arms, before=Scores(**data.pop("before")), **data)
        except (json.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}: not a comparison written by colm ({error})") from error

    def sources(self) -> list[str]:
        """Return the names of the sources, the largest first.

        Returns:
            Every source of the training data.
        """
        return sorted(self.source_sizes, key=lambda source: (-self.source_sizes[source], source))
