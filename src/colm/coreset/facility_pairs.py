"""Pairs of examples (i, j) of which j could cover i better than it is covered.

Symbols: n examples, p pairs.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Pairs:
    """The pairs (i, j) for which similarity[i, j] is above the cover of i, by ascending i.

    Attributes:
        starts: ``[n + 1]`` where the pairs of each i begin.
        j: ``[p]``.
        values: ``[p]`` similarities.
        left: how many of them are above the cover by now.
    """

    def __init__(self, counts: Array, j: Array, values: Array) -> None:
        self.starts = np.concatenate([[0], counts.cumsum()])
        self.j, self.values = j, values
        self.left = len(j)

    def i(self) -> Array:
        """The i of each pair, ``[p]``."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def above(self, cover: Array) -> "Pairs":
        """Those above the cover ``[n]``."""
        i = self.i()
        is_above = self.values > cover[i]
        counts = np.bincount(i[is_above], minlength=len(cover))
        return Pairs(counts, self.j[is_above], self.values[is_above])

    def losses(self, rows: Array, before: Array, now: Array) -> Array:
        """Return what each j adds less, ``[n]``, where the cover of ``rows [c]`` rose."""
        counts = self.starts[rows + 1] - self.starts[rows]
        ends = counts.cumsum()
        total = int(ends[-1]) if len(ends) else 0
        at = np.arange(total)
        at += (self.starts[rows] - ends + counts).repeat(counts)
        lost = np.minimum(self.values[at], now.repeat(counts))
        lost -= before.repeat(counts)
        is_new = lost > 0
        self.left -= int(np.count_nonzero(is_new & (self.values[at] <= now.repeat(counts))))
        np.maximum(lost, 0, out=lost)
        return sums_by(self.j[at], lost, len(self.starts) - 1)


def sums_by(j: Array, terms: Array, n: int) -> Array:
    """Sums ``[n]`` of the terms that belong to each j, in float64."""
    # Of no terms at all, NumPy counts in integers.
    return np.bincount(j, terms, minlength=n).astype(np.float64, copy=False)
