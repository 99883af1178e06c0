"""How candidates are drawn from the data set: uniformly, or every source equally often.

SSM draws an example with a probability inversely proportional to the size of its source. Draws are
with replacement, so that small sources can go on being drawn; an epoch is as many draws as there
are examples. Symbols: N examples in the data set, Q its sources.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from colm.coreset.mixture import inverse_size_weights
from colm.coreset.randomness import keyed_generator
from colm.training.sources import source_of_each_example

CANDIDATE_SAMPLINGS = ("uniform", "inverse_source_size")


class InverseSizeSampler(Sampler[int]):
    """Draws examples so that every source is drawn equally often, and its examples uniformly.

    What is drawn depends on ``seed`` and the epoch alone: every process draws the same, and so does
    a resumed run. Holds N float64.  Paper: SSM (v1), Alg. 1.

    Args:
        sources: name of each example's source, N of them.
        seed: of the run's data.

    Raises:
        ValueError: there are no examples.

    Example:
        >>> sampler = InverseSizeSampler(["web"] * 998 + ["books"] * 2, seed=0)
        >>> 400 < sum(row >= 998 for row in sampler) < 600
        True
    """

    def __init__(self, sources: Sequence[str], seed: int) -> None:
        if len(sources) == 0:
            raise ValueError("There are no examples to draw from.")
        # Searched instead of torch.multinomial, which takes 2^24 examples at most.
        self._cumulative = inverse_size_weights(sources).double().cumsum(0)
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        """Return N, the draws of an epoch."""
        return len(self._cumulative)

    def __iter__(self) -> Iterator[int]:
        """Draw the examples of the epoch."""
        generator = keyed_generator(self._seed, self._epoch, "candidates")
        places = torch.rand(len(self), generator=generator, dtype=torch.float64)
        rows = torch.searchsorted(self._cumulative, places * self._cumulative[-1], right=True)
        # Rounding may put a place at the very end.
        yield from rows.clamp(max=len(self) - 1).tolist()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self._epoch = epoch


def make_sampler(dataset: Any, source_column: str, args: Any) -> InverseSizeSampler:
    """Return the sampler that draws the sources of a data set equally often.

    Args:
        dataset: with a length and the source column.
        source_column: its name.
        args: the options, whose ``data_seed``, or else ``seed``, decides the draws.
    """
    seed = args.seed if args.data_seed is None else args.data_seed
    return InverseSizeSampler(source_of_each_example(dataset, source_column), seed)


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
