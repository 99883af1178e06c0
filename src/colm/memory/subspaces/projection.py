"""Drawing the random matrices P that a weight is trained along.

Two ways, both with E[P P^T] = I, so that a step along P is on average a step in the whole space.
Symbols: m inputs of a weight, rank r.
"""

import math

import torch
from torch import Tensor

from colm.checks import check_choice
from colm.randomness import keyed_generator

SAMPLINGS = ("haar", "gaussian")


def draw_projection(
    inputs: int,
    rank: int,
    sampling: str,
    *key: int | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw P, the same for the same key on every machine and process.

    ``gaussian``: entries are normal with variance 1/r. ``haar``: r orthonormal directions, uniform
    among all such, times sqrt(m/r); with r = m a rotation, which loses nothing. Costs O(m r), and
    ``haar`` O(m r^2).  Paper: RSO, arXiv 2502.07222.

    Args:
        inputs: m.
        rank: r, at most m.
        sampling: ``gaussian`` or ``haar``.
        key: what P depends on, and nothing else: a seed, the outer step, the name of the weight.
        device: where P is wanted.
        dtype: of P. Whoever trains along P and merges it must use the same rounded numbers.

    Returns:
        ``[r, m]``, the transpose of P, as a linear map from m inputs.

    Raises:
        ValueError: an unknown sampling, or a rank out of range.

    Example:
        >>> p = draw_projection(6, 2, "haar", 0, 1, "q_proj")
        >>> torch.allclose(p @ p.T, torch.eye(2) * 3, atol=1e-5)
        True
    """
    check_sampling(sampling)
    if not 1 <= rank <= inputs:
        raise ValueError(f"rank must be 1 to {inputs}, the inputs of the weight; got {rank}.")
    # Drawn on the CPU in one type: other devices and types give other numbers.
    normal = torch.randn(inputs, rank, generator=keyed_generator(*key), dtype=torch.float32)
    normal = normal.to(device, torch.promote_types(dtype, torch.float32))
    if sampling == "gaussian":
        return (normal.T / math.sqrt(rank)).to(dtype).contiguous()
    orthonormal, triangle = torch.linalg.qr(normal)
    # Without the signs the directions would not be uniform (Mezzadri 2007).
    directions: Tensor = (orthonormal * triangle.diagonal().sign()).T
    return (directions * math.sqrt(inputs / rank)).to(dtype).contiguous()


def check_sampling(sampling: str) -> None:
    """Refuse an unknown way of drawing.

    Raises:
        ValueError: it is none of `SAMPLINGS`.
    """
    check_choice("sampling", sampling, SAMPLINGS)
