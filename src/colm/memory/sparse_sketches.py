"""Rows of a matrix as sketches: few entries of each, compressed at random, and found again.

A row keeps its s largest entries, and A times that is its sketch, where A is a Gaussian matrix
``[k, n]`` with k = 2 s ln n: as many numbers as matching pursuit needs to find s entries again
(Tropp and Gilbert 2007). Where that is no less than n, A is the identity.  Paper: SGC, arXiv
2502.00311, with a row as the chunk of a gradient.
"""

import math

import torch
from torch import Tensor

from colm.randomness import keyed_generator


def sketch_size(columns: int, sparsity: int) -> int:
    """Return k, the numbers that stand for a row of n with s entries; at most n.

    Example:
        >>> sketch_size(576, 8)
        102
    """
    return min(columns, max(1, math.ceil(2 * sparsity * math.log(columns))))


def draw_sketch(columns: int, sparsity: int, *key: int | str) -> Tensor:
    """Return A ``[k, n]``, whose columns have length 1, on the CPU."""
    size = sketch_size(columns, sparsity)
    if size == columns:
        return torch.eye(columns)
    normal: Tensor = torch.randn(size, columns, generator=keyed_generator(*key))
    sketch: Tensor = normal / normal.norm(dim=0)
    return sketch


def keep_largest(matrix: Tensor, sparsity: int) -> Tensor:
    """Return a matrix ``[m, n]`` with all but the s largest magnitudes of each row set to zero.

    Example:
        >>> keep_largest(torch.tensor([[1.0, -3.0, 2.0]]), 2)
        tensor([[ 0., -3.,  2.]])
    """
    places = matrix.abs().topk(min(sparsity, matrix.shape[1]), dim=1).indices
    return torch.zeros_like(matrix).scatter_(1, places, matrix.gather(1, places))


def recover(sketches: Tensor, sketch: Tensor, sparsity: int) -> Tensor:
    """Return rows of at most s entries whose sketches come close, by orthogonal matching pursuit.

    One entry after another: the one whose column of A is most like what is left of the sketch; then
    all entries found are fitted anew by least squares.  Costs O(m k n s), which is many times what
    a step of Adam costs.

    Args:
        sketches: ``[m, k]``, of m rows.
        sketch: A, ``[k, n]``.
        sparsity: s.

    Returns:
        ``[m, n]``.
    """
    rows, (size, columns) = len(sketches), sketch.shape
    places = torch.empty(rows, 0, dtype=torch.int64, device=sketches.device)
    left, entries = sketches, sketches[:, :0]
    for _ in range(min(sparsity, size, columns)):
        likeness = (left @ sketch).abs().scatter(1, places, -1.0)
        places = torch.cat((places, likeness.argmax(1, keepdim=True)), 1)
        chosen = sketch.T[places].mT  # [m, k, entries so far]
        # The default driver on CPUs is not the same from run to run.
        entries = torch.linalg.lstsq(chosen, sketches.unsqueeze(2), driver="gels").solution
        left = sketches - (chosen @ entries).squeeze(2)
        entries = entries.squeeze(2)
    return sketches.new_zeros(rows, columns).scatter_(1, places, entries)
