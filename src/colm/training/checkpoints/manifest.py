"""Which checkpoints are complete: each holds a list of its files, written after all of them.

A process may be killed while a checkpoint is written, and its folder then looks like any other.
So the list comes last, once every process has written its part and the disk has it all: a folder
without it, or with files that differ from it, is not complete and never resumed from.
"""

import hashlib
import itertools
import json
import logging
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from colm.durable import UNFINISHED, flush_file, flush_folder, write_whole
from colm.json_text import read_json

MANIFEST_FILE = "colm_manifest.json"
TRAINER_STATE = "trainer_state.json"
#: Written first, it tells whose a folder is.
IDENTITY_FILE = "colm_identity.json"
#: What checkpoints of earlier versions call it.
FORMER_IDENTITY_FILE = "colm_run.json"

#: Larger files are compared by size alone: to read them all again would hold up the run.
MOST_DIGEST_BYTES = 2**20

_FORMAT = "colm checkpoint 1"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# People write in the first; the second is this file itself.
_NOT_LISTED = {"README.md", MANIFEST_FILE}


logger = logging.getLogger(__name__)


class Found(NamedTuple):
    """What a folder holds.

    Attributes:
        complete: its complete checkpoints, the newest first.
        problems: the others, each with what is wrong with it.
    """

    complete: list[Path]
    problems: dict[Path, str]


def write_manifest(checkpoint: Path) -> None:
    """Make a checkpoint complete: wait until the disk has its files, then list them.

    Raises:
        OSError: the list cannot be written; the checkpoint is not complete then.
    """
    files = {}
    for path in sorted(checkpoint.rglob("*")):
        name = path.relative_to(checkpoint).as_posix()
        if path.is_file() and name not in _NOT_LISTED and path.suffix != UNFINISHED:
            files[name] = _describe(path, flush_file(path))
    for folder in (checkpoint, *(path for path in checkpoint.rglob("*") if path.is_dir())):
        flush_folder(folder)
    content = json.dumps({"format": _FORMAT, "files": files}, indent=1)
    write_whole(checkpoint / MANIFEST_FILE, content.encode())
    flush_folder(checkpoint.parent)


def is_cut_short(checkpoint: Path) -> bool:
    """Whether a folder is what a run left that was killed while it wrote this checkpoint.

    Nothing can go on from it. What may be a checkpoint of another trainer is no such folder: it has
    a trainer's state, which is written late, and not the file that this library writes first.
    """
    if (checkpoint / MANIFEST_FILE).is_file():
        return False
    return has_identity(checkpoint) or not (checkpoint / TRAINER_STATE).is_file()


def has_identity(checkpoint: Path) -> bool:
    """Whether a folder has the file that this library writes first into a checkpoint."""
    return any((checkpoint / name).is_file() for name in (IDENTITY_FILE, FORMER_IDENTITY_FILE))


def make_way(checkpoint: Path) -> None:
    """Make an empty or an incomplete folder for a checkpoint that is going to be written.

    A link goes, and not what it leads to; what a killed run left, goes; what somebody else may have
    left is set aside.
    """
    if checkpoint.is_symlink():
        checkpoint.unlink()
    if (checkpoint / MANIFEST_FILE).is_file():
        remove_manifest(checkpoint)
    elif has_identity(checkpoint):
        shutil.rmtree(checkpoint)
    elif checkpoint.is_dir() and any(checkpoint.iterdir()):
        aside = _unused(checkpoint)
        checkpoint.rename(aside)
        logger.warning("%s was no checkpoint of this run: it is now %s", checkpoint, aside.name)
    checkpoint.mkdir(parents=True, exist_ok=True)
    for path in [path for path in checkpoint.rglob("*") if path.is_symlink()]:
        path.unlink()


def remove_manifest(checkpoint: Path) -> None:
    """Make a checkpoint that is going to be changed incomplete."""
    (checkpoint / MANIFEST_FILE).unlink(missing_ok=True)
    if checkpoint.is_dir():
        flush_folder(checkpoint)


def problem_with(checkpoint: Path) -> str | None:
    """Say why a checkpoint is not complete, ``None`` where it is."""
    if not checkpoint.is_dir():
        return "does not exist"
    if not (checkpoint / MANIFEST_FILE).is_file():
        return f"has no {MANIFEST_FILE}: writing or deleting it was cut short, or it is not colm's"
    try:
        manifest = read_json(checkpoint / MANIFEST_FILE)
        files = dict(manifest["files"])
        if manifest["format"] != _FORMAT or TRAINER_STATE not in files:
            return f"has a {MANIFEST_FILE} that is not colm's"
        problems = (_difference(checkpoint, name, files[name]) for name in files)
        return next((problem for problem in problems if problem), None)
    except (ValueError, KeyError, TypeError):
        return f"has a {MANIFEST_FILE} that cannot be read"


def problem_of_named(checkpoint: Path, by_others: bool) -> str | None:
    """Say why a checkpoint that was asked for by name cannot be resumed from.

    Args:
        checkpoint: the folder.
        by_others: whether a checkpoint of another trainer will do.

    Returns:
        ``None`` where it can.
    """
    if by_others and not (checkpoint / MANIFEST_FILE).is_file():
        return problem_with_plain(checkpoint)
    return problem_with(checkpoint)


def problem_with_plain(checkpoint: Path) -> str | None:
    """Say what is wrong with the files of a checkpoint that another trainer wrote.

    There is no list to hold them against: this finds what is cut short, not what is missing.
    """
    try:
        state = read_json(checkpoint / TRAINER_STATE)
        if not isinstance(state, dict) or not isinstance(state.get("global_step"), int):
            return f"has a {TRAINER_STATE} without global_step"
    except FileNotFoundError:
        return f"has no {TRAINER_STATE}" if checkpoint.is_dir() else "does not exist"
    except ValueError:
        return f"has a {TRAINER_STATE} that cannot be read"
    for path in sorted(checkpoint.glob("*.safetensors")):
        if safetensors_problem(path):
            return f"has a {path.name} that is cut short or is no safetensors file"
    for path in sorted(checkpoint.glob("*.pt*")):
        if path.is_file() and not zipfile.is_zipfile(path):
            return f"has a {path.name} that is cut short"
    return None


def safetensors_problem(path: Path) -> str | None:
    """Say why a file cannot be read as safetensors, ``None`` where its header and size agree."""
    try:
        with safe_open(path, framework="pt"):
            return None
    except SafetensorError as error:
        return str(error)


def find_checkpoints(output_dir: str | Path) -> Found:
    """Return the complete checkpoints in a folder, and what is wrong with the others.

    Args:
        output_dir: where a run writes its checkpoints; need not exist.
    """
    found = Found([], {})
    for path in sorted(_checkpoints(Path(output_dir)), key=_step, reverse=True):
        problem = problem_with(path)
        if problem is None:
            found.complete.append(path)
        else:
            found.problems[path] = problem
    return found


def choose_last(output_dir: str | Path, found: Found) -> tuple[Path | None, str | None]:
    """Return the newest complete checkpoint, and a line about newer ones that are not.

    Returns:
        No checkpoint where a run was killed before it had one, which then begins anew.

    Raises:
        ValueError: there is none, and no such run.

    Example:
        >>> import tempfile
        >>> choose_last("run", find_checkpoints(tempfile.mkdtemp()))
        Traceback (most recent call last):
        ...
        ValueError: resume_from_checkpoint: run holds no checkpoint
    """
    if not found.complete:
        if not found.problems:
            raise ValueError(f"resume_from_checkpoint: {output_dir} holds no checkpoint")
        if all(map(is_cut_short, found.problems)):
            names = ", ".join(path.name for path in found.problems)
            return None, f"{output_dir}: {names} was cut short; the run starts from the beginning"
        raise ValueError(
            f"resume_from_checkpoint: {output_dir} holds no complete checkpoint: "
            + "; ".join(f"{path.name} {why}" for path, why in found.problems.items())
            + ". To start afresh, choose another output_dir."
        )
    last = found.complete[0]
    newer = [path for path in found.problems if _step(path) > _step(last)]
    if not newer:
        return last, None
    reasons = "; ".join(f"{path.name} {found.problems[path]}" for path in newer)
    return last, f"going on from {last}; passed over what is not complete: {reasons}"


def rotate(newest: Path, limit: int | None, best: str | None) -> None:
    """Delete the oldest checkpoints beside a complete one, down to a limit, but never that one.

    Args:
        newest: the checkpoint that was just completed.
        limit: most checkpoints that are kept; ``None`` or 0 for all.
        best: the checkpoint with the best evaluation, which is kept, too.
    """
    if not limit or limit < 0:
        return
    kept = {newest.resolve()} | ({Path(best).resolve()} if best is not None else set())
    # What a link leads to belongs to another run. Times are not asked: clocks are set back.
    own = [path for path in _checkpoints(newest.parent) if not path.is_symlink()]
    oldest_first = sorted(own, key=lambda path: _age(path, _step(newest)))
    surplus = len(oldest_first) - max(limit, len(kept))
    for path in [path for path in oldest_first if path.resolve() not in kept][: max(0, surplus)]:
        # Killed in between, this leaves a folder that does not look complete.
        remove_manifest(path)
        shutil.rmtree(path, ignore_errors=True)


def _age(checkpoint: Path, newest_step: int) -> tuple[bool, bool, int]:
    """A key that sorts what can be done without first: what nothing can go on from, then steps.

    A higher step than the newest was left by a run that this one has turned back from.
    """
    step = _step(checkpoint)
    return (checkpoint / MANIFEST_FILE).is_file(), step <= newest_step, step


def _unused(path: Path) -> Path:
    """A name for what is set aside."""
    names = (path.with_name(f"{path.name}-{n}{UNFINISHED}") for n in itertools.count(1))
    return next(name for name in names if not name.exists() and not name.is_symlink())


def _checkpoints(folder: Path) -> list[Path]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return [path for path in paths if _CHECKPOINT.fullmatch(path.name) and path.is_dir()]


def _step(checkpoint: Path) -> int:
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    return int(match[1]) if match else -1


def _describe(path: Path, size: int) -> dict[str, Any]:
    if size > MOST_DIGEST_BYTES:
        return {"bytes": size}
    return {"bytes": size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _difference(checkpoint: Path, name: str, listed: dict[str, Any]) -> str | None:
    """How a file differs from what the list says of it."""
    path = checkpoint / name
    if not path.is_file():
        return f"has no {name}"
    size = path.stat().st_size
    if size != listed["bytes"]:
        return f"has {size} bytes of {name}, which was written with {listed['bytes']}"
    if _describe(path, size).get("sha256") != listed.get("sha256"):
        return f"has another {name} than was written"
    return None
