"""Facility location: the examples that best stand for all others.

f(S) = sum_i max_{s in S} similarity[i, s] for a set S of the n examples: each example i is worth
what its best representative in S resembles it. f is monotone and submodular, so that adding the
example of largest gain again and again comes within 1 - 1/e of the best S of that size.
The cover of i is max_{s in S} similarity[i, s] for the S chosen so far.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from colm.checks import (
    check_budget,
    check_matrix,
    check_not_negative,
    check_whole,
)
from colm.coreset.facility_cover import Cover, Similarities
from colm.coreset.facility_greedy import greedy_cover
from colm.coreset.facility_pairs import Array
from colm.coreset.similarity import distances_to

# Rows that stay in the processor's cache while they are gone through.
_ENTRIES_AT_ONCE = 2**19
# Pairs to hold, as a share of the matrix, or of the similarities computed at once.
_MOST_PAIRS = 1 / 4
_PAIRS_A_ROW_AT_ONCE = 1 / 2


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

    The result is that of the plain greedy whose gains are summed in float64 over all examples, to
    the last tie, which goes to the lowest index. The matrix is read about twice in all; the picks
    are made among the pairs whose similarity exceeds the cover, which soon are few. Runs on the
    CPU, where the order of sums, and with it every tie, is always the same.  Paper: SSM v1, Eq. 6.

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
    budget = check_budget(budget, n)
    check_not_negative("tie_tolerance", tie_tolerance)
    dtype = torch.promote_types(similarity.dtype, torch.float32)
    matrix = similarity.detach().to("cpu", dtype).contiguous()
    rows = matrix.numpy()
    similarities = Similarities(
        n=n,
        rows_at_once=max(1, _ENTRIES_AT_ONCE // n),
        rows=lambda part: rows[part],
        columns=lambda part: matrix.index_select(1, torch.from_numpy(part)).T.contiguous(),
        most_pairs=int(_MOST_PAIRS * n * n),
    )
    return _chosen(greedy_cover(similarities, budget, tie_tolerance), dtype, similarity.device)


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
    distances are computed about five times, one by one, where a matrix needs them once. Worth it
    where that matrix does not fit.  Paper: SSM v1, Eq. 6.

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

    def rows(part: slice | Array) -> Tensor:
        return largest - distances_to(points, points[part], metric)

    similarities = Similarities(
        n=n,
        rows_at_once=rows_at_once,
        rows=lambda part: rows(part).numpy(),
        columns=rows,
        most_pairs=int(_PAIRS_A_ROW_AT_ONCE * rows_at_once * n),
    )
    dtype = torch.promote_types(features.dtype, torch.float32)
    return _chosen(greedy_cover(similarities, budget, tie_tolerance), dtype, features.device)


def _chosen(cover: Cover, dtype: torch.dtype, device: torch.device) -> FacilityLocation:
    """What was picked, its gains and cluster sizes."""
    clusters = np.bincount(cover.owners, minlength=len(cover.picks))
    return FacilityLocation(
        indices=torch.tensor(cover.picks, device=device),
        gains=torch.tensor(cover.added, dtype=dtype, device=device),
        weights=torch.tensor(clusters, dtype=dtype, device=device),
    )


def _check_square(similarity: Tensor) -> int:
    """Return n, or refuse what is not an ``[n, n]`` matrix."""
    check_matrix("similarity", similarity, "a square matrix")
    if similarity.shape[0] != similarity.shape[1]:
        raise ValueError(f"similarity must be a square matrix; got shape {[*similarity.shape]}.")
    return len(similarity)
