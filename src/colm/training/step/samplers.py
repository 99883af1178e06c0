"""Samplers that draw candidates by their sources: every source equally often, more or less.

SSM draws an example with a probability inversely proportional to the size of its source; here with
replacement, which the paper leaves open. UniMax draws are as even over sources, but bound how often
an example comes again, and go through a source's examples in turn. An epoch is as many draws as
there are examples either way. Symbols: N examples in the data set, Q its sources.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from colm.coreset.mixture import inverse_size_weights, unimax_draws
from colm.randomness import keyed_generator
from colm.training.step.source_columns import source_of_each_example

#: Training goes on to learn from an example about as often.  Paper: Muennighoff et al. 2023,
#: "Scaling Data-Constrained Language Models".
MOST_REPEATS = 4


class SourceSampler(Sampler[int], ABC):
    """Draws examples by their sources; what is drawn depends on ``seed`` and the epoch alone.

    So every process draws the same, and so does a resumed run.

    Args:
        sources: name of each example's source, N of them.
        seed: of the run's data.

    Raises:
        ValueError: there are no examples.
    """

    def __init__(self, sources: Sequence[str], seed: int) -> None:
        if len(sources) == 0:
            raise ValueError("There are no examples to draw from.")
        self._number = len(sources)
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        """Return N, the draws of an epoch."""
        return self._number

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self._epoch = epoch

    @abstractmethod
    def __iter__(self) -> Iterator[int]:
        """Draw the examples of the epoch."""


class InverseSizeSampler(SourceSampler):
    """Draws examples so that every source is drawn equally often, and its examples uniformly.

    Holds N float64.  Paper: SSM (v1), Alg. 1.

    Example:
        >>> sampler = InverseSizeSampler(["web"] * 998 + ["books"] * 2, seed=0)
        >>> 400 < sum(row >= 998 for row in sampler) < 600
        True
    """

    def __init__(self, sources: Sequence[str], seed: int) -> None:
        super().__init__(sources, seed)
        # Searched instead of torch.multinomial, which takes 2^24 examples at most.
        self._cumulative = inverse_size_weights(sources).double().cumsum(0)

    def __iter__(self) -> Iterator[int]:
        """Draw the examples of the epoch."""
        generator = keyed_generator(self._seed, self._epoch, "candidates")
        places = torch.rand(len(self), generator=generator, dtype=torch.float64)
        rows = torch.searchsorted(self._cumulative, places * self._cumulative[-1], right=True)
        # Rounding may put a place at the very end.
        yield from rows.clamp(max=len(self) - 1).tolist()


class UniMaxSampler(SourceSampler):
    """Draws every source equally often, as far as that repeats no example too often.

    The draws of a source are spread evenly over the epoch, at a random place within each of as many
    equal parts, so that batches hold nearly the same of each; and go through its examples in a
    random order, all of them before any comes again.

    Args:
        sources: name of each example's source, N of them.
        seed: of the run's data.
        draws: candidates of the whole run, which decides what is too often.
        most_repeats: draws of an example in the run, on average over its source.

    Example:
        >>> sampler = UniMaxSampler(["web"] * 900 + ["books"] * 100, seed=0, draws=200)
        >>> rows = list(sampler)[:200]
        >>> 98 <= sum(row >= 900 for row in rows) <= 102, len(set(rows))
        (True, 200)
    """

    def __init__(
        self,
        sources: Sequence[str],
        seed: int,
        draws: int,
        most_repeats: float = MOST_REPEATS,
    ) -> None:
        super().__init__(sources, seed)
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(sources):
            rows.setdefault(name, []).append(row)
        self._rows = {name: torch.tensor(rows[name]) for name in sorted(rows)}
        sizes = {name: len(own) for name, own in self._rows.items()}
        shares = unimax_draws(sizes, draws, most_repeats)
        self._draws = _rounded(
            {name: share * len(sources) / draws for name, share in shares.items()}
        )

    def __iter__(self) -> Iterator[int]:
        """Draw the examples of the epoch."""
        times, rows = [], []
        for name, count in self._draws.items():
            generator = keyed_generator(self._seed, self._epoch, name, "times")
            within = torch.rand(count, generator=generator, dtype=torch.float64)
            times.append((torch.arange(count) + within) / max(1, count))
            rows.append(self._rows_of(name, self._epoch * count, count))
        yield from torch.cat(rows)[torch.cat(times).argsort()].tolist()

    def _rows_of(self, name: str, start: int, count: int) -> torch.Tensor:
        """The rows of a source's draws from ``start`` on, over however many passes."""
        own = self._rows[name]
        passes = range(start // len(own), math.ceil((start + count) / len(own)))
        orders = [
            own[torch.randperm(len(own), generator=keyed_generator(self._seed, number, name))]
            for number in passes
        ]
        first = start % len(own)
        return torch.cat([*orders, own[:0]])[first : first + count]


def _rounded(shares: dict[str, float]) -> dict[str, int]:
    """Whole numbers next to the shares, of the same sum; ties go to the first."""
    whole = {name: math.floor(share) for name, share in shares.items()}
    by_rest = sorted(shares, key=lambda name: whole[name] - shares[name])
    for name in by_rest[: round(sum(shares.values())) - sum(whole.values())]:
        whole[name] += 1
    return whole


def make_sampler(dataset: Any, source_column: str, args: Any, draws: int) -> SourceSampler:
    """Return the sampler that draws by source, as ``args.candidate_sampling`` says.

    Args:
        dataset: with a length and the source column.
        source_column: its name.
        args: the options, whose ``data_seed``, or else ``seed``, decides the draws.
        draws: candidates of the whole run, in all processes.
    """
    seed = args.seed if args.data_seed is None else args.data_seed
    sources = source_of_each_example(dataset, source_column)
    if args.candidate_sampling == "unimax":
        return UniMaxSampler(sources, seed, draws)
    return InverseSizeSampler(sources, seed)
