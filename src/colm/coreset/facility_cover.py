"""The state of the greedy for facility location: covers, and what each example would add.

The result is that of the plain greedy, whose gains are sums in float64 over all examples. Those
held here were lowered by differences, or summed in another order, and so differ from them by
rounding, of which `Cover.doubt` is a bound. Where that leaves open which example is first, those in
question are summed anew. Where all similarities are multiples of one power of two, as those in
float32 mostly are, no sum is rounded in any order, and nothing is ever in doubt.

Symbols: n examples, c rows at once, p pairs above the cover.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from colm.coreset.facility_pairs import Array, Pairs, sums_by

PICKED = -np.inf
# As much as torch does on one thread: for so little work, starting more costs more than it saves.
_SUMMED_AT_ONCE = 32_000
_SAMPLED_ROWS = 64
# Each sum of k terms is off by less than k of these, relative to the largest of its partial sums.
ROUNDING = 4 * float(np.finfo(np.float64).eps)


class Similarities(NamedTuple):
    """Where similarities come from: an ``[n, n]`` matrix, or features that they are computed from.

    Attributes:
        n: examples.
        rows_at_once: c, rows that are asked for together.
        rows: rows ``[c]`` to their similarities ``[c, n]``, float32 or float64.
        columns: columns ``[w]`` to their similarities ``[w, n]``, the same numbers as in rows.
        most_pairs: p, the most pairs to hold.
    """

    n: int
    rows_at_once: int
    rows: Callable[[slice | Array], Array]
    columns: Callable[[Array], Tensor]
    most_pairs: int

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """All rows, c at once."""
        for first in range(0, self.n, self.rows_at_once):
            part = slice(first, min(first + self.rows_at_once, self.n))
            yield part, self.rows(part)


class Cover:
    """The state of the greedy: whom each example is covered by, and what each other would add.

    Attributes:
        picks: chosen so far, in order.
        added: what each of them added.
        values: ``[n]`` the cover of each example.
        owners: ``[n]`` which pick that is, by its place in the order.
        gains: ``[n]`` what each would add; ``PICKED`` of those picked.
        doubt: what gains may be off by, 0 where they are exact.
        top: the largest gain when all were last summed anew.
    """

    def __init__(self, similarities: Similarities, tolerance: float) -> None:
        self.similarities, self.tolerance = similarities, tolerance
        n = similarities.n
        self.picks: list[int] = []
        self.added: list[float] = []
        self.owners = np.zeros(n, dtype=np.int64)
        self.values = np.empty(n)
        self.gains = np.zeros(n)
        self.size = self.top = 0.0
        for part, rows in similarities.blocks():
            low, high = rows.min(1), float(rows.max())
            self.size = max(self.size, high, -float(low.min()), key=_infinite_if_nan)
            self.values[part] = np.minimum(low, 0)
            self.gains += _column_sums(rows, self.size)
        if not np.isfinite(self.size):
            raise ValueError(
                "similarity must be finite; got NaN or infinity: leave such examples out."
            )
        self.gains -= self.values.sum()
        self.precision = rows.dtype
        # Sums of c rows are as precise as the similarities.
        self.doubt = float(np.finfo(rows.dtype).eps) * similarities.rows_at_once * n * self.size
        self.doubt += ROUNDING * n * n * self.size

    def pick(self, example: int) -> tuple[Array, Array]:
        """Pick an example; return whom it covers better than before, and their cover before."""
        columns = self.similarities.columns(np.array([example]))
        self.added.append(self._sums(columns)[0] if self.doubt else float(self.gains[example]))
        column = columns[0].numpy()
        rows = np.flatnonzero(column > self.values)
        before = self.values[rows]
        self.owners[rows] = len(self.picks)
        self.values[rows] = column[rows]
        self.picks.append(example)
        self.gains[example] = PICKED
        return rows, before

    def choose(self) -> int | None:
        """Return the first of those whose gain is tied with the largest; `None`: nothing to gain.

        All gains that could be tied are in a window; the first that certainly is settles it for all
        behind it. Those before it are in doubt, and summed anew, with those that might be largest.
        """
        top, doubt = float(self.gains.max()), 2 * self.doubt
        if doubt == 0 and top <= self.tolerance:
            return None
        window = np.flatnonzero(self.gains >= top - self.tolerance - doubt)
        gains = self.gains[window]
        certain = window[gains >= top - self.tolerance + doubt]
        first = int(certain[0]) if len(certain) else self.similarities.n
        is_doubtful = window < first
        if top - doubt > self.tolerance and (len(window) == 1 or not is_doubtful.any()):
            return int(window[0])
        looked_at = window[is_doubtful | (gains >= top - doubt)]
        sums = self.sums(looked_at)
        # Never up, not even by rounding: gains bound those of later picks.
        self.gains[looked_at] = np.minimum(self.gains[looked_at], sums)
        if sums.max() <= self.tolerance:
            return None
        return min(first, int(looked_at[sums >= sums.max() - self.tolerance][0]))

    def sums(self, examples: Array) -> Array:
        """Their gains, in float64 and in the one order in which they are compared."""
        size = max(1, _SUMMED_AT_ONCE // self.similarities.n)
        blocks = np.split(examples, range(size, len(examples), size))
        return np.array([s for b in blocks for s in self._sums(self.similarities.columns(b))])

    def _sums(self, columns: Tensor) -> list[float]:
        """What examples with these ``columns [w, n]`` would add."""
        # torch may sum a single row in another order.
        rows = columns.expand(2, -1) if len(columns) == 1 else columns
        excess = rows.double().sub(torch.from_numpy(self.values))
        sums: list[float] = excess.clamp_(min=0).sum(1).tolist()
        return sums[: len(columns)]

    def fill(self, budget: int) -> None:
        """Pick the first of those left, of which none adds more than the tolerance."""
        rest = np.flatnonzero(self.gains > PICKED)[: budget - len(self.picks)].tolist()
        for example in rest if self.tolerance else ():
            self.pick(example)
            self.added[-1] = 0.0
        if not self.tolerance:
            self.picks += rest
            self.added += [0.0] * len(rest)

    def lower(self, rows: Array, before: Array) -> None:
        """Lower gains by what others no longer add in ``rows``, whose cover rose."""
        for first in range(0, len(rows), self.similarities.rows_at_once):
            part = slice(first, first + self.similarities.rows_at_once)
            values = self.similarities.rows(rows[part]).astype(np.float64)
            now = np.minimum(values, self.values[rows[part], None])
            self.gains -= (now - np.minimum(values, before[part, None])).sum(0)
        self.add_doubt(len(rows))

    def add_doubt(self, terms: int) -> None:
        """Allow for the rounding of so many more terms, unless nothing is rounded."""
        if self.doubt:
            self.doubt += ROUNDING * terms * self.top

    def fits(self) -> bool:
        """Whether the pairs above the cover are few enough to hold, by a sample of rows."""
        n = self.similarities.n
        sample = np.arange(0, n, -(-n // _SAMPLED_ROWS))
        above = np.count_nonzero(self.similarities.rows(sample) > self._covers(sample))
        return bool(above * n <= self.similarities.most_pairs * len(sample))

    def collect(self) -> Pairs | None:
        """Sum all gains anew; return the pairs above the cover unless they are too many."""
        n, gains, counts = self.similarities.n, np.zeros(self.similarities.n), []
        js: list[Array] = []
        values: list[Array] = []
        held, is_exact = 0, True
        for part, rows in self.similarities.blocks():
            at = np.flatnonzero(rows > self._covers(part))
            firsts = np.arange(part.stop - part.start + 1) * n
            counts.append(np.diff(np.searchsorted(at, firsts)))
            value = rows.reshape(-1)[at]
            at -= firsts[:-1].repeat(counts[-1])
            gains += sums_by(at, value - self.values[part].repeat(counts[-1]), n)
            held += len(at)
            if held <= self.similarities.most_pairs:
                js.append(at.astype(np.int32))
                values.append(value)
                is_exact = is_exact and self._on_grid(value)
        gains[self.picks] = PICKED
        self.gains, self.top = gains, float(gains.max())
        is_exact = is_exact and self._on_grid(self.values)
        self.doubt = 0.0 if is_exact else ROUNDING * n * self.top
        if held > self.similarities.most_pairs:
            self.doubt = ROUNDING * n * self.top
            return None
        return Pairs(np.concatenate(counts), np.concatenate(js), np.concatenate(values))

    def _covers(self, rows: slice | Array) -> Array:
        """The cover of some rows, ``[c, 1]``, of the type of similarities: it is one of them."""
        return self.values[rows, None].astype(self.precision)

    def _on_grid(self, values: Array) -> bool:
        """Whether all sums of differences of such values are exact, in whatever order."""
        room = 51 - np.frexp(self.size * self.similarities.n)[1]
        # In float32 where that holds the product: half the time.
        holds = 0 <= room < 64 and self.size < 1e18
        scaled = np.ldexp(values if holds else values.astype(np.float64), room)
        return bool((scaled == np.rint(scaled)).all())


def _infinite_if_nan(value: float) -> float:
    return np.inf if np.isnan(value) else value


def _column_sums(rows: Array, size: float) -> Array:
    """Sums of ``rows [c, n]``, in their own precision where that holds them."""
    if size * len(rows) < np.finfo(rows.dtype).max / 4:
        sums: Array = np.ones(len(rows), rows.dtype) @ rows
    else:
        sums = rows.sum(0, dtype=np.float64)
    return sums
