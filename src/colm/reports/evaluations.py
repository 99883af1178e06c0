"""What ``colm evaluate`` found of a run's model, where its results lie in the run's folder."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from colm.json_text import read_json
from colm.reports.arm import Scores, as_number
from colm.reports.run_names import clean

#: Where results lie in a run's folder; its checkpoints are evaluated into it, too.
PLACES = ("eval*.json", "evaluations/*.json")
#: Where ``--output`` may have put some, under any name; they begin with the mark.
OTHER_PLACES = ("*.json", "checkpoint-*/*.json")
_MARK = b'"format": "colm evaluation'
_MARKED_BYTES = 64
_CHECKPOINT = re.compile(r"checkpoint-\d+")


class Evaluations(NamedTuple):
    """Shares of right answers by set, losses on held-out examples, and what is to be said."""

    accuracies: dict[str, float]
    scores: Scores | None
    notes: list[str]


def read_evaluations(folder: Path, step: int, name: str) -> Evaluations:
    """Return what is known of a run's model after some steps.

    Results that were written last go first. Where a set was asked in several ways, each is shown.

    Args:
        folder: Of the run, or a checkpoint in it.
        step: Steps that the run is shown after; results that name another number are left out.
        name: Of the run, for the notes.

    Returns:
        What was found; files that hold something else are passed over.
    """
    accuracies: dict[tuple[str, str], float] = {}
    scores, others = None, set()
    for result, is_of_the_run in _results(folder):
        steps = _mapping(result.get("model")).get("steps")
        if isinstance(steps, int) and steps != step:
            others.add(steps)
        if steps != step and (isinstance(steps, int) or not is_of_the_run):
            continue
        for each, found in _mapping(result.get("sets")).items():
            accuracy = _number(_mapping(found).get("accuracy"))
            if accuracy is not None and 0 <= accuracy <= 1:
                method = _mapping(found).get("method")
                accuracies.setdefault((clean(str(each)), clean(str(method))), accuracy)
        scores = scores or _scores(_mapping(result.get("held_out")))
    notes = []
    if others:
        known = ", ".join(map(str, sorted(others)))
        notes.append(
            f"{name} was evaluated after step {known}, too; shown is what is known after step "
            f"{step}."
        )
    return Evaluations(_by_name(accuracies), scores, notes)


def _results(folder: Path) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """The results in a run's folder, the newest first, and whether their place says whose they are.

    The model of another result may be any: that it was trained for as many steps has to tell.
    """
    folders = [folder]
    if _CHECKPOINT.fullmatch(folder.absolute().name):
        folders.append(folder.absolute().parent)
    own = {path for each in folders for place in PLACES for path in each.glob(place)}
    others = {path for each in folders for place in OTHER_PLACES for path in each.glob(place)}
    files = own | {path for path in others if _is_marked(path)}
    written = [(path.stat().st_mtime, path) for path in files if path.is_file()]
    for _, path in sorted(written, reverse=True):
        try:
            yield _mapping(read_json(path)), path in own
        except (OSError, ValueError):
            continue


def _is_marked(path: Path) -> bool:
    """Whether a file begins as ``colm evaluate`` writes it."""
    try:
        with path.open("rb") as file:
            return _MARK in file.read(_MARKED_BYTES)
    except OSError:
        return False


def _by_name(accuracies: Mapping[tuple[str, str], float]) -> dict[str, float]:
    """Accuracies by the names of sets, with the method where one was asked in several ways."""
    names = [name for name, _ in accuracies]
    return {
        f"{name} ({method})" if names.count(name) > 1 else name: accuracy
        for (name, method), accuracy in sorted(accuracies.items())
    }


def _scores(held_out: Mapping[str, Any]) -> Scores | None:
    """Losses on held-out examples; ``None`` where they are not all there."""
    macro, micro = _number(held_out.get("macro")), _number(held_out.get("micro"))
    if macro is None or micro is None:
        return None
    losses = {
        clean(str(source)): loss
        for source, value in _mapping(held_out.get("by_source")).items()
        if (loss := _number(value)) is not None
    }
    return Scores(macro=macro, micro=micro, small_sources=None, loss_by_source=losses)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = as_number(value)
    return number if math.isfinite(number) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
