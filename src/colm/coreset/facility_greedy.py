"""The greedy maximisation of facility location, at about the cost of reading the similarities.

The gain of example j is the sum over i of what similarity[i, j] exceeds the cover of i by. Once the
first example is picked, few similarities exceed the cover; after some tens of picks, a few in each
row. So the matrix is read twice: for the first pick, then for the pairs (i, j) above the cover.
From there each pick lowers the gains of those that share the i of a pair with it, and of nobody
else.

That also lets many picks be made at once. Whose gain is larger than that of everyone it shares an i
with keeps that gain, which only picks among those could lower, until it is picked, which is before
any of them. So all such are picked together, again and again, and sorted by their gains in the end:
gains of the greedy only fall, so that is the order in which it would have picked them.

Symbols: n examples, p pairs above the cover.
"""

import numpy as np

from colm.coreset.facility_cover import PICKED, ROUNDING, Cover, Similarities
from colm.coreset.facility_pairs import Array, Pairs, sums_by

# With more pairs for each example, so few are picked at once that one by one is faster.
_PAIRS_OF_ONE = 32
# Pairs are sorted out when this many times as many are held as are left.
_TIMES_TOO_MANY = 4


def greedy_cover(similarities: Similarities, budget: int, tolerance: float) -> Cover:
    """Pick ``budget`` examples, each of largest gain; of ties within the tolerance, the first.

    With nothing left to gain beyond the tolerance, all that is left is tied.
    """
    cover = Cover(similarities, tolerance)
    pairs: Pairs | None = None
    next_try = 1
    while len(cover.picks) < budget and (example := cover.choose()) is not None:
        rows, before = cover.pick(example)
        if len(cover.picks) == budget:
            break
        if pairs is not None:
            pairs = _lower(cover, pairs, rows, before)
        # All gains are summed anew after the first pick; then only where pairs seem to be few.
        elif len(cover.picks) >= next_try and (next_try == 1 or cover.fits()):
            pairs = cover.collect()
            next_try = 2 * len(cover.picks)
        else:
            cover.lower(rows, before)
        few = _PAIRS_OF_ONE * similarities.n
        if tolerance == 0 and pairs is not None and pairs.left <= few:
            _pick_at_once(cover, pairs.above(cover.values), budget)
            break
    cover.fill(budget)
    return cover


def _lower(cover: Cover, pairs: Pairs, rows: Array, before: Array) -> Pairs:
    """Lower gains where the cover of ``rows`` rose; return the pairs, sorted out if too many."""
    cover.gains -= pairs.losses(rows, before, cover.values[rows])
    cover.add_doubt(len(rows))
    is_too_many = len(pairs.j) > _TIMES_TOO_MANY * pairs.left
    return pairs.above(cover.values) if is_too_many else pairs


def _pick_at_once(cover: Cover, pairs: Pairs, budget: int) -> None:
    """Make all picks that are left with something to gain; only gains that are equal are tied."""
    wanted, done = budget - len(cover.picks), len(cover.picks)
    gains, covered = _independent_picks(cover, pairs, wanted)
    examples = np.argsort(-gains, kind="stable")[:wanted]
    examples = examples[gains[examples] > PICKED]
    places = np.full(len(gains), -1)
    places[examples] = np.arange(done, done + len(examples))
    # Round by round: of two picks that cover the same example, the later one covers it better.
    for rows, picks in covered:
        is_wanted = places[picks] >= 0
        cover.owners[rows[is_wanted]] = places[picks[is_wanted]]
    cover.picks += examples.tolist()
    cover.added += gains[examples].tolist()
    cover.gains[examples] = PICKED


def _independent_picks(
    cover: Cover, pairs: Pairs, wanted: int
) -> tuple[Array, list[tuple[Array, Array]]]:
    """Return gains ``[n]`` of all picked in rounds, and in each round which rows which j covers.

    In each round, all whose gain is the largest in every row that they have a pair in are picked.
    They are at least those ``wanted``, or all that add anything.
    """
    covers, i, j = cover.values, pairs.i(), pairs.j.astype(np.int64)
    n, values = len(covers), pairs.values.astype(np.float64)
    picked = np.full(n, PICKED)
    covered = []
    while len(j):
        gains = sums_by(j, values - covers[i], n)
        cover.doubt = cover.doubt and ROUNDING * n * float(gains.max())
        # Who adds less than all those wanted that are picked by now never will be.
        could_be = (gains + cover.doubt >= np.partition(picked, n - wanted)[n - wanted])[j]
        if not could_be.all():
            i, j, values = i[could_be], j[could_be], values[could_be]
        largest = _largest_of_each_row(cover, gains, i, j)
        rows_won = np.bincount(j[largest], minlength=n)
        is_picked = (rows_won > 0) & (rows_won == np.bincount(j, minlength=n))
        picked[is_picked] = (
            cover.sums(np.flatnonzero(is_picked)) if cover.doubt else gains[is_picked]
        )
        mine = largest[is_picked[j[largest]]]
        covers[i[mine]] = values[mine]
        covered.append((i[mine], j[mine]))
        is_left = values > covers[i]
        i, j, values = i[is_left], j[is_left], values[is_left]
    return picked, covered


def _largest_of_each_row(cover: Cover, gains: Array, i: Array, j: Array) -> Array:
    """Positions of the largest gain among the pairs of each i, the first of equal ones.

    Where rounding leaves open which it is, the ``gains [n]`` in question are summed anew.
    """
    rows = np.flatnonzero(np.diff(i, prepend=-1))
    if cover.doubt:
        at = _tied(gains[j], rows, 2 * cover.doubt)
        is_alone = np.bincount(i[at], minlength=len(gains)) == 1
        open_ = np.unique(j[at[~is_alone[i[at]]]])
        if len(open_):
            gains[open_] = cover.sums(open_)
    at = _tied(gains[j], rows, 0.0)
    return at[np.flatnonzero(np.diff(i[at], prepend=-1))]


def _tied(gains: Array, rows: Array, doubt: float) -> Array:
    """Positions of gains at most ``doubt`` below the largest of their row; ``rows``: its start."""
    largest = np.maximum.reduceat(gains, rows) if len(rows) else gains
    at: Array = np.flatnonzero(gains >= (largest - doubt).repeat(np.diff(rows, append=len(gains))))
    return at
