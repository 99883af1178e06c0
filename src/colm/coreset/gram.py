"""Inner products of centred features: all that matching a mean needs of them."""

import math

import torch
from torch import Tensor

from colm.checks import check_vector

_COLUMNS_AT_ONCE = 8192


def centered_gram(features: Tensor, shares: Tensor | None = None) -> Tensor:
    """Return the ``[n, n]`` inner products of the rows less their mean, float64 on the CPU.

    Costs O(n^2 d), some columns at a time.

    Args:
        features: ``[n, d]`` finite, one row an example.
        shares: ``[n]`` what each counts for in the mean, sum 1; all the same where ``None``.

    Raises:
        ValueError: features are not finite.
    """
    n = len(features)
    # Apple's accelerator has no float64.
    device = "cpu" if features.device.type == "mps" else features.device
    gram = torch.zeros(n, n, dtype=torch.float64, device=device)
    for columns in features.split(_COLUMNS_AT_ONCE, dim=1):
        columns = columns.to(device, torch.float64)
        mean = columns.mean(0) if shares is None else shares.to(columns) @ columns
        columns = columns - mean
        gram.addmm_(columns, columns.T)
    if not torch.isfinite(gram).all():
        raise ValueError("features must be finite; got NaN or infinity: leave such examples out.")
    return gram.cpu()


def shares_of(target: Tensor | None, n: int) -> Tensor:
    """Return what each of n rows counts for in the mean, ``[n]`` float64 on the CPU, sum 1.

    Args:
        target: ``[n]`` positive, in any unit; all the same where ``None``.
        n: number of rows.

    Raises:
        ValueError: it has another length, or an entry that is not positive.
    """
    if target is None:
        return torch.full((n,), 1 / n, dtype=torch.float64)
    check_vector("target", target, n)
    if not ((target > 0) & torch.isfinite(target)).all():
        raise ValueError(f"target must have {n} positive entries, one an example.")
    shares = target.cpu().to(torch.float64)
    return shares / shares.sum()


def product_tolerance(features: Tensor, gram: Tensor, relative_error: float) -> float:
    """Return what a relative error of the rows moves an inner product of centred ones by."""
    # In float64: squares of large float32 numbers overflow, and everything would be tied.
    device = "cpu" if features.device.type == "mps" else features.device
    blocks = features.split(_COLUMNS_AT_ONCE, dim=1)
    squares = sum(float(block.to(device, torch.float64).square().sum()) for block in blocks)
    mean_square = squares / len(features)
    return relative_error * math.sqrt(mean_square * float(gram.diagonal().mean()))
