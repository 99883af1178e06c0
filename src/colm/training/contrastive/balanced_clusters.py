"""Clusters of equal size: what is like each other, found by cutting in two again and again.

Symbols: N rows, d features, c rows a cluster.
"""

import math

import torch
from torch import Tensor

from colm.checks import check_whole

#: Rounds in which two halves find their centers; most are settled after a few.
_MOST_ROUNDS = 10


def balanced_clusters(features: Tensor, size: int, generator: torch.Generator) -> list[Tensor]:
    """Return clusters of like rows, as many as need be and about equally large.

    Cuts at the middle of where rows lie between two centers, which are the means of the halves, by
    the angle between rows.  Costs O(N d log(N / c)) a round.  Paper: NGAME, Dahiya et al. 2023,
    arXiv 2207.04452, balanced binary k-means.

    Args:
        features: ``[N, d]`` float, finite.
        size: c, rows of a cluster at most.
        generator: draws the two rows that a cut starts from.

    Returns:
        ``ceil(N / c)`` tensors of int64 row indices, ascending, which share out all rows; none
        without rows.

    Raises:
        ValueError: ``size`` is below 1.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0]])
        >>> found = balanced_clusters(rows, 2, torch.Generator().manual_seed(0))
        >>> sorted(cluster.tolist() for cluster in found)
        [[0, 2], [1, 3]]
    """
    size = check_whole("size", size, least=1)
    directions = torch.nn.functional.normalize(features.float(), dim=1)
    pending = [(torch.arange(len(features)), math.ceil(len(features) / size))]
    done = []
    while pending:
        rows, clusters = pending.pop()
        if clusters <= 1:
            done += [rows.sort().values] if len(rows) else []
            continue
        first = clusters // 2
        number = round(len(rows) * first / clusters)
        order = _between_two(directions[rows.to(directions.device)], number, generator)
        pending.append((rows[order[:number]], first))
        pending.append((rows[order[number:]], clusters - first))
    return done


def _between_two(directions: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Order rows from one of two centers to the other; ``number`` of them belong to the first."""
    ends = torch.randperm(len(directions), generator=generator)[:2]
    towards = directions[ends[0]] - directions[ends[1]]
    order = (directions @ towards).argsort(descending=True, stable=True)
    for _ in range(_MOST_ROUNDS):
        towards = directions[order[:number]].mean(0) - directions[order[number:]].mean(0)
        again = (directions @ towards).argsort(descending=True, stable=True)
        settled = torch.equal(again[:number].sort().values, order[:number].sort().values)
        order = again
        if settled:
            break
    return order.cpu()
