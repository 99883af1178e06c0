"""Low-rank views of a gradient: orthonormal directions of its smaller side, chosen in three ways.

``top``: the first singular vectors.  Paper: GaLore, arXiv 2403.03507. ``sampled``: singular vectors
drawn without replacement, each by its share of all singular values.  Paper: I3S, arXiv 2502.05790.
``random``: uniform among all, whatever the gradient.  Paper: GoLore, arXiv 2410.11289. Symbols: G a
gradient ``[m, n]``, k the smaller of m and n, r the rank, Q a basis ``[k, r]``.
"""

import math

import torch
from torch import Tensor

from colm.memory.subspaces.projection import draw_projection
from colm.randomness import keyed_generator

TOP, SAMPLED, RANDOM = BASES = ("top", "sampled", "random")
#: What a singular value counts for in a draw, at least: others may all be zero.
_LEAST_SHARE = 1e-30


def find_basis(gradient: Tensor, rank: int, choice: str, *key: int | str) -> Tensor:
    """Return r orthonormal directions, on the right of G where m >= n, else on its left.

    ``top`` and ``sampled`` cost a singular value decomposition, O(m n k); ``random`` O(k r^2).

    Args:
        gradient: ``[m, n]``; where it is not finite, the directions are the first r axes, so that
            what is wrong with it shows in the weights.
        rank: r; k where that is less.
        choice: one of `BASES`.
        key: what a draw depends on, beside G.

    Returns:
        ``[k, r]`` of G's type, in the order of singular values.

    Example:
        >>> find_basis(torch.diag(torch.tensor([1.0, 3.0, 2.0])), 1, "top").abs().flatten()
        tensor([0., 1., 0.])
    """
    side, wide = min(gradient.shape), torch.promote_types(gradient.dtype, torch.float32)
    rank = min(rank, side)
    if choice == RANDOM:
        drawn = draw_projection(side, rank, "haar", *key, device=gradient.device, dtype=wide)
        basis: Tensor = drawn.T * math.sqrt(rank / side)
        return basis.to(gradient.dtype)
    if not gradient.isfinite().all():
        return torch.eye(side, rank, dtype=gradient.dtype, device=gradient.device)
    left, sizes, right = torch.linalg.svd(gradient.to(wide), full_matrices=False)
    vectors: Tensor = right.T if is_right(gradient) else left
    if choice == SAMPLED:
        vectors = vectors[:, draw_places(sizes, rank, *key).to(vectors.device)]
    return vectors[:, :rank].to(gradient.dtype).contiguous()


def draw_places(sizes: Tensor, rank: int, *key: int | str) -> Tensor:
    """Draw r singular vectors without replacement, each by its share of all singular values.

    Paper: I3S, arXiv 2502.05790.

    Args:
        sizes: ``[k]`` singular values.
        rank: r, at most k.
        key: what the draw depends on, beside them.

    Returns:
        ``[r]`` int64 places on the CPU, in order.
    """
    shares = sizes.double().cpu().clamp_min(_LEAST_SHARE)
    chosen = torch.multinomial(shares, rank, generator=keyed_generator(*key))
    return chosen.sort().values


def is_right(matrix: Tensor) -> bool:
    """Whether a basis of a matrix's smaller side is multiplied from the right."""
    return matrix.shape[0] >= matrix.shape[1]


def project(gradient: Tensor, basis: Tensor) -> Tensor:
    """Return G Q, ``[m, r]``, where m >= n, else Q^T G, ``[r, n]``."""
    return gradient @ basis if is_right(gradient) else basis.T @ gradient


def project_back(low: Tensor, basis: Tensor, *, right: bool) -> Tensor:
    """Return the matrix ``[m, n]`` that has the coordinates ``low`` in a basis.

    Args:
        low: as `project` returns it.
        basis: ``[k, r]``.
        right: whether the basis was multiplied from the right.
    """
    return low @ basis.T if right else basis @ low
