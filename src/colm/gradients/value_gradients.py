"""Gradient features of a batch of examples: locate V once, then one call for each batch.

The way of an example here: its tokens, the decoder's hidden states, losses at its label positions,
the gradient in V's output, its row of the feature matrix. Symbols: n examples, t tokens a row,
d = o * i features for o rows of V (or of its LoRA B factor) with i inputs, summed over projections
where there are several, k random directions, e hidden size.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from colm.gradients.adapters import check_adapter, check_inputs
from colm.gradients.applied_weights import Projection, weight_rows
from colm.gradients.batch import is_packed, one_example_a_row
from colm.gradients.exact import directional_derivatives, sum_over_tokens, token_gradients
from colm.gradients.patching import full_precision
from colm.gradients.projections import PROJECTIONS, find_projections
from colm.gradients.zeroth_order import loss_slopes

ESTIMATORS = ("exact", "directional", "zeroth_order")
REDUCTIONS = ("mean", "sum")


@dataclass(frozen=True)
class ExampleGradients:
    """What one batch gave.

    Attributes:
        features: ``[n, d]`` gradient features, float32 or wider.
        losses: ``[n]`` loss of each example, mean or sum over its label tokens.
        hidden: ``[n, p + t, e]`` last hidden states, token by token, those at p virtual tokens of
            PEFT first.
    """

    features: Tensor
    losses: Tensor
    hidden: Tensor


class ValueGradients:
    """Gradients of each example's loss in projections of the last layer: V, the features of CoLM.

    The model is left as it was: mode, hooks, ``requires_grad``, random state, also after an
    exception. An example without label tokens has a zero row.  Paper: SSM v1, Eq. 8 and Alg. 1
    (``zeroth_order``); ``directional`` is its limit for a step of 0, the right of Eq. 7, and
    ``exact`` what both estimate.  Deviates: the loss of an example is the mean over its label
    tokens; SSM's Eq. 1 writes their sum (``reduction="sum"``).

    Args:
        model: a causal language model of ``transformers``, or PEFT's wrapper of one.
        estimator: ``exact``, ``directional`` or ``zeroth_order``.
        projections: any of q, k, v, o, mlp; features are joined in this order.
        num_directions: k, for ``directional`` and ``zeroth_order``.
        perturbation_scale: eps of ``zeroth_order``.
        reduction: loss of an example: ``mean`` over its label tokens, or their ``sum``.

    Raises:
        ValueError: an unknown choice, or a model whose layers or projections cannot be found.
    """

    def __init__(
        self,
        model: nn.Module,
        estimator: str = "exact",
        *,
        projections: Sequence[str] = ("v",),
        num_directions: int = 1,
        perturbation_scale: float = 1e-3,
        reduction: str = "mean",
    ) -> None:
        check_choices(estimator, projections, reduction)
        check_directions(num_directions, perturbation_scale)
        check_adapter(model)
        self.model = model
        self.estimator = estimator
        self.num_directions = num_directions
        self.perturbation_scale = perturbation_scale
        self.reduction = reduction
        self.projections = find_projections(model, projections)

    @property
    def projection(self) -> Projection:
        """The first of the projections, V by default."""
        return self.projections[0]

    def weight(self) -> Tensor:
        """Return the weight that the features are gradients of, ``[d]``.

        Raises:
            ValueError: it is quantised.
        """
        return torch.cat([weight_rows(projection) for projection in self.projections]).float()

    def draw_directions(self, generator: torch.Generator) -> list[Tensor]:
        """Draw z: for each projection ``[k, o, i]`` standard normal.

        Drawn once a step, for all its batches: examples are only comparable along the same z.
        """
        return [
            torch.randn((self.num_directions, *projection.shape), generator=generator)
            for projection in self.projections
        ]

    def __call__(
        self, batch: Mapping[str, Any], directions: list[Tensor] | None = None
    ) -> ExampleGradients:
        """Compute the features of one padded or padding-free batch.

        Args:
            batch: ``input_ids``, ``labels`` and what else the model takes, on the model's device.
            directions: from `draw_directions`; needed unless the estimator is ``exact``.

        Returns:
            Features, losses and hidden states of its n examples.
        """
        check_inputs(self.model, batch, packed=is_packed(batch))
        batch = one_example_a_row(batch)
        device = batch["input_ids"].device
        if self.estimator == "exact":
            calls, losses, hidden = self._token_gradients(batch)
            with full_precision(device.type):
                features = torch.cat([sum_over_tokens(part) for part in calls], dim=1)
            return ExampleGradients(features, losses, hidden)
        if directions is None:
            raise ValueError(f"estimator={self.estimator!r} needs directions; see draw_directions.")
        directions = [direction.to(device) for direction in directions]
        slopes, losses, hidden = self.slopes(batch, directions)
        with full_precision(device.type):
            features = _along(slopes, directions)
        return ExampleGradients(features, losses, hidden)

    def slopes(
        self, batch: Mapping[str, Any], directions: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return p_i, how fast each example's loss rises along each direction.

        Args:
            batch: padded, on the device of the directions.
            directions: ``[k, o, i]`` each, from `draw_directions`.

        Returns:
            ``[k, n]`` slopes; losses ``[n]``; last hidden states ``[n, p + t, e]``. The slopes are
            finite differences where the estimator is ``zeroth_order``, else derivatives.
        """
        if self.estimator == "zeroth_order":
            return loss_slopes(
                self.model,
                self.projections,
                batch,
                directions,
                self.perturbation_scale,
                self.reduction,
            )
        calls, losses, hidden = self._token_gradients(batch)
        with full_precision(batch["input_ids"].device.type):
            slopes = [
                torch.stack(list(map(directional_derivatives, calls, along))).sum(0)
                for along in zip(*directions, strict=True)
            ]
        return torch.stack(slopes), losses, hidden

    def _token_gradients(self, batch: Mapping[str, Any]) -> tuple[Any, Tensor, Tensor]:
        return token_gradients(self.model, self.projections, batch, self.reduction)


def check_choices(estimator: str, projections: Sequence[str], reduction: str) -> None:
    """Refuse an unknown choice.

    Raises:
        ValueError: one of them is unknown, or ``projections`` is empty or repeats itself.
    """
    if not isinstance(estimator, str) or estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}; got {estimator!r}.")
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}; got {reduction!r}.")
    known = isinstance(projections, Sequence) and all(name in PROJECTIONS for name in projections)
    if not known or not projections or len({*projections}) < len(projections):
        got = list(projections) if isinstance(projections, Sequence) else projections
        raise ValueError(
            f"projections must be distinct ones of {', '.join(PROJECTIONS)}; got {got!r}."
        )


def check_directions(num_directions: int, perturbation_scale: float) -> None:
    """Refuse a number of directions, or a step along them, that nothing can be computed with.

    Raises:
        ValueError: such a number.
    """
    if (
        not isinstance(num_directions, int)
        or isinstance(num_directions, bool)
        or num_directions < 1
    ):
        raise ValueError(
            f"num_directions must be a whole number at least 1; got {num_directions!r}."
        )
    is_number = isinstance(perturbation_scale, int | float) and math.isfinite(perturbation_scale)
    if not is_number or perturbation_scale <= 0:
        raise ValueError(f"perturbation_scale must be above 0; got {perturbation_scale!r}.")


def last_value_gradients(
    model: nn.Module,
    batch: Mapping[str, Any],
    *,
    estimator: str = "exact",
    projections: Sequence[str] = ("v",),
    reduction: str = "mean",
    generator: torch.Generator | None = None,
    num_directions: int = 1,
    perturbation_scale: float = 1e-3,
) -> Tensor:
    """Return each example's gradient in the last V projection, ``[n, d]``, for any plain loop.

    One forward without gradients, and a backward through the last layer and the head at label
    positions alone. V is the value projection of the last decoder layer (its rows of a fused
    projection), or its LoRA B factor where V carries LoRA; other projections likewise. Features are
    laid out as the weight of ``nn.Linear``, ``[outputs, inputs]`` row by row, whatever the layout
    in the model. In a loop, make one `ValueGradients` and keep it: it looks for V only once.
    Paper: SSM v1, Alg. 1.

    Args:
        model: a causal language model of ``transformers``, or PEFT's wrapper of one.
        batch: a padded or padding-free batch with ``labels``, on the model's device.
        estimator: ``exact``, ``directional`` or ``zeroth_order``.
        projections: any of q, k, v, o, mlp; features are joined in this order.
        reduction: loss of an example: ``mean`` over its label tokens, or their ``sum``.
        generator: draws z for ``directional`` and ``zeroth_order``.
        num_directions: how many z.
        perturbation_scale: eps of ``zeroth_order``.

    Returns:
        ``[n, d]`` float32, or wider where the model is.

    Raises:
        ValueError: an unknown choice, a batch without labels, or no generator where one is needed.
    """
    gradients = ValueGradients(
        model,
        estimator,
        projections=projections,
        num_directions=num_directions,
        perturbation_scale=perturbation_scale,
        reduction=reduction,
    )
    if estimator == "exact":
        return gradients(batch).features
    if not isinstance(generator, torch.Generator):
        raise ValueError(
            f"estimator={estimator!r} draws random directions: pass a generator; got {generator!r}."
        )
    return gradients(batch, gradients.draw_directions(generator)).features


def _along(slopes: Tensor, directions: list[Tensor]) -> Tensor:
    """Mean over directions of p_i z (SSM, Eq. 8): slopes ``[k, n]``, directions ``[k, o, i]``."""
    flat = torch.cat([direction.flatten(1) for direction in directions], dim=1)
    return slopes.T @ flat.to(slopes) / len(slopes)
