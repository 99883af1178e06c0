"""Turn the column layouts people have into the ones that TRL's ``SFTTrainer`` takes.

Instruction and output (and pairs under other names) become prompt and completion, so that only the
answer is trained on: a conversation where the tokenizer has a chat template, else plain text as in
``colm.data.prompts``; so do the labelled records of SuperGLUE. ShareGPT conversations become
messages. What TRL takes already stays, but for a ``system`` column, which goes before it.
Records that hold nothing to learn are left out and counted, columns that are not used are named.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa
from datasets import Dataset, Features, IterableDataset

from colm.data.conversations import SHARE_GPT_KEYS
from colm.data.conversions import AnyDataset, Conversion, Row, layout_conversion
from colm.data.exact_json import arrow_table, exact_features
from colm.data.layouts import MESSAGES, SHARE_GPT, Layout, find_layout
from colm.data.values import short_numbers

__all__ = ["AnyDataset", "Formatted", "Row", "format_dataset"]


class Formatted(NamedTuple):
    """A data set that TRL takes, and what became of the one that it was made of.

    Attributes:
        dataset: Data set in a layout of TRL's.
        layout: The layout that it had.
        skipped: How many of its records were left out.
        remarks: What else its owner should know, a line each: columns that are not used.
    """

    dataset: AnyDataset
    layout: Layout
    skipped: int
    remarks: tuple[str, ...] = ()


def format_dataset(
    dataset: AnyDataset,
    *,
    conversational: bool,
    kept_columns: Iterable[str] = (),
    text_column: str = "text",
) -> Formatted:
    r"""Bring a data set into a layout that ``SFTTrainer`` takes, and drop what it has no use for.

    Args:
        dataset: Data set in one of ``colm.data.layouts.LAYOUTS``.
        conversational: Whether the tokenizer has a chat template.
        kept_columns: Further columns to carry along, such as the source.
        text_column: Column of plain text (TRL's ``dataset_text_field``).

    Returns:
        The data set with columns ``prompt`` and ``completion``, ``messages``, the text column or
        token ids, plus those asked for; how many records were empty, and which columns are not
        used. In a stream records are left out too, but not counted.

    Raises:
        ValueError: Unknown columns, messages without a chat template, a value of the wrong kind
            (with the number of its record), or no record that holds anything.

    Example:
        >>> rows = Dataset.from_dict({"question": ["2 + 2?", "3 + 3?"], "answer": [4, None]})
        >>> formatted = format_dataset(rows, conversational=False)
        >>> formatted.dataset[0], formatted.skipped
        ({'prompt': '### Instruction:\n2 + 2?\n\n### Response:\n', 'completion': '4'}, 1)
    """
    dataset = _with_exact_json(dataset)
    columns = _columns(dataset)
    layout = find_layout(columns, text_column)
    conversion = layout_conversion(layout, dataset, columns, conversational)
    kept = {column: columns[column] for column in kept_columns if column in columns}
    read = [column for column in columns if column in {*conversion.reads, *kept}]
    remarks = _remarks(dataset, layout, conversion, [c for c in columns if c not in read])
    if isinstance(dataset, Dataset):
        dataset = dataset.select_columns(read)
    converted = _convert(dataset, conversion, kept, columns)
    if isinstance(dataset, IterableDataset):
        return Formatted(converted, layout, 0, remarks)
    if not len(converted):
        raise ValueError(f"each of the {len(dataset)} records is empty in {layout.name}")
    return Formatted(converted, layout, len(dataset) - len(converted), remarks)


def _with_exact_json(dataset: AnyDataset) -> AnyDataset:
    """The data set with JSON read as it stands there; a stream is read by ``datasets``."""
    if not isinstance(dataset, Dataset) or exact_features(dataset.features) == dataset.features:
        return dataset
    return dataset.cast(exact_features(dataset.features))


def _columns(dataset: AnyDataset) -> Features:
    """Column types of a data set; those of a stream may only be known from its first record."""
    if dataset.features is not None:
        return dataset.features
    return Features.from_arrow_schema(pa.Table.from_pylist([next(iter(dataset))]).schema)


def _remarks(
    dataset: AnyDataset, layout: Layout, conversion: Conversion, unused: list[str]
) -> tuple[str, ...]:
    """What is not used of a data set, or not everywhere."""
    remarks = [f"not used: column{'s' if unused[1:] else ''} {', '.join(unused)}"] if unused else []
    if "system" in conversion.reads and layout in (MESSAGES, SHARE_GPT):
        remarks.append("column system goes before conversations that have no system message")
    if layout == SHARE_GPT and isinstance(dataset, Dataset):
        keys = _other_keys(dataset)
        if keys:
            remarks.append(f"not used: {', '.join(keys)} of messages")
    return tuple(remarks)


def _other_keys(dataset: Dataset) -> list[str]:
    """Keys of ShareGPT messages, beside those that are read, that anything stands under."""
    keys: dict[str, None] = {}
    for batch in dataset.select_columns("conversations").iter(1000):
        for message in (m for c in batch["conversations"] if isinstance(c, list) for m in c):
            if isinstance(message, Mapping) and message.get("from"):
                keys.update((k, None) for k, v in message.items() if v is not None)
    return [key for key in keys if key not in SHARE_GPT_KEYS]


def _convert(
    dataset: AnyDataset, conversion: Conversion, kept: Mapping[str, Any], columns: Features
) -> AnyDataset:
    """Every record that holds something, converted; a stream is encoded when it is read."""
    features = Features({**conversion.features, **kept})
    shorten = short_numbers(columns)
    stores = isinstance(dataset, Dataset)

    def convert_batch(batch: Mapping[str, list[Any]], indices: list[int]) -> Any:
        rows = list(_convert_rows(batch, indices, conversion, tuple(kept), shorten))
        made = {column: [row[column] for row in rows] for column in features}
        return arrow_table(features, made) if stores else made

    return dataset.map(
        convert_batch,
        batched=True,
        with_indices=True,
        remove_columns=list(dataset.column_names or columns),
        features=features,
    )


def _convert_rows(
    batch: Mapping[str, list[Any]],
    indices: Iterable[int],
    conversion: Conversion,
    kept: tuple[str, ...],
    shorten: Callable[[Mapping[str, Any]], Row],
) -> Iterator[Row]:
    """The records of a batch that hold something, converted; errors name the record, from 1."""
    for index, *values in zip(indices, *batch.values(), strict=True):
        row = shorten(dict(zip(batch, values, strict=True)))
        try:
            converted = conversion.convert(row)
        except ValueError as error:
            raise ValueError(f"record {index + 1}: {error}") from error
        if converted is not None:
            yield {**converted, **{column: row[column] for column in kept}}
