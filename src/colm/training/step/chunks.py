"""Chunks in which candidates are looked at: of like length, and as large as memory allows.

A look goes back through a part of the layers, so it may have more tokens than a micro-batch of
training without moving the peak of memory. Whether still more fit is known only when they are
tried, and what else lies in memory changes as training goes on. A chunk of candidates that does not
fit can be looked at in two: it costs time, not the run. Symbols: k lengths.
"""

import gc
import logging
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch

from colm.gradients import block_gradients

# Enough to keep an accelerator busy.
_MOST_TOKENS = 8192
# How much more training keeps of a token where it does not compute layers twice, or somewhat less.
_TIMES_WITHOUT_CHECKPOINTS = 5
# What a forward pass costs beyond its tokens, in tokens. Launching a model's kernels one by one
# takes an accelerator as long as computing thousands of tokens; a CPU hardly notices.
CALL_TOKENS_ACCELERATOR = 2048
CALL_TOKENS_CPU = 128
# What allocators that raise a plain RuntimeError say: of CPUs, of cuBLAS, of Apple's accelerator.
_SIGNS = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")

logger = logging.getLogger(__name__)

Made = TypeVar("Made")


def token_limit(args: Any, *, recovers: bool = True) -> "TokenLimit":
    """Return the limit that the options of a trainer ask for."""
    share = block_gradients.DEPTH
    renamed = hasattr(args, "activation_checkpointing")  # By transformers, after 5.17.
    if args.activation_checkpointing if renamed else args.gradient_checkpointing:
        share *= _TIMES_WITHOUT_CHECKPOINTS
    return TokenLimit(args.selection_tokens, args.train_batch_size / share, recovers=recovers)


class TokenLimit:
    """Most tokens of one forward pass; halved, and said so, whenever memory runs out.

    Args:
        most_tokens: padding included; the option `selection_tokens`. ``None``: as many as
            so many of the longest example have, at most 8,192.
        examples: of which a look takes as much memory as a micro-batch of training.
        recovers: whether to go on after an error. Where the model is sharded a process cannot: the
            others already wait for it in the middle of the forward pass that it gave up.
    """

    def __init__(self, most_tokens: int | None, examples: float, *, recovers: bool = True) -> None:
        self._is_given = most_tokens is not None
        self.most_tokens = _MOST_TOKENS if most_tokens is None else most_tokens
        self.examples = examples
        self.recovers = recovers

    def tokens(self, lengths: Sequence[int]) -> int:
        """Return the most tokens of a forward pass over some of these examples."""
        if self._is_given:
            return self.most_tokens
        return min(self.most_tokens, max(1, int(self.examples * max(lengths, default=1))))

    def chunks(self, lengths: Sequence[int]) -> list[list[int]]:
        """Return chunks of examples of like length, those of the longest first, by index."""
        return length_sorted_chunks(lengths, self.tokens(lengths))

    def run(
        self,
        chunks: Sequence[Sequence[int]],
        lengths: Sequence[int],
        call: Callable[[Sequence[int]], Made],
    ) -> list[tuple[Sequence[int], Made]]:
        """Call with each chunk, and with smaller ones from where memory has run out.

        Args:
            chunks: of examples, by index.
            lengths: tokens of each example.
            call: makes something of a chunk.

        Returns:
            The chunks with what was made of them.

        Raises:
            torch.OutOfMemoryError: see `check_recovery`.
        """
        done: list[tuple[Sequence[int], Made]] = []
        waiting = list(chunks)
        while waiting:
            chunk, *others = waiting
            try:
                done.append((chunk, call(chunk)))
                waiting = others
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self.check_recovery([lengths[index] for index in chunk], error)
            # The error is gone, and with it the tensors that its frames held.
            gc.collect()
            if torch.accelerator.is_available():
                torch.accelerator.empty_cache()
            waiting = list(self.smaller(waiting, lengths))
        return done

    def check_recovery(self, lengths: Sequence[int], error: BaseException) -> None:
        """Refuse to go on after a chunk has not fitted into memory, where that is of no use.

        Args:
            lengths: tokens of the chunk's examples.
            error: that looking at them ended with.

        Raises:
            torch.OutOfMemoryError: it is a single example, or other processes wait for this one.
        """
        tokens = max(lengths)
        if len(lengths) == 1:
            raise torch.OutOfMemoryError(
                f"Selection cannot look at a single example of {tokens} tokens; a smaller "
                f"selection_tokens (now {self.most_tokens}) does not help, a smaller max_length"
                f" does: {error}"
            ) from error
        if not self.recovers:
            raise torch.OutOfMemoryError(
                f"Selection cannot look at {len(lengths)} examples of up to {tokens} tokens, and "
                "processes that share one model cannot go on by themselves: set "
                f"selection_tokens below {len(lengths) * tokens}: {error}"
            ) from error

    def smaller(self, chunks: Sequence[Sequence[int]], lengths: Sequence[int]) -> list[list[int]]:
        """Halve the limit, or what did not fit where that is less, and chunk again.

        Args:
            chunks: that are left, by index; the first of them did not fit.
            lengths: tokens of each example.

        Returns:
            The same examples in smaller chunks.
        """
        tokens = len(chunks[0]) * max(lengths[index] for index in chunks[0])
        before, self.most_tokens = self.most_tokens, max(1, min(self.most_tokens, tokens) // 2)
        logger.warning(
            "out of memory looking at %d tokens: going on with selection_tokens %d instead of %d",
            tokens,
            self.most_tokens,
            before,
        )
        left = [index for chunk in chunks for index in chunk]
        again = length_sorted_chunks([lengths[index] for index in left], self.most_tokens)
        return [[left[place] for place in places] for places in again]


def is_out_of_memory(error: BaseException) -> bool:
    """Tell an allocation that failed, on any device, from other errors.

    Example:
        >>> (
        ...     is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory.")),
        ...     is_out_of_memory(RuntimeError("shapes cannot be multiplied")),
        ... )
        (True, False)
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def cheapest_runs(lengths: Sequence[int], most_tokens: int, run_tokens: int) -> list[slice]:
    """Cut into any number of runs of least cost: the tokens of each, and ``run_tokens`` for each.

    Costs O(k m), m being the most rows that a run can have.

    Args:
        lengths: ``[k]`` tokens, descending.
        most_tokens: bound on rows x longest row of a run; a longer row is a run of its own.
        run_tokens: what a run costs beyond its tokens, at least 0.

    Returns:
        The runs in order; none of no lengths.

    Example:
        >>> cheapest_runs([9, 8, 4, 3], 18, run_tokens=2)
        [slice(0, 2, None), slice(2, 4, None)]
    """
    number = len(lengths)
    cost = np.full(number + 1, np.inf)
    cost[0] = 0
    came_from = np.zeros(number + 1, dtype=np.int64)
    for start, longest in enumerate(max(1, length) for length in lengths):
        most_rows = min(number - start, max(1, most_tokens // longest))
        stops = slice(start + 1, start + most_rows + 1)
        through = cost[start] + run_tokens + longest * np.arange(1, most_rows + 1)
        better = through < cost[stops]
        cost[stops][better] = through[better]
        came_from[stops][better] = start
    bounds = [number]
    while bounds[-1] > 0:
        bounds.append(int(came_from[bounds[-1]]))
    return [slice(start, stop) for start, stop in pairwise(bounds[::-1])]


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
