"""Exact gradients of every example at once, from one forward and a backward through the tail.

The forward runs without gradients up to the first projection that is asked for; from there a zero
added to each one's output records what the loss does with it. One backward from the summed losses
then gives, for every token, the gradient in those outputs, and the gradient in a weight is the sum
over an example's tokens of output-gradient x input. Symbols: n examples, t tokens a row, o output
rows of a projection, i its inputs, e hidden size.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from colm.gradients.adapters import labels_seen
from colm.gradients.applied_weights import Projection, map_hook
from colm.gradients.batch import drop_labels, label_positions
from colm.gradients.decoder import find_layers
from colm.gradients.label_loss import DecoderRun, hidden_gradients
from colm.gradients.patching import evaluation_mode
from colm.gradients.sharding import tail_kept


@dataclass(frozen=True)
class TokenGradients:
    """One call of a map: its input and the losses' gradient in its output, token by token.

    Attributes:
        inputs: ``[n, t, i]``.
        outputs: ``[n, t, o]`` gradient of the summed example losses in its output.
    """

    inputs: Tensor
    outputs: Tensor


def token_gradients(
    model: nn.Module,
    projections: Sequence[Projection],
    batch: Mapping[str, Any],
    reduction: str,
    vocabulary: Tensor | None = None,
    *,
    required: bool = True,
) -> tuple[list[list[TokenGradients]], Tensor, Tensor]:
    """Run the forward and the partial backward.

    Args:
        model: a causal language model.
        projections: whose gradients are wanted.
        batch: one batch with labels, one example a row.
        reduction: ``mean`` or ``sum`` of an example's label losses.
        vocabulary: ``[v]`` ascending token ids that the softmax is taken over, all if ``None``.
        required: whether every projection must take part; one that does not has no calls.

    Returns:
        For each projection its calls; each example's loss ``[n]``; the last hidden states
        ``[n, p + t, e]``, those at p virtual tokens of PEFT first.

    Raises:
        RuntimeError: the model did not use a projection for all tokens.
    """
    seen = labels_seen(model, batch["labels"])
    labels, shape = label_positions(seen), tuple(seen.shape)
    recorders = [_Recorder(projection, shape) for projection in projections]
    with evaluation_mode(model), tail_kept(model, find_layers(model)):
        with torch.no_grad(), ExitStack() as stack:
            for recorder in recorders:
                stack.enter_context(map_hook(recorder.projection, recorder))
            run = DecoderRun(model, drop_labels(batch))
        with torch.no_grad():
            losses, gradient = hidden_gradients(run, labels, reduction, vocabulary)
        zeros = [zero for recorder in recorders for zero in recorder.zeros]
        found = torch.autograd.grad(run.hidden, zeros, gradient, allow_unused=True) if zeros else ()
    outputs = iter(found)
    calls = [recorder.calls(outputs) for recorder in recorders]
    for projection, its_calls in zip(projections, calls, strict=True):
        if required and not its_calls:
            raise took_no_part(projection)
    return calls, losses, run.hidden.detach().reshape(*shape, -1)


def sum_over_tokens(calls: list[TokenGradients]) -> Tensor:
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
    """Add up what each call contributes; a weight that is shared is called several times."""
    return torch.stack(list(parts)).sum(0)


def _widened(calls: list[TokenGradients]) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and output gradients in float32 or wider: sums over tokens lose bits in bf16."""
    for call in calls:
        dtype = torch.promote_types(call.outputs.dtype, torch.float32)
        yield call.inputs.to(dtype), call.outputs.to(dtype)


class _Recorder:
    """Forward hook on a projection: keeps its input, adds the zero that the backward goes to."""

    def __init__(self, projection: Projection, shape: tuple[int, ...]) -> None:
        self.projection = projection
        self.shape = shape
        self.inputs: list[Tensor] = []
        self.zeros: list[Tensor] = []

    def __call__(self, _module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not sees_all_tokens(output, self.shape, self.projection):
            return output
        torch.set_grad_enabled(True)
        rows = self.projection.rows
        width = output.shape[-1] if rows is None else len(rows)
        zero = output.new_zeros((*output.shape[:-1], width), requires_grad=True)
        self.inputs.append(self._by_example(args[0].detach()))
        self.zeros.append(zero)
        return output + zero if rows is None else output.index_add(-1, rows, zero)

    def _by_example(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(self.shape[0], -1, tensor.shape[-1])

    def calls(self, gradients: Iterator[Tensor | None]) -> list[TokenGradients]:
        """Pair inputs with the gradients of the zeros, taken in order from ``gradients``."""
        pairs = [(inputs, next(gradients)) for inputs in self.inputs]
        return [
            TokenGradients(inputs, self._by_example(gradient))
            for inputs, gradient in pairs
            if gradient is not None
        ]


def sees_all_tokens(output: Tensor, shape: tuple[int, ...], projection: Projection) -> bool:
    """Whether what a map returned is of a whole batch of ``[n, t]`` tokens, maybe flattened.

    Not so for an expert's share of the tokens, nor for the identity matrix that DoRA sends through
    B to learn the weight's norm. A model may put tokens of its own before an example's.
    """
    leading = output.shape[:-1]
    if len(leading) > 1:
        return bool(leading[0] == shape[0])
    return leading[0] == math.prod(shape) and leading[0] != projection.identity_rows


def took_no_part(projection: Projection) -> RuntimeError:
    """The error of a model that did not run a projection, or not on whole batches."""
    return RuntimeError(f"'{projection.name}' took no part in the model's forward of all tokens.")
