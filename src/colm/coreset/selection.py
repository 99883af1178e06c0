"""What one selection step has to choose, what it keeps, and how well that stands for all."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, float32, promote_types


@dataclass(frozen=True)
class Contested:
    """What is left to choose once it is settled which candidates need no comparison.

    Attributes:
        whole: ``[w]`` int64 rows that are kept as they are.
        kept_whole: how many of these because their source is small: all or none.
        rows: ``[k]`` int64 rows to choose among, in the order of their keys where they have some;
            none where nothing is left to choose, and then nothing need be seen of any.
        budget: how many of ``rows`` to keep, at least 1 where there are any.
        sources: ``[k]`` int64 code of the source of each of ``rows``.
        label_tokens: ``[k]`` int64, where known.
        generator: of whatever is random in the choice.
        are_small: whether ``rows`` are those of small sources, which did not fit the budget.
        have_keys: whether ``rows`` stand in the order of their keys.
    """

    whole: Tensor
    kept_whole: int
    rows: Tensor
    budget: int
    sources: Tensor
    label_tokens: Tensor | None
    generator: torch.Generator
    are_small: bool
    have_keys: bool


@dataclass(frozen=True)
class Selection:
    """What one step keeps.

    Attributes:
        indices: ``[k]`` int64 candidates to train on: those of small sources first, then the
            selected in pick order. k = r, unless too few candidates had finite features.
        weights: ``[k]`` how many candidates each stands for, itself included, the weight of its
            loss where losses are weighted: 1 for those kept whole, the size of its cluster within
            its source (among all selected from, where sources are pooled) for a medoid, and 1 for
            what a selector without clusters keeps. With medoids they sum to the finite candidates.
        kept_whole: how many were kept because their source is small.
        non_finite: ``[j]`` int64 candidates left out for NaN or infinite features.
        matching_error: distance of the selected features' mean from that of all they were selected
            from, over its expectation for a random choice of as many: 1 is random, 0 is perfect;
            NaN where nothing was selected by features.
    """

    indices: Tensor
    weights: Tensor
    kept_whole: int
    non_finite: Tensor
    matching_error: float


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
