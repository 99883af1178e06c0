"""Samplers that draw candidates by their sources, in other shares than the data have.

SSM draws an example with a probability inversely proportional to the size of its source; here with
replacement, which the paper leaves open. All other draws go through a source's examples in turn, as
often as a plan of shares says (`colm.training.step.shares`). An epoch is as many draws as there are
examples either way. Symbols: N examples in the data set, Q its sources.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from colm.coreset.coreset_selector import ONE_SOURCE
from colm.coreset.mixture import inverse_size_weights
from colm.randomness import keyed_generator
from colm.training.step.shares import DrawPlan, FixedPlan, planned_draws, rows_by_source
from colm.training.step.source_columns import source_of_each_example
from colm.training.step.stored_losses import StoredLossDraws, StoredLosses


class SourceSampler(Sampler[int], ABC):
    """Draws examples by their sources; what is drawn depends on ``seed`` and the epoch alone.

    So every process draws the same, and so does a resumed run.

    Args:
        sizes: examples of each source, N of them in all.
        seed: of the run's data.

    Attributes:
        sizes: as given.

    Raises:
        ValueError: there are no examples.
    """

    def __init__(self, sizes: Mapping[str, int], seed: int) -> None:
        self.sizes = sizes
        self._number = sum(sizes.values())
        if self._number == 0:
            raise ValueError("There are no examples to draw from.")
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        """Return N, the draws of an epoch."""
        return self._number

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self._epoch = epoch

    @property
    def shares(self) -> Mapping[str, float]:
        """Return the share of the draws that each source gets, at the beginning of a run."""
        return dict.fromkeys(self.sizes, 1 / len(self.sizes))

    @abstractmethod
    def __iter__(self) -> Iterator[int]:
        """Draw the examples of the epoch."""


class InverseSizeSampler(SourceSampler):
    """Draws examples so that every source is drawn equally often, and its examples uniformly.

    Holds N float64.  Paper: SSM (v1), Alg. 1.

    Args:
        sources: name of each example's source, N of them.
        seed: of the run's data.

    Example:
        >>> sampler = InverseSizeSampler(["web"] * 998 + ["books"] * 2, seed=0)
        >>> 400 < sum(row >= 998 for row in sampler) < 600
        True
    """

    def __init__(self, sources: Sequence[str], seed: int) -> None:
        super().__init__(Counter(sources), seed)
        # Searched instead of torch.multinomial, which takes 2^24 examples at most.
        self._cumulative = inverse_size_weights(sources).double().cumsum(0)

    def __iter__(self) -> Iterator[int]:
        """Draw the examples of the epoch."""
        generator = keyed_generator(self._seed, self._epoch, "candidates")
        places = torch.rand(len(self), generator=generator, dtype=torch.float64)
        rows = torch.searchsorted(self._cumulative, places * self._cumulative[-1], right=True)
        # Rounding may put a place at the very end.
        yield from rows.clamp(max=len(self) - 1).tolist()


class MixtureSampler(SourceSampler):
    """Draws as many examples of each source as a plan says, each source's in turn.

    The draws of a source are spread evenly over a round of the plan, at a random place within each
    of as many equal parts, so that batches hold nearly the same of each; and go through its
    examples in a random order, all of them before any comes again.

    Args:
        rows: of each source's examples, by name.
        seed: of the run's data.
        plan: that says how many.

    Example:
        >>> rows = {"web": range(900), "books": range(900, 1000)}
        >>> plan = FixedPlan({"web": 1, "books": 1}, epoch=1000)
        >>> drawn = list(MixtureSampler(rows, seed=0, plan=plan))[:200]
        >>> 98 <= sum(row >= 900 for row in drawn) <= 102, len(set(drawn))
        (True, 200)
    """

    def __init__(self, rows: Mapping[str, Sequence[int]], seed: int, plan: DrawPlan) -> None:
        super().__init__({name: len(own) for name, own in rows.items()}, seed)
        self._rows = {name: torch.tensor(rows[name]) for name in sorted(rows)}
        self._plan = plan

    @property
    def shares(self) -> Mapping[str, float]:
        """Return the share of the draws that each source gets, at the beginning of a run."""
        return self._plan.shares

    def __iter__(self) -> Iterator[int]:
        """Draw the examples of the epoch."""
        orders: dict[str, tuple[int, Tensor]] = {}
        for number, turn in enumerate(self._plan.rounds(self._epoch)):
            times, rows = [], []
            for name, (start, count) in turn.items():
                key = (self._seed, self._epoch, number, name, "times")
                within = torch.rand(count, generator=keyed_generator(*key), dtype=torch.float64)
                times.append((torch.arange(count) + within) / max(1, count))
                rows.append(self._rows_of(name, start, count, orders))
            yield from torch.cat(rows)[torch.cat(times).argsort()].tolist()

    def _rows_of(
        self, name: str, start: int, count: int, orders: dict[str, tuple[int, Tensor]]
    ) -> Tensor:
        """The rows of a source's draws from ``start`` on, over however many passes."""
        own = self._rows[name]
        parts = [own[:0]]
        while count > 0:
            number, first = divmod(start, len(own))
            if orders.get(name, (None,))[0] != number:
                generator = keyed_generator(self._seed, number, name)
                orders[name] = (number, own[torch.randperm(len(own), generator=generator)])
            part = orders[name][1][first : first + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return torch.cat(parts)


class StoredLossSampler(MixtureSampler):
    """Draws as a plan says, and of each group what stored losses choose when an epoch begins.

    Args:
        rows: of the examples of each source, or of all as one.
        seed: of the run's data.
        plan: whose epochs are one round each.
        draws: that order what an epoch draws of a group.
    """

    def __init__(
        self,
        rows: Mapping[str, Sequence[int]],
        seed: int,
        plan: FixedPlan,
        draws: StoredLossDraws,
    ) -> None:
        super().__init__(rows, seed, plan)
        self._draws = draws

    def _rows_of(
        self,
        name: str,
        start: int,  # noqa: ARG002
        count: int,
        orders: dict[str, tuple[int, Tensor]],  # noqa: ARG002
    ) -> Tensor:
        """The rows of a group's draws in an epoch, wherever those before have ended."""
        return self._draws.order(name, self._rows[name], count, self._epoch)


def make_stored_loss_sampler(
    dataset: Any, source_column: str | None, args: Any, draws: int, losses: StoredLosses
) -> StoredLossSampler:
    """Return the sampler that draws as the options say, by stored losses.

    Args:
        dataset: with a length, and the source column where draws go by it.
        source_column: its name, ``None`` where all examples are one group.
        args: the options.
        draws: candidates of the whole run, in all processes.
        losses: of the examples.
    """
    seed = args.seed if args.data_seed is None else args.data_seed
    rows: Mapping[str, Sequence[int]] = {ONE_SOURCE: range(len(dataset))}
    planned = {ONE_SOURCE: 1.0}
    if source_column is not None:
        rows = rows_by_source(source_of_each_example(dataset, source_column))
        planned = planned_draws(dataset, rows, args, draws)
    by_losses = StoredLossDraws(losses, args.stored_losses, args.stored_share, seed, draws)
    return StoredLossSampler(rows, seed, FixedPlan(planned, len(dataset)), by_losses)


def make_sampler(
    dataset: Any,
    source_column: str,
    args: Any,
    draws: int,
    adaptive: Callable[[Mapping[str, int]], DrawPlan],
) -> SourceSampler:
    """Return the sampler that draws by source, as ``args.candidate_sampling`` says.

    Args:
        dataset: with a length and the source column.
        source_column: its name.
        args: the options, whose ``data_seed``, or else ``seed``, decides the draws.
        draws: candidates of the whole run, in all processes.
        adaptive: returns the plan of adaptive draws, by the sizes of sources.
    """
    seed = args.seed if args.data_seed is None else args.data_seed
    sources = source_of_each_example(dataset, source_column)
    if args.candidate_sampling == "inverse_source_size":
        return InverseSizeSampler(sources, seed)
    rows = rows_by_source(sources)
    if args.candidate_sampling == "adaptive":
        return MixtureSampler(rows, seed, adaptive({name: len(own) for name, own in rows.items()}))
    planned = planned_draws(dataset, rows, args, draws)
    return MixtureSampler(rows, seed, FixedPlan(planned, len(sources)))
