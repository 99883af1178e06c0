"""Answers on disk as they come, so that an interrupted evaluation goes on where it was.

The first line says what was asked of which model, every further line is one answer. Lines are
appended and waited for; a last line that was cut short is left out.
"""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from colm.json_text import parse_json

_FORMAT = "colm answers 1"


class Step(NamedTuple):
    """An answer's place: the set, the number of the question in it from 0, and how it was asked."""

    set_name: str
    number: int
    step: str


class Journal(AbstractContextManager["Journal"]):
    """A file of answers, for one model, its options, and some sets of questions.

    Args:
        path: JSON Lines file; made where it is not there.
        heading: What was asked of which model; an existing file must say the same.
        resume: Go on with an existing file; otherwise it is begun anew.

    Raises:
        ValueError: The file is of another model, other options or other questions, is no such
            file, or a line of it is broken.
        OSError: It cannot be written.
    """

    def __init__(self, path: Path, heading: Mapping[str, Any], *, resume: bool = True) -> None:
        self.path = path
        self.answers: dict[Step, dict[str, Any]] = {}
        whole = self._read(heading) if resume and path.exists() else 0
        if path.is_dir():
            raise ValueError(f"{path} is a folder")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
            self._file.truncate(whole)
        except OSError as error:
            raise ValueError(f"cannot write {path}: {error.strerror}") from error
        if not whole:
            self._write([{"format": _FORMAT, **heading}])

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    def add(self, answers: Mapping[Step, Mapping[str, Any]]) -> None:
        """Write answers, and wait until the disk has them.

        Args:
            answers: JSON values under the place of each.

        Raises:
            OSError: They cannot be written.
        """
        self._write(
            {"set": step.set_name, "question": step.number, "step": step.step, **answer}
            for step, answer in answers.items()
        )
        self.answers |= {step: dict(answer) for step, answer in answers.items()}

    def _write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(f"{json.dumps(line, ensure_ascii=True)}\n" for line in lines)
        try:
            self._file.write(text.encode("ascii"))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OSError(f"cannot write {self.path}: {error}") from error

    def _read(self, heading: Mapping[str, Any]) -> int:
        """Take over what the file holds, and return how many of its bytes are whole lines."""
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        lines = content[:whole].splitlines()
        if not lines:
            if content and not f'{{"format": "{_FORMAT}"'.encode().startswith(content[:20]):
                raise ValueError(f"{self.path} holds something else than answers")
            return 0
        found = self._parse(1, lines[0])
        if found.pop("format", None) != _FORMAT:
            raise ValueError(f"{self.path} holds something else than answers")
        self._compare(found, json.loads(json.dumps(heading)))
        for number, line in enumerate(lines[1:], 2):
            answer = self._parse(number, line)
            try:
                step = Step(answer.pop("set"), answer.pop("question"), answer.pop("step"))
            except KeyError as error:
                raise ValueError(f"{self.path}:{number}: an answer without {error}") from error
            self.answers[step] = answer
        return whole

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            value = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{self.path}:{number}: not a line of answers: {error}") from error
        if not isinstance(value, dict):
            raise ValueError(f"{self.path}:{number}: not a line of answers: {value!r:.80}")
        return value

    def _compare(self, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
        """Refuse answers to other questions."""
        for key in {**ours, **theirs}:
            if theirs.get(key) != ours.get(key):
                raise ValueError(
                    f"{self.path} holds answers with another {key}: "
                    f"{_difference(theirs.get(key), ours.get(key))}; name another --output, or "
                    "begin anew with --no_resume"
                )


def _difference(theirs: Any, ours: Any) -> str:
    """What differs, in few words: of mappings the first key that does."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        key = next(key for key in {**ours, **theirs} if theirs.get(key) != ours.get(key))
        return f"{key} {_difference(theirs.get(key), ours.get(key))}"
    shown = [json.dumps(value)[:60] if value is not None else "none" for value in (theirs, ours)]
    return f"{shown[0]} there, {shown[1]} now"
