"""What a run did, as data: ``colm_run.json`` in its folder, which the run writes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from colm.durable import write_whole
from colm.json_text import read_json

RUN_FILE = "colm_run.json"
_FORMAT = "colm run 2"

RUNNING, ENDED, STOPPED = "running", "ended", "stopped"


@dataclass(frozen=True)
class RunRecord:
    """What decided a run, and how far it has come.

    Attributes:
        command: That began it; ``python`` where a program did.
        state: ``running``, ``ended`` or ``stopped``: by an error or by hand. A run that was killed
            is still said to be running.
        step: Optimizer steps taken when this was written.
        begun: When, in UTC, as ISO 8601.
        resumed: When it went on from a checkpoint, once for each time.
        ended: When it ended or was stopped.
        model: Its name, and how it was loaded and adapted.
        data: What was trained on and held out, by name and by number.
        sources: Training examples of each source.
        small_sources: Those that are kept whole, where they are known beforehand.
        drawn: Examples that a step draws, in all processes.
        kept: Examples that a step trains on, in all processes.
        selection: Options of selection that act.
        subspaces: Options of random subspaces, where there are any.
        options: All others that decide what is trained.
        seeds: By option.
        versions: Of the libraries.
        memory: Options of other methods of training in less memory, where one is on.
    """

    command: str
    state: str
    step: int
    begun: str
    resumed: Sequence[str]
    ended: str | None
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    sources: Mapping[str, int]
    small_sources: Sequence[str]
    drawn: int
    kept: int
    selection: Mapping[str, Any]
    subspaces: Mapping[str, Any]
    options: Mapping[str, Any]
    seeds: Mapping[str, Any]
    versions: Mapping[str, str]
    memory: Mapping[str, Any] = field(default_factory=dict)


def write_record(record: RunRecord, folder: Path) -> None:
    """Write a record into a run's folder, whole or not at all.

    Args:
        record: Of values that JSON has.
        folder: Made where there is none.

    Raises:
        OSError: It cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": _FORMAT, **asdict(record)}, indent=1, ensure_ascii=False)
    # Half a character, which a name of a file or a source may have, is written as JSON escapes it.
    write_whole(folder / RUN_FILE, f"{text}\n".encode("utf-8", "backslashreplace"))


def read_record(folder: Path) -> RunRecord | None:
    """Return what a run's folder says of it.

    Args:
        folder: Of a run.

    Returns:
        ``None`` where it says nothing that can be read: runs of earlier versions do not.

    Example:
        >>> import tempfile
        >>> read_record(Path(tempfile.mkdtemp())) is None
        True
    """
    try:
        data = read_json(folder / RUN_FILE)
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        return None
    # Runs of earlier versions knew of no other methods.
    data = {"memory": {}} | data
    found: dict[str, Any] = {each.name: data.get(each.name) for each in fields(RunRecord)}
    whole = all(_KINDS[name](value) for name, value in found.items())
    return RunRecord(**found) if whole else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


_KINDS = {
    "command": _is_text,
    "state": lambda value: value in (RUNNING, ENDED, STOPPED),
    "step": _is_count,
    "begun": _is_text,
    "resumed": _are_texts,
    "ended": lambda value: value is None or _is_text(value),
    "model": _is_mapping,
    "data": _is_mapping,
    "sources": lambda value: _is_mapping(value) and all(map(_is_count, value.values())),
    "small_sources": _are_texts,
    "drawn": _is_count,
    "kept": _is_count,
    "selection": _is_mapping,
    "subspaces": _is_mapping,
    "options": _is_mapping,
    "seeds": _is_mapping,
    "versions": lambda value: _is_mapping(value) and all(map(_is_text, value.values())),
    "memory": _is_mapping,
}
