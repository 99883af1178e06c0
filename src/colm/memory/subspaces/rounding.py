"""Rounding to bfloat16 so that small updates are not lost.

A bfloat16 weight has 8 significant bits: an update below 1/512 of it is rounded away, every time.
Rounded up or down at random, with the probabilities that make the result right on average, many
such updates add up to what they should.
"""

import torch
from torch import Tensor

from colm.checks import check_choice

ROUNDINGS = ("stochastic", "nearest")


@torch.no_grad()
def round_to(
    values: Tensor, dtype: torch.dtype, rounding: str, generator: torch.Generator | None = None
) -> Tensor:
    """Round float32 values, to bfloat16 at random where asked to; to other types to the nearest.

    Args:
        values: any shape, finite.
        dtype: to round to.
        rounding: ``stochastic`` or ``nearest``.
        generator: on the device of the values; needed for ``stochastic``.

    Returns:
        As the values, of the type.

    Raises:
        ValueError: an unknown rounding.

    Example:
        >>> third = torch.full((100_000,), 1 + 1 / 384)  # a third of the way to the next number
        >>> rounded = round_to(
        ...     third, torch.bfloat16, "stochastic", torch.Generator().manual_seed(0)
        ... )
        >>> rounded.unique().tolist()
        [1.0, 1.0078125]
        >>> bool((rounded.double().mean() - third.double().mean()).abs() < 1e-4)
        True
    """
    check_rounding(rounding)
    if rounding == "nearest" or dtype != torch.bfloat16:
        return values.to(dtype)
    bits = values.float().view(torch.int32)
    noise = torch.randint(
        1 << 16, bits.shape, generator=generator, dtype=torch.int32, device=bits.device
    )
    # What is cut off has 16 bits: adding as many at random carries over with its share of one.
    # A value that is exact has none to carry, and stays.
    return ((bits + noise) & -(1 << 16)).view(torch.float32).to(dtype)


def check_rounding(rounding: str) -> None:
    """Refuse an unknown rounding.

    Raises:
        ValueError: it is none of `ROUNDINGS`.
    """
    check_choice("rounding", rounding, ROUNDINGS)
