"""Where to cut a list of lengths, longest first, into runs that are padded as little as can be.

A run of rows is padded to its first, its longest; with rows sorted by length no other grouping
pads less. Costs are in tokens, padding included. Symbols: k examples.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def cheapest_runs(lengths: Sequence[int], most_tokens: int, run_tokens: int) -> list[slice]:
    """Cut into any number of runs of least cost: the tokens of each, and ``run_tokens`` for each.

    Costs O(k m), m being the most rows that a run can have.

    Args:
        lengths: ``[k]`` tokens, descending.
        most_tokens: bound on rows x longest row of a run; a longer row is a run of its own.
        run_tokens: what a run costs beyond its tokens, at least 0.

    Returns:
        The runs in order; none of no lengths.

    Example:
        >>> cheapest_runs([9, 8, 4, 3], 18, run_tokens=2)
        [slice(0, 2, None), slice(2, 4, None)]
    """
    number = len(lengths)
    cost = np.full(number + 1, np.inf)
    cost[0] = 0
    came_from = np.zeros(number + 1, dtype=np.int64)
    for start, longest in enumerate(max(1, length) for length in lengths):
        most_rows = min(number - start, max(1, most_tokens // longest))
        stops = slice(start + 1, start + most_rows + 1)
        through = cost[start] + run_tokens + longest * np.arange(1, most_rows + 1)
        better = through < cost[stops]
        cost[stops][better] = through[better]
        came_from[stops][better] = start
    bounds = [number]
    while bounds[-1] > 0:
        bounds.append(int(came_from[bounds[-1]]))
    return _slices(bounds[::-1])


def fewest_padded(lengths: Sequence[int], runs: int, most_tokens: int) -> list[slice]:
    """Cut into so many runs that padding is least, none of them empty.

    Costs O(k^2 runs), a millisecond or less for hundreds of examples.

    Args:
        lengths: ``[k]`` tokens, descending.
        runs: 1 to k of them.
        most_tokens: bound on rows x longest row of a run; as many as runs of equal numbers of rows
            need, ``ceil(k / runs) * lengths[0]``, always suffice.

    Returns:
        The runs in order.

    Example:
        >>> fewest_padded([9, 4, 4, 3], 2, most_tokens=18)
        [slice(0, 1, None), slice(1, 4, None)]
    """
    number = len(lengths)
    longest = np.maximum(1, np.asarray(lengths, dtype=np.int64))[:, None]
    rows = np.arange(1, number + 1) - np.arange(number)[:, None]
    # cost[start, stop - 1] of one run; what is no run, or too large a one, is not to be had.
    cost = np.where((rows > 0) & (rows * longest <= most_tokens), rows * longest, np.inf)
    least, came_from = cost[0], []
    for _ in range(runs - 1):
        through = np.vstack([np.full(number, np.inf), least[:-1, None] + cost[1:]])
        starts: NDArray[np.int64] = through.argmin(0)
        least = through[starts, np.arange(number)]
        came_from.append(starts)
    bounds = [number]
    for starts in reversed(came_from):
        bounds.append(int(starts[bounds[-1] - 1]))
    return _slices([0, *bounds[::-1]])


def _slices(bounds: Sequence[int]) -> list[slice]:
    return [slice(start, stop) for start, stop in pairwise(bounds)]
