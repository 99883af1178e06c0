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


def selection_error(errors: Tensor, norms: Tensor, variances: Tensor | None = None) -> float:
    """Return E||g - g_s|| / ||grad L||, for g of the large mini-batch and g_s of the kept.

    The condition of Theorem 4.1 is that it is at most 1.  Paper: SSM v1, Theorem 4.1.

    grad L itself is known through g alone, and E||g||^2 exceeds ||grad L||^2 by the variance of g,
    which is large beside it late in training: pass it to have it taken off.

    Args:
        errors: ``[t]`` ||g - g_s|| of t steps, over which the expectation is taken.
        norms: ``[t]`` ||g|| of the same steps.
        variances: ``[t]`` E||g - grad L||^2: the summed sample variance of the n examples'
            gradients, over n.

    Returns:
        The ratio; infinity where the variance leaves nothing of the gradient, NaN for no steps.

    Raises:
        ValueError: not one number a step of each.

    Example:
        >>> import torch
        >>> selection_error(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 3.0]))
        0.5
    """
    if errors.shape != norms.shape or (variances is not None and variances.shape != errors.shape):
        raise ValueError("selection_error takes one error, norm and variance a step.")
    if errors.numel() == 0:
        return math.nan
    squared_norm = norms.double().square().mean()
    if variances is not None:
        squared_norm = squared_norm - variances.double().mean()
    if squared_norm <= 0:
        return math.inf
    return float(errors.double().mean() / squared_norm.sqrt())
