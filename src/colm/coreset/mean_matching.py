"""Mean matching: the examples whose plain mean is closest to the mean of all.

An unweighted step on them is then closest to a step on all. With n rows x_i, centred on their mean,
and G = X X^T their Gram matrix, the squared error of r rows S is ||mean_S x||^2 = sum_{i, j in S}
G_ij / r^2: once G is known, no step depends on the feature size d.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from colm.checks import check_budget, check_matrix, check_not_negative
from colm.coreset.gram import centered_gram, product_tolerance

# Swaps seldom number more than r; the bound only keeps a hostile input from running for long.
_MOST_SWAPS_PER_EXAMPLE = 10
# Below this share of the summed squares, an improvement is rounding.
_ROUNDING = 1e-12


class MeanMatching(NamedTuple):
    """What mean matching chose.

    Attributes:
        indices: ``[budget]`` int64 rows.
        error: distance (l2) of their mean from the mean of all rows.
    """

    indices: Tensor
    error: float


@torch.no_grad()
def mean_matching(features: Tensor, budget: int, *, tie_tolerance: float = 0.0) -> MeanMatching:
    """Choose the examples whose mean is closest to the mean of all.

    Greedy herding (add the row that leaves the mean of those chosen closest), then the best swap of
    a chosen row for another, until none improves: never worse than the greedy start. Deterministic;
    ties go to the lowest index. Computed in float64 on centred rows, so that adding a constant row
    to all changes nothing. Costs O(n^2 d) for the Gram matrix, O(n r) for herding and each swap.

    Args:
        features: ``[n, d]`` finite, one row an example.
        budget: ``1 <= budget <= n`` examples.
        tie_tolerance: relative error of the features that ties are to be seen through: what it may
            move is tied, and goes to the lowest index.

    Returns:
        The rows, in the order picked by herding with swaps in place, and the error left.

    Raises:
        ValueError: features are not a finite matrix, or the budget is out of range.

    Example:
        >>> mean_matching(torch.tensor([[0.0], [1.0], [5.0], [9.0], [10.0]]), 1)
        MeanMatching(indices=tensor([2]), error=0.0)
    """
    check_matrix("features", features)
    budget = check_budget(budget, len(features))
    check_not_negative("tie_tolerance", tie_tolerance)
    gram = centered_gram(features)
    tolerance = product_tolerance(features, gram, tie_tolerance)
    indices = _swap(gram, _herd(gram, budget, tolerance), tolerance)
    error = gram[indices][:, indices].sum().clamp(min=0).sqrt() / budget
    return MeanMatching(indices.to(features.device), float(error))


def _herd(gram: Tensor, budget: int, tolerance: float) -> Tensor:
    """Return ``[budget]`` rows, each the first that leaves the sum of those picked closest to 0."""
    cost = gram.diagonal().clone()
    indices = []
    for _ in range(budget):
        pick = int((cost <= cost.min() + tolerance).nonzero()[0])
        indices.append(pick)
        cost += 2 * gram[pick]
        cost[pick] = torch.inf
    return torch.tensor(indices)


def _swap(gram: Tensor, chosen: Tensor, tolerance: float) -> Tensor:
    """Return ``chosen [r]`` after the best swaps, one after the other, until none improves.

    Swapping i for j changes the squared sum by G_ii - 2 p_i + G_jj + 2 p_j - 2 G_ij, where p is the
    inner product of each row with the sum of those chosen. Of tied swaps
    that of the first rows is made.
    """
    n, squares = len(gram), gram.diagonal()
    is_chosen = torch.zeros(n, dtype=torch.bool)
    is_chosen[chosen] = True
    others = (~is_chosen).nonzero().flatten()
    if len(others) == 0:
        return chosen
    products = gram[chosen].sum(0)
    crossed = 2 * gram[chosen][:, others]
    # Beyond the tolerance twice, so that the first of tied swaps improves as well.
    least = -_ROUNDING * squares.sum() - 2 * tolerance
    for _ in range(_MOST_SWAPS_PER_EXAMPLE * n):
        out = squares[chosen] - 2 * products[chosen]
        into = squares[others] + 2 * products[others]
        change = out[:, None] + into - crossed
        best = change.min()
        if best >= least:
            break
        pairs = torch.where(change <= best + tolerance, chosen[:, None] * n + others, n * n)
        i, j = divmod(int(pairs.argmin()), len(others))
        old, new = chosen[i].clone(), others[j].clone()
        chosen[i], others[j] = new, old
        products += gram[new] - gram[old]
        crossed[i] = 2 * gram[new, others]
        crossed[:, j] = 2 * gram[chosen, old]
    return chosen
