"""Exact gradients of every example at once, from one forward and a backward through the tail.

The forward runs without gradients up to the last V; from there a zero added to V's output records
what the loss does with it. One backward from the summed losses then gives, for every token, the
gradient in V's output, and the gradient in V's weight is the sum over an example's tokens of
output-gradient x input. Symbols: n examples, o output rows of V, i its inputs.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from colm.gradients.batch import label_positions, without_labels
from colm.gradients.decoder import Projection
from colm.gradients.label_loss import DecoderRun, hidden_gradients
from colm.gradients.patching import evaluation_mode, forward_hook


@dataclass(frozen=True)
class TokenGradients:
    """One call of V: its input and the losses' gradient in its output, token by token.

    Attributes:
        inputs: ``[n, t, i]``.
        outputs: ``[n, t, o]`` gradient of the summed example losses in V's output.
    """

    inputs: Tensor
    outputs: Tensor


def token_gradients(
    model: nn.Module, projection: Projection, batch: Mapping[str, Any], reduction: str
) -> tuple[list[list[TokenGradients]], Tensor]:
    """Run the forward and the partial backward.

    Args:
        model: a causal language model.
        projection: where its V is.
        batch: one batch with labels, one example a row.
        reduction: ``mean`` or ``sum`` of an example's label losses.

    Returns:
        For each module of ``projection`` its calls; each example's loss ``[n]``.

    Raises:
        RuntimeError: the model did not use the projection.
    """
    labels = label_positions(batch["labels"])
    shape = tuple(batch["input_ids"].shape)
    recorders = [_Recorder(projection.rows, shape) for _ in projection.modules]
    with evaluation_mode(model):
        with torch.no_grad(), ExitStack() as stack:
            for module, recorder in zip(projection.modules, recorders, strict=True):
                stack.enter_context(forward_hook(module, recorder))
            run = DecoderRun(model, without_labels(batch))
        with torch.no_grad():
            losses, gradient = hidden_gradients(run, labels, reduction)
    zeros = [zero for recorder in recorders for zero in recorder.zeros]
    if not zeros:
        raise RuntimeError(f"'{projection.name}' took no part in the model's forward.")
    outputs = iter(torch.autograd.grad(run.hidden, zeros, gradient, allow_unused=True))
    calls = [
        [
            TokenGradients(inputs, outputs_gradient.reshape(*inputs.shape[:-1], -1))
            for inputs, outputs_gradient in zip(recorder.inputs, outputs, strict=False)
            if outputs_gradient is not None
        ]
        for recorder in recorders
    ]
    return calls, losses


def example_gradients(calls: list[TokenGradients]) -> Tensor:
    """Sum output-gradient x input over each example's tokens: ``[n, o * i]``, o the slower."""
    return _sum_calls(
        (outputs.transpose(1, 2) @ inputs).flatten(1) for inputs, outputs in _widened(calls)
    )


def directional_derivatives(calls: list[TokenGradients], direction: Tensor) -> Tensor:
    """Return ``<gradient, direction>`` of each example, ``[n]``, for ``direction [o, i]``."""
    return _sum_calls(
        ((inputs @ direction.to(inputs).T) * outputs).sum((1, 2))
        for inputs, outputs in _widened(calls)
    )


def _sum_calls(parts: Iterable[Tensor]) -> Tensor:
    """Add up what each call of V contributes; a weight that is shared is called several times."""
    return torch.stack(list(parts)).sum(0)


def _widened(calls: list[TokenGradients]) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and output gradients in float32 or wider: sums over tokens lose bits in bf16."""
    for call in calls:
        dtype = torch.promote_types(call.outputs.dtype, torch.float32)
        yield call.inputs.to(dtype), call.outputs.to(dtype)


class _Recorder:
    """Forward hook on V: keeps its input, adds the zero that the backward goes to."""

    def __init__(self, rows: Tensor | None, shape: tuple[int, ...]) -> None:
        self.rows = rows
        self.shape = shape
        self.inputs: list[Tensor] = []
        self.zeros: list[Tensor] = []

    def __call__(self, _module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        tokens = tuple(output.shape[:-1])
        if math.prod(tokens) != math.prod(self.shape):
            return output  # DoRA sends an identity matrix through B to learn the weight's norm
        torch.set_grad_enabled(True)
        width = output.shape[-1] if self.rows is None else len(self.rows)
        zero = output.new_zeros((*tokens, width), requires_grad=True)
        self.inputs.append(args[0].detach().reshape(*self.shape, -1))
        self.zeros.append(zero)
        if self.rows is None:
            return output + zero
        return output.index_add(-1, self.rows, zero)
