"""What selection reports: collected each step, averaged whenever the trainer logs."""

import math
from collections import Counter, defaultdict
from typing import Any

import torch

from colm.names import shown_name
from colm.source_names import MOST_SOURCES, OTHER_SOURCES
from colm.training.processes.exchange import Exchange
from colm.training.step.keep import Kept

PREFIX = "colm/"


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
