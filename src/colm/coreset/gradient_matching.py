"""Gradient matching: a few examples, weighted, whose gradient is that of all candidates.

With g_i the features of n candidates and p_i what each counts for in the training loss (sum 1),
choose r of them, S, and shares v that sum to 1 and minimise

    ||sum_{i in S} v_i g_i - sum_i p_i g_i||^2 + noise * sum_i ||g_i - g||^2 (v_i - p_i)^2,

where v_i = 0 outside S and g = sum_i p_i g_i. The first term is the error that features see. They
see a part of the gradient only: the second is the error that the rest adds, where an example's
unseen part has ``noise`` times the square of its seen part and is independent of the others'. It
keeps shares near what they are in the large mini-batch where features tell little.

Shares are what an unweighted choice lacks most: a single example with a large gradient is too much
when it counts for one of r and is missed when left out, but right with the p_i it has among all.
Forward selection as in orthogonal matching pursuit, with the best shares after each pick by the
active-set method of Lawson and Hanson.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from colm.checks import (
    check_budget,
    check_matrix,
    check_not_negative,
)
from colm.coreset.balanced_sampling import NOISE
from colm.coreset.gram import centered_gram, product_tolerance, shares_of


class GradientMatching(NamedTuple):
    """What gradient matching chose.

    Attributes:
        indices: ``[budget]`` int64 rows, in the order picked.
        weights: ``[budget]`` v_i / p_i, what each is to count for relative to what it counts for
            anyway; of candidates that count the same it is how many each stands for. None is
            negative, and 0 only where no other choice would lower the error.
        error: l2 distance of their weighted mean from the mean of all rows.
    """

    indices: Tensor
    weights: Tensor
    error: float


@torch.no_grad()
def gradient_matching(
    features: Tensor,
    budget: int,
    *,
    target: Tensor | None = None,
    noise: float = NOISE,
    tie_tolerance: float = 0.0,
) -> GradientMatching:
    """Choose examples and weights whose weighted mean is closest to the mean of all.

    Deterministic; ties go to the lowest index. Computed in float64 on centred rows. Costs O(n^2 d)
    for the Gram matrix, and O(n r + r^3) for each of r picks.

    Args:
        features: ``[n, d]`` finite, one row an example.
        budget: ``1 <= budget <= n`` examples.
        target: ``[n]`` positive, what each example counts for in the mean to be matched, such as
            its label tokens where the loss averages over those; all the same where ``None``.
        noise: squared norm of what the features do not see of a gradient, relative to what they
            do; 0 trusts them altogether.
        tie_tolerance: relative error of the features that ties are seen through.

    Returns:
        The rows, their weights, and the error left.

    Raises:
        ValueError: features are not a finite matrix, or a number is out of range.

    Example:
        >>> rows = torch.tensor([[-1.0], [-1.0], [0.0], [1.0], [11.0]])
        >>> chosen = gradient_matching(rows, 2, noise=0.0)
        >>> chosen.indices, chosen.weights, round(chosen.error, 3)
        (tensor([3, 4]), tensor([4.5000, 0.5000]), 0.0)
    """
    check_matrix("features", features)
    budget = check_budget(budget, len(features))
    for option, value in (("noise", noise), ("tie_tolerance", tie_tolerance)):
        check_not_negative(option, value)
    shares = shares_of(target, len(features))
    gram = centered_gram(features, shares)
    tolerance = product_tolerance(features, gram, tie_tolerance)
    indices, chosen = _Pursuit(gram, shares, noise).run(budget, tolerance)
    error = (chosen @ gram[indices][:, indices] @ chosen).clamp(min=0).sqrt()
    weights = (chosen / shares[indices]).float()
    return GradientMatching(indices.to(features.device), weights.to(features.device), float(error))


class _Pursuit:
    """Minimises ``v' Q v - 2 c' v`` over shares of few rows, none negative, that sum to 1."""

    def __init__(self, gram: Tensor, shares: Tensor, noise: float) -> None:
        penalty = noise * gram.diagonal()
        self.quadratic = gram + torch.diag(penalty)
        self.linear = penalty * shares
        # Keeps the equations solvable where rows repeat; of the size of rounding.
        self.ridge = 1e-12 * float(self.quadratic.diagonal().mean()) + 1e-300
        self.picked = torch.empty(0, dtype=torch.int64)
        self.shares = gram.new_empty(0)

    def run(self, budget: int, tolerance: float) -> tuple[Tensor, Tensor]:
        """Pick until ``budget`` rows have weight; where none would improve, rows without follow."""
        after = self.quadratic.diagonal() - 2 * self.linear
        self.picked = _first_least(after, tolerance)
        self.shares = self.linear.new_ones(1)
        # A pick can take all weight from an earlier one, which then leaves.
        for _ in range(2 * budget):
            gain = self._gains()
            if len(self.picked) == budget or gain.max() <= 0:
                break
            self._add(_first_least(-gain, tolerance))
        return self._filled(budget)

    def _gains(self) -> Tensor:
        """``[n]`` by how much the objective falls if a row takes its best share of all weight."""
        products = self.quadratic[:, self.picked] @ self.shares
        own = self.shares @ products[self.picked]
        slope = own - products - self.linear[self.picked] @ self.shares + self.linear
        curvature = (own - 2 * products + self.quadratic.diagonal()).clamp(min=self.ridge)
        share = (slope / curvature).clamp(0, 1)
        gain = share * (2 * slope - share * curvature)
        # Not 0: a gain within the tolerance of it would be tied with those picked.
        return gain.index_fill(0, self.picked, -torch.inf)

    def _add(self, row: Tensor) -> None:
        """Give a row its weight and the others theirs anew, as Lawson and Hanson do.

        Weights go from the old towards the best until one would become negative; its row leaves,
        and the rest go on from there.
        """
        picked = torch.cat([self.picked, row])
        shares = torch.cat([self.shares, self.shares.new_zeros(1)])
        best = self._unbounded(picked)
        while (best <= 0).any():
            falling = best <= 0
            step = torch.where(falling, shares / (shares - best), torch.inf)
            shares = shares + step.min() * (best - shares)
            stays = step > step.min()
            picked, shares = picked[stays], shares[stays]
            best = self._unbounded(picked)
        self.picked, self.shares = picked, best

    def _unbounded(self, picked: Tensor) -> Tensor:
        """The best shares of ``picked`` that sum to 1, negative ones allowed."""
        matrix = self.quadratic[picked][:, picked]
        matrix.diagonal().add_(self.ridge)
        linear = self.linear[picked]
        sides = torch.stack([linear, torch.ones_like(linear)], dim=1)
        free, multiplier = torch.linalg.solve(matrix, sides).unbind(1)
        best: Tensor = free + multiplier * (1 - free.sum()) / multiplier.sum()
        return best

    def _filled(self, budget: int) -> tuple[Tensor, Tensor]:
        """The rows picked and their shares, and the first others with a weight of 0."""
        left = torch.ones(len(self.linear), dtype=torch.bool).index_fill(0, self.picked, False)
        others = left.nonzero().flatten()[: budget - len(self.picked)]
        shares = torch.cat([self.shares, self.shares.new_zeros(len(others))])
        return torch.cat([self.picked, others]), shares


def _first_least(values: Tensor, tolerance: float) -> Tensor:
    """Return the first row, ``[1]``, of those within ``tolerance`` of the least value."""
    return (values <= values.min() + tolerance).nonzero()[0]
