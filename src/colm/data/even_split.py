"""A held-out part that stands for every source alike, however small the source is."""

from collections import defaultdict

import numpy as np
from datasets import Dataset

from colm.data.sources import SOURCE_COLUMN, Split

#: No source gives more than this share of its records.
MOST_HELD_OUT = 0.2


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
        share = min(per_source, max(int(count * MOST_HELD_OUT), 1), count - 1)
        held_out.update(generator.permutation(rows[source])[:share].tolist())
    if not held_out:
        raise ValueError("nothing can be held out: no source has two records.")
    train = [row for row in range(len(dataset)) if row not in held_out]
    return Split(dataset.select(train), dataset.select(sorted(held_out)))
