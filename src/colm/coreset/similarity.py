"""How far apart, and how alike, examples are.

Symbols: n examples, d features, C the largest distance among the n examples.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

_ORDERS = {"l1": 1.0, "l2": 2.0}
METRICS = (*_ORDERS, "cosine")
_ONE_BY_ONE = "donot_use_mm_for_euclid_dist"


def pairwise_distances(features: Tensor, metric: str = "l1") -> Tensor:
    """Return the distance of every example from every other.

    Costs O(n^2 d). Computed in float32, or wider where the features are. For more than 25 rows,
    ``l2`` and ``cosine`` come from inner products: a float32 ``l2`` distance below about a
    thousandth of the rows' norm, that of a row from itself included, is rounding. Pass float64
    where that matters. Some selections published with CoLM turn on just this rounding.

    Args:
        features: ``[n, d]``, one row an example.
        metric: ``l1`` (sum of absolute differences), ``l2`` (Euclidean) or ``cosine`` (one minus
            the cosine; a row of zeros is at distance 1 from every row).

    Returns:
        ``[n, n]`` distances.

    Raises:
        ValueError: the metric is unknown.

    Example:
        >>> pairwise_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), "l1")
        tensor([[0., 7.],
                [7., 0.]])
    """
    check_metric(metric)
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    if metric == "cosine":
        directions = normalize(features, dim=1)
        with torch.autocast(features.device.type, enabled=False):
            return 1 - directions @ directions.T
    return torch.cdist(features, features, p=_ORDERS[metric])


def distances_to(features: Tensor, others: Tensor, metric: str = "l1") -> Tensor:
    """Return the distance of every example from some others, each computed by itself.

    Costs O(m n d), at several times the time of `pairwise_distances` for ``l2`` and ``cosine``,
    which that computes from inner products. In return a distance is the same number whichever
    others it is computed together with, in either direction, and that of a row from itself is 0.

    Args:
        features: ``[n, d]``, one row an example.
        others: ``[m, d]``, in the order of the result's rows.
        metric: ``l1``, ``l2`` or ``cosine``, as in `pairwise_distances`.

    Returns:
        ``[m, n]`` distances.

    Raises:
        ValueError: the metric is unknown.

    Example:
        >>> distances_to(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 4.0]]), "l2")
        tensor([[4., 3.]])
    """
    check_metric(metric)
    dtype = torch.promote_types(features.dtype, torch.float32)
    features, others = features.to(dtype), others.to(dtype)
    if metric == "cosine":
        # Half the squared distance between directions; a row of zeros is at 1 from every row.
        features, others = normalize(features, dim=1), normalize(others, dim=1)
        half = torch.cdist(others, features, compute_mode=_ONE_BY_ONE).square() / 2
        is_zero = (others == 0).all(1)[:, None] | (features == 0).all(1)
        return half.masked_fill(is_zero, 1.0)
    return torch.cdist(others, features, p=_ORDERS[metric], compute_mode=_ONE_BY_ONE)


def check_metric(metric: str) -> None:
    """Refuse what is no metric."""
    if metric not in METRICS:
        raise ValueError(f"distance must be one of {', '.join(METRICS)}; got {metric!r}.")


def sizes(features: Tensor, metric: str = "l1") -> Tensor:
    """Return how large each example is: its distance from zero, 1 for the cosine.

    Args:
        features: ``[n, d]``, one row an example.
        metric: ``l1``, ``l2`` or ``cosine``, as in `pairwise_distances`.

    Returns:
        ``[n]`` sizes.

    Example:
        >>> sizes(torch.tensor([[3.0, -4.0]]), "l2")
        tensor([5.])
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    if metric == "cosine":
        return features.new_ones(len(features))
    if metric == "l1":
        return features.abs().sum(1)
    return features.square().sum(1).sqrt()


def similarity(features: Tensor, metric: str = "l1") -> Tensor:
    """Return C minus the distance: 0 for the two examples that are farthest apart.

    C belongs to the rows passed: where sources are selected from one by one, each has its own.
    Any larger C leads to the same medoids. Costs O(n^2 d).  Paper: SSM v1, Eq. 6; l1: Alg. 1.

    Args:
        features: ``[n, d]``, one row an example.
        metric: ``l1``, ``l2`` or ``cosine``, as in `pairwise_distances`.

    Returns:
        ``[n, n]`` similarities, none negative.

    Raises:
        ValueError: the metric is unknown.

    Example:
        >>> similarity(torch.tensor([[0.0], [1.0], [3.0]]))
        tensor([[3., 2., 0.],
                [2., 3., 1.],
                [0., 1., 3.]])
    """
    distances = pairwise_distances(features, metric)
    return distances.max() - distances if len(distances) else distances
