"""What a report is made of: plain data about ways of training, written and read as JSON.

An arm is one way of training; the first of a comparison is the one that the report is about, the
others are what it is held against.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from colm.durable import write_whole
from colm.json_text import read_json
from colm.reports.arm import MOST_STEPS, Arm, Scores, as_number, clean_log, is_whole
from colm.reports.run_names import clean
from colm.reports.tables import Table


@dataclass(frozen=True)
class Findings:
    """What was found of arms that were measured more than once, as it is to be read.

    Attributes:
        headline: The outcome in a sentence, without a full stop.
        sentences: What else came of it.
        tables: With a title each.
    """

    headline: str
    sentences: Sequence[str]
    tables: Mapping[str, Table]


@dataclass(frozen=True)
class Comparison:
    """Ways of training held against each other.

    Attributes:
        arms: The first is the one the report is about.
        before: Scores of the model that all of them started from; ``None`` where not measured.
        source_sizes: Training examples of each source, of those that are known.
        small_sources: The sources that count as small.
        settings: What else describes the run, as it is to be read.
        versions: Of the software.
        notes: Sentences a reader must know.
        findings: What goes before what is read out of the arms, where there is any.
    """

    arms: Sequence[Arm]
    before: Scores | None
    source_sizes: Mapping[str, int]
    small_sources: Sequence[str]
    settings: Mapping[str, str]
    versions: Mapping[str, str]
    notes: Sequence[str] = ()
    findings: Findings | None = None

    def save(self, path: str | Path) -> Path:
        """Write everything as JSON.

        Args:
            path: File to write.

        Returns:
            The same path.
        """
        path = Path(path)
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        write_whole(path, f"{text}\n".encode())
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
            data = read_json(Path(path))
        except ValueError as error:
            raise ValueError(f"{path} is not a file of JSON ({error})") from error
        try:
            return cls(
                **data
                | {
                    "arms": [_arm(arm) for arm in _list(data["arms"])],
                    "before": _scores(data["before"]),
                    "source_sizes": {
                        clean(name): _count(size) for name, size in data["source_sizes"].items()
                    },
                    "small_sources": _texts(data["small_sources"]),
                    "settings": _pairs(data["settings"]),
                    "versions": _pairs(data["versions"]),
                    "notes": _texts(data.get("notes", ())),
                    "findings": _findings(data.get("findings")),
                }
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}: not a comparison written by colm ({error})") from error

    def sources(self) -> list[str]:
        """Return the names of the sources, the largest first.

        Returns:
            Every source of the training data, whether its size is known or it was only logged.
        """
        drawn: dict[str, float] = {}
        for arm in self.arms:
            drawn |= dict.fromkeys(arm.by_source("colm/loss").keys() - drawn.keys(), 0.0)
            for source, number in arm.by_source("colm/candidates").items():
                drawn[source] = max(drawn.get(source, 0.0), number)
        return sorted(
            {**drawn, **self.source_sizes},
            key=lambda source: (-self.source_sizes.get(source, 0), -drawn.get(source, 0.0), source),
        )

    def held_out_sources(self) -> list[str]:
        """Return the names of the sources, and of others that losses were measured on.

        Returns:
            Those of the training data first, in the order of ``sources``.
        """
        trained_on = self.sources()
        scores = [self.before, *(arm.scores for arm in self.arms)]
        measured = {source for each in scores if each for source in each.loss_by_source}
        return [*trained_on, *sorted(measured - {*trained_on})]


def _findings(data: Mapping[str, Any] | None) -> Findings | None:
    """Findings from what JSON has of them."""
    if data is None:
        return None
    tables = {clean(title): _table(table) for title, table in data["tables"].items()}
    return Findings(_text(data["headline"]), _texts(data["sentences"]), tables)


def _table(data: Mapping[str, Any]) -> Table:
    """A table whose rows are all as long as its head."""
    head, rows = _texts(data["head"]), [_texts(row) for row in _list(data["rows"])]
    strong = [None if place is None else _count(place) for place in _list(data["strong"])]
    if any(len(row) != len(head) for row in rows) or len(strong) not in (0, len(rows)):
        raise ValueError("rows of a table differ in length")
    return Table(head, rows, strong)


def _arm(data: Mapping[str, Any]) -> Arm:
    """An arm from what JSON has of it."""
    given = dict(data)
    for name in ("steps", "planned_steps"):
        if given.get(name) is not None:
            given[name] = _count(given[name])
    return Arm(
        **given
        | {
            "name": _text(given["name"]),
            "scores": _scores(given["scores"]),
            "log_history": clean_log(given["log_history"]),
            "settings": _pairs(given.get("settings", {})),
            "accuracies": _numbers(given.get("accuracies", {})),
            "seed": clean(given["seed"]) if given.get("seed") else "",
            "recipe": clean(given["recipe"]) if given.get("recipe") else "",
            "others": tuple(_arm(other) for other in _list(given.get("others", ()))),
        }
    )


def _scores(data: Mapping[str, Any] | None) -> Scores | None:
    """Scores from what JSON has of them."""
    if data is None:
        return None
    given = dict(data)
    for name in ("macro", "micro", "small_sources", "answers"):
        if given.get(name) is not None:
            given[name] = as_number(given[name])
    for name in ("loss_by_source", "answers_by_source"):
        given[name] = _numbers(given.get(name, {}))
    if None in (given["macro"], given["micro"]):
        raise TypeError("scores without a loss")
    return Scores(**given)


def _numbers(data: Mapping[str, Any]) -> dict[str, float]:
    return {clean(name): as_number(value) for name, value in data.items()}


def _pairs(data: Mapping[str, Any]) -> dict[str, str]:
    return {clean(name): _text(value) for name, value in data.items()}


def _texts(data: Any) -> list[str]:
    return [_text(text) for text in _list(data)]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"not a text: {value!r:.40}")
    return clean(value)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"not a list: {value!r:.40}")
    return list(value)


def _count(value: Any) -> int:
    if not is_whole(value) or not 0 <= value <= MOST_STEPS:
        raise ValueError(f"not a count: {value!r:.40}")
    return int(value)
