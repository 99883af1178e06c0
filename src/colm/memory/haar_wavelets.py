"""Haar's wavelet transform of the rows of a matrix: local means, and what they leave out.

Level j halves the columns of what level j - 1 left: A_j = (even + odd) / sqrt(2), the approximation
of it, and D_j = (even - odd) / sqrt(2), the details. It is orthonormal, so nothing is lost, and
lengths that are odd are filled up by a zero.  Paper: GWT, arXiv 2501.07237.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def transform(matrix: Tensor, levels: int) -> tuple[Tensor, list[Tensor]]:
    """Return A_L and D_1 ... D_L of a matrix ``[m, n]``.

    Returns:
        ``[m, n_L]`` and, for each level j, ``[m, n_j]``, where n_j is n / 2^j, rounded up.

    Example:
        >>> approximation, (details,) = transform(torch.tensor([[3.0, 1.0]]), 1)
        >>> (approximation * 2**0.5).round().item(), (details * 2**0.5).round().item()
        (4.0, 2.0)
    """
    details = []
    for _ in range(levels):
        matrix = functional.pad(matrix, (0, matrix.shape[1] % 2))
        even, odd = matrix[:, ::2], matrix[:, 1::2]
        details.append((even - odd) / math.sqrt(2))
        matrix = (even + odd) / math.sqrt(2)
    return matrix, details


def inverse(approximation: Tensor, details: Sequence[Tensor], columns: int) -> Tensor:
    """Return the matrix ``[m, n]`` of an approximation and details, as `transform` returns them.

    Args:
        approximation: A_L.
        details: D_1 ... D_L.
        columns: n.
    """
    lengths = [columns, *(detail.shape[1] for detail in details)]
    for detail, length in zip(reversed(details), reversed(lengths[:-1]), strict=True):
        pair = torch.stack((approximation + detail, approximation - detail), dim=2)
        approximation = pair.flatten(1)[:, :length] / math.sqrt(2)
    return approximation


def spread(values: Tensor, columns: int) -> Tensor:
    """Return for each column of details the value at the place of A_L that they lie under.

    Args:
        values: ``[m, n_L]``, one for each place of A_L.
        columns: n_j, of the details.

    Example:
        >>> spread(torch.tensor([[1, 2]]), 3)
        tensor([[1, 1, 2]])
    """
    times = 1
    while values.shape[1] * times < columns:
        times *= 2
    return values.repeat_interleave(times, dim=1)[:, :columns]
