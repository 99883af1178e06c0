"""Balanced sampling: a random subset whose mean gradient is close to that of all.

Every candidate is kept with the same probability, r / n. So what is kept is right on average, in
every direction, whether features see it or not; a choice by features alone leaves the same things
out at every step. Within that, sums over the kept stay close to sums over all: of two candidates
alike in their features, one is kept.

It is the Gram-Schmidt walk (`colm.coreset.gram_schmidt_walk`) from equal probabilities. With g_i
the features of n candidates, p_i what each counts for in the training loss (sum 1) and g = sum_i
p_i g_i, it keeps the sum over the kept of x_i = n p_i (g_i - g) near 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from colm.coreset.gram_schmidt_walk import around_mean, distance_from_mean, walk

NOISE = 0.1


class BalancedSampling(NamedTuple):
    """What balanced sampling drew.

    Attributes:
        indices: ``[budget]`` int64 rows, ascending.
        error: l2 distance of their mean from the mean of all rows, means weighted by ``target``.
    """

    indices: Tensor
    error: float


@torch.no_grad()
def balanced_sampling(
    features: Tensor,
    budget: int,
    *,
    generator: torch.Generator,
    target: Tensor | None = None,
    noise: float = NOISE,
) -> BalancedSampling:
    """Draw examples, each with probability r / n, whose mean is close to the mean of all.

    Computed in float64. Costs O(n^2 d) for the Gram matrix and O(n^3) for the walk.

    Args:
        features: ``[n, d]`` finite, one row an example.
        budget: ``1 <= budget <= n`` examples.
        generator: on the CPU; with the features it decides what is drawn.
        target: ``[n]`` positive, what each example counts for in the mean to be matched, such as
            its label tokens where the loss averages over those; all the same where ``None``.
        noise: squared norm of what the features do not see of a gradient, relative to what they
            do; the larger, the closer to a plain random draw.

    Returns:
        The rows, and the error left.

    Raises:
        ValueError: features are not a finite matrix, or a number is out of range.

    Example:
        >>> rows = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
        >>> drawn = balanced_sampling(rows, 2, generator=torch.Generator().manual_seed(0))
        >>> rows[drawn.indices].sum(0), round(drawn.error, 6)
        (tensor([1., 1.]), 0.0)
    """
    budget, shares, gram = around_mean(features, budget, target, noise, generator)
    scales = shares * len(shares)
    chances = torch.full((len(shares),), budget / len(shares), dtype=torch.float64)
    kept = walk(gram * scales * scales[:, None], chances, noise, generator)
    weights = shares[kept] / shares[kept].sum()
    return BalancedSampling(kept.to(features.device), distance_from_mean(gram, kept, weights))
