"""SPSA: gradients from differences of losses along random directions, no backward at all.

    p_i = (L_i(V + eps z) - L_i(V - eps z)) / 2 eps
    g_i = p_i z, z standard normal, or the mean of several such estimates

The estimate is that of SSM v1: Eq. 7 moves all parameters, Eq. 8 the last V alone; the mean of
several is what the paper calls n-SPSA, and it takes one.

V (here: any projections) is never written to: its output is moved by eps x z^T, which is the same,
works on quantised weights and leaves nothing to restore. Differences of losses are noise in half
precision, so the replayed part runs in float32, on float32 copies of half-precision weights. Where
a layer routes tokens to experts, a step may change the choice: no step is small enough for that.
Symbols: n examples, t tokens a row, k directions, o rows of a projection, i its inputs, e hidden
size.
"""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from colm.gradients.adapters import labels_seen
from colm.gradients.applied_weights import Projection, map_hook
from colm.gradients.batch import LabelPositions, drop_labels, label_positions
from colm.gradients.exact import sees_all_tokens, took_no_part
from colm.gradients.label_loss import DecoderRun, example_losses
from colm.gradients.patching import (
    HALF_PRECISION,
    can_be_float32,
    evaluation_mode,
    full_precision,
    in_float32,
    weights_of,
)
from colm.gradients.replay import Replay


def loss_slopes(
    model: nn.Module,
    projections: Sequence[Projection],
    batch: Mapping[str, Any],
    directions: list[Tensor],
    scale: float,
    reduction: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the finite differences p_i (SSM v1, Eq. 8) of each example along each direction.

    Costs one forward, then two replays of the last layer and the head for each direction, and for
    their duration a float32 copy of what they run of half-precision weights.

    Args:
        model: a causal language model.
        projections: what the directions move.
        batch: one batch with labels, one example a row.
        directions: for each projection its ``[k, o, i]``.
        scale: eps.
        reduction: ``mean`` or ``sum`` of an example's label losses.

    Returns:
        ``[k, n]`` slopes; each example's unperturbed loss ``[n]``; the last hidden states
        ``[n, p + t, e]`` of the unperturbed forward, those at p virtual tokens of PEFT first.
    """
    seen = labels_seen(model, batch["labels"])
    labels, shape = label_positions(seen), tuple(seen.shape)
    inputs = drop_labels(batch)
    replay = Replay(model, min(projection.first_layer for projection in projections))
    slopes = []
    with evaluation_mode(model), torch.no_grad():
        with replay.capturing():
            run = DecoderRun(model, inputs)
            losses = example_losses(run, labels, reduction)
        with ExitStack() as stack:
            _replay_in_full_precision(stack, replay, batch["input_ids"].device)
            for direction in zip(*directions, strict=True):
                high, low = (
                    _perturbed(
                        model,
                        [
                            _Move(part, step * z, shape)
                            for part, z in zip(projections, direction, strict=True)
                        ],
                        inputs,
                        labels,
                        reduction,
                    )
                    for step in (scale, -scale)
                )
                slopes.append((high - low) / (2 * scale))
    return torch.stack(slopes), losses, run.hidden.reshape(*shape, -1)


def _perturbed(
    model: nn.Module,
    moves: list["_Move"],
    inputs: Mapping[str, Any],
    labels: LabelPositions,
    reduction: str,
) -> Tensor:
    """Losses with the weights of projections changed."""
    with ExitStack() as stack:
        for move in moves:
            stack.enter_context(map_hook(move.projection, move))
        run = DecoderRun(model, inputs)
        losses = example_losses(run, labels, reduction)
    if run.hidden.dtype in HALF_PRECISION:
        # Where parameters are sharded, what shards them may have the last word on types.
        _warn_of_noise(f"the model computes in {str(run.hidden.dtype).removeprefix('torch.')}")
    for move in moves:
        if not move.made:
            raise took_no_part(move.projection)
    return losses


class _Move:
    """Forward hook on a projection: what it would return with its weight changed by ``[o, i]``."""

    def __init__(self, projection: Projection, change: Tensor, shape: tuple[int, ...]) -> None:
        self.projection = projection
        self.change = change
        self.shape = shape
        self.made = False

    def __call__(self, _module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not sees_all_tokens(output, self.shape, self.projection):
            return output
        self.made = True
        moved = functional.linear(args[0], self.change.to(args[0])).to(output)
        rows = self.projection.rows
        return output + moved if rows is None else output.index_add(-1, rows, moved)


def _replay_in_full_precision(stack: ExitStack, replay: Replay, device: torch.device) -> None:
    """Replay in float32, without autocast; as things are, and with a warning, where that fails."""
    if replay.is_sharded:
        # What gathers weights decides on their types, and copies would take their place.
        stack.enter_context(full_precision(device.type))
        stack.enter_context(replay.replaying())
        return
    modules = replay.modules()
    foreign = {
        str(weight.dtype).removeprefix("torch.")
        for weight in weights_of(modules)
        if not can_be_float32(weight)
    }
    if foreign:
        _warn_of_noise(f"some weights ({', '.join(sorted(foreign))}) are quantised or elsewhere")
        stack.enter_context(replay.replaying())
        return
    stack.enter_context(in_float32(modules))
    stack.enter_context(full_precision(device.type))
    wide = any(weight.dtype is torch.float64 for weight in weights_of(modules))
    stack.enter_context(replay.replaying(torch.float64 if wide else torch.float32))


def _warn_of_noise(why: str) -> None:
    warnings.warn(
        f"gradient='zeroth_order' takes differences of losses, which want float32, and {why}: "
        "expect noise. gradient='exact' has none, and costs the same.",
        stacklevel=3,
    )
