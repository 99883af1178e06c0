"""Sets of questions: with an answer to find, or with candidates of which one is right.

A record's columns say which. ``prompt`` is text that the answer continues; ``question`` and its
like are asked, as ``colm.data`` asks them in training.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from colm.data.conversations import as_turns
from colm.data.files import file_stem, is_data_file, read_file
from colm.data.json_records import iter_records
from colm.data.layouts import ABOUT, LABEL, LABELLED, find_layout
from colm.data.patterns import matching_files
from colm.data.superglue import answer_word, find_task, question_of
from colm.data.values import as_text, short_numbers
from colm.evaluation.judging.final_answer import marked_answer

#: Columns of question and answer; the first pair of which both are there is taken.
OPEN_COLUMNS = (
    ("question", "answer"),
    ("problem", "answer"),
    ("problem", "solution"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("query", "response"),
    ("prompt", "answer"),
    ("prompt", "completion"),
)
#: Columns of a question, its candidates, and the number of the right one.
CANDIDATE_COLUMNS = (("prompt", "candidates", "label"), ("question", "candidates", "label"))
_CONTINUED = "prompt"


@dataclass(frozen=True)
class Question:
    """A question and what is right.

    Attributes:
        text: What is asked, or what the answer continues.
        gold: The right answer.
        about: What it is asked about, where that comes apart from the question.
        system: What the system message says.
        history: What was asked and answered before.
        continued: Whether the answer continues the text, which is then no question to a chat.
        candidates: What to choose from; empty for an open question.
        label: Number of the right candidate.
    """

    text: str
    gold: str
    about: str = ""
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()
    continued: bool = False
    candidates: tuple[str, ...] = ()
    label: int = -1


@dataclass(frozen=True)
class QuestionSet:
    """The questions of a file.

    Attributes:
        name: What the file is called, without its ending.
        file: Its name, without its folder.
        layout: Its columns, as messages name them.
        digest: SHA-256 of the file.
        questions: At least one; all with candidates, or none.
    """

    name: str
    file: str
    layout: str
    digest: str
    questions: tuple[Question, ...]

    @property
    def has_candidates(self) -> bool:
        """Whether its questions have candidates."""
        return bool(self.questions[0].candidates)


class _Reader(NamedTuple):
    """The name of a layout, and the columns that a record of it needs."""

    name: str
    columns: tuple[str, ...]


def read_question_sets(paths: Sequence[str | Path], limit: int | None = None) -> list[QuestionSet]:
    """Read files of questions.

    Args:
        paths: JSON Lines, JSON, CSV or Parquet files, or patterns of them; those called alike get
            their folder's name.
        limit: Most questions of each, its first ones; ``None`` for all.

    Returns:
        A set for each file.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A file is named twice, or cannot be read or understood.
    """
    paths = [name for path in paths for name in matching_files(str(path))]
    places = [Path(path) for path in paths]
    stems = [file_stem(path) for path in places]
    names = [
        f"{path.resolve().parent.name}/{stem}" if stems.count(stem) > 1 else stem
        for path, stem in zip(places, stems, strict=True)
    ]
    for name, path in zip(names, paths, strict=True):
        if names.count(name) > 1:
            raise ValueError(f"{path}: two files are called {name}; rename one or leave it out")
    return [read_question_set(path, name, limit) for path, name in zip(places, names, strict=True)]


def read_question_set(path: Path, name: str, limit: int | None = None) -> QuestionSet:
    """Read a file of questions.

    Args:
        path: JSON Lines, JSON, CSV or Parquet file.
        name: What the set is called.
        limit: Most questions, the first ones; ``None`` for all.

    Returns:
        The set.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, has no known columns, or a record lacks something.
    """
    records = list(itertools.islice(_records(path), limit))
    if not records:
        raise ValueError(f"{path}: holds no records")
    try:
        layout, questions = _read_questions(records)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return QuestionSet(name, path.name, layout, digest, tuple(questions))


def _records(path: Path) -> Iterator[Mapping[str, Any]]:
    """The records of a file as it has them."""
    if path.is_file() and is_data_file(path) and ".json" in path.name.lower():
        yield from iter_records(path)
    else:
        dataset = read_file(path)
        yield from map(short_numbers(dataset.features), dataset)


def _read_questions(records: Sequence[Mapping[str, Any]]) -> tuple[str, list[Question]]:
    """The layout of records, and each as a question."""
    columns = records[0].keys()
    reader = _find(CANDIDATE_COLUMNS, columns)
    if reader is not None:
        return reader.name, [_candidates(row, reader) for row in _numbered(records, reader)]
    labelled = [layout for layout in LABELLED if set(layout.required) <= set(columns)]
    if labelled:
        return _read_task(records)
    reader = _find(OPEN_COLUMNS, columns)
    if reader is None:
        known = [" + ".join(names) for names in (*CANDIDATE_COLUMNS, *OPEN_COLUMNS)]
        known += [layout.name for layout in LABELLED]
        raise ValueError(
            f"no known layout in columns {', '.join(columns)}; expected one of: {'; '.join(known)}"
        )
    return reader.name, [_open(row, reader) for row in _numbered(records, reader)]


def _find(layouts: Iterable[tuple[str, ...]], columns: Iterable[str]) -> _Reader | None:
    found = next((layout for layout in layouts if set(layout) <= set(columns)), None)
    return None if found is None else _Reader(" + ".join(found), found)


def _numbered(records: Sequence[Mapping[str, Any]], reader: _Reader) -> Iterator[Mapping[str, Any]]:
    """Each record with its number, for messages, once it has every column that it needs."""
    for number, record in enumerate(records, 1):
        missing = [column for column in reader.columns if record.get(column) is None]
        if missing:
            raise ValueError(f"record {number} has no {missing[0]} (layout {reader.name})")
        yield {**record, "": number}


def _open(row: Mapping[str, Any], reader: _Reader) -> Question:
    """A question with its answer, which may come at the end of a rationale."""
    asked, answer = reader.columns
    gold = _text(row, answer)
    about = next((_text(row, column) for column in ABOUT if row.get(column) is not None), "")
    try:
        system, history = as_text(row.get("system"), "system"), as_turns(row.get("history"))
    except ValueError as error:
        raise ValueError(f"record {row['']}: {error}") from error
    return Question(
        text=_text(row, asked, strip=asked != _CONTINUED),
        gold=marked_answer(gold) or gold,
        about=about,
        system=system,
        history=tuple(history) if asked != _CONTINUED else (),
        continued=asked == _CONTINUED,
    )


def _candidates(row: Mapping[str, Any], reader: _Reader) -> Question:
    """A question with its candidates."""
    asked, candidates, label = (row[column] for column in reader.columns)
    place = f"record {row['']}"
    is_list = isinstance(candidates, list) and all(isinstance(c, str) for c in candidates)
    if not is_list or not all(c.strip() for c in candidates) or len(candidates) < 2:
        raise ValueError(f"{place}: candidates must be two texts or more; got {candidates!r:.80}")
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(candidates):
        raise ValueError(
            f"{place}: label must count its {len(candidates)} candidates from 0; got {label!r:.80}"
        )
    column = reader.columns[0]
    return Question(
        text=_text({column: asked, "": row[""]}, column, strip=column != _CONTINUED),
        gold=candidates[label],
        continued=column == _CONTINUED,
        candidates=tuple(candidate.strip() for candidate in candidates),
        label=label,
    )


def _read_task(records: Sequence[Mapping[str, Any]]) -> tuple[str, list[Question]]:
    """Records of SuperGLUE as the hub has them, asked as in training."""
    layout = find_layout(records[0].keys())
    reader = _Reader(layout.name, layout.required)
    labels = {row[LABEL] for row in _numbered(records, reader) if isinstance(row[LABEL], str)}
    task = find_task(layout, sorted(text for text in labels if not text.isdecimal()) or None)
    words = tuple(dict.fromkeys(task.answers.values()))
    questions = []
    for row in _numbered(records, reader):
        try:
            text = question_of(task, row, lambda value, column: _text({column: value}, column))
            word = answer_word(task, row[LABEL])
        except ValueError as error:
            raise ValueError(f"record {row['']}: {error}") from error
        if not text or not word:
            raise ValueError(f"record {row['']} has nothing to ask, or no label")
        questions.append(Question(text, word, candidates=words, label=words.index(word)))
    return layout.name, questions


def _text(row: Mapping[str, Any], column: str, *, strip: bool = True) -> str:
    """A value as text, numbers as JSON writes them; never empty."""
    value = row[column]
    try:
        text = as_text(value, column)
    except ValueError:
        text = ""
    if not text.strip():
        place = f"record {row['']}: " if "" in row else ""
        raise ValueError(f"{place}{column} must be text; got {value!r:.80}")
    return text.strip() if strip else text
