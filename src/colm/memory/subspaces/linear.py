"""A linear map that is trained along a random subspace: y = x W^T + (x P) B.

The class of the map is changed in place, so that its name, its weight's name and everything that
looks for linear maps stay as they were; W is frozen, and B is a small linear map inside. Since W
and P need no gradient, autograd keeps x P for backward, and not x: that is the saving. Symbols: m
inputs, o outputs, rank r; P as ``[r, m]``, B as ``[o, r]``.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from colm.gradients.decoder import linear_shape

HALF = (torch.float16, torch.bfloat16)


class Directions:
    """The current P of maps that share one: those of a module with as many inputs.

    Queries, keys and values are computed from the same x: with the same P they share x P as well,
    which is then computed, and kept for backward, once.

    Args:
        draw: draws P, ``[r, m]``, on a device and of a type.
    """

    def __init__(self, draw: Callable[[torch.device, torch.dtype], Tensor]) -> None:
        self._draw = draw
        self._held: Tensor | None = None
        self._last = _Projected()

    @torch.no_grad()
    def on(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return P, drawn where it is first asked for."""
        held = self._held
        if held is None or held.device != device or held.dtype != dtype:
            held = self._held = self._draw(device, dtype)
            self._last = _Projected()
        return held

    def project(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """Return x P, ``[..., r]``: what the last call returned, where x is the same tensor."""
        directions = self.on(inputs.device, dtype)
        if torch.compiler.is_compiling():
            return functional.linear(inputs, directions)
        kept = self._last.of(inputs)
        if kept is None:
            kept = functional.linear(inputs, directions)
            self._last = _Projected(inputs, kept)
        return kept

    def forget(self) -> None:
        """Let go of P, to be drawn anew when it is next asked for."""
        self._held = None
        self._last = _Projected()


class _Projected:
    """x P, for as long as x lives: it must outlive neither a layer nor a checkpointed forward."""

    def __init__(self, inputs: Tensor | None = None, projected: Tensor | None = None) -> None:
        self._projected = projected
        if inputs is not None:
            self._inputs = weakref.ref(inputs, lambda _: self._release())
            self._state = _state_of(inputs)

    def of(self, inputs: Tensor) -> Tensor | None:
        """Return x P, where it is of this x as it is now; ``None`` otherwise."""
        if self._projected is None or self._inputs() is not inputs:
            return None
        return self._projected if self._state == _state_of(inputs) else None

    def _release(self) -> None:
        self._projected = None


def _state_of(inputs: Tensor) -> tuple[int, bool, bool, bool]:
    """What x P depends on beside x: how often x was written to, gradients, and autocast."""
    autocast = torch.is_autocast_enabled(inputs.device.type)
    return inputs._version, inputs.requires_grad, torch.is_grad_enabled(), autocast


class Coefficients(nn.Linear):
    """B, from r inputs to o outputs: zero at first, float32 where the model is in half precision.

    Adam's updates of a small factor are lost in half precision; the factor is small, so its float32
    costs little.
    """

    def forward(self, projected: Tensor) -> Tensor:
        """Map ``[..., r]`` to ``[..., o]``, in the type of the input."""
        return functional.linear(projected, self.weight.to(projected.dtype))


class SubspaceMap:
    """What a linear map in a subspace is beside its own class, which comes after this one.

    Attributes:
        subspace: B.
        directions: P.
    """

    subspace: Coefficients
    directions: Directions
    weight: nn.Parameter

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``[..., m]`` to ``[..., o]``."""
        frozen: Tensor = super().forward(inputs)  # type: ignore[misc]
        trained: Tensor = self.subspace(self.directions.project(inputs, self.weight.dtype))
        return frozen + trained

    def projection(self, like: Tensor) -> Tensor:
        """Return P, ``[r, m]``, on the device of ``like`` and of the weight's type."""
        return self.directions.on(like.device, self.weight.dtype)


def enter(linear: nn.Module, rank: int, directions: Directions) -> None:
    """Make a linear map one in a subspace, in place; B = 0, so that it computes what it did.

    Args:
        linear: ``nn.Linear`` or GPT-2's ``Conv1D``, with a weight in floating point.
        rank: r, at most its inputs.
        directions: P.
    """
    weight: Any = linear.weight
    outputs, _ = linear_shape(linear)
    dtype = torch.float32 if weight.dtype in HALF else weight.dtype
    subspace = Coefficients(rank, outputs, bias=False, device=weight.device, dtype=dtype)
    nn.init.zeros_(subspace.weight)
    weight.requires_grad_(False)
    kind = type(linear)
    linear.__class__ = type(f"Subspace{kind.__name__}", (SubspaceMap, kind), {})
    linear.subspace = subspace
    linear.directions = directions  # type: ignore[assignment]


def leave(linear: nn.Module) -> None:
    """Make a map in a subspace the plain one it was; what B holds is dropped."""
    linear.__class__ = type(linear).__mro__[2]
    del linear.subspace, linear.directions
    weight: Any = linear.weight
    weight.requires_grad_(True)


def draw_directions(model: nn.Module) -> list[Tensor]:
    """Return every P of a model, on the device of its weights, drawn where it was not."""
    found = (
        module.projection(like=module.weight)
        for module in model.modules()
        if isinstance(module, SubspaceMap)
    )
    return list({id(one): one for one in found}.values())
