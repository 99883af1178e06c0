"""How many candidates a micro-batch is chosen from, and how many of them are kept.

The options ask for n = ``candidate_ratio`` * r. Where the data has fewer for each micro-batch of a
step, it is all of them that are drawn, and r is kept all the same: otherwise a large ratio on small
data would train on next to nothing. Symbols: n candidates and r kept of a micro-batch, N examples.
"""

import logging
import math
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PoolSize:
    """Candidates and kept examples of each micro-batch.

    Attributes:
        asked: n as the options have it.
        candidates: n as the data allows it, r at least.
        kept: r.
        share: of the candidates of a step that are kept, as far as they are no more than r.
    """

    asked: int
    candidates: int
    kept: int
    share: float

    def budget(self, examples: int, pools: int) -> int:
        """Return how many examples to keep.

        Args:
            examples: candidates of a step, fewer at the end of an epoch.
            pools: that they came in, each of which becomes a micro-batch.

        Returns:
            The same share as ever, but one for each micro-batch at least, and r at most.

        Example:
            >>> find_pool_size(4, 1000, 2, 100).budget(examples=100, pools=2)
            8
        """
        return min(self.kept * pools, max(pools, round(examples * self.share)))


def find_pool_size(
    kept: int, ratio: float, micro_batches: int, examples: int | None, drop_last: bool = False
) -> PoolSize:
    """Return the size of a pool of candidates.

    Args:
        kept: r.
        ratio: n / r, as asked for.
        micro_batches: of a step, in all processes that share the examples.
        examples: N, ``None`` where nobody knows.
        drop_last: whether an incomplete pool is left out.

    Returns:
        As asked for, unless a step would take more than there is.

    Example:
        >>> find_pool_size(4, 1000, 1, 128).candidates, find_pool_size(4, 2, 1, 128).candidates
        (128, 8)
    """
    asked = round(kept * ratio)
    if examples is None:
        # A pool that is short is the end of the data: there is no epoch to take a share of.
        return PoolSize(asked, asked, kept, 1.0)
    there = examples // micro_batches if drop_last else examples / micro_batches
    drawn = min(asked, max(kept, there))
    return PoolSize(asked, math.ceil(drawn), kept, kept / drawn if drawn else 1.0)


def pool_size_of(trainer: Any) -> PoolSize:
    """Return the size of a trainer's pools, with the data that it has now."""
    args, accelerator = trainer.args, trainer.accelerator
    # Batches that are split are those of all processes.
    processes = 1 if accelerator.split_batches else accelerator.num_processes
    return find_pool_size(
        trainer._train_batch_size,
        args.candidate_ratio,
        args.gradient_accumulation_steps * processes,
        length_of(trainer.train_dataset),
        args.dataloader_drop_last,
    )


def length_of(dataset: Any) -> int | None:
    """Return the number of examples, ``None`` where the data set does not tell."""
    try:
        return len(dataset)
    except (TypeError, NotImplementedError, AttributeError):
        return None


def check_pool(trainer: Any) -> None:
    """Refuse data of which no batch is ever full enough, and say where fewer are drawn than asked.

    Args:
        trainer: built, not yet trained.

    Raises:
        ValueError: incomplete batches are dropped, and there would be no others.
    """
    args, examples = trainer.args, length_of(trainer.train_dataset)
    if examples is None:
        return
    size = pool_size_of(trainer)
    processes = 1 if trainer.accelerator.split_batches else trainer.accelerator.num_processes
    if args.dataloader_drop_last and examples < size.candidates * processes:
        raise ValueError(
            f"dataloader_drop_last=True drops all of the {examples} training examples, which make "
            f"no batch of {size.candidates} for {_counted(processes, 'process', 'es')}: set it to "
            "False, or per_device_train_batch_size lower."
        )
    if args.candidate_ratio > 1 and size.candidates < size.asked:
        batches = processes * args.gradient_accumulation_steps
        logger.warning(
            "candidate_ratio=%s asks for %d candidates a step, and there are %d training examples: "
            "all of them are drawn, and up to %d kept.",
            args.candidate_ratio,
            size.asked * batches,
            examples,
            min(examples, size.kept * batches),
        )


def _counted(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{plural if number != 1 else ''}"
