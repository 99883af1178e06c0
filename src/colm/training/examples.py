"""The examples of a run: loaded, formatted for the model, and split for evaluation."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from datasets import Dataset

from colm.data import (
    SOURCE_COLUMN,
    Source,
    add_source,
    format_dataset,
    load_mixture,
    load_splits,
    source_counts,
    source_name,
    split_held_out,
)
from colm.training.arguments import SFTArguments

logger = logging.getLogger(__name__)

#: What is held out where evaluation is asked for and there is nothing to evaluate on.
HELD_OUT_SHARE = 0.05
MOST_HELD_OUT = 1000
_SHOWN_SOURCES = 20


class Examples(NamedTuple):
    """What to train on, and what to evaluate on, if anything."""

    train: Any
    test: Any | None


def load_examples(arguments: SFTArguments, conversational: bool) -> Examples:
    """Load what ``datasets`` or ``dataset_name`` names, as TRL's ``sft`` does, with its sources.

    Where evaluation is asked for and there is no test split, examples of every source are held out.

    Args:
        arguments: Options of the run.
        conversational: Whether the tokenizer has a chat template.

    Returns:
        Data sets in a layout that ``SFTTrainer`` takes, with a source column.

    Raises:
        FileNotFoundError: A local file is not there.
        ValueError: The data cannot be read, or lacks a column or a split.
    """
    script, training, _, mixture = arguments
    prepare = _preparation(arguments, conversational)
    test = None
    if mixture.datasets:
        if script.dataset_name:
            logger.warning("dataset_name %s is not used: datasets is set", script.dataset_name)
        train = load_mixture(
            mixture.datasets,
            source_column=training.source_column,
            prepare=prepare,
            streaming=mixture.streaming,
        )
    elif script.dataset_name:
        train, test = _load_splits(arguments, prepare)
    else:
        raise ValueError("no data: set dataset_name, or datasets for several sources")
    column = training.source_column or SOURCE_COLUMN
    if isinstance(train, Dataset):
        _log_sources(train, column)
    if test is None and (_evaluates(arguments) or mixture.test_split_size is not None):
        return _hold_out(train, column, mixture.test_split_size, training.seed)
    return Examples(train, test)


def _evaluates(arguments: SFTArguments) -> bool:
    return bool(arguments.training.eval_strategy != "no" or arguments.training.eval_on_start)


def _preparation(arguments: SFTArguments, conversational: bool) -> Callable[[Any, str], Any]:
    """What is done with each data set before it joins the others."""
    training = arguments.training

    def prepare(dataset: Any, name: str) -> Any:
        formatted = format_dataset(
            dataset,
            conversational=conversational,
            kept_columns=[training.source_column or SOURCE_COLUMN],
            text_column=training.dataset_text_field,
        )
        if formatted.skipped:
            logger.warning(
                "%s: left out %d of %d records: empty in %s",
                name,
                formatted.skipped,
                len(dataset),
                formatted.layout.name,
            )
        return formatted.dataset

    return prepare


def _load_splits(arguments: SFTArguments, prepare: Callable[[Any, str], Any]) -> Examples:
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
    has_test = _evaluates(arguments) and script.dataset_test_split in splits
    return Examples(train, finish(script.dataset_test_split, required=False) if has_test else None)


def _hold_out(train: Any, column: str, size: float | None, seed: int) -> Examples:
    """Part of the training data to evaluate on, from every source its share."""
    if not isinstance(train, Dataset):
        raise ValueError("nothing can be held out of a stream: it needs a dataset_test_split")
    note = "" if size else " (no test split; test_split_size sets how many)"
    size = size or min(HELD_OUT_SHARE, MOST_HELD_OUT / len(train))
    split = split_held_out(train, column, size, seed)
    logger.info(
        "held out %d of %d examples for evaluation, from every source its share%s",
        len(split.held_out),
        len(train),
        note,
    )
    return Examples(split.train, split.held_out)


def _log_sources(train: Dataset, column: str) -> None:
    counts = source_counts(train, column)
    shown = [f"{source} {count}" for source, count in counts.items()][:_SHOWN_SOURCES]
    more = ", ..." if len(counts) > _SHOWN_SOURCES else ""
    sources = "1 source" if len(counts) == 1 else f"{len(counts)} sources"
    logger.info("%d examples of %s: %s%s", len(train), sources, ", ".join(shown), more)
