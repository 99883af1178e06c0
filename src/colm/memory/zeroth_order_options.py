"""What zeroth-order training may be told, and what a step of it was.

Symbols: q directions a step, r their rank.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from colm.checks import check_choice, check_number, check_whole
from colm.memory.random_directions import DIRECTIONS

SLOPE_ESTIMATORS = ("central", "one_sided", "forward_gradient")
UPDATES = ("sgd", "sign", "momentum", "conservative", "adam")


@dataclass(frozen=True)
class ZerothOrderOptions:
    """The options of `colm.memory.zeroth_order_optimizer.ZerothOrderOptimizer`.

    Attributes:
        estimator: of the slope along a direction: ``central`` difference of two losses, to both
            sides; ``one_sided``, of one and that at the weights, which all directions share; or
            ``forward_gradient``, the derivative itself, which needs no epsilon and more memory.
        update: by the estimate of the gradient: ``sgd``; its ``sign``; ``momentum``, a heavy ball;
            ``adam``; or ``conservative``, the best of a step of ``sgd``, the opposite one and none,
            for two or three more forwards.
        direction: how directions are drawn: see `colm.memory.random_directions.RandomDirections`.
        directions: q.
        epsilon: how far the weights are moved, along directions with entries of variance 1.
        rank: r, of ``subspace`` and ``low_rank``.
        refresh: steps for which what these share between steps is kept.
        momentum: of ``momentum``.
        beta1: of ``adam``.
        beta2: of ``adam``.
        eps: of ``adam``.
        seed: of directions and rounding.

    Raises:
        ValueError: one line that names the option, its value and what it may be.
    """

    estimator: str = "central"
    update: str = "sgd"
    direction: str = "gaussian"
    directions: int = 1
    epsilon: float = 1e-3
    rank: int = 24
    refresh: int = 100
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    seed: int = 0

    def __post_init__(self) -> None:
        """Check each."""
        check_choice("estimator", self.estimator, SLOPE_ESTIMATORS)
        check_choice("update", self.update, UPDATES)
        check_choice("direction", self.direction, DIRECTIONS)
        for name in ("directions", "rank", "refresh"):
            check_whole(name, getattr(self, name), least=1)
        check_number("epsilon", self.epsilon, above=0)
        check_number("eps", self.eps, least=0)
        for name in ("momentum", "beta1", "beta2"):
            check_number(name, getattr(self, name), least=0, below=1)
        check_whole("seed", self.seed)


class TakenStep(NamedTuple):
    """What a step did; with the seed, all there is to it.

    Attributes:
        slopes: of the loss along each direction.
        rates: learning rate of each group.
        sign: 1 for a step against the estimate; ``conservative`` may take 0 or -1.
    """

    slopes: tuple[float, ...]
    rates: tuple[float, ...]
    sign: int = 1

    @classmethod
    def of(cls, values: Iterable[Any]) -> "TakenStep":
        """Return a step from lists, as a file has it."""
        slopes, rates, sign = values
        return cls(tuple(map(float, slopes)), tuple(map(float, rates)), int(sign))
