"""SPSA: gradients of V from differences of losses along random directions, no backward at all.

    p_i = (L_i(V + eps z) - L_i(V - eps z)) / 2 eps                         (SSM v1, Eq. 7)
    g_i = p_i z, z standard normal, the mean of several such estimates      (SSM v1, Eq. 8)

V is never written to: its output is moved by eps x z^T, which is the same, works on quantised
weights and leaves nothing to restore. Differences of losses need float32: where the weights allow,
the replayed part runs without autocast. Symbols: n examples, k directions, o rows of V, i inputs.
"""

import math
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from colm.gradients.batch import LabelPositions, label_positions, without_labels
from colm.gradients.decoder import Projection, base_model, find_layers
from colm.gradients.label_loss import DecoderRun, example_losses
from colm.gradients.patching import evaluation_mode, forward_hook
from colm.gradients.replay import Replay


def loss_slopes(
    model: nn.Module,
    projection: Projection,
    batch: Mapping[str, Any],
    directions: list[Tensor],
    scale: float,
    reduction: str,
) -> tuple[Tensor, Tensor]:
    """Return the finite differences p_i (Eq. 7) of each example along each direction.

    Costs one forward, then two replays of the last layer and the head for each direction.

    Args:
        model: a causal language model.
        projection: where its V is.
        batch: one batch with labels, one example a row.
        directions: for each module of ``projection`` its ``[k, o, i]``.
        scale: eps.
        reduction: ``mean`` or ``sum`` of an example's label losses.

    Returns:
        ``[k, n]`` slopes; each example's unperturbed loss ``[n]``.
    """
    labels = label_positions(batch["labels"])
    inputs = without_labels(batch)
    replay = Replay(model, projection.layer)
    with evaluation_mode(model), torch.no_grad():
        with replay.capturing():
            losses = example_losses(DecoderRun(model, inputs), labels, reduction)
        slopes = []
        with ExitStack() as stack:
            stack.enter_context(_full_precision(model, batch["input_ids"].device, replay))
            for direction in zip(*directions, strict=True):
                high, low = (
                    _perturbed(
                        model, projection, inputs, labels, [step * z for z in direction], reduction
                    )
                    for step in (scale, -scale)
                )
                slopes.append((high - low) / (2 * scale))
    return torch.stack(slopes), losses


def _perturbed(
    model: nn.Module,
    projection: Projection,
    inputs: Mapping[str, Any],
    labels: LabelPositions,
    changes: list[Tensor],
    reduction: str,
) -> Tensor:
    """Losses with the weight of each module of V changed by its ``[o, i]``."""
    with ExitStack() as stack:
        for module, change in zip(projection.modules, changes, strict=True):
            hook = partial(
                _perturb,
                change=change,
                value_rows=projection.rows,
                tokens=inputs["input_ids"].numel(),
            )
            stack.enter_context(forward_hook(module, hook))
        return example_losses(DecoderRun(model, inputs), labels, reduction)


def _perturb(
    _module: nn.Module,
    args: tuple[Tensor, ...],
    output: Tensor,
    *,
    change: Tensor,
    value_rows: Tensor | None,
    tokens: int,
) -> Tensor:
    """Forward hook on V: what it would return with its weight changed."""
    if math.prod(output.shape[:-1]) != tokens:
        return output  # DoRA sends an identity matrix through B to learn the weight's norm
    moved = functional.linear(args[0], change.to(args[0])).to(output)
    if value_rows is None:
        return output + moved
    return output.index_add(-1, value_rows, moved)


def _full_precision(model: nn.Module, device: torch.device, replay: Replay) -> ExitStack:
    """Replay in float32 where the weights from V's layer on are; else as they are, and warn."""
    stack = ExitStack()
    weights = {p.dtype for p in find_layers(model)[-1].parameters() if p.is_floating_point()}
    weights.add(base_model(model).get_output_embeddings().weight.dtype)  # type: ignore[operator]
    if weights <= {torch.float32, torch.float64}:
        dtype = torch.float64 if torch.float64 in weights else torch.float32
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(replay.replaying(dtype))
        return stack
    names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in weights))
    warnings.warn(
        f"gradient='zeroth_order' takes differences of losses, and the weights are {names}: expect "
        "noise. Load the model in float32, or use gradient='exact', which costs the same.",
        stacklevel=2,
    )
    stack.enter_context(replay.replaying())
    return stack
