"""How many tokens a forward pass of the selection may have: fewer once memory has run out.

A look goes back through a part of the layers, so it may have more tokens than a micro-batch of
training without moving the peak of memory. Whether still more fit is known only when they are
tried, and what else lies in memory changes as training goes on. A chunk of candidates that does not
fit can be looked at in two: it costs time, not the run.
"""

import gc
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from colm.coreset.observed import Observed
from colm.gradients import block_gradients
from colm.training.step.arrange import length_sorted_chunks

# Enough to keep an accelerator busy.
_MOST_TOKENS = 8192
# How much more training keeps of a token where it does not compute layers twice, or somewhat less.
_TIMES_WITHOUT_CHECKPOINTS = 5
# What allocators that raise a plain RuntimeError say: of CPUs, of cuBLAS, of Apple's accelerator.
_SIGNS = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")

logger = logging.getLogger(__name__)


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

    def look(
        self, lengths: Sequence[int], look_at: Callable[[list[int]], Observed]
    ) -> tuple[list[int], list[Observed]]:
        """Look at examples in chunks of like length, as large as memory allows.

        Args:
            lengths: tokens of each example.
            look_at: takes the indices of a chunk; it may be called again with a part of them.

        Returns:
            The examples in the order looked at, and what was seen of each chunk.

        Raises:
            torch.OutOfMemoryError: a single example does not fit.
        """
        order: list[int] = []
        seen: list[Observed] = []
        waiting = length_sorted_chunks(lengths, self.tokens(lengths))[::-1]
        while waiting:
            chunk = waiting.pop()
            part = self._try(chunk, lengths, look_at)
            if part is not None:
                seen.append(part)
                order += chunk
                continue
            self._halve(len(chunk) * max(lengths[index] for index in chunk))
            left = [index for each in [chunk, *reversed(waiting)] for index in each]
            smaller = length_sorted_chunks([lengths[index] for index in left], self.most_tokens)
            waiting = [[left[place] for place in places] for places in reversed(smaller)]
        return order, seen

    def _try(
        self, chunk: list[int], lengths: Sequence[int], look_at: Callable[[list[int]], Observed]
    ) -> Observed | None:
        """What is seen of a chunk; ``None`` where it does not fit into memory."""
        try:
            return look_at(chunk)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            tokens = max(lengths[index] for index in chunk)
            if len(chunk) == 1:
                raise torch.OutOfMemoryError(
                    f"Selection cannot look at a single example of {tokens} tokens; a smaller "
                    f"selection_tokens (now {self.most_tokens}) does not help, a smaller max_length"
                    f" does: {error}"
                ) from error
            if not self.recovers:
                raise torch.OutOfMemoryError(
                    f"Selection cannot look at {len(chunk)} examples of up to {tokens} tokens, and "
                    "processes that share one model cannot go on by themselves: set "
                    f"selection_tokens below {len(chunk) * tokens}: {error}"
                ) from error
        # The error is gone, and with it the tensors that its frames held.
        gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()
        return None

    def _halve(self, tokens: int) -> None:
        """Halve the limit, or what did not fit where that is less."""
        before, self.most_tokens = self.most_tokens, max(1, min(self.most_tokens, tokens) // 2)
        logger.warning(
            "out of memory looking at %d tokens: going on with selection_tokens %d instead of %d",
            tokens,
            self.most_tokens,
            before,
        )


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
