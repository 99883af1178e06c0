"""All tensors that an optimiser keeps, whatever they are wrapped in."""

from typing import Any

from torch import Tensor


def state_tensors(optimizer: Any) -> list[Tensor]:
    """Return the tensors of an optimiser's states, projections of GaLore and APOLLO among them."""
    return [one for state in optimizer.state.values() for one in tensors_in(state)]


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors inside dictionaries, lists and projectors."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    elif hasattr(value, "ortho_matrix"):
        value = [value.ortho_matrix]
    parts = value if isinstance(value, list | tuple) else []
    return [one for part in parts for one in tensors_in(part)]
