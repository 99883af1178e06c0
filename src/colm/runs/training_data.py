"""The examples of a run: loaded, formatted for the model, and split for evaluation."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from datasets import Dataset

from colm.data import (
    SOURCE_COLUMN,
    Source,
    Split,
    add_source,
    format_dataset,
    is_pattern,
    load_mixture,
    load_splits,
    source_counts,
    source_name,
    split_held_out,
)
from colm.data.sources import split_evenly
from colm.runs.arguments import SFTArguments
from colm.runs.refused_records import RECORD, Check, numbered

#: What is held out where evaluation is asked for and there is nothing to evaluate on.
HELD_OUT_SHARE = 0.05
MOST_HELD_OUT = 1000
_SHOWN_SOURCES = 20


class Examples(NamedTuple):
    """What to train on, what to evaluate on, if anything, and what is worth knowing about both."""

    train: Any
    test: Any | None
    notes: tuple[str, ...]


class HeldOut(NamedTuple):
    """What is held out where there is no test split: as many examples of every source.

    Attributes:
        per_source: Of each, as far as a fifth of it allows.
        seed: Which they are.
    """

    per_source: int
    seed: int


def load_examples(
    arguments: SFTArguments,
    conversational: bool,
    check: Check | None = None,
    held_out: HeldOut | None = None,
) -> Examples:
    """Load what ``datasets`` or ``dataset_name`` names, as TRL's ``sft`` does, with its sources.

    Where evaluation is asked for and there is no test split, examples of every source are held out:
    of each its share, or as many of each.

    Args:
        arguments: Options of the run.
        conversational: Whether the tokenizer has a chat template.
        check: Looks at each data set, formatted and numbered, before it joins the others.
        held_out: Asks for evaluation whatever the options say, on as many examples of each source.

    Returns:
        Data sets in a layout that ``SFTTrainer`` takes, with a source column.

    Raises:
        FileNotFoundError: A local file is not there.
        ValueError: The data cannot be read, or lacks a column or a split.
    """
    script, training, _, mixture = arguments
    notes: list[str] = []
    remarks: dict[str, list[str]] = {}
    prepare = _preparation(arguments, conversational, notes, remarks, check)
    test = None
    entries: Sequence[Any] = mixture.datasets
    if entries and script.dataset_name:
        notes.append(f"dataset_name {script.dataset_name} is not used: datasets is set")
    if not entries and script.dataset_name and is_pattern(script.dataset_name):
        entries = [Source(script.dataset_name, split=script.dataset_train_split)]
    if entries:
        weights = training.source_weights
        streaming = mixture.streaming if mixture.datasets else script.dataset_streaming
        train = load_mixture(
            entries,
            source_column=training.source_column,
            prepare=prepare,
            streaming=streaming,
            # A stream cannot be drawn by source any more: it is made so that it comes drawn.
            weights=weights if streaming and isinstance(weights, dict) else None,
            seed=training.seed if training.data_seed is None else training.data_seed,
        )
    elif script.dataset_name:
        train, test = _load_splits(arguments, prepare, held_out is not None)
    else:
        raise ValueError("no data: set dataset_name, or datasets for several sources")
    notes.extend(f"{_join_names(names)}: {remark}" for remark, names in remarks.items())
    column = training.source_column or SOURCE_COLUMN
    if isinstance(train, Dataset):
        notes.append(_describe_sources(train, column))
    if test is None and held_out is not None:
        train, test = _hold_out_evenly(train, column, held_out, notes)
    elif test is None and (_evaluates(arguments) or mixture.test_split_size is not None):
        train, test = _hold_out(train, column, mixture.test_split_size, training.seed, notes)
    return Examples(train, test, tuple(notes))


def _evaluates(arguments: SFTArguments) -> bool:
    return bool(arguments.training.eval_strategy != "no" or arguments.training.eval_on_start)


def _preparation(
    arguments: SFTArguments,
    conversational: bool,
    notes: list[str],
    remarks: dict[str, list[str]],
    check: Check | None,
) -> Callable[[Any, str], Any]:
    """What is done with each data set before it joins the others; remarks are told of by name."""
    training = arguments.training

    def prepare(dataset: Any, name: str) -> Any:
        column = training.source_column or SOURCE_COLUMN
        formatted = format_dataset(
            dataset if check is None else numbered(dataset),
            conversational=conversational,
            kept_columns=[column] if check is None else [column, RECORD],
            text_column=training.dataset_text_field,
        )
        if check is not None:
            check(formatted.dataset)
        if formatted.skipped:
            notes.append(
                f"{name}: left out {formatted.skipped} of {len(dataset)} records: "
                f"empty in {formatted.layout.name}"
            )
        for remark in formatted.remarks:
            names = remarks.setdefault(remark, [])
            names.extend([name] if name not in names else [])
        return formatted.dataset

    return prepare


def _join_names(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_SOURCES
    return ", ".join(names[:_SHOWN_SOURCES]) + (f" and {more} more" if more > 0 else "")


def _load_splits(
    arguments: SFTArguments, prepare: Callable[[Any, str], Any], evaluates: bool
) -> tuple[Any, Any | None]:
    """The training split of one data set, and its test split where one is needed and there."""
    script, training = arguments.script, arguments.training
    path = script.dataset_name
    splits = load_splits(path, script.dataset_config, script.dataset_streaming)
    if script.dataset_train_split not in splits:
        raise ValueError(
            f"{path}: no split '{script.dataset_train_split}'; there is {', '.join(splits)}"
        )
    column = training.source_column or SOURCE_COLUMN
    name = source_name(Source(path, script.dataset_config))

    def finish(split: str, required: bool) -> Any:
        try:
            return prepare(add_source(splits[split], column, name, required=required), name)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    train = finish(script.dataset_train_split, required=training.source_column is not None)
    has_test = (evaluates or _evaluates(arguments)) and script.dataset_test_split in splits
    return train, finish(script.dataset_test_split, required=False) if has_test else None


def _hold_out_evenly(train: Any, column: str, held_out: HeldOut, notes: list[str]) -> Split:
    """As many examples of each source to evaluate on."""
    _check_countable(train)
    split = split_evenly(train, held_out.per_source, column, held_out.seed)
    notes.append(
        f"held out {len(split.held_out)} of {len(train)} examples for evaluation, "
        f"{held_out.per_source} of each source as far as a fifth of it allows"
    )
    return split


def _check_countable(train: Any) -> None:
    if not isinstance(train, Dataset):
        raise ValueError("nothing can be held out of a stream: it needs a dataset_test_split")


def _hold_out(train: Any, column: str, size: float | None, seed: int, notes: list[str]) -> Split:
    """Part of the training data to evaluate on, from every source its share."""
    _check_countable(train)
    why = "" if size else " (no test split; test_split_size sets how many)"
    split = split_held_out(
        train, column, size or min(HELD_OUT_SHARE, MOST_HELD_OUT / len(train)), seed
    )
    notes.append(
        f"held out {len(split.held_out)} of {len(train)} examples for evaluation, from every "
        f"source its share{why}"
    )
    return split


def _describe_sources(train: Dataset, column: str) -> str:
    counts = source_counts(train, column)
    shown = [f"{source} {count}" for source, count in counts.items()][:_SHOWN_SOURCES]
    more = ", ..." if len(counts) > _SHOWN_SOURCES else ""
    sources = "1 source" if len(counts) == 1 else f"{len(counts)} sources"
    return f"{len(train)} examples of {sources}: {', '.join(shown)}{more}"
