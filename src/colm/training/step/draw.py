"""What a step draws: how many candidates of how many, and the examples in its pools.

The options ask for n = ``candidate_ratio`` * r. Where the data has fewer for each micro-batch of a
step, it is all of them that are drawn, and r is kept all the same: otherwise a large ratio on small
data would train on next to nothing. Symbols: n candidates and r kept of a step, N examples.
"""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from colm.coreset.coreset_selector import ONE_SOURCE
from colm.data import source_of
from colm.training.example import Example

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DrawnCandidates:
    """The candidates of a step in this process, in the order drawn.

    Attributes:
        examples: raw, without the column that names their source.
        sources: the name of each one's source.
    """

    examples: list[Example]
    sources: list[str]


def drawn_candidates(
    pools: Iterable[Iterable[Example]], source_column: str | None, feature: Any = None
) -> DrawnCandidates:
    """Return the candidates of a step.

    Args:
        pools: raw examples, as the data set has them.
        source_column: that names the source; all are of one source without it.
        feature: type of the column, ``None`` where it is not known.

    Raises:
        ValueError: an example has no source.

    Example:
        >>> drawn_candidates([[{"input_ids": [1], "source": 3}]], "source")
        DrawnCandidates(examples=[{'input_ids': [1]}], sources=['3'])
    """
    raw = [example for pool in pools for example in pool]
    if source_column is None:
        return DrawnCandidates([dict(each) for each in raw], [ONE_SOURCE] * len(raw))
    names = [source_of(each.get(source_column), source_column, feature) for each in raw]
    return DrawnCandidates(without_source(raw, source_column), names)


def source_feature(source_column: str | None, *datasets: Any) -> Any:
    """Return the type of the source column by the first data set that tells, else ``None``."""
    for dataset in datasets:
        features = getattr(dataset, "features", None)
        if features and source_column in features:
            return features[source_column]
    return None


def without_source(examples: Sequence[Example], source_column: str | None) -> list[Example]:
    """Return examples as the model's collator takes them."""
    return [
        {key: value for key, value in example.items() if key != source_column}
        for example in examples
    ]


@dataclass(frozen=True)
class PoolSize:
    """Candidates and kept examples of each micro-batch.

    Attributes:
        asked: candidates as the options have it.
        candidates: as the data allows it, no fewer than `kept`.
        kept: ``per_device_train_batch_size``.
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
            pools: that they came in; as many micro-batches are made of what is kept.

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
        kept: of a pool.
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


def pools_at_once(accelerator: Any) -> int:
    """Return how many pools all processes draw at once: one of each, or one that is split."""
    return 1 if accelerator.split_batches else int(accelerator.num_processes)


def pool_size_of(trainer: Any) -> PoolSize:
    """Return the size of a trainer's pools, with the data that it has now."""
    args = trainer.args
    return find_pool_size(
        trainer._train_batch_size,
        args.candidate_ratio,
        args.gradient_accumulation_steps * pools_at_once(trainer.accelerator),
        length_of(trainer.train_dataset),
        args.dataloader_drop_last,
    )


def candidates_of_step(trainer: Any) -> int:
    """Return the candidates of a step, in all processes; less at the end of an epoch."""
    pools = trainer.args.gradient_accumulation_steps * pools_at_once(trainer.accelerator)
    return int(pools) * pool_size_of(trainer).candidates


def candidates_in_all(trainer: Any) -> int:
    """Return the candidates of a trainer's whole run, in all processes.

    A trainer that does not know when it will end says of how many its draws are to be a part.
    """
    args, planned = trainer.args, trainer.planned_candidates
    if planned is not None:
        return int(planned)
    if args.max_steps <= 0:
        return math.ceil(float(args.num_train_epochs) * len(trainer.train_dataset))
    return int(args.max_steps) * candidates_of_step(trainer)


def check_draws_by_number(option: str, args: Any, dataset: Any, *, instead: str) -> None:
    """Refuse what draws examples by their number where that cannot be, or is decided otherwise.

    Args:
        option: that draws so, with its value.
        args: the options.
        dataset: the training data.
        instead: what does without it.

    Raises:
        ValueError: streamed data, or a strategy of the plain trainer that draws in another way.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise ValueError(
            f"{option} draws examples by their number, which streamed data does not allow: load "
            f"the data whole, or set {instead}."
        )
    strategy = getattr(args, "train_sampling_strategy", "random")
    if strategy != "random":
        raise ValueError(
            f"{option} and train_sampling_strategy={strategy!r} cannot both say which examples are "
            f"drawn: set {instead} or train_sampling_strategy='random'."
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
    processes = pools_at_once(trainer.accelerator)
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


def set_sampler_epoch(loader: DataLoader[Any] | None, epoch: int) -> None:
    """Tell the sampler of a loader its epoch, through whatever wraps it.

    Where several processes resume in the middle of an epoch, the trainer wraps the batches once
    more, and accelerate no longer reaches the sampler, which then would draw the first epoch again.

    Args:
        loader: the training loader; nothing happens without one, or without a sampler of epochs.
        epoch: counted from 0.
    """
    batches = getattr(loader, "batch_sampler", None)
    while batches is not None and not hasattr(batches, "sampler"):
        batches = getattr(batches, "batch_sampler", None)
    sampler: Any = getattr(batches, "sampler", None)
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)
