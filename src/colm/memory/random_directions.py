"""The random directions z that weights are moved along: drawn again whenever wanted, never kept.

Every entry of z has variance 1, however it is drawn, so that a step size means the same for all.
Symbols: W ``[m, n]`` a weight, z of its shape, r the rank of z where it has one.
"""

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from colm.checks import check_choice, check_whole
from colm.memory.subspaces.projection import draw_projection
from colm.randomness import keyed_generator

DIRECTIONS = ("gaussian", "subspace", "low_rank")
#: Elements of a direction that are there at once.
PIECE_ELEMENTS = 2**22


class RandomDirections:
    """The directions of a run, each a function of seed, step, number and name of the weight.

    - ``gaussian``: all entries normal.
    - ``subspace``: sqrt(m n) / r times U Z V^T, with U ``[m, r]`` and V ``[n, r]`` orthonormal and
      kept for ``refresh`` steps, and Z ``[r, r]`` normal, drawn each step.  Paper: SubZero, arXiv
      2410.08989. Deviates: the paper's equation has no factor, its experiments have this one.
    - ``low_rank``: U V^T / sqrt(r), both normal, V ``[n, r]`` kept for ``refresh`` steps and U
      ``[m, r]`` drawn each step.  Paper: LOZO, arXiv 2410.07698. Deviates: the paper moves by
      U V^T and divides the estimate by r, which is this with an epsilon sqrt(r) times as large.

    What is no matrix has normal entries always. A matrix with fewer rows or columns than r has as
    high a rank as it can.

    Args:
        kind: one of `DIRECTIONS`.
        rank: r.
        refresh: steps for which U and V are kept.
        seed: of all.

    Raises:
        ValueError: an option out of range.
    """

    def __init__(
        self, kind: str = "gaussian", *, rank: int = 24, refresh: int = 100, seed: int = 0
    ) -> None:
        check_choice("direction", kind, DIRECTIONS)
        self.kind = kind
        self.rank = check_whole("rank", rank, least=1)
        self.refresh = check_whole("refresh", refresh, least=1)
        self.seed = check_whole("seed", seed)
        self._kept: dict[tuple[str, str], tuple[int, Tensor]] = {}

    def combined(
        self, name: str, weight: Tensor, step: int, coefficients: Mapping[int, float]
    ) -> Iterator[tuple[Any, Tensor]]:
        """Yield the sum of directions of a step, each times its coefficient, a few rows at a time.

        Args:
            name: of the weight.
            weight: ``[m, ...]``; of it only shape, type and device count.
            step: of the run.
            coefficients: by the number of the direction.

        Yields:
            Rows, and of those the sum, in float32 at least.
        """
        if self.has_factors(weight):
            left = self.left(name, weight, step, coefficients)
            right = self.right(name, weight, step)
            for rows in pieces_of(weight):
                yield rows, left[rows] @ right
            return
        generators = {
            number: generator_on(weight.device, self.seed, "direction", step, number, name)
            for number in coefficients
        }
        for rows in pieces_of(weight):
            shape = weight[rows].shape
            parts = (
                coefficient * _normal(shape, weight, generators[number])
                for number, coefficient in coefficients.items()
            )
            yield rows, reduce(torch.add, parts)

    def has_factors(self, weight: Tensor) -> bool:
        """Whether directions of a weight are products of what `left` and `right` return."""
        return self.kind != "gaussian" and weight.ndim == 2 and weight.numel() > 0

    def left(
        self, name: str, weight: Tensor, step: int, coefficients: Mapping[int, float]
    ) -> Tensor:
        """Return ``[m, r]``, the factor of the sum of directions that is drawn each step."""
        rank = self._rank(weight)
        total: Tensor | None = None
        for number, coefficient in coefficients.items():
            generator = generator_on(weight.device, self.seed, "direction", step, number, name)
            rows = rank if self.kind == "subspace" else len(weight)
            drawn = coefficient * _normal((rows, rank), weight, generator)
            total = drawn if total is None else total + drawn
        assert total is not None
        if self.kind == "subspace":
            return self._kept_factor(name, "rows", weight, step).T @ total
        return total

    def right(self, name: str, weight: Tensor, step: int) -> Tensor:
        """Return ``[r, n]``, the factor that all directions of `refresh` steps share."""
        return self._kept_factor(name, "columns", weight, step)

    def _rank(self, weight: Tensor) -> int:
        return min(self.rank, len(weight), weight.shape[1])

    def _kept_factor(self, name: str, side: str, weight: Tensor, step: int) -> Tensor:
        """A factor ``[r, m]`` or ``[r, n]`` that is the same for a number of steps."""
        period = step // self.refresh
        drawn, factor = self._kept.get((name, side), (None, None))
        if factor is None or drawn != period:
            factor = draw_projection(
                weight.shape[0 if side == "rows" else 1],
                self._rank(weight),
                "gaussian" if self.kind == "low_rank" else "haar",
                *(self.seed, "directions", period, name, side),
                device=weight.device,
                dtype=_wide(weight),
            )
            self._kept[name, side] = period, factor
        return factor


def pieces_of(weight: Tensor) -> Iterator[Any]:
    """Yield rows of a weight, as many at a time as a piece has elements for."""
    if weight.ndim == 0:
        yield ...
        return
    rows = len(weight)
    size = max(1, PIECE_ELEMENTS // max(1, weight.numel() // max(1, rows)))
    for start in range(0, rows, size):
        yield slice(start, start + size)


def generator_on(device: torch.device, *key: int | str) -> torch.Generator:
    """Return a generator of a device, seeded by a key alone."""
    return torch.Generator(device).manual_seed(keyed_generator(*key).initial_seed())


def _normal(shape: tuple[int, ...], weight: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=weight.device, dtype=_wide(weight))


def _wide(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)
