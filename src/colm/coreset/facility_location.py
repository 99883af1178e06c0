"""Facility location: the examples that best stand for all others.

f(S) = sum_i max_{s in S} similarity[i, s] for a set S of the n examples: each example i is worth
what its best representative in S resembles it. f is monotone and submodular, so that adding the
example of largest gain again and again comes within 1 - 1/e of the best S of that size.
The cover of i is max_{s in S} similarity[i, s] for the S chosen so far.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# As much as torch does on one thread: for so little work, starting more costs more than it saves.
_ENTRIES_AT_ONCE = 32_000
_BLOCK_GROWTH = 4
_PICKED = -torch.inf


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

    The lazy greedy: gains only ever fall, so old ones bound new ones from above, and an example is
    looked at again only while its bound is the largest. The result is that of the plain greedy, to
    the last tie, which goes to the lowest index: gains are summed in float64, always over all
    examples, never updated by differences. One pick costs O(n) to O(n^2), nearer to O(n) in
    practice. Runs on the CPU, where the order of sums, and with it every tie, is always the same.
    Paper: SSM v1, Eq. 6.

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
    n = _check_square(similarity)
    if not 1 <= budget <= n:
        raise ValueError(f"budget must be between 1 and the number of examples, {n}; got {budget}.")
    dtype = torch.promote_types(similarity.dtype, torch.float32)
    representatives = similarity.to("cpu", dtype).T.contiguous()
    indices, gains = _lazy_greedy(representatives, budget, tie_tolerance)
    clusters = representatives[indices].argmax(0)
    return FacilityLocation(
        indices=torch.tensor(indices, device=similarity.device),
        gains=torch.tensor(gains, dtype=dtype, device=similarity.device),
        weights=clusters.bincount(minlength=budget).to(similarity.device, dtype),
    )


def _check_square(similarity: Tensor) -> int:
    """Return n, or refuse what is not a finite ``[n, n]`` matrix."""
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(f"similarity must be a square matrix; got shape {[*similarity.shape]}.")
    if not torch.isfinite(similarity).all():
        raise ValueError("similarity must be finite; got NaN or infinity: leave such examples out.")
    return len(similarity)


def _lazy_greedy(
    representatives: Tensor, budget: int, tolerance: float
) -> tuple[list[int], list[float]]:
    """Pick rows of ``representatives [n, n]``; row j is how well j stands for each example."""
    cover = representatives.amin(0).clamp(max=0).double()

    def gains_of(rows: Tensor) -> Tensor:
        covered = representatives.index_select(0, rows).double()
        return covered.sub_(cover).clamp_(min=0).sum(1)

    n = len(representatives)
    block = max(2, _ENTRIES_AT_ONCE // n)
    bounds = torch.cat([gains_of(rows) for rows in torch.arange(n).split(block)])
    indices: list[int] = []
    gains: list[float] = []
    while len(indices) < budget:
        pick, gain, largest = _largest_gain(bounds, gains_of, block, tolerance)
        if largest <= tolerance:
            break
        indices.append(pick)
        gains.append(gain)
        torch.maximum(cover, representatives[pick].double(), out=cover)
        bounds[pick] = _PICKED
    # With nothing left to gain beyond the tolerance, all that is left is tied.
    rest = (bounds != _PICKED).nonzero().flatten()[: budget - len(indices)].tolist()
    return indices + rest, gains + [0.0] * len(rest)


def _largest_gain(
    bounds: Tensor, gains_of: Callable[[Tensor], Tensor], size: int, tolerance: float
) -> tuple[int, float, float]:
    """Return the next pick, its gain and the largest; tighten the ``bounds [n]`` looked at.

    Args:
        bounds: of the gain of each example, from above; of those picked, ``_PICKED``.
        gains_of: rows to their gains.
        size: examples to look at first; more while a tie or a larger gain may be among the others.
        tolerance: what the gain of the first of those tied may fall short of the largest by.
    """
    while True:
        bound, rows = bounds.topk(min(size, len(bounds)))
        gain = torch.where(bound == _PICKED, bound, gains_of(rows))
        bounds[rows] = gain
        largest = float(gain.max())
        # Rows not looked at have at most the last bound: one as large might be a tie.
        if largest - tolerance > bound[-1] or len(rows) == len(bounds):
            tied = gain >= largest - tolerance
            pick = rows[tied].argmin()
            return int(rows[tied][pick]), float(gain[tied][pick]), largest
        size *= _BLOCK_GROWTH
