"""The source column: which data set each record is from, and a held-out part that is fair to all.

Small-source rules, budgets and metrics of the training side all read this column. It holds text,
and never nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from datasets import ClassLabel, Dataset, Json, LargeList, List, Value

from colm.data.formats import AnyDataset, Row
from colm.source_names import as_source_name, as_source_names, is_missing

#: Column that holds the source where nothing else is asked for.
SOURCE_COLUMN = "source"

_WHAT_TO_DO = "fill it in, remove it, or name another with source_column"
# What `datasets` puts where a class label is not known.
_UNLABELLED = -1


class Split(NamedTuple):
    """Records to train on and records to evaluate on."""

    train: Dataset
    held_out: Dataset


def add_source(
    dataset: AnyDataset,
    column: str,
    name: str,
    *,
    required: bool = False,
    replace: bool = False,
) -> AnyDataset:
    """Return the data set with a source column of text.

    Args:
        dataset: Records of one source, or of several that the column tells apart already.
        column: Name of the source column.
        name: Source of every record, where there is no such column.
        required: Whether the column must be there already.
        replace: Whether ``name`` goes before a column that is there.

    Returns:
        The data set with the column.

    Raises:
        ValueError: The column is required but missing, is not flat, or lacks values.

    Example:
        >>> add_source(Dataset.from_dict({"text": ["a", "b"]}), "source", "letters")[0]
        {'text': 'a', 'source': 'letters'}
    """
    columns = dataset.column_names or list(next(iter(dataset)))
    if column in columns and not replace:
        return _as_text(dataset, column)
    if required:
        raise ValueError(f"no source column '{column}'; the columns are {', '.join(columns)}")
    dataset = dataset.remove_columns(column) if column in columns else dataset
    if isinstance(dataset, Dataset):
        return dataset.add_column(column, [name] * len(dataset), feature=Value("string"))
    return dataset.map(lambda _: {column: name}, features=_with_text(dataset.features, column))


def source_of(value: Any, column: str, feature: Any = None) -> str:
    """Return the name of the source that a cell of the source column holds.

    Every reader of the column goes by this function, so that a source is called the same wherever
    it is read, counted, drawn, named or logged.

    Args:
        value: The cell: text, a number, a class label's number.
        column: Name of the column, for the message.
        feature: Type of the column where it is known: class labels are called by their names.

    Returns:
        The name.

    Raises:
        ValueError: The cell is empty, or holds more than one value.

    Example:
        >>> source_of(1, "kind", ClassLabel(names=["algebra", "logic"]))
        'logic'
    """
    if is_missing(value) or (isinstance(feature, ClassLabel) and value == _UNLABELLED):
        raise ValueError(
            f"source column '{column}' is empty in a record ({value!r}): {_WHAT_TO_DO}"
        )
    try:
        name = as_source_name(value)
        return feature.int2str(int(name)) if isinstance(feature, ClassLabel) else name
    except ValueError as error:
        raise ValueError(f"source column '{column}': {error}") from error


def source_values(dataset: Dataset, column: str = SOURCE_COLUMN) -> list[str]:
    """Return the name of each record's source.

    Args:
        dataset: Data set with a source column, of text, numbers or class labels.
        column: Name of the column.

    Returns:
        A name a record, in order.

    Raises:
        ValueError: There is no such column, it is not flat, or it lacks values.

    Example:
        >>> source_values(Dataset.from_dict({"source": [3, 1, 3]}))
        ['3', '1', '3']
    """
    if column not in dataset.column_names:
        raise ValueError(
            f"no source column '{column}'; the columns are {', '.join(dataset.column_names)}"
        )
    feature = dataset.features[column]
    _check_flat(column, feature)
    # Where records were selected, formats and indices of the data set play a part.
    tables = dataset.select_columns(column).with_format("arrow").iter(batch_size=10_000)
    values = [value for table in tables for value in table[column].to_pylist()]
    if isinstance(feature, Json):  # Values of several types are kept as JSON.
        values = [None if text is None else feature.decode_example(text) for text in values]
    labels = isinstance(feature, ClassLabel)
    missing = sum(is_missing(value) or (labels and value == _UNLABELLED) for value in values)
    if missing:
        raise ValueError(
            f"source column '{column}' is empty in {missing} of {len(values)} records: "
            f"{_WHAT_TO_DO}"
        )
    if labels:
        return [feature.int2str(value) for value in values]
    try:
        return as_source_names(values)
    except ValueError as error:
        raise ValueError(f"source column '{column}': {error}") from error


def source_counts(dataset: Dataset, column: str = SOURCE_COLUMN) -> dict[str, int]:
    """Count the records of each source.

    Args:
        dataset: Data set with a source column.
        column: Name of the column.

    Returns:
        Counts by source, the largest first, equal ones by name.

    Raises:
        ValueError: There is no such column.

    Example:
        >>> source_counts(Dataset.from_dict({"source": ["logic", "algebra", "logic"]}))
        {'logic': 2, 'algebra': 1}
    """
    counts = Counter(source_values(dataset, column))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def split_held_out(
    dataset: Dataset, column: str = SOURCE_COLUMN, size: float = 0.1, seed: int = 0
) -> Split:
    """Hold records out for evaluation, from every source its share.

    A source of two or more records gives at least one and keeps at least one, even where that holds
    out more than asked for; a source of one record is trained on.

    Args:
        dataset: Data set with a source column.
        column: Name of the column.
        size: Share of the records below 1, or a number of records from 1 on.
        seed: Which records they are.

    Returns:
        Both parts, in the order of the data set.

    Raises:
        ValueError: There is no such column, or the size leaves nothing for either part.

    Example:
        >>> rows = Dataset.from_dict({"source": ["a"] * 18 + ["b"] * 2})
        >>> split = split_held_out(rows, size=0.2)
        >>> source_counts(split.train), source_counts(split.held_out)
        ({'a': 15, 'b': 1}, {'a': 3, 'b': 1})
    """
    values = source_values(dataset, column)
    records = (round(size * len(dataset)) if size < 1 else int(size)) if size > 0 else len(dataset)
    rows = defaultdict(list)
    for row, source in enumerate(values):
        rows[source].append(row)
    shares = _held_out_shares({source: len(r) for source, r in rows.items()}, records)
    if records >= len(dataset) or not any(shares.values()):
        raise ValueError(f"cannot hold out {size} of {len(dataset)} records")
    generator = np.random.default_rng(seed)
    held_out = {
        int(row)
        for source in sorted(rows)
        for row in generator.permutation(rows[source])[: shares[source]]
    }
    train = [row for row in range(len(dataset)) if row not in held_out]
    return Split(dataset.select(train), dataset.select(sorted(held_out)))


def _held_out_shares(counts: Mapping[str, int], records: int) -> dict[str, int]:
    """Split a number of records over sources in proportion; at least 1, and 1 is kept."""
    total = sum(counts.values())
    quotas = {source: records * count / total for source, count in counts.items()}
    shares = {s: min(max(int(quotas[s]), 1), count - 1) for s, count in counts.items()}
    by_remainder = sorted(counts, key=lambda s: (shares[s] - quotas[s], s))
    missing = records - sum(shares.values())
    for source in by_remainder:
        if missing > 0 and shares[source] < counts[source] - 1:
            shares[source] += 1
            missing -= 1
    for source in reversed(by_remainder):
        if missing < 0 and shares[source] > 1:
            shares[source] -= 1
            missing += 1
    return shares


def _check_flat(column: str, feature: Any) -> None:
    """Refuse a column that holds lists or records."""
    if isinstance(feature, List | LargeList | dict):
        raise ValueError(f"source column '{column}' must hold one name a record, not {feature}")


def _as_text(dataset: AnyDataset, column: str) -> AnyDataset:
    """The data set with an existing column turned into text."""
    feature = dataset.features[column] if dataset.features else None
    _check_flat(column, feature)
    if isinstance(dataset, Dataset):
        names = source_values(dataset, column)
        if feature == Value("string"):
            return dataset
        return dataset.map(
            lambda _, row: {column: names[row]},
            with_indices=True,
            features=_with_text(dataset.features, column),
        )

    def convert(row: Row) -> Row:
        return {column: source_of(row[column], column, feature)}

    return dataset.map(convert, features=_with_text(dataset.features, column))


def _with_text(features: Any, column: str) -> Any:
    """Column types with one column of text; unknown ones stay unknown."""
    if features is None:
        return None
    features = features.copy()
    features[column] = Value("string")
    return features


#: No source gives more than this share of its records.
MOST_OF_A_SOURCE = 0.2


def split_evenly(
    dataset: Dataset, per_source: int, column: str = SOURCE_COLUMN, seed: int = 0
) -> Split:
    """Hold out as many records of each source, but at most a fifth of it and at least one.

    Losses averaged over sources need this: a split in proportion leaves the smallest sources one
    record each. A source of one record is trained on.

    Args:
        dataset: Data set with a source column.
        per_source: Records to hold out of each source, at least 1.
        column: Name of the column.
        seed: Which records they are.

    Returns:
        Both parts, in the order of the data set.

    Raises:
        ValueError: ``per_source`` is below 1, there is no such column, or every source has one
            record.

    Example:
        >>> split = split_evenly(Dataset.from_dict({"source": ["a"] * 90 + ["b"] * 10}), 3)
        >>> split.held_out["source"][:]
        ['a', 'a', 'a', 'b', 'b']
    """
    if per_source < 1:
        raise ValueError(f"held-out examples a source must be at least 1; got {per_source}.")
    if column not in dataset.column_names:
        raise ValueError(
            f"no source column '{column}'; the columns are {', '.join(dataset.column_names)}"
        )
    rows: dict[str, list[int]] = defaultdict(list)
    for row, source in enumerate(dataset[column]):
        rows[source].append(row)
    generator = np.random.default_rng(seed)
    held_out: set[int] = set()
    for source in sorted(rows):
        count = len(rows[source])
        share = min(per_source, max(int(count * MOST_OF_A_SOURCE), 1), count - 1)
        held_out.update(generator.permutation(rows[source])[:share].tolist())
    if not held_out:
        raise ValueError("nothing can be held out: no source has two records.")
    train = [row for row in range(len(dataset)) if row not in held_out]
    return Split(dataset.select(train), dataset.select(sorted(held_out)))
