"""Gradient features of a batch of examples: locate V once, then one call for each batch.

The way of an example here: its tokens, the decoder's hidden states, losses at its label positions,
the gradient in V's output, its row of the feature matrix. Symbols: n examples, d = o * i features
for o rows of V (or of its LoRA B factor) with i inputs, k random directions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from colm.gradients.batch import one_example_a_row
from colm.gradients.decoder import Projection, find_value_projection, weight_rows
from colm.gradients.exact import directional_derivatives, example_gradients, token_gradients
from colm.gradients.zeroth_order import loss_slopes

ESTIMATORS = ("exact", "directional", "zeroth_order")
REDUCTIONS = ("mean", "sum")


@dataclass(frozen=True)
class ExampleGradients:
    """What one batch gave.

    Attributes:
        features: ``[n, d]`` gradient features, float32 or wider.
        losses: ``[n]`` loss of each example, mean or sum over its label tokens.
    """

    features: Tensor
    losses: Tensor


class ValueGradients:
    """Gradients of each example's loss in the last V projection, the features of CoLM.

    The model is left as it was: mode, hooks, ``requires_grad``, random state, also after an
    exception. An example without label tokens has a zero row.  Paper: SSM v1, Eq. 7-8 and Alg. 1
    (``zeroth_order``); ``exact`` and ``directional`` are what it estimates, free of its noise.

    Args:
        model: a causal language model of ``transformers``, or PEFT's wrapper of one.
        estimator: ``exact``, ``directional`` or ``zeroth_order``.
        num_directions: k, for ``directional`` and ``zeroth_order``.
        perturbation_scale: eps of ``zeroth_order``.
        reduction: loss of an example: ``mean`` over its label tokens, or their ``sum``.

    Raises:
        ValueError: an unknown choice, or a model whose layers cannot be found.
    """

    def __init__(
        self,
        model: nn.Module,
        estimator: str = "exact",
        *,
        num_directions: int = 1,
        perturbation_scale: float = 1e-3,
        reduction: str = "mean",
    ) -> None:
        if estimator not in ESTIMATORS:
            raise ValueError(f"gradient must be one of {', '.join(ESTIMATORS)}; got {estimator!r}.")
        if reduction not in REDUCTIONS:
            raise ValueError(
                f"gradient_reduction must be one of {', '.join(REDUCTIONS)}; got {reduction!r}."
            )
        self.model = model
        self.estimator = estimator
        self.num_directions = num_directions
        self.perturbation_scale = perturbation_scale
        self.reduction = reduction
        self.projection: Projection = find_value_projection(model)

    def weight(self) -> Tensor:
        """Return the weight that the features are gradients of, ``[d]``."""
        return weight_rows(self.projection).float()

    def draw_directions(self, generator: torch.Generator) -> list[Tensor]:
        """Draw z: for each module of the projection ``[k, o, i]`` standard normal.

        Drawn once a step, for all its batches: examples are only comparable along the same z.
        """
        return [
            torch.randn((self.num_directions, *shape), generator=generator)
            for shape in self._weight_shapes()
        ]

    def __call__(
        self, batch: Mapping[str, Any], directions: list[Tensor] | None = None
    ) -> ExampleGradients:
        """Compute the features of one padded or padding-free batch.

        Args:
            batch: ``input_ids``, ``labels`` and what else the model takes, on the model's device.
            directions: from `draw_directions`; needed unless the estimator is ``exact``.

        Returns:
            Features and losses of its n examples.
        """
        batch = one_example_a_row(batch)
        if self.estimator == "exact":
            calls, losses = token_gradients(self.model, self.projection, batch, self.reduction)
            features = torch.cat([example_gradients(part) for part in calls], dim=1)
            return ExampleGradients(features, losses)
        if directions is None:
            raise ValueError(f"gradient={self.estimator!r} needs directions; see draw_directions.")
        device = batch["input_ids"].device
        moved = [direction.to(device) for direction in directions]
        if self.estimator == "directional":
            return self._directional(batch, moved)
        return self._zeroth_order(batch, moved)

    def _directional(self, batch: Mapping[str, Any], directions: list[Tensor]) -> ExampleGradients:
        calls, losses = token_gradients(self.model, self.projection, batch, self.reduction)
        slopes = torch.stack(
            [
                torch.stack(list(map(directional_derivatives, calls, along))).sum(0)
                for along in zip(*directions, strict=True)
            ]
        )
        return ExampleGradients(_along(slopes, directions), losses)

    def _zeroth_order(self, batch: Mapping[str, Any], directions: list[Tensor]) -> ExampleGradients:
        slopes, losses = loss_slopes(
            self.model,
            self.projection,
            batch,
            directions,
            self.perturbation_scale,
            self.reduction,
        )
        return ExampleGradients(_along(slopes, directions), losses)

    def _weight_shapes(self) -> list[tuple[int, int]]:
        shapes = []
        for module in self.projection.modules:
            outputs, inputs = _linear_shape(module)
            rows = self.projection.rows
            shapes.append((outputs if rows is None else len(rows), inputs))
        return shapes


def last_value_gradients(
    model: nn.Module,
    batch: Mapping[str, Any],
    *,
    estimator: str = "exact",
    reduction: str = "mean",
    generator: torch.Generator | None = None,
    num_directions: int = 1,
    perturbation_scale: float = 1e-3,
) -> Tensor:
    """Return each example's gradient in the last V projection, ``[n, d]``, for any plain loop.

    One forward without gradients, and a backward through the last layer and the head at label
    positions alone. V is the value projection of the last decoder layer (its rows of a fused
    projection), or its LoRA B factor where V carries LoRA; features are laid out as the weight of
    ``nn.Linear``, ``[outputs, inputs]`` row by row, whatever the layout in the model. In a loop,
    make one `ValueGradients` and keep it: it looks for V only once.  Paper: SSM v1, Alg. 1.

    Args:
        model: a causal language model of ``transformers``, or PEFT's wrapper of one.
        batch: a padded or padding-free batch with ``labels``, on the model's device.
        estimator: ``exact``, ``directional`` or ``zeroth_order``.
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
        num_directions=num_directions,
        perturbation_scale=perturbation_scale,
        reduction=reduction,
    )
    if estimator == "exact":
        return gradients(batch).features
    if generator is None:
        raise ValueError(f"estimator={estimator!r} draws random directions: pass a generator.")
    return gradients(batch, gradients.draw_directions(generator)).features


def _along(slopes: Tensor, directions: list[Tensor]) -> Tensor:
    """Mean over directions of p_i z (Eq. 8): slopes ``[k, n]``, directions ``[k, o, i]`` each."""
    flat = torch.cat([direction.flatten(1) for direction in directions], dim=1)
    return slopes.T @ flat.to(slopes) / len(slopes)


def _linear_shape(module: nn.Module) -> tuple[int, int]:
    """Outputs and inputs of a linear map, quantised or transposed ones included."""
    if hasattr(module, "out_features"):
        return int(module.out_features), int(module.in_features)  # type: ignore[arg-type]
    weight: Any = module.weight
    inputs, outputs = weight.shape
    return int(outputs), int(inputs)
