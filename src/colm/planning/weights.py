"""What a model's weights lie in, in whatever form: all that is held whether it trains or not."""

from typing import Any

import torch
from torch import Tensor, nn

from colm.subspace.linear import draw_directions


def weight_tensors(model: nn.Module) -> list[Tensor]:
    """Return parameters, buffers, directions of random subspaces, and scales of packed weights.

    Directions that were let go of are drawn.
    """
    scales = [
        tensor
        for weight in model.parameters()
        for state in _states(getattr(weight, "quant_state", None))
        for tensor in vars(state).values()
        if isinstance(tensor, Tensor)
    ]
    return [*model.parameters(), *model.buffers(), *scales, *draw_directions(model)]


def count_weights(model: nn.Module) -> int:
    """Return the number of a model's parameters; a byte of a packed weight holds two."""
    return sum(
        weight.numel() * (2 if weight.dtype is torch.uint8 else 1) for weight in model.parameters()
    )


def _states(state: Any) -> list[Any]:
    """How a weight in four bits is scaled, and how its scales are, where they have scales, too."""
    return [] if state is None else [state, *_states(getattr(state, "state2", None))]
