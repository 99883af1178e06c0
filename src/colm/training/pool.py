"""The candidates of a step as they pass through the data loader: raw, and opaque to it.

Accelerate moves whatever it recognises to the device, element by element; a pool is no tensor, list
or mapping, so it passes untouched. Symbols: n candidates, r kept.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from colm.training.runs import cheapest_runs

Example = dict[str, Any]
IGNORED_LABEL = -100
#: Where a kept example has its weight in the loss, from the selection to the collator.
WEIGHT_KEY = "colm_weight"
# What a forward pass costs beyond its tokens, in tokens. Launching a model's kernels one by one
# takes an accelerator as long as computing thousands of tokens; a CPU hardly notices.
CALL_TOKENS_ACCELERATOR = 2048
CALL_TOKENS_CPU = 128


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


def whole_numbers(values: Any) -> list[int]:
    """Return token ids or labels as a list, whatever a data set holds them in; none of ``None``."""
    if values is None:
        return []
    # Arrays and tensors, of any library and on any device, are slow to go through one by one.
    return [int(value) for value in (values.tolist() if hasattr(values, "tolist") else values)]


def label_token_count(example: Example) -> int:
    """Return how many tokens of an example are predicted: labels not ignored, but the first."""
    labels = example.get("labels")
    if labels is None:
        return max(0, token_count(example) - 1)
    return sum(label != IGNORED_LABEL for label in whole_numbers(labels)[1:])


def without_labels(example: Example) -> Example:
    """Return an example that adds nothing to the loss: it fills a micro-batch left empty."""
    return {**example, "labels": filled_like(example["input_ids"], IGNORED_LABEL)}


def filled_like(tokens: Any, number: int) -> Any:
    """Return as many tokens, all of one number, in what collators find the others in.

    Example:
        >>> filled_like(torch.tensor([5, 6]), 1)
        tensor([1, 1])
        >>> filled_like([5, 6], 1)
        [1, 1]
    """
    if isinstance(tokens, Tensor):
        return torch.full_like(tokens, number, dtype=torch.int64)
    if isinstance(tokens, np.ndarray):
        return np.full_like(tokens, number, dtype=np.int64)
    return [number] * len(tokens)


def length_sorted_chunks(
    lengths: Sequence[int], most_tokens: int, call_tokens: int | None = None
) -> list[list[int]]:
    """Group examples of similar length so that a padded chunk has at most ``most_tokens`` tokens.

    What a chunk costs beyond its tokens is weighed against padding. Longest first, so that memory
    peaks early; an example longer than the bound is a chunk of its own.

    Args:
        lengths: tokens of each example.
        most_tokens: bound on rows x longest row of a chunk.
        call_tokens: what another forward pass costs, in tokens; by default what it costs on an
            accelerator where there is one, else on a CPU.

    Returns:
        Chunks of indices; each index once.

    Example:
        >>> length_sorted_chunks([3, 9, 4, 8], 18, call_tokens=2)
        [[1, 3], [2, 0]]
    """
    if call_tokens is None:
        on_accelerator = torch.accelerator.is_available()
        call_tokens = CALL_TOKENS_ACCELERATOR if on_accelerator else CALL_TOKENS_CPU
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    runs = cheapest_runs([lengths[i] for i in order], most_tokens, call_tokens)
    return [order[run] for run in runs]


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
