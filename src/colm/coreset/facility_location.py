"""Facility location: the examples that best stand for all others.

f(S) = sum_i max_{s in S} similarity[i, s] for a set S of the n examples: each example i is worth
what its best representative in S resembles it. f is monotone and submodular, so that adding the
example of largest gain again and again comes within 1 - 1/e of the best S of that size.
The cover of i is max_{s in S} similarity[i, s] for the S chosen so far.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from colm.checks import check_budget, check_matrix, check_not_negative, check_whole
from colm.coreset.similarity import distances_to

Array = NDArray[Any]
# Similarities gone through together: as many as stay in the processor's cache.
_AT_ONCE = 2**15
# So many terms are summed anew for all picks in less time than it takes to see which change.
_FEW_TERMS = 2**19
# A sum of k terms is off by less than k of these, relative to itself.
_ROUNDING = 2 * float(np.finfo(np.float64).eps)


class FacilityLocation(NamedTuple):
    """What facility location chose.

    Attributes:
        indices: ``[budget]`` int64 examples, in the order picked.
        gains: ``[budget]`` what each added to f.
        weights: ``[budget]`` cluster sizes: how many examples each stands for. They sum to n.
    """

    indices: Tensor
    gains: Tensor
    weights: Tensor


@torch.no_grad()
def facility_location(
    similarity: Tensor, budget: int, *, tie_tolerance: float = 0.0
) -> FacilityLocation:
    """Choose the examples that stand for all, by greedy maximisation of facility location.

    The result is that of the plain greedy whose gains are summed in float64, one example after the
    other, to the last tie, which goes to the lowest index. Runs on the CPU, where every sum, and
    with it every tie, is always the same. Costs O(n^2), whatever the budget.  Paper: SSM v1, Eq. 6.

    Args:
        similarity: ``[n, n]`` finite; ``[i, j]`` is how well example j stands for example i. It
            need not be symmetric. Where a row has negative entries, its least one is the cover to
            start from: adding a constant to the matrix never changes what is picked.
        budget: ``1 <= budget <= n`` examples; with n = 0 there is nothing to choose, which is an
            error.
        tie_tolerance: gains that fall short of the largest by no more than this are tied with it,
            in the unit of the gains. With a little more than what rounding moves them by, the picks
            are the same before and after rounding.

    Returns:
        Indices, gains and cluster sizes; an example equally similar to several chosen ones counts
        for the one picked first.

    Raises:
        ValueError: the matrix is not square or not finite, or the budget is out of range.

    Example:
        >>> near = torch.tensor([[3.0, 2.0, 0.0], [2.0, 3.0, 1.0], [0.0, 1.0, 3.0]])
        >>> facility_location(near, 2)
        FacilityLocation(indices=tensor([1, 2]), gains=tensor([6., 2.]), weights=tensor([2., 1.]))
    """
    check_matrix("similarity", similarity, "a square matrix")
    if similarity.shape[0] != similarity.shape[1]:
        raise ValueError(f"similarity must be a square matrix; got shape {[*similarity.shape]}.")
    n = len(similarity)
    budget = check_budget(budget, n)
    check_not_negative("tie_tolerance", tie_tolerance)
    dtype = torch.promote_types(similarity.dtype, torch.float32)
    rows = similarity.detach().to("cpu", dtype).numpy()
    cover = np.minimum(rows.min(1), 0).astype(np.float64)
    if not (np.isfinite(cover).all() and np.isfinite(rows.max())):
        raise ValueError("similarity must be finite; got NaN or infinity: leave such examples out.")
    at_once = max(1, _AT_ONCE // n)
    if n * n * budget <= _FEW_TERMS:
        picked = _pick_plainly(rows.astype(np.float64), cover, budget, tie_tolerance)
    elif tie_tolerance == 0:
        picked = _pick_in_rounds(rows, cover, budget, at_once)
    else:
        similarities = _Similarities(n, at_once, rows.__getitem__, lambda part: rows[:, part])
        picked = _pick_in_turn(similarities, cover, budget, tie_tolerance)
    return _chosen(picked, dtype, similarity.device)


@torch.no_grad()
def facility_location_from_features(
    features: Tensor,
    budget: int,
    metric: str = "l1",
    *,
    tie_tolerance: float = 0.0,
    rows_at_once: int = 256,
) -> FacilityLocation:
    """Choose the examples that stand for all without ever holding all similarities.

    Picks what `facility_location` picks from the matrix of `distances_to` of all, C - distance with
    C the largest: for ``l1`` that is the matrix of `similarity`, bit for bit, for the others it is
    without the rounding of inner products. Memory is O(n * rows_at_once + n d); the price is that
    distances are computed several times, one by one, where a matrix needs them once. Worth it where
    that matrix does not fit.  Paper: SSM v1, Eq. 6.

    Args:
        features: ``[n, d]`` finite, one row an example.
        budget: ``1 <= budget <= n`` examples.
        metric: ``l1``, ``l2`` or ``cosine``.
        tie_tolerance: as in `facility_location`.
        rows_at_once: rows of similarities computed together, at least 1.

    Returns:
        Indices, gains and cluster sizes.

    Raises:
        ValueError: features are not finite or no matrix, or an option is out of range.

    Example:
        >>> facility_location_from_features(torch.tensor([[0.0], [1.0], [3.0], [9.0]]), 2).indices
        tensor([1, 3])
    """
    check_matrix("features", features)
    n = len(features)
    budget = check_budget(budget, n)
    check_not_negative("tie_tolerance", tie_tolerance)
    rows_at_once = check_whole("rows_at_once", rows_at_once, least=1)
    if not torch.isfinite(features).all():
        raise ValueError("features must be finite; got NaN or infinity: leave such examples out.")
    points = features.detach().cpu()
    blocks = points.split(rows_at_once)
    largest = max(float(distances_to(points, block, metric).max()) for block in blocks)

    def rows(part: slice | Array) -> Array:
        return (largest - distances_to(points, points[part], metric)).numpy()

    def columns(part: Array) -> Array:
        return np.ascontiguousarray(rows(part).T)

    similarities = _Similarities(n, rows_at_once, rows, columns)
    picked = _pick_in_turn(similarities, np.zeros(n), budget, tie_tolerance)
    return _chosen(picked, torch.promote_types(features.dtype, torch.float32), features.device)


class _Similarities(NamedTuple):
    """How well every one of n examples stands for every other, a part at a time.

    ``rows`` gives those of some i, ``[c, n]``, and ``columns`` those of some j, ``[n, w]``;
    ``at_once`` is how many of either to ask for together.
    """

    n: int
    at_once: int
    rows: Callable[[slice | Array], Array]
    columns: Callable[[Array], Array]


class _Picked(NamedTuple):
    """``[budget]`` examples in the order picked and what each added; ``[n]`` whose place covers."""

    examples: Array
    gains: Array
    owners: Array


def _pick_plainly(rows: Array, cover: Array, budget: int, tolerance: float) -> _Picked:
    """Sum all gains anew for each pick: fastest for few, and what the others must agree with.

    Args:
        rows: similarities, ``[n, n]`` float64.
        cover: ``[n]`` float64 to start from; overwritten.
        budget: examples to pick.
        tolerance: by how much a gain that is tied with the largest falls short of it at most.
    """
    picks, added = np.empty(budget, dtype=np.int64), np.empty(budget)
    excess = np.empty_like(rows)
    for place in range(budget):
        np.subtract(rows, cover[:, None], out=excess)
        gains = np.maximum(excess, 0, out=excess).sum(0)
        gains[picks[:place]] = -np.inf
        pick = (gains >= gains.max() - tolerance).argmax() if tolerance else gains.argmax()
        picks[place], added[place] = pick, gains[pick]
        np.maximum(cover, rows[:, pick], out=cover)
    return _Picked(picks, added, owners=rows[:, picks].argmax(1))


def _pick_in_turn(
    similarities: _Similarities, cover: Array, budget: int, tolerance: float
) -> _Picked:
    """Pick the first of those whose gain is tied with the largest, again and again.

    A pick raises the cover of few. From everyone's gain is subtracted what it adds less there,
    which rounds: by ``doubt`` at most. Where that leaves open who is first, the gains of those in
    question are summed anew.

    Args:
        similarities: of the n examples.
        cover: ``[n]`` float64 to start from; overwritten.
        budget: examples to pick.
        tolerance: by how much a gain that is tied with the largest falls short of it at most.
    """
    n, at_once, *_ = similarities
    picks, added = np.empty(budget, dtype=np.int64), np.empty(budget)
    owners = np.zeros(n, dtype=np.int64)
    gains, doubt = _gains(similarities, cover), 0.0
    for place in range(budget):
        least = float(gains.max()) - tolerance
        tied = np.flatnonzero(gains >= least - 2 * doubt)
        if len(tied) > 1 and gains[tied[0]] < least + 2 * doubt:
            parts = np.split(tied, range(at_once, len(tied), at_once))
            gains[tied] = np.concatenate([_gains_of(similarities, part, cover) for part in parts])
            tied = tied[gains[tied] >= gains[tied].max() - tolerance]
        column = similarities.columns(tied[:1])[:, 0].astype(np.float64)
        better = np.flatnonzero(column > cover)
        before, now = cover[better], column[better]
        cover[better], owners[better] = now, place
        picks[place] = tied[0]
        added[place] = (now - before).cumsum()[-1] if len(better) else 0.0
        if place == 0:
            gains = _gains(similarities, cover)
            gains[tied[0]] = -np.inf
            largest = float(gains.max())
            continue
        for first in range(0, len(better), at_once):
            part = slice(first, first + at_once)
            less = np.minimum(similarities.rows(better[part]), now[part, None])
            less -= before[part, None]
            gains -= np.maximum(less, 0, out=less).sum(0)
        gains[tied[0]] = -np.inf
        doubt += _ROUNDING * largest * (len(better) + (n if doubt == 0 else 1))
    return _Picked(picks, added, owners)


def _pick_in_rounds(rows: Array, cover: Array, budget: int, at_once: int) -> _Picked:
    """Pick those of largest gain, many at once; of equal gains, the first.

    After the first pick only the pairs (i, j) count in which j stands for i better than the cover.
    Whose gain is the largest in every row i that it has a pair in keeps it until it is picked, for
    only a pick that shares a row could lower it, and none of those comes before. So all such are
    picked together, round by round. Gains of the greedy only fall: in the order of their gains they
    stand as it would have picked them.

    Args:
        rows: similarities, ``[n, n]``.
        cover: ``[n]`` float64 to start from; overwritten.
        budget: examples to pick.
        at_once: rows to go through together.
    """
    n = len(rows)
    similarities = _Similarities(n, at_once, rows.__getitem__, lambda part: rows[:, part])
    gains = _gains(similarities, cover)
    first = int(gains.argmax())
    picked = np.full(n, -np.inf)  # The gain with which each is picked.
    picked[first] = gains[first]
    np.maximum(cover, rows[:, first], out=cover)
    owned = [(np.arange(n), np.full(n, first))]
    i, j, values = _pairs_above(rows, cover, at_once)
    excess = values - cover[i]
    while len(j):
        gains = np.bincount(j, excess, minlength=n)
        # Who adds less than as many as are wanted, picked by now, never will be.
        hopeful = np.flatnonzero((gains >= np.partition(picked, n - budget)[n - budget])[j])
        if len(hopeful) < len(j):
            i, j, values = i.take(hopeful), j.take(hopeful), values.take(hopeful)
        best = _first_of_largest(gains[j], i)
        won = np.bincount(j[best], minlength=n)
        now = (won > 0) & (won == np.bincount(j, minlength=n))
        picked[now] = gains[now]
        mine = best[now[j[best]]]
        cover[i[mine]] = values[mine]
        owned.append((i[mine], j[mine]))
        excess = values - cover[i]
        left = np.flatnonzero(excess > 0)
        i, j, values, excess = (part.take(left) for part in (i, j, values, excess))
    picks = np.argsort(-picked, kind="stable")[:budget]
    places, owners = np.full(n, -1), np.zeros(n, dtype=np.int64)
    places[picks] = np.arange(budget)
    # Of two picks that cover the same example, the one of a later round covers it better.
    for examples, by in owned:
        is_kept = places[by] >= 0
        owners[examples[is_kept]] = places[by[is_kept]]
    return _Picked(picks, np.maximum(picked[picks], 0), owners)


def _pairs_above(rows: Array, cover: Array, at_once: int) -> tuple[Array, Array, Array]:
    """The i, the j and the similarity of all pairs above the cover of i, row by row, ``[p]`` each.

    A cover is one of the similarities, and so of their type.
    """
    counts, places, values = [], [], []
    for first in range(0, len(rows), at_once):
        block = rows[first : first + at_once]
        above = block > cover[first : first + at_once, None].astype(rows.dtype)
        within = np.flatnonzero(above)
        counts.append(np.count_nonzero(above, axis=1))
        values.append(block.reshape(-1).take(within))
        places.append(within + first * len(rows))
    i = np.arange(len(rows)).repeat(np.concatenate(counts))
    j = np.concatenate(places) - i * len(rows)
    return i, j, np.concatenate(values).astype(np.float64)


def _first_of_largest(gains: Array, i: Array) -> Array:
    """Where the first of the largest ``gains [p]`` of each row stands, with ``i [p]`` ascending."""
    starts = np.flatnonzero(np.diff(i, prepend=-1))
    if not len(starts):
        return starts
    largest = np.maximum.reduceat(gains, starts)
    at = np.flatnonzero(gains == largest.repeat(np.diff(starts, append=len(i))))
    return at[np.flatnonzero(np.diff(i[at], prepend=-1))]


def _gains(similarities: _Similarities, cover: Array) -> Array:
    """What each of the n examples would add, ``[n]``, summed one example after the other."""
    n, at_once, *_ = similarities
    gains = np.zeros(n)
    for first in range(0, n, at_once):
        part = slice(first, first + at_once)
        excess = similarities.rows(part) - cover[part, None]
        np.maximum(excess, 0, out=excess)
        excess[0] += gains
        gains = excess.sum(0)
    return gains


def _gains_of(similarities: _Similarities, examples: Array, cover: Array) -> Array:
    """The same of some ``examples [w]`` alone, ``[w]``, to the last bit."""
    excess = similarities.columns(examples) - cover[:, None]
    np.maximum(excess, 0, out=excess)
    # NumPy sums a single column pairwise, several of them one row after the other.
    gains: Array = excess.cumsum(0)[-1] if len(examples) == 1 else excess.sum(0)
    return gains


def _chosen(picked: _Picked, dtype: torch.dtype, device: torch.device) -> FacilityLocation:
    """What was picked, its gains and cluster sizes, as tensors."""
    clusters = np.bincount(picked.owners, minlength=len(picked.examples))
    return FacilityLocation(
        indices=torch.from_numpy(picked.examples).to(device),
        gains=torch.from_numpy(picked.gains).to(device, dtype),
        weights=torch.from_numpy(clusters).to(device, dtype),
    )
