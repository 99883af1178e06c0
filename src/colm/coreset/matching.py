"""How well a selection stands for all it was selected from, in feature space."""

import math

from torch import Tensor, float32, promote_types


def matching_error(features: Tensor, rows: Tensor) -> float:
    """Return how far the mean of ``rows`` is from the mean of all, relative to a random choice.

    The error of a random subset of k of n rows is known: E||mean_S - mean||^2 = (1/k - 1/n) times
    the summed sample variance of the features. Costs O(nd).

    Args:
        features: ``[n, d]``.
        rows: ``[k]`` int64.

    Returns:
        1 for as good as random on average, 0 for equal means; NaN where k is 0 or n, or all rows
        are the same.

    Example:
        >>> import torch
        >>> matching_error(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([1]))
        0.0
    """
    n, k = len(features), len(rows)
    if k in (0, n):
        return math.nan
    features = features.to(promote_types(features.dtype, float32))
    mean = features.mean(0)
    variance = (features - mean).square().sum() / (n - 1)
    expected = (1 / k - 1 / n) * variance
    if expected == 0:
        return math.nan
    error = (features[rows.to(features.device)].mean(0) - mean).square().sum()
    return float((error / expected).sqrt())
