"""How candidates are drawn from the data set: uniformly, or every source equally often.

The sources are those that a column names; what stands there may be text, numbers or class labels,
and from here on a source is a name. SSM draws an example with a probability inversely proportional
to the size of its source; here with replacement, which the paper leaves open. UniMax draws are as
even over sources, but bound how often an example comes again, and go through a source's examples in
turn. An epoch is as many draws as there are examples either way. Symbols: N examples in the data
set, Q its sources.
"""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler

from colm.coreset.mixture import (
    SMALL_SOURCES_NONE,
    inverse_size_weights,
    unimax_draws,
)
from colm.data import SOURCE_COLUMN, source_counts, source_of, source_values
from colm.randomness import keyed_generator
from colm.training.example import Example

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


logger = logging.getLogger(__name__)


def goes_by_source(args: Any) -> bool:
    """Whether a run has to know the sources of its examples, or names their column.

    The plain trainer's runs do not, and take whatever stands in a column of that name.
    """
    named: bool = args.source_column is not None
    return named or args.candidate_ratio > 1 or args.candidate_sampling != "uniform"


def resolve_source_column(name: str | None, dataset: Any) -> str | None:
    """Return the column that names the source: the one asked for, or 'source' where there is one.

    Raises:
        ValueError: the column asked for is missing; the message says which there are.
    """
    columns = column_names(dataset)
    if name is None:
        return SOURCE_COLUMN if SOURCE_COLUMN in columns else None
    if name not in columns:
        raise ValueError(
            f"source_column {name!r} is not in the training data; its columns are "
            f"{', '.join(columns) or 'none'}."
        )
    return name


def report_lack_of_sources(
    args: Any, dataset: Any, source_column: str | None, sizes: Mapping[str, int] | None
) -> None:
    """Warn where options draw or keep by source, and there is nothing to tell sources by.

    Args:
        args: the options.
        dataset: the training data, as it was passed.
        source_column: that names the sources, if any does.
        sizes: of the sources, ``None`` where they are not known.
    """
    options = _options_by_source(args)
    if (source_column is not None and (sizes is None or len(sizes) > 1)) or not options:
        return
    columns = ", ".join(column_names(dataset)) or "none"
    if getattr(args, "packing", False):
        why = "packing=True joins examples of all sources"
    elif source_column is None:
        why = f"the training data has no column {SOURCE_COLUMN!r}"
    else:
        why = f"column {source_column!r} has one source only"
    logger.warning(
        "%s %s by source, and %s: all examples count as one source. Where another column names "
        "the sources, set source_column to it; the columns are %s.",
        " and ".join(options),
        "goes" if len(options) == 1 else "go",
        why,
        columns,
    )


def _options_by_source(args: Any) -> list[str]:
    """The options in effect that draw or keep by source, with their values."""
    found = []
    if args.candidate_sampling != "uniform":
        found.append(f"candidate_sampling={args.candidate_sampling!r}")
    if args.candidate_ratio > 1 and args.small_sources != [SMALL_SOURCES_NONE]:
        found.append(f"small_sources={','.join(args.small_sources)}")
    return found


def source_sizes(dataset: Any, source_column: str | None) -> dict[str, int] | None:
    """Count the examples of each source; ``None`` where the data set cannot be counted."""
    if source_column is None or not isinstance(dataset, Dataset):
        return None
    return source_counts(dataset, source_column)


def source_of_each_example(dataset: Any, source_column: str) -> list[str]:
    """Return the names of the sources of the N examples of a data set that has a length.

    Raises:
        ValueError: an example has none.
    """
    if isinstance(dataset, Dataset):
        return source_values(dataset, source_column)
    rows = range(len(dataset))
    return [source_of(dataset[row].get(source_column), source_column) for row in rows]


def source_feature(source_column: str | None, *datasets: Any) -> Any:
    """Return the type of the source column by the first data set that tells, else ``None``."""
    for dataset in datasets:
        features = getattr(dataset, "features", None)
        if features and source_column in features:
            return features[source_column]
    return None


def with_source_names(
    examples: Sequence[Example], source_column: str | None, feature: Any
) -> list[Example]:
    """Return examples with the name of the source in the source column.

    Args:
        examples: as the data set has them.
        source_column: that names the source; nothing is changed without one.
        feature: type of the column, ``None`` where it is not known.

    Raises:
        ValueError: an example has no source.

    Example:
        >>> with_source_names([{"input_ids": [1], "source": 3}], "source", None)
        [{'input_ids': [1], 'source': '3'}]
    """
    if source_column is None:
        return list(examples)
    return [
        {**each, source_column: source_of(each.get(source_column), source_column, feature)}
        for each in examples
    ]


def column_names(dataset: Any) -> list[str]:
    """Columns of a data set, or the keys of its first example where it does not list them."""
    names = getattr(dataset, "column_names", None)
    if names is not None:
        return list(names)
    first = next(iter(dataset), None) if dataset is not None else None
    return list(first) if isinstance(first, Mapping) else []
