"""The column that names the source of each training example, and what hangs on it.

What stands there may be text, numbers or class labels; from here on a source is a name.
"""

import logging
from collections.abc import Mapping
from typing import Any

from datasets import Dataset

from colm.coreset.mixture import SMALL_SOURCES_NONE
from colm.data import SOURCE_COLUMN, source_counts, source_of, source_values

logger = logging.getLogger(__name__)


def goes_by_source(args: Any) -> bool:
    """Whether a run has to know the sources of its examples, or names their column.

    The plain trainer's runs do not, and take whatever stands in a column of that name.
    """
    named: bool = args.source_column is not None
    return named or args.candidate_ratio > 1 or args.candidate_sampling != "uniform"


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


def readable_source_column(dataset: Any) -> str | None:
    """Return the column 'source' where each example's source can be read from it.

    For runs that train the same without one: whatever stands there is no error.
    """
    if not isinstance(dataset, Dataset) or SOURCE_COLUMN not in dataset.column_names:
        return None
    try:
        source_counts(dataset, SOURCE_COLUMN)
    except ValueError:
        return None
    return SOURCE_COLUMN


def report_lack_of_sources(
    args: Any, dataset: Any, source_column: str | None, sizes: Mapping[str, int] | None
) -> None:
    """Warn where options draw or keep by source, and there is nothing to tell sources by.

    Args:
        args: the options.
        dataset: the training data, as it was passed.
        source_column: that names the sources, if any does.
        sizes: of the sources, ``None`` where they are not known.
    """
    options = _options_by_source(args)
    if (source_column is not None and (sizes is None or len(sizes) > 1)) or not options:
        return
    columns = ", ".join(column_names(dataset)) or "none"
    if getattr(args, "packing", False):
        why = "packing=True joins examples of all sources"
    elif source_column is None:
        why = f"the training data has no column {SOURCE_COLUMN!r}"
    else:
        why = f"column {source_column!r} has one source only"
    logger.warning(
        "%s %s by source, and %s: all examples count as one source. Where another column names "
        "the sources, set source_column to it; the columns are %s.",
        " and ".join(options),
        "goes" if len(options) == 1 else "go",
        why,
        columns,
    )


def _options_by_source(args: Any) -> list[str]:
    """The options in effect that draw or keep by source, with their values."""
    found = []
    if args.candidate_sampling != "uniform":
        found.append(f"candidate_sampling={args.candidate_sampling!r}")
    if args.candidate_ratio > 1 and args.small_sources != [SMALL_SOURCES_NONE]:
        found.append(f"small_sources={','.join(args.small_sources)}")
    return found


def source_sizes(dataset: Any, source_column: str | None) -> dict[str, int] | None:
    """Count the examples of each source; ``None`` where the data set cannot be counted."""
    if source_column is None or not isinstance(dataset, Dataset):
        return None
    return source_counts(dataset, source_column)


def source_of_each_example(dataset: Any, source_column: str) -> list[str]:
    """Return the names of the sources of the N examples of a data set that has a length.

    Raises:
        ValueError: an example has none.
    """
    if isinstance(dataset, Dataset):
        return source_values(dataset, source_column)
    rows = range(len(dataset))
    return [source_of(dataset[row].get(source_column), source_column) for row in rows]


def column_names(dataset: Any) -> list[str]:
    """Columns of a data set, or the keys of its first example where it does not list them."""
    names = getattr(dataset, "column_names", None)
    if names is not None:
        return list(names)
    first = next(iter(dataset), None) if dataset is not None else None
    return list(first) if isinstance(first, Mapping) else []
