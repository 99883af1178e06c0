"""The whole gradient of single examples, one after the other: what the features stand in for.

No trick is played here: a forward and a backward of each example by itself, in every parameter that
is trained. That is as dear as training on all of them, so it is for diagnostics alone.
Symbols: n examples, P trained parameters.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from colm.gradients.adapters import check_inputs, labels_seen
from colm.gradients.batch import drop_labels, is_packed, label_positions, one_example_a_row
from colm.gradients.label_loss import DecoderRun, example_losses
from colm.gradients.patching import evaluation_mode
from colm.gradients.value_gradients import REDUCTIONS


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that require a gradient, shared ones once."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def example_gradients(
    model: nn.Module, batches: Iterable[Mapping[str, Any]], *, reduction: str = "mean"
) -> Iterator[list[Tensor]]:
    """Yield the gradient of each example's loss in every trained parameter.

    In evaluation mode, with no dropout. Costs n forwards and backwards of one example and, at any
    time, the memory of one gradient; examples are padded as in their batch, so batches of one are
    the fastest. ``.grad`` is neither read nor written, and whenever an example is handed out the
    model is as it was: mode, hooks, random state.

    Args:
        model: a causal language model of ``transformers``, or PEFT's wrapper of one.
        batches: padded or padding-free batches with ``labels``, on the model's device.
        reduction: loss of an example: ``mean`` over its label tokens, or their ``sum``.

    Yields:
        For each example a tensor for each of `trained_parameters`, of its shape and type; zeros
        where the example has no label tokens or a parameter plays no part.

    Raises:
        ValueError: the reduction is unknown, nothing is trained, or a batch lacks an input.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}; got {reduction!r}.")
    parameters = trained_parameters(model)
    if not parameters:
        raise ValueError(f"No parameter of the {type(model).__name__} requires a gradient.")
    for batch in batches:
        check_inputs(model, batch, packed=is_packed(batch))
        rows = one_example_a_row(batch)
        for row in range(len(rows["input_ids"])):
            yield _gradient(model, parameters, _single(rows, row), reduction)


def _single(batch: Mapping[str, Any], row: int) -> dict[str, Any]:
    """One row of a batch, as a batch."""
    n = len(batch["input_ids"])
    return {
        key: value[row : row + 1]
        if isinstance(value, Tensor) and value.shape[:1] == (n,)
        else value
        for key, value in batch.items()
    }


def _gradient(
    model: nn.Module, parameters: list[nn.Parameter], example: Mapping[str, Any], reduction: str
) -> list[Tensor]:
    labels = label_positions(labels_seen(model, example["labels"]))
    if len(labels.target) == 0:
        return [torch.zeros_like(parameter) for parameter in parameters]
    with evaluation_mode(model), torch.enable_grad():
        loss = example_losses(DecoderRun(model, drop_labels(example)), labels, reduction)[0]
    return list(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))
