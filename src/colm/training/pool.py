"""The candidates of a step as they pass through the data loader: raw, and opaque to it.

Accelerate moves whatever it recognises to the device, element by element; a pool is no tensor, list
or mapping, so it passes untouched. Symbols: n candidates, r kept.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

Example = dict[str, Any]
IGNORED_LABEL = -100
#: Where a kept example has its weight in the loss, from the selection to the collator.
WEIGHT_KEY = "colm_weight"


class Pool:
    """Raw examples of the data set; as a collator, ``Pool`` wraps a list of them and no more."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = tuple(examples)

    def __len__(self) -> int:
        """Return how many examples it holds."""
        return len(self._examples)

    def __iter__(self) -> Iterator[Example]:
        """Go through the examples in the order drawn."""
        return iter(self._examples)


def token_count(example: Example) -> int:
    """Return the number of tokens of an example."""
    return len(example["input_ids"])


def label_token_count(example: Example) -> int:
    """Return how many tokens of an example are predicted: labels not ignored, but the first."""
    labels = example.get("labels")
    if labels is None:
        return max(0, token_count(example) - 1)
    return sum(int(label) != IGNORED_LABEL for label in labels[1:])


def without_labels(example: Example) -> Example:
    """Return an example that adds nothing to the loss: it fills a micro-batch left empty."""
    return {**example, "labels": [IGNORED_LABEL] * token_count(example)}


def length_sorted_chunks(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Group examples of similar length so that a padded chunk has at most ``most_tokens`` tokens.

    Longest first, so that memory peaks at once; an example longer than that is a chunk of its own.

    Args:
        lengths: tokens of each example.
        most_tokens: bound on rows x longest row of a chunk.

    Returns:
        Chunks of indices; each index once.

    Example:
        >>> length_sorted_chunks([3, 9, 4, 8], 18)
        [[1, 3], [2, 0]]
    """
    chunks: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if chunks and (len(chunks[-1]) + 1) * lengths[chunks[-1][0]] <= most_tokens:
            chunks[-1].append(index)
        else:
            chunks.append([index])
    return chunks


def even_parts(items: Sequence[Example], parts: int) -> list[list[Example]]:
    """Split ``items`` into ``parts`` runs whose sizes differ by at most one, none empty.

    Raises:
        ValueError: fewer items than parts.

    Example:
        >>> even_parts(["a", "b", "c"], 2)
        [['a', 'b'], ['c']]
    """
    if len(items) < parts:
        raise ValueError(f"{len(items)} examples cannot fill {parts} micro-batches.")
    size, larger = divmod(len(items), parts)
    bounds = [0]
    for part in range(parts):
        bounds.append(bounds[-1] + size + (part < larger))
    return [list(items[start:stop]) for start, stop in pairwise(bounds)]
