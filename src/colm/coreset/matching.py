"""How well a selection stands for all it was selected from, in feature space."""

import math

from torch import Tensor, float32, promote_types


def matching_error(
    features: Tensor, rows: Tensor, weights: Tensor | None = None, target: Tensor | None = None
) -> float:
    """Return how far the mean of ``rows`` is from the mean of all, relative to a random choice.

    The error of a random subset of k of n rows is known: E||mean_S - mean||^2 = (1/k - 1/n) times
    the summed sample variance of the features; where rows do not all count the same, of the
    features times what they count for, to first order. Costs O(nd).

    Args:
        features: ``[n, d]``.
        rows: ``[k]`` int64.
        weights: ``[k]`` what each counts for, relative to what it counts for in the mean of all.
        target: ``[n]`` what each counts for in that, such as its label tokens; all the same where
            ``None``.

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
    rows = rows.to(features.device)
    shares = features.new_ones(n) if target is None else target.to(features)
    shares = shares / shares.sum()
    deviations = features - shares @ features
    squares = deviations.square().sum(1)
    expected = (1 / k - 1 / n) * ((n * shares).square() @ squares) / (n - 1)
    if expected == 0:
        return math.nan
    kept = shares[rows] if weights is None else shares[rows] * weights.to(features)
    error = (kept / kept.sum() @ deviations[rows]).square().sum()
    return float((error / expected).sqrt())
