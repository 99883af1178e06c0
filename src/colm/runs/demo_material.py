"""What ``colm demo`` trains and evaluates on: a generated mixture, or the files it is given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from colm.data import SOURCE_COLUMN, Source, format_dataset, generated, load_mixture
from colm.data.sources import split_evenly

#: Column of the held-out examples that says which record each was made from.
RECORD_COLUMN = "record"


@dataclass(frozen=True)
class Material:
    """Examples to train on and to evaluate on.

    Attributes:
        name: What the data is called.
        train: Examples with a source column.
        held_out: Likewise; ``RECORD_COLUMN`` counts them.
        source_column: Name of that column.
        score: Takes an answer and the number of a held-out record; ``None`` where nothing scores.
    """

    name: str
    train: Dataset
    held_out: Dataset
    source_column: str
    score: Callable[[str, int], float] | None = None


def generate_material(seed: int, held_out_per_source: int, conversational: bool) -> Material:
    """Return the generated mixture, with its scorers.

    Args:
        seed: Of the mixture.
        held_out_per_source: Held-out examples of each source.
        conversational: Whether the tokenizer has a chat template.

    Returns:
        The material.
    """
    mixture = generated.generate_mixture(seed, held_out_per_source, conversational=conversational)
    split = mixture.to_split()
    return Material(
        name="generated problems",
        train=split.train,
        held_out=_numbered(split.held_out),
        source_column=SOURCE_COLUMN,
        score=lambda answer, number: generated.score(answer, mixture.held_out[number]),
    )


def read_material(
    files: Sequence[str],
    source_column: str | None,
    seed: int,
    held_out_per_source: int,
    conversational: bool,
) -> Material:
    """Return the records of files, part of every source held out; nothing scores answers.

    Args:
        files: Paths of data files, one source each unless a column says otherwise.
        source_column: Column of the sources, ``None`` for "source".
        seed: Which records are held out.
        held_out_per_source: Held-out examples of each source, at most.
        conversational: Whether the tokenizer has a chat template.

    Returns:
        The material.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A file cannot be read or understood.
    """
    column = source_column or SOURCE_COLUMN

    def prepare(dataset: Any, _: str) -> Any:
        return format_dataset(dataset, conversational=conversational, kept_columns=[column]).dataset

    for path in files:
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file")
    records = load_mixture(
        [Source(path) for path in files], source_column=source_column, prepare=prepare
    )
    train, held_out = split_evenly(records, held_out_per_source, column, seed)
    names = ", ".join(Path(path).name for path in files)
    return Material(f"records of {names}", train, _numbered(held_out), column)


def _numbered(held_out: Dataset) -> Dataset:
    """The held-out examples with their numbers, which outlast tokenising and filtering."""
    return held_out.add_column(RECORD_COLUMN, list(range(len(held_out))))
