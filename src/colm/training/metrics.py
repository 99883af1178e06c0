"""What selection reports: collected each step, averaged whenever the trainer logs."""

import math
from collections import Counter, defaultdict

PREFIX = "colm/"


class SelectionMetrics:
    """Averages over the steps since the last log; a source absent from a step counts as 0 there."""

    def __init__(self) -> None:
        self._steps = 0
        self._totals: dict[str, float] = defaultdict(float)
        self._measured: dict[str, list[float]] = defaultdict(list)

    def count_step(self, candidates: Counter[str], kept: Counter[str]) -> None:
        """Count a step's candidates and kept examples, in all and by source."""
        self._steps += 1
        for name, counts in (("candidates", candidates), ("kept", kept)):
            self._totals[name] += counts.total()
            for source, count in counts.items():
                self._totals[f"{name}/{source}"] += count

    def count(self, name: str, number: int) -> None:
        """Count something that happens in few steps."""
        if number:
            self._totals[name] += number

    def measure(self, name: str, value: float) -> None:
        """Note a measurement; NaN, not measured, is passed over."""
        if not math.isnan(value):
            self._measured[name].append(value)

    def drain(self) -> dict[str, float]:
        """Return the averages under ``colm/...`` and start afresh."""
        steps = max(1, self._steps)
        values = {name: total / steps for name, total in self._totals.items()}
        values |= {name: sum(seen) / len(seen) for name, seen in self._measured.items()}
        self.__init__()  # type: ignore[misc]
        return {PREFIX + name: value for name, value in values.items()}
