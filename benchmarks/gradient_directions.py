"""Subspaces whose directions P come from a gradient: a trial for `benchmarks subspace` alone.

At each new subspace one more forward and backward, of the mini-batch at hand and with B = 0, gives
the gradients G of whole weights; P is made of right singular vectors of those that share it, one
below the other. That backward keeps what AdamW's keeps: this tells whether such directions are
worth having, not what they cost. Symbols as in `colm.memory.subspaces`: m inputs, o outputs, rank
r; P as ``[r, m]``, B as ``[o, r]``.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from colm.memory.gradient_bases import draw_places
from colm.memory.subspaces.linear import Directions
from colm.memory.subspaces.optimizer import SubspaceOptimizer
from colm.randomness import keyed_generator

CHOICES = ("top", "sampled", "mixed", "inputs")


class GradientSubspaceOptimizer(SubspaceOptimizer):
    """As its parent, with directions of a choice of `CHOICES`, or ``haar`` as its parent's.

    Args:
        choice: ``top``: the first singular vectors. ``sampled``: drawn by
            singular values, without replacement. ``mixed``: the first r/2, and as many at random
            of what they leave. ``inputs``: as ``top``, of the maps' inputs x in place of G.
        moments: as of the parent, or ``carried``: turned to the new directions; see `carry`.
    """

    def __init__(self, *args: Any, choice: str, moments: str = "averaged", **options: Any) -> None:
        self.choice, self.carried = choice, moments == "carried"
        super().__init__(*args, moments="kept" if self.carried else moments, **options)
        self._loss: Callable[[], Tensor] | None = None
        self._held: dict[Directions, Tensor] = {}

    def look_at(self, loss: Callable[[], Tensor]) -> None:
        """Say what the next directions are for; the first are made at once."""
        self._loss = loss
        if not self._held:
            self._renew()

    def next_subspace(self) -> None:
        """As the parent's, with directions of the choice."""
        super().next_subspace()
        self._renew()

    def _renew(self) -> None:
        """Make P, and carry moments to it."""
        assert self._loss is not None
        sharing: dict[Directions, list[Any]] = {}
        for module in self.subspaces.maps.values():
            sharing.setdefault(module.directions, []).append(module)  # type: ignore[arg-type]
        drawn = [modules[0].projection(like=modules[0].weight) for modules in sharing.values()]
        seen = self._see(list(sharing.values())) if self.choice != "haar" else drawn
        for place, (directions, modules) in enumerate(sharing.items()):
            new = drawn[place]
            if self.choice != "haar":
                key = (self.subspaces.seed, "trial", self.subspaces.outer_step, place)
                new = find_directions(seen[place], len(new), self.choice, *key)
                directions._held = new = new.to(drawn[place].dtype)
            if self.carried and directions in self._held:
                for module in modules:
                    carry(self.state[module.subspace.weight], self._held[directions], new)
            self._held[directions] = new

    def _see(self, groups: list[list[Any]]) -> list[Tensor]:
        """Return what directions come from, ``[rows, m]`` for each group of maps with one P."""
        assert self._loss is not None
        inputs: dict[Any, Tensor] = {}

        def keep(module: Any, given: tuple[Tensor]) -> None:
            inputs[module] = given[0].detach().flatten(0, -2)

        if self.choice == "inputs":
            hooks = [modules[0].register_forward_pre_hook(keep) for modules in groups]
            with torch.no_grad():
                self._loss()
            for hook in hooks:
                hook.remove()
            return [inputs[modules[0]] for modules in groups]
        weights = [module.weight for modules in groups for module in modules]
        for weight in weights:
            weight.requires_grad_(True)
        with torch.enable_grad():
            gradients = iter(torch.autograd.grad(self._loss(), weights))
        for weight in weights:
            weight.requires_grad_(False)
        return [torch.cat([next(gradients) for _ in modules]) for modules in groups]


@torch.no_grad()
def find_directions(matrix: Tensor, rank: int, choice: str, *key: int | str) -> Tensor:
    """Return P, ``[r, m]``: orthonormal directions of the rows of a matrix, times sqrt(m/r)."""
    inputs = matrix.shape[1]
    _, sizes, right = torch.linalg.svd(matrix.float(), full_matrices=False)
    if choice == "sampled":
        right = right[draw_places(sizes, rank, *key).to(right.device)]
    if choice == "mixed":
        first = right[: rank // 2]
        free = torch.randn(rank - len(first), inputs, generator=keyed_generator(*key))
        free = free - free @ first.T @ first
        right = torch.cat([first, torch.linalg.qr(free.T).Q.T])
    assert len(right) >= rank, f"{len(right)} directions, not {rank}"
    directions: Tensor = right[:rank] * math.sqrt(inputs / rank)
    return directions.contiguous()


@torch.no_grad()
def carry(state: dict[str, Tensor], old: Tensor, new: Tensor) -> None:
    """Turn Adam's moments of a B from directions to others.

    With cosines C ``[r, r]`` between them, first moments m become m C^T: those of the same vector,
    as far as the new directions see it. Second ones v become v (C * C)^T, and for the part of a
    direction that is outside the old ones the mean of v.  Paper: LDAdam, arXiv 2410.16103, has a
    rule like it. Where directions are the same nothing changes.
    """
    scale = old.shape[1] / len(old)
    cosines = new.float() @ old.float().T / scale
    squares = cosines.square()
    outside = (1 - squares.sum(dim=1)).clamp_min(0.0)
    first, second = state["exp_avg"], state["exp_avg_sq"]
    first.copy_(first @ cosines.T)
    second.copy_(second @ squares.T + second.mean(dim=1, keepdim=True) * outside)
