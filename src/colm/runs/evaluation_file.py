"""Where the result of ``colm evaluate`` goes: into the run's folder, and never over another's.

Unless a file is named, its name tells the questions, the steps trained and, by a digest, everything
that decides the answers. So the same command goes on with the same file, and another evaluation,
or the same one after more training, has a file of its own.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from colm.durable import write_whole
from colm.json_text import read_json
from colm.reports.run_folder import is_run_folder
from colm.run_record import RUN_FILE
from colm.training.checkpoints.manifest import TRAINER_STATE

FOLDER = "evaluations"
JOURNAL_ENDING = ".answers.jsonl"
#: Where results of models go that are no run's.
ELSEWHERE = Path("runs") / FOLDER

_CHECKPOINT = re.compile(r"checkpoint-\d+")
_MOST_CHARACTERS = 60
#: Options that do not change what is found, or are compared by what is there.
_NOT_COMPARED = {"batch_size", "device", "limit", "trust_remote_code"}


def journal_of(output: Path) -> Path:
    """Return the file of the answers that are kept while a result is made."""
    return output.with_name(f"{output.name}{JOURNAL_ENDING}")


def check_output(output: Path, resume: bool) -> None:
    """Refuse a file that cannot be the output, before a model is loaded.

    Args:
        output: The file that was named.
        resume: Whether to go on with the answers beside it.

    Raises:
        ValueError: It is a folder, or is there without answers to go on with.
    """
    if output.is_dir():
        raise ValueError(f"--output {output} is a folder; name a file")
    if output.exists() and resume and not journal_of(output).exists():
        raise ValueError(
            f"--output {output} is there already; name another, or write over it with --no_resume"
        )


def result_file(
    model: str, names: Sequence[str], steps: int | None, identity: Mapping[str, Any]
) -> Path:
    """Return the file of a result that no file was named for.

    Args:
        model: Folder or name of a model.
        names: Of the sets of questions, and of what the loss is measured on.
        steps: That the model was trained for, where that is known.
        identity: Everything that decides the result.

    Returns:
        A file in ``evaluations`` in the run's folder, which for a checkpoint is the one above:
        checkpoints are removed as training goes on. For other models, one in ``ELSEWHERE``.
    """
    joined = "+".join(names)
    if len(joined) > _MOST_CHARACTERS:
        more = f"-and-{len(names) - 1}-more" if names[1:] else ""
        joined = f"{names[0][:_MOST_CHARACTERS]}{more}"
    trained = "" if steps is None else f"-step-{steps}"
    return _folder(model) / f"{_plain(joined)}{trained}-{digest(identity)[:8]}.json"


def digest(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what decides a result.

    Args:
        identity: JSON values.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def trained_steps(model: str) -> int | None:
    """Return how many steps a model was trained for.

    Args:
        model: Folder or name of a model.

    Returns:
        What the trainer's state beside it says; ``None`` where there is none.
    """
    try:
        state = read_json(Path(model).expanduser() / TRAINER_STATE)
    except (OSError, ValueError):
        return None
    steps = state.get("global_step") if isinstance(state, dict) else None
    return steps if isinstance(steps, int) and not isinstance(steps, bool) else None


def check_replaceable(
    output: Path, result: Mapping[str, Any], questions: Mapping[str, int]
) -> None:
    """Refuse to write over a result that this one does not hold.

    Args:
        output: Where the result will go.
        result: What is known of it before anything is asked.
        questions: How many will be asked of each set.

    Raises:
        ValueError: There is a result of something else, or of more questions.
    """
    if not output.exists():
        return
    try:
        there = read_json(output)
    except (OSError, ValueError):
        there = None
    if not isinstance(there, dict) or there.get("format") != result["format"]:
        raise ValueError(f"--output {output} is there already and is no evaluation; name another")
    if there.get("identity") != result["identity"]:
        raise ValueError(
            f"--output {output} holds another evaluation{_difference(there, result)}; name "
            "another, or write over it with --no_resume"
        )
    for name, asked in questions.items():
        answered = there.get("sets", {}).get(name, {}).get("questions", 0)
        if answered > asked:
            raise ValueError(
                f"--output {output} holds {answered} answers to {name}, of which --limit would "
                f"leave {asked}; name another, or write over it with --no_resume"
            )


def write_result(result: Mapping[str, Any], output: Path) -> None:
    """Write a result, whole or not at all.

    Args:
        result: JSON values.
        output: The file; its folder is made where there is none.

    Raises:
        OSError: It cannot be written.
    """
    content = f"{json.dumps(result, indent=1, ensure_ascii=False)}\n".encode()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(output, content)
    except OSError as error:
        raise OSError(f"cannot write {output}: {error}") from error


def _folder(model: str) -> Path:
    """The folder for a model's results."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return ELSEWHERE / _plain(model.replace("/", "--"))
    place = folder.resolve()
    if _CHECKPOINT.fullmatch(place.name):
        return (folder.parent if folder.name == place.name else place.parent) / FOLDER
    is_run = is_run_folder(folder) or (folder / RUN_FILE).is_file()
    return folder / FOLDER if is_run else ELSEWHERE / _plain(place.name)


def _plain(name: str) -> str:
    """A name that any file may have."""
    return re.sub(r"[^\w.+-]", "_", name).lstrip(".-") or "model"


def _difference(there: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The first option that two results have differently, in words."""
    for part in ("model", "settings"):
        first, second = there.get(part), ours[part]
        if not isinstance(first, Mapping):
            return ""
        for key, value in second.items():
            if key not in _NOT_COMPARED and first.get(key, value) != value:
                shown = [json.dumps(each)[:60] for each in (first.get(key), value)]
                return f" ({key}: {shown[0]} there, {shown[1]} now)"
    return ""
