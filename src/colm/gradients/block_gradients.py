"""Gradients in two whole decoder blocks: the features of gradient matching.

V of the last layer alone tells little of the gradient in all weights: the deeper a block, the more
of the gradient of every other block it shares. So the backward passes a share of the layers, and
features come from every linear map of the deepest block reached and of the last. Of each map it is
the gradient in LoRA's B factor, whose inputs are few, or that in the weight with inputs projected
at random on as few; of large models a random part of the output rows. Symbols: n examples, t
tokens, d features, L layers.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from colm.gradients.adapters import check_adapter, check_inputs
from colm.gradients.applied_weights import Projection, projections_of
from colm.gradients.batch import is_packed, one_example_a_row
from colm.gradients.decoder import find_layers, linear_maps
from colm.gradients.exact import TokenGradients, token_gradients, took_no_part
from colm.gradients.value_gradients import ExampleGradients

#: Share of all layers, from the last, that a look passes; docs/selectors.md says what it gains.
DEPTH = 0.17
INPUTS_KEPT = 16
MOST_FEATURES = 2**18


class BlockGradients:
    """Gradients of each example's loss in all linear maps of two blocks, sketched.

    The model is left as it was, as by `ValueGradients`.

    Args:
        model: a causal language model of ``transformers``, or PEFT's wrapper of one.
        reduction: loss of an example: ``mean`` over its label tokens, or their ``sum``.
        depth: share of the layers, from the last, that the backward passes; above 0, at most 1.

    Raises:
        ValueError: a model whose layers cannot be found, or a depth out of range.
    """

    def __init__(self, model: nn.Module, *, reduction: str = "mean", depth: float = DEPTH) -> None:
        check_adapter(model)
        self.model = model
        self.reduction = reduction
        layers = find_layers(model)
        self.layers = spread_layers(len(layers), depth)
        self.projections = tuple(
            projection
            for index in self.layers
            for name, module in linear_maps(layers[index])
            if "expert" not in name
            for projection in projections_of(name, module, layers=layers)
        )
        self._sketches = _sketches(self.projections)

    def __call__(
        self, batch: Mapping[str, Any], vocabulary: Tensor | None = None
    ) -> ExampleGradients:
        """Compute the features of one padded or padding-free batch.

        Args:
            batch: ``input_ids``, ``labels`` and what else the model takes, on the model's device.
            vocabulary: ``[v]`` ascending token ids, all labels among them, that the softmax is
                taken over; all tokens where ``None``.

        Returns:
            Features, losses and hidden states of its n examples. A map that takes no part in a
            forward of all tokens, such as a router's, has zeros.

        Raises:
            RuntimeError: no map took part.
        """
        check_inputs(self.model, batch, packed=is_packed(batch))
        batch = one_example_a_row(batch)
        calls, losses, hidden = token_gradients(
            self.model, self.projections, batch, self.reduction, vocabulary, required=False
        )
        if not any(calls):
            raise took_no_part(self.projections[0])
        with torch.autocast(batch["input_ids"].device.type, enabled=False):
            parts = [
                sketch.of(part, len(losses), hidden)
                for sketch, part in zip(self._sketches, calls, strict=True)
            ]
        return ExampleGradients(torch.cat(parts, dim=1), losses, hidden)


def spread_layers(layers: int, depth: float) -> tuple[int, ...]:
    """Return the blocks to take gradients of: the deepest that the backward reaches, and the last.

    Args:
        layers: L, how many the model has.
        depth: share of them that the backward passes, rounded down; the last is always passed.

    Returns:
        Ascending layer indices, one or two of them.

    Raises:
        ValueError: the depth is not above 0 and at most 1.

    Example:
        >>> spread_layers(30, 0.45)
        (17, 29)
    """
    check_depth(depth)
    # 0.1 of 30 layers is 3 of them, and not 2 for what 0.1 lacks in binary.
    passed = max(1, math.floor(depth * layers + 1e-9))
    return tuple(sorted({layers - passed, layers - 1}))


def check_depth(depth: float) -> None:
    """Refuse a share of the layers that is none.

    Raises:
        ValueError: it is not above 0 and at most 1.
    """
    if not 0 < depth <= 1:
        raise ValueError(f"depth must be above 0 and at most 1; got {depth!r}.")


class _Sketch(NamedTuple):
    """How the gradient in one map becomes features: some output rows, few inputs.

    Attributes:
        rows: ``[o]`` output rows kept, ``None`` for all of them.
        mixing: ``[i, inputs kept]`` what inputs are multiplied by, ``None`` where they stay.
        size: features.
    """

    rows: Tensor | None
    mixing: Tensor | None
    size: int

    def of(self, calls: list[TokenGradients], n: int, like: Tensor) -> Tensor:
        """Sum output-gradient x kept input over tokens and calls: ``[n, size]``."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        features = like.new_zeros((n, self.size), dtype=dtype)
        for call in calls:
            # In the model's own precision: products accumulate in float32 whatever it is, and to
            # widen every token's gradients would cost more than the products.
            inputs, outputs = call.inputs.to(call.outputs.dtype), call.outputs
            if self.mixing is not None:
                inputs = inputs @ self.mixing.to(inputs)
            if self.rows is not None:
                outputs = outputs[..., self.rows.to(like.device)]
            features += (outputs.transpose(1, 2) @ inputs).flatten(1)
        return features


def _sketches(projections: tuple[Projection, ...]) -> list[_Sketch]:
    """Draw what is kept of each map, the same share of the rows of all; the same in every run."""
    generator = torch.Generator().manual_seed(0)
    kept_inputs = [min(projection.shape[1], INPUTS_KEPT) for projection in projections]
    shapes = [projection.shape for projection in projections]
    total = sum(outputs * kept for (outputs, _), kept in zip(shapes, kept_inputs, strict=True))
    share = min(1.0, MOST_FEATURES / total)
    sketches = []
    for (outputs, inputs), kept in zip(shapes, kept_inputs, strict=True):
        number = max(1, math.floor(share * outputs))
        rows = None
        if number < outputs:
            rows = torch.randperm(outputs, generator=generator)[:number].sort().values
        mixing = None
        if kept < inputs:
            mixing = torch.randn(inputs, kept, generator=generator) / math.sqrt(kept)
        sketches.append(_Sketch(rows, mixing, number * kept))
    return sketches
