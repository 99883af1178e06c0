"""Importance sampling: large gradients kept more often, and counted less where they are.

The error of a random choice is that of the largest gradients it misses. With g_i the features of n
candidates, p_i what each counts for in the training loss (sum 1), g = sum_i p_i g_i and x_i = n p_i
(g_i - g), candidate i is kept with a probability pi_i that grows with ||x_i||, and counts for p_i /
pi_i (Horvitz and Thompson 1952). So what is kept is right on average, in every direction, as with
equal probabilities, and errs least where sum_i ||x_i||^2 / pi_i is least, which it is with pi_i in
proportion to ||x_i||. To that a part of the mean norm is added: features see a part of a gradient,
and what an example seems to lack it may have elsewhere.

Which are kept is drawn by the Gram-Schmidt walk (`colm.coreset.gram_schmidt_walk`), so that the
sums over the kept of x_i / pi_i and of p_i / pi_i, their weight in all, stay near what they are on
average.
Symbols: r kept.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from colm.coreset.balanced_sampling import NOISE
from colm.coreset.gram_schmidt_walk import around_mean, distance_from_mean, walk

#: Added to every norm, in mean norms. It bounds weights: none is above (1 + FLOOR) / FLOOR.
FLOOR = 0.3


class ImportanceSampling(NamedTuple):
    """What importance sampling drew.

    Attributes:
        indices: ``[budget]`` int64 rows, ascending.
        weights: ``[budget]`` float32, at least 1: how many times each counts compared with itself
            among all n, one over the probability that it was kept.
        error: l2 distance of their weighted mean from the mean of all rows.
    """

    indices: Tensor
    weights: Tensor
    error: float


@torch.no_grad()
def importance_sampling(
    features: Tensor,
    budget: int,
    *,
    generator: torch.Generator,
    target: Tensor | None = None,
    noise: float = NOISE,
) -> ImportanceSampling:
    """Draw examples, large gradients with a higher probability, and weigh each by its inverse.

    Computed in float64. Costs O(n^2 d) for the Gram matrix and O(n^3) for the walk.

    Args:
        features: ``[n, d]`` finite, one row an example.
        budget: ``1 <= budget <= n`` examples.
        generator: on the CPU; with the features it decides what is drawn.
        target: ``[n]`` positive, what each example counts for in the mean to be matched, such as
            its label tokens where the loss averages over those; all the same where ``None``.
        noise: squared norm of what the features do not see of a gradient, relative to what they
            do; the larger, the closer to independent draws.

    Returns:
        The rows, their weights, and the error left.

    Raises:
        ValueError: features are not a finite matrix, or a number is out of range.

    Example:
        >>> rows = torch.tensor([[9.0], [-9.0], [1.0], [-1.0], [1.0], [-1.0]])
        >>> drawn = importance_sampling(rows, 4, generator=torch.Generator().manual_seed(0))
        >>> drawn.indices[:2], [round(weight, 2) for weight in drawn.weights.tolist()]
        (tensor([0, 1]), [1.0, 1.0, 2.0, 2.0])
    """
    budget, shares, gram = around_mean(features, budget, target, noise, generator)
    counts = shares * len(shares)
    products = gram * counts * counts[:, None]
    probabilities = inclusion_probabilities(products.diagonal().clamp(min=0).sqrt(), budget)
    kept = walk(
        _with_weight(products / probabilities / probabilities[:, None], counts / probabilities),
        probabilities,
        noise,
        generator,
    )
    weights = 1 / probabilities[kept]
    means = shares[kept] * weights
    means = means / means.sum()
    device, error = features.device, distance_from_mean(gram, kept, means)
    return ImportanceSampling(kept.to(device), weights.float().to(device), error)


def inclusion_probabilities(norms: Tensor, budget: int) -> Tensor:
    """Return the probabilities to keep rows: in proportion to norms and a floor, none above 1.

    Args:
        norms: ``[n]`` float64, at least 0.
        budget: sum of the probabilities, at most n.

    Returns:
        ``[n]`` float64, above 0.

    Example:
        >>> inclusion_probabilities(torch.tensor([8.0, 1.0, 1.0, 1.0, 1.0]).double(), 3)
        tensor([1.0000, 0.5000, 0.5000, 0.5000, 0.5000], dtype=torch.float64)
    """
    mean = norms.mean()
    sizes = norms + FLOOR * mean if mean > 0 else torch.ones_like(norms)
    certain = torch.zeros(len(norms), dtype=torch.bool)
    while True:
        rest = budget - int(certain.sum())
        share = rest / sizes[~certain].sum() if rest else 0.0
        probabilities = torch.where(certain, 1.0, share * sizes)
        # What would be kept more than once is kept, and the others share what that leaves.
        beyond = (probabilities >= 1) & ~certain
        if not beyond.any():
            return probabilities
        certain |= beyond


def _with_weight(products: Tensor, weights: Tensor) -> Tensor:
    """Inner products with one more coordinate, their weight, as large as all others in the mean."""
    scale = products.diagonal().mean() / weights.square().mean()
    return products + scale * torch.outer(weights, weights)
