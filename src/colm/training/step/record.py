"""What a step tells of itself: what was kept of which source, and the loss of each example.

Counts are collected each step and averaged whenever the trainer logs. Losses are there anyway, and
cost no look: those of the micro-batches of a step stay on the device until the step is over; then
they are moved at once. Symbols: k examples, t tokens a row.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from colm.gradients.batch import IGNORED_LABEL
from colm.names import shown_name
from colm.source_names import MOST_SOURCES, OTHER_SOURCES
from colm.training.example import ROW_KEY, SOURCE_KEY, Example
from colm.training.processes.exchange import Exchange
from colm.training.step.arrange import BatchRows
from colm.training.step.keep import Kept

PREFIX = "colm/"
#: Under which key a micro-batch tells whose rows it has, until its loss is computed.
EXAMPLES_KEY = "colm_examples"


class SelectionMetrics:
    """Averages over the steps since the last log; a source absent from a step counts as 0 there.

    Of more than ``MOST_SOURCES`` sources, those with the most candidates are named and the rest
    summed up as ``OTHER_SOURCES``.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._totals: dict[str, float] = defaultdict(float)
        self._measured: dict[str, list[float]] = defaultdict(list)
        self._by_source: dict[str, Counter[str]] = {"candidates": Counter(), "kept": Counter()}

    def record(self, kept: Kept) -> None:
        """Count what a step kept of which candidates, and how well that stands for them."""
        table, rows = kept.split.table, list(kept.weights)
        self.count_step(Counter(table.sources), Counter(table.sources[row] for row in rows))
        self.count("without_label_tokens", int((table.label_tokens == 0).sum()))
        self.count("non_finite", len(kept.selection.non_finite))
        share = float(table.label_tokens[rows].sum() / table.label_tokens.sum().clamp(min=1))
        self.measure("label_token_share", share)
        self.measure("matching_error", kept.selection.matching_error)

    def count_step(self, candidates: Counter[str], kept: Counter[str] | None = None) -> None:
        """Count a step's candidates and, where it selects, kept examples: in all and by source."""
        self._steps += 1
        for name, counts in (("candidates", candidates), ("kept", kept)):
            if counts is not None:
                self._totals[name] += counts.total()
                self._by_source[name].update(counts)

    def count(self, name: str, number: int) -> None:
        """Count something that happens in few steps."""
        if number:
            self._totals[name] += number

    def measure(self, name: str, value: float) -> None:
        """Note a measurement; NaN, not measured, is passed over."""
        if not math.isnan(value):
            self._measured[name].append(value)

    def drain(self, group: Exchange | None = None) -> dict[str, float]:
        """Return the averages under ``colm/...`` and start afresh.

        Args:
            group: processes whose counts are added up, all of which call this at the same time;
                ``None`` counts this one alone. What is measured is of this one in any case.
        """
        if group is not None:
            self._add_up(group)
        steps = max(1, self._steps)
        totals = self._totals | self._totals_by_source()
        values = {name: total / steps for name, total in totals.items()}
        values |= {name: sum(seen) / len(seen) for name, seen in self._measured.items()}
        self._steps = 0
        self._totals.clear()
        self._measured.clear()
        for counts in self._by_source.values():
            counts.clear()
        return {PREFIX + name: value for name, value in values.items()}

    def _add_up(self, group: Exchange) -> None:
        """Make the counts of this process those of all."""
        kinds: dict[str, Any] = {"all": self._totals, **self._by_source}
        own = [f"{kind}/{name}" for kind, counts in kinds.items() for name in counts]
        names = [name.split("/", 1) for name in sorted(set(group.names(own)))]
        numbers = [kinds[kind].get(name, 0) for kind, name in names]
        totals = group.total(torch.tensor(numbers, dtype=torch.float64)).tolist()
        for (kind, name), total in zip(names, totals, strict=True):
            kinds[kind][name] = int(total)

    def _totals_by_source(self) -> dict[str, float]:
        """Totals of each source by the name that is shown, those beyond the largest summed up."""
        seen = self._by_source["candidates"]
        largest = sorted(seen, key=lambda source: (-seen[source], source))[:MOST_SOURCES]
        totals: dict[str, float] = {}
        for name, counts in self._by_source.items():
            totals |= {
                f"{name}/{shown_name(source)}": counts[source]
                for source in largest
                if counts[source]
            }
            others = counts.total() - sum(counts[source] for source in largest)
            if others:
                totals[f"{name}/{OTHER_SOURCES}"] = others
        return totals


@dataclass(frozen=True)
class BatchExamples:
    """What is known of the examples of a micro-batch, in the order collated.

    Attributes:
        sources: the name of each one's source.
        rows: ``[k]`` int64 of the training data, -1 where nobody asks for them.
        label_tokens: ``[k]`` int64, on the CPU.
        places: where they stand in the batch.
    """

    sources: tuple[str, ...]
    rows: Tensor
    label_tokens: Tensor
    places: BatchRows


def mark(batches: Sequence[Any], parts: Sequence[Sequence[Example]]) -> None:
    """Let micro-batches tell whose losses theirs are, where those can be told apart.

    Args:
        batches: collated; each gets a `BatchExamples` under ``EXAMPLES_KEY``.
        parts: the examples of each, with their source under ``SOURCE_KEY``.
    """
    for batch, part in zip(batches, parts, strict=True):
        labels = batch["labels"] if "labels" in batch else None  # noqa: SIM401, not all have get
        knows = all(SOURCE_KEY in each for each in part)
        if not knows or not isinstance(labels, Tensor) or labels.ndim != 2:
            continue
        try:
            places = BatchRows.of(part, labels.shape)
        except ValueError:
            continue
        batch[EXAMPLES_KEY] = BatchExamples(
            sources=tuple(each[SOURCE_KEY] for each in part),
            rows=torch.tensor([each.get(ROW_KEY, -1) for each in part]),
            label_tokens=places.sums((labels[:, 1:] != IGNORED_LABEL).long()),
            places=places,
        )


@dataclass(frozen=True)
class StepLosses:
    """What a step told of its examples in this process; those without label tokens are left out.

    Attributes:
        sources: ``[k]`` names.
        rows: ``[k]`` int64 of the training data, -1 where nobody asks for them.
        label_tokens: ``[k]`` int64.
        losses: ``[k]`` float64, each the sum over the label tokens of an example.
    """

    sources: list[str]
    rows: Tensor
    label_tokens: Tensor
    losses: Tensor

    def by_source(self) -> dict[str, tuple[float, int, int]]:
        """Return of each source the sum of losses, of label tokens, and of examples."""
        found: dict[str, tuple[float, int, int]] = {}
        each = zip(self.sources, self.losses.tolist(), self.label_tokens.tolist(), strict=True)
        for source, loss, tokens in each:
            losses, label_tokens, examples = found.get(source, (0.0, 0, 0))
            found[source] = losses + loss, label_tokens + tokens, examples + 1
        return found


class ExampleLosses:
    """Collects the losses of a step's examples, micro-batch by micro-batch."""

    def __init__(self) -> None:
        self._collected: list[tuple[BatchExamples, Tensor]] = []

    def note(self, examples: BatchExamples, losses: Tensor) -> None:
        """Note the losses of a micro-batch by token, where they stand as its labels do.

        Args:
            examples: whose they are.
            losses: ``[rows, t - 1]`` without gradient, 0 where there is no label.
        """
        places = examples.places
        if places.lengths is None or losses.shape[1] == places.tokens - 1:
            self._collected.append((examples, places.sums(losses.float())))

    def take(self) -> StepLosses:
        """Return what was noted since this was last called."""
        collected, self._collected = self._collected, []
        if not collected:
            none = torch.empty(0, dtype=torch.int64)
            return StepLosses([], none, none, none.double())
        sources = [source for examples, _ in collected for source in examples.sources]
        rows = torch.cat([examples.rows for examples, _ in collected])
        label_tokens = torch.cat([examples.label_tokens for examples, _ in collected])
        losses = torch.cat([losses for _, losses in collected]).cpu().double()
        told = label_tokens > 0
        return StepLosses(
            [source for source, is_told in zip(sources, told.tolist(), strict=True) if is_told],
            rows[told],
            label_tokens[told],
            losses[told],
        )


class SourceLosses:
    """The label tokens of each source and their mean loss since the last log, over all processes.

    Of more than ``MOST_SOURCES`` sources, those with the most label tokens are named and the rest
    averaged as ``OTHER_SOURCES``.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._losses: dict[str, float] = defaultdict(float)
        self._label_tokens: dict[str, int] = defaultdict(int)

    def add(self, losses: Mapping[str, tuple[float, int, int]]) -> None:
        """Add what a step told, from `StepLosses.by_source`."""
        self._steps += 1
        for source, (loss, label_tokens, _) in losses.items():
            self._losses[source] += loss
            self._label_tokens[source] += label_tokens

    def drain(self, group: Exchange) -> dict[str, float]:
        """Return what is logged of each source, and start afresh.

        Args:
            group: the processes, all of which call this at the same time.

        Returns:
            ``colm/loss/SOURCE``, a mean over label tokens, and ``colm/label_tokens/SOURCE``, how
            many a step trained on.
        """
        names = sorted(set(group.names(sorted(self._label_tokens))))
        own = [(self._losses[name], self._label_tokens[name]) for name in names]
        steps, self._steps = max(1, self._steps), 0
        self._losses.clear()
        self._label_tokens.clear()
        totals = group.total(torch.tensor(own, dtype=torch.float64).reshape(-1, 2)).tolist()
        largest_first = sorted(zip(names, totals, strict=True), key=lambda each: -each[1][1])
        told = {shown_name(name): sums for name, sums in largest_first[:MOST_SOURCES]}
        if rest := [sums for _, sums in largest_first[MOST_SOURCES:]]:
            told[OTHER_SOURCES] = [sum(column) for column in zip(*rest, strict=True)]
        means = {f"{PREFIX}loss/{name}": loss / tokens for name, (loss, tokens) in told.items()}
        return means | {
            f"{PREFIX}label_tokens/{name}": tokens / steps for name, (_, tokens) in told.items()
        }
