"""How well the gradient of the kept examples matches that of all candidates, in every parameter.

A selector sees features; this is the truth that they stand in for, from a backward of every single
candidate. Nothing of size n x P is held: sums over examples suffice. With g_i the gradient of
candidate i, p_i what it counts for in the training loss (its label tokens, or 1) and w_i its weight
where it is one of the k kept, else 0,

    g = sum_i p_i g_i / sum_i p_i,        g_s = sum_i w_i p_i g_i / sum_i w_i p_i,

    score = ||g_s - g|| / sqrt((1/k - 1/n) sum_i (n p_i / sum_j p_j)^2 ||g_i - g||^2 / (n - 1)),

where the root is what the error of a random k of n is on average, exactly so where all count the
same and else to first order: 1 is as good as random, 0 is perfect. Adam takes steps along
g / (sqrt(v) + eps), so the same is measured of gradients scaled like that. Symbols: n candidates, k
kept, P trained parameters.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from colm.gradients.per_example import example_gradients, trained_parameters
from colm.training.example import Example
from colm.training.step.keep import Kept
from colm.training.step.look import ModelAccess

Scale = Callable[[nn.Parameter], Tensor | float | None]


@dataclass(frozen=True)
class Compared:
    """A candidate as it is compared.

    Attributes:
        example: raw.
        weight: w_i where it is kept, else ``None``.
        count: p_i, above 0.
    """

    example: Example
    weight: float | None
    count: float


@dataclass(frozen=True)
class GradientMatch:
    """The kept examples' gradient beside that of all candidates.

    Attributes:
        score: error of the kept over that of a random choice; NaN where all or none are kept.
        score_adam: the same of gradients as Adam scales them; NaN without such a scale.
        error: ``||g_s - g||``.
        norm: ``||g||``, the estimate of ``||grad L||`` that the large batch gives.
    """

    score: float
    score_adam: float
    error: float
    norm: float

    def metrics(self) -> dict[str, float]:
        """Return what is logged, by name; what could not be measured is NaN.

        ``theorem_4_1`` is error over norm: the theorem's condition, ``E||g - g_s|| <= ||grad L||``,
        holds at 1 and below.  Paper: SSM v1, Theorem 4.1.
        """
        return {
            "match_error": self.score,
            "match_error_adam": self.score_adam,
            "gradient_error": self.error,
            "gradient_norm": self.norm,
            "theorem_4_1": self.error / self.norm if self.norm else math.nan,
        }


class GradientSums:
    """Sums over examples that the match is made of: 3 P numbers, whatever n, and 5 P at the end.

    Args:
        parameters: what is trained.
        scale: returns what Adam multiplies the gradient of a parameter by, ``None`` for one that it
            has never seen a gradient of; ``None`` to measure the plain gradients alone.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], scale: Scale | None = None) -> None:
        self.parameters = parameters
        self.scale = scale
        # Sums of p g, of w p g and of p^2 g.
        self._all, self._kept, self._squared = (
            [torch.zeros_like(p, dtype=_wide(p), requires_grad=False) for p in parameters]
            for _ in range(3)
        )
        # n, k, and the sums of p, of w p, of p^2, and of p^2 ||g||^2, plain and scaled.
        self._numbers = torch.zeros(7, dtype=torch.float64)

    def add(self, gradient: Sequence[Tensor], weight: float | None, count: float = 1.0) -> None:
        """Add one candidate.

        A gradient that is not finite is passed over: selection leaves such examples out, too.

        Args:
            gradient: its g_i, a tensor for each parameter.
            weight: its w_i, ``None`` where it is not kept.
            count: its p_i, above 0.
        """
        square = self._inner(gradient, gradient, _unscaled)
        if not math.isfinite(square):
            return
        scaled = 0.0 if self.scale is None else self._inner(gradient, gradient, self.scale)
        factors = (count, 0.0 if weight is None else weight * count, count**2)
        numbers = [1.0, float(weight is not None), *factors, count**2 * square, count**2 * scaled]
        self._numbers += torch.tensor(numbers, dtype=torch.float64)
        for sums, factor in zip((self._all, self._kept, self._squared), factors, strict=True):
            for total, part in zip(sums, gradient, strict=True):
                total.add_(part, alpha=factor)

    def join(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replace every sum by ``total`` of it, the sum over the processes that select together."""
        self._numbers = total(self._numbers)
        for sums in (self._all, self._kept, self._squared):
            sums[:] = [total(part) for part in sums]

    def match(self) -> GradientMatch:
        """Return the match of what was added; all NaN where nothing was, or nothing kept."""
        _, _, count, kept, _, squares, scaled_squares = self._numbers.tolist()
        if kept == 0:
            return GradientMatch(math.nan, math.nan, math.nan, math.nan)
        mean = [part / count for part in self._all]
        error = [part / kept - other for part, other in zip(self._kept, mean, strict=True)]
        score_adam = math.nan
        if self.scale is not None:
            score_adam = self._score(mean, error, scaled_squares, self.scale)
        return GradientMatch(
            score=self._score(mean, error, squares, _unscaled),
            score_adam=score_adam,
            error=math.sqrt(self._inner(error, error, _unscaled)),
            norm=math.sqrt(self._inner(mean, mean, _unscaled)),
        )

    def _score(
        self, mean: list[Tensor], error: list[Tensor], squares: float, scale: Scale
    ) -> float:
        """Error over that expected of a random k of n; NaN where there is nothing to choose."""
        n, k, count, _, counts_squared, *_ = self._numbers.tolist()
        deviations = (
            squares
            - 2 * self._inner(mean, self._squared, scale)
            + counts_squared * self._inner(mean, mean, scale)
        )
        if k == n or deviations <= 0:
            return math.nan
        expected = (1 / k - 1 / n) * (n / count) ** 2 * deviations / (n - 1)
        return math.sqrt(self._inner(error, error, scale) / expected)

    def _inner(self, first: Sequence[Tensor], other: Sequence[Tensor], scale: Scale) -> float:
        """Inner product of two gradients, both scaled."""
        products = []
        for parameter, left, right in zip(self.parameters, first, other, strict=True):
            factor = scale(parameter)
            if factor is not None:
                products.append((left.to(_wide(left)) * factor * (right * factor)).sum())
        if not products:
            return 0.0
        # One transfer, not one a parameter; a model may lie on several devices.
        joined = torch.stack([product.to(products[0].device) for product in products]).cpu()
        return float(joined.double().sum())


def match(kept: Kept, access: ModelAccess, total: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Return how well what a step keeps matches its candidates, by the names that are logged.

    Costs a forward and a backward of each of this process's candidates. Nothing changes: neither
    model, ``.grad`` and optimiser nor random state.

    Args:
        kept: what the step keeps.
        access: the model, the collator, the optimiser.
        total: sums a tensor over the processes that select together.
    """
    started = time.perf_counter()
    found = match_gradients(_compared(kept), access, "mean", total).metrics()
    return found | {"match_seconds": time.perf_counter() - started}


def _compared(kept: Kept) -> list[Compared]:
    """This process's candidates of a step, all that could have been kept."""
    split, table = kept.split, kept.split.table
    rows = set(split.rows.tolist()) - set(split.rows[kept.selection.non_finite].tolist())
    return [
        Compared(example, kept.weights.get(row), max(1.0, float(table.label_tokens[row])))
        for row, example in zip(table.own, split.own, strict=True)
        if row in rows
    ]


def match_gradients(
    candidates: Sequence[Compared],
    access: ModelAccess,
    reduction: str,
    total: Callable[[Tensor], Tensor],
) -> GradientMatch:
    """Return the match of a step's candidates, from a forward and a backward of each.

    Nothing changes: neither model, ``.grad`` and optimiser nor random state.

    Args:
        candidates: this process's.
        access: the model, the collator, the optimiser.
        reduction: loss of an example: ``mean`` over its label tokens, or their ``sum``.
        total: sums a tensor over the processes that select together.
    """
    model = access.model()
    sums = GradientSums(trained_parameters(model), adam_scale(access.optimizer()))
    for candidate in candidates:
        batch = access.prepare(access.collate([candidate.example]))
        with access.autocast():
            (gradient,) = example_gradients(model, [batch], reduction=reduction)
        sums.add(gradient, candidate.weight, candidate.count)
    sums.join(total)
    return sums.match()


def adam_scale(optimizer: Any) -> Scale | None:
    """Return ``1 / (sqrt(v_hat) + eps)`` of each parameter, from the optimiser's own moments.

    ``v_hat`` is ``exp_avg_sq``, bias-corrected by the steps that the parameter has taken.

    Args:
        optimizer: of ``torch``, bare or in Accelerate's wrapper; ``None`` before there is one.

    Returns:
        A function of the parameter; ``None`` before the first step, and where the optimiser keeps
        no second moment of every element (SGD, Adafactor, Lion, 8-bit Adam).
    """
    if optimizer is None:
        return None
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    states: Mapping[Any, Any] = optimizer.state
    if not states or not all(_is_adam(p, state, group_of) for p, state in states.items()):
        return None

    def scale(parameter: nn.Parameter) -> Tensor | None:
        state = states.get(parameter)
        if not state:
            return None
        group = group_of[id(parameter)]
        correction = 1 - float(group["betas"][1]) ** float(state["step"])
        root: Tensor = (state["exp_avg_sq"] / correction).sqrt()
        factor: Tensor = 1 / (root + group["eps"])
        return factor

    return scale


def _is_adam(parameter: Any, state: Mapping[str, Any], group_of: Mapping[int, Any]) -> bool:
    """Whether the state of a parameter is that of Adam, or empty."""
    if not state:
        return True
    squares = state.get("exp_avg_sq")
    return (
        isinstance(squares, Tensor)
        and squares.shape == parameter.shape
        and float(state.get("step", 0)) >= 1
        and {"betas", "eps"} <= group_of.get(id(parameter), {}).keys()
    )


def _unscaled(_parameter: nn.Parameter) -> float:
    return 1.0


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
