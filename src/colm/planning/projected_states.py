"""States of GaLore and APOLLO, as galore-torch and apollo-torch build them, for a plan.

Both keep Adam's moments of a projected gradient, and the projection; 8-bit GaLore's moments are as
bitsandbytes keeps them. Symbols: m rows and n columns of a matrix, r the rank.
"""

import math
from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from colm.training.optimizers import Argument, split_optim_args

#: Ends the names of those that step each weight inside the backward.
LAYERWISE = "_layerwise"
#: What transformers takes where ``optim_args`` says nothing.
_RANK = Argument(128, bounds={"least": 1})
_KINDS = {
    "std": lambda rows, columns: "right" if rows >= columns else "left",
    "reverse_std": lambda rows, columns: "left" if rows >= columns else "right",
    "left": lambda *_: "left",
    "right": lambda *_: "right",
    "full": lambda *_: "full",
}
#: Whether the rank is at most that of the matrix: singular vectors are, random ones are not.
_PROJECTED = {
    "galore_adamw": True,
    "galore_adamw_8bit": True,
    "galore_adafactor": True,
    "apollo_adamw": False,
}
#: Of bitsandbytes: numbers that share a scale, and the fewest of a tensor that are kept in 8 bits.
_BLOCK, _LEAST_EIGHT_BITS = 256, 4096


def is_projected(optim: str) -> bool:
    """Return whether an optimizer of transformers is one of GaLore's or APOLLO's known here."""
    return optim.removesuffix(LAYERWISE) in _PROJECTED


def projected_bytes(
    optim: str, weights: Iterable[Tensor], options: str | None, targets: Collection[int]
) -> int:
    """Return the bytes of the state, scalars left out.

    Args:
        optim: its name, for which `is_projected` is true.
        weights: that it steps.
        options: ``optim_args``.
        targets: ids of those whose gradients are projected.

    Raises:
        ValueError: the rank is no whole number, or the projection is none of these packages.

    Example:
        >>> weight = torch.zeros(8, 4)
        >>> projected_bytes("galore_adamw", [weight], "rank=2", {id(weight)})
        160
    """
    name = optim.removesuffix(LAYERWISE)
    given = {pair: value for pair, _, value in split_optim_args(options)}
    by_svd = _PROJECTED[name] or given.get("proj") == "svd"
    of = f"optim_args of optim={optim!r}"
    rank = int(_RANK.read(f"rank in {of}", given.get("rank", str(_RANK.default))))
    kind = given.get("proj_type", "std")
    if kind not in _KINDS or (kind == "full" and not by_svd):
        raise ValueError(f"{of}: there is no proj_type={kind!r} in a plan")
    factored = name.endswith("adafactor")
    total = 0
    for weight in weights:
        dtype = torch.promote_types(weight.dtype, torch.float32) if factored else weight.dtype
        shapes: list[tuple[int, ...]] = []
        shape = tuple(weight.shape)
        if id(weight) in targets:
            columns = min(rank, *shape) if by_svd else rank
            shape, shapes = _project(shape, columns, _KINDS[kind](*shape))
        moments = dtype.itemsize * _moments(shape, factored)
        if name.endswith("8bit"):
            moments = _eight_bit_moments(math.prod(shape))
        total += moments + dtype.itemsize * sum(map(math.prod, shapes))
    return total


def _project(
    shape: tuple[int, ...], rank: int, side: str
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The shape of a projected gradient, and those of what projects it."""
    rows, columns = shape
    left, right = (rows, rank), (rank, columns)
    if side == "full":
        return (rank, rank), [left, right]
    return ((rank, columns), [left]) if side == "left" else ((rows, rank), [right])


def _moments(shape: tuple[int, ...], factored: bool) -> int:
    """Numbers that Adam, or Adafactor, keeps of a gradient."""
    if not factored:
        return 2 * math.prod(shape)
    if len(shape) < 2:
        return math.prod(shape)
    *leading, rows, columns = shape
    return math.prod(leading) * (rows + columns)


def _eight_bit_moments(numbers: int) -> int:
    """Bytes of Adam's moments: a byte a number and a scale a block, of few numbers float32."""
    if numbers < _LEAST_EIGHT_BITS:
        return 2 * 4 * numbers
    return 2 * (numbers + 4 * math.ceil(numbers / _BLOCK))
