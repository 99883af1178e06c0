"""Where the sources of a trainer's examples come from: a column, and how often each stands there.

Symbols: N examples in the data set.
"""

from collections.abc import Mapping
from typing import Any

from datasets import Dataset

from colm.data import SOURCE_COLUMN, source_counts


def resolve_source_column(name: str | None, dataset: Any) -> str | None:
    """Return the column that names the source: the one asked for, or 'source' where there is one.

    Raises:
        ValueError: the column asked for is missing; the message says which there are.
    """
    columns = column_names(dataset)
    if name is None:
        return SOURCE_COLUMN if SOURCE_COLUMN in columns else None
    if name not in columns:
        raise ValueError(
            f"source_column {name!r} is not in the training data; its columns are "
            f"{', '.join(columns) or 'none'}."
        )
    return name


def source_sizes(dataset: Any, source_column: str | None) -> dict[str, int] | None:
    """Count the examples of each source; ``None`` where the data set cannot be counted."""
    if source_column is None or not isinstance(dataset, Dataset):
        return None
    return source_counts(dataset, source_column)


def source_of_each_example(dataset: Any, source_column: str) -> list[str]:
    """Return the names of the sources of the N examples of a data set that has a length."""
    if isinstance(dataset, Dataset):
        return [str(name) for name in dataset[source_column]]
    return [str(dataset[row][source_column]) for row in range(len(dataset))]


def column_names(dataset: Any) -> list[str]:
    """Columns of a data set, or the keys of its first example where it does not list them."""
    names = getattr(dataset, "column_names", None)
    if names is not None:
        return list(names)
    first = next(iter(dataset), None) if dataset is not None else None
    return list(first) if isinstance(first, Mapping) else []
