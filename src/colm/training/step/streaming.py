"""Training data that is read as a stream: again and again, and with sources of unknown sizes.

The plain trainer takes a stream whose length nobody knows for one epoch of ``max_steps`` and starts
it anew when it ends. It then trains on the last, incomplete step of a pass together with the first
of the next, and a run resumed after the first pass goes on at the beginning of a pass. So selection
gives it a stream that does not end: passes follow each other, shuffled anew where the data set does
that, and the place to resume from is the number of examples read.
"""

import logging
from collections.abc import Iterator, Sized
from itertools import count
from typing import Any

import datasets
import torch
from torch.utils.data import DataLoader, IterableDataset

from colm.coreset.coreset_selector import SMALL_SOURCES_AUTO
from colm.training.options.selection_arguments import SelectionArguments
from colm.training.step.draw import pools_at_once

logger = logging.getLogger(__name__)


class EndlessStream(IterableDataset[Any]):
    """Pass after pass over a stream; it ends with a pass that has nothing.

    Args:
        dataset: a data set of ``datasets`` or PyTorch that is iterated over.
        num_processes: those that share the passes. Each reads shards of its own where the data set
            is one of ``datasets`` and has enough; else all read everything.
        process_index: this one's place among them.
    """

    def __init__(self, dataset: Any, num_processes: int = 1, process_index: int = 0) -> None:
        shards = getattr(dataset, "num_shards", 0)
        streamed = isinstance(dataset, datasets.IterableDataset)
        self.is_sharded = 1 < num_processes <= shards and streamed
        if self.is_sharded:
            dataset = dataset.shard(num_shards=num_processes, index=process_index)
        self._dataset = dataset
        self._first_pass = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the pass that the next iteration begins with."""
        self._first_pass = epoch

    def __iter__(self) -> Iterator[Any]:
        """Go through the examples, for ever."""
        for number in count(self._first_pass):
            self._prepare(number)
            is_empty = True
            for example in self._dataset:
                is_empty = False
                yield example
            if is_empty:
                return

    def _prepare(self, number: int) -> None:
        """Let the data set shuffle a pass in its own way, as the plain trainer lets it."""
        generator = getattr(self._dataset, "generator", None)
        if hasattr(self._dataset, "set_epoch"):
            self._dataset.set_epoch(number)
        elif isinstance(generator, torch.Generator):
            generator.manual_seed(number)


def as_endless(dataset: Any, accelerator: Any) -> Any:
    """Return a stream without a length as one without an end; other data as it is.

    Args:
        dataset: the training data.
        accelerator: that will make its loader.
    """
    if not isinstance(dataset, IterableDataset) or isinstance(dataset, Sized):
        return dataset
    # Processes that share a pool must read the same.
    return EndlessStream(dataset, pools_at_once(accelerator), accelerator.process_index)


def keep_shards(loader: DataLoader[Any]) -> None:
    """Let a loader pass on all that a process reads of its own shards.

    Accelerate takes what it does not know for the same on all processes, each to use a part of it.
    """
    dealt: Any = loader.dataset
    if getattr(getattr(dealt, "dataset", None), "is_sharded", False):
        dealt.num_processes, dealt.process_index = 1, 0


def report_unknown_sizes(
    args: SelectionArguments, source_column: str | None, sizes: object | None
) -> None:
    """Say by what small sources are known where the data does not tell the sizes of sources.

    Args:
        args: the options.
        source_column: that names the sources, if any does.
        sizes: of the sources, ``None`` where they are not known.
    """
    automatic = args.small_sources == [SMALL_SOURCES_AUTO]
    if args.candidate_ratio > 1 and automatic and source_column is not None and sizes is None:
        logger.warning(
            "small_sources=auto: streamed data does not tell the sizes of its sources, so small "
            "are those with fewer candidates so far than the average source. Name them in "
            "small_sources where that is not what you want."
        )
