"""``LowRankAdam``: Adam that keeps its moments of what a gradient looks like in a smaller space.

At each step the gradient G ``[m, n]`` of a matrix becomes C(G), Adam's m and v are those of C(G),
and the matrix moves by what the small step is in its own space:

    W <- (1 - lr decay) W - lr scale sqrt(1 - beta2^t) / (1 - beta1^t) C^-1(m / (sqrt(v) + eps))

C is a choice of `SUBSPACES`: a basis that is found anew every ``refresh`` steps (`gradient_bases`),
Haar's wavelets (`haar_wavelets`), or sketches of the largest entries (`sparse_sketches`). The whole
gradient is there until the optimiser has stepped: what is saved is state.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from colm.checks import check_choice, check_matrix, check_number, check_whole
from colm.memory import haar_wavelets
from colm.memory.gradient_bases import (
    BASES,
    RANDOM,
    find_basis,
    is_right,
    project,
    project_back,
)
from colm.memory.sparse_sketches import draw_sketch, keep_largest, recover, sketch_size

WAVELET, SKETCHED = "wavelet", "sketched"
SUBSPACES = (*BASES, WAVELET, SKETCHED)
#: What each choice of a subspace goes by, beside scale.
OPTIONS_OF = dict.fromkeys(BASES, ("rank", "refresh")) | {
    WAVELET: ("levels", "growth"),
    SKETCHED: ("sparsity",),
}
_NAME = "low_rank_adam"


class LowRankAdam(AdamW):
    """AdamW whose state of matrices is smaller.

    Parameters that are no targets are trained by PyTorch's own AdamW. The state is that of torch:
    ``state_dict`` has all that a resumed run needs, since draws depend on seed, step and place
    alone. In several processes with equal gradients all do the same.

    Args:
        params: parameters or groups of them, as for ``AdamW``.
        lr: learning rate; that of targets is multiplied by ``scale``.
        betas: of Adam.
        eps: of Adam; of targets it is added before the correction for bias, as in the papers.
        weight_decay: decoupled.
        targets: the parameters to keep less of; all matrices where ``None``.
        subspace: one of `SUBSPACES`.
        rank: r, directions of the smaller side of a matrix.
        refresh: steps between two choices of directions.
        scale: of the step of targets.
        levels: of wavelets: state is that of n / 2^levels columns.
        growth: of wavelets: how many times as long as the last a step may be, before the learning
            rate and the correction for bias.
        sparsity: of sketches: entries of a row.
        seed: of all draws.

    Raises:
        ValueError: an option out of range, or parameters that lie in parts on several processes.

    Example:
        >>> model = torch.nn.Linear(64, 32)
        >>> optimizer = LowRankAdam(model.parameters(), lr=1e-2, rank=4, subspace="sampled")
        >>> model(torch.ones(1, 64)).sum().backward()
        >>> optimizer.step()
        >>> optimizer.state[model.weight]["exp_avg"].shape
        torch.Size([4, 64])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        targets: Iterable[Tensor] | None = None,
        subspace: str = "top",
        rank: int = 128,
        refresh: int = 200,
        scale: float = 0.25,
        levels: int = 2,
        growth: float = 1.01,
        sparsity: int = 8,
        seed: int = 0,
    ) -> None:
        check_choice("subspace", subspace, SUBSPACES)
        counts = {"rank": rank, "refresh": refresh, "sparsity": sparsity}
        for option, value in counts.items():
            check_whole(option, value, least=1)
        check_whole("levels", levels, least=0)
        check_whole("seed", seed)
        check_number("scale", scale, above=0)
        check_number("growth", growth, above=1)
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        own = {"subspace": subspace, "scale": scale, "seed": seed}
        own |= {"rank": rank, "refresh": refresh, "sparsity": sparsity}
        own |= {"levels": levels, "growth": growth}
        every = [p for group in self.param_groups for p in group["params"]]
        inside = [p for p in every if p.ndim == 2] if targets is None else list(targets)
        check_parameters(every, inside)
        self._separate({id(target) for target in inside}, own)

    def _separate(self, targets: set[int], own: dict[str, Any]) -> None:
        """Give targets groups of their own, after the others."""
        separated: list[dict[str, Any]] = []
        for group in self.param_groups:
            inside = [p for p in group["params"] if id(p) in targets]
            if inside:
                separated.append(group | own | {"params": inside})
                group["params"] = [p for p in group["params"] if id(p) not in targets]
        self.param_groups = [group for group in self.param_groups if group["params"]] + separated

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take a step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        inside = [(p, g) for g in self.param_groups if "subspace" in g for p in g["params"]]
        taken = {p: p.grad for p, _ in inside if p.grad is not None}
        for place, (parameter, group) in enumerate(inside):
            if parameter in taken:
                self._step_inside(parameter, group, place)
                parameter.grad = None
        try:
            super().step()
        finally:
            for parameter, gradient in taken.items():
                parameter.grad = gradient
        return loss

    def _step_inside(self, parameter: Tensor, group: dict[str, Any], place: int) -> None:
        """Step a target that has a gradient; ``place`` is its own among them all."""
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
        steps_before = int(state["step"])
        along = {WAVELET: _along_wavelets, SKETCHED: _along_sketches}
        choose = along.get(group["subspace"], _along_basis)
        assert parameter.grad is not None
        direction = choose(parameter.grad, state, group, steps_before, place)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        size = group["lr"] * group["scale"] * math.sqrt(1 - beta2 ** (steps_before + 1))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(direction, alpha=-size / (1 - beta1 ** (steps_before + 1)))


def _along_basis(
    gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], steps: int, place: int
) -> Tensor:
    """Return the direction of a step along a basis."""
    choice, period = group["subspace"], steps // group["refresh"]
    basis = state.get("basis")
    if basis is None or steps % group["refresh"] == 0:
        key = (group["seed"], _NAME, period, place)
        basis = find_basis(gradient, group["rank"], choice, *key)
        if choice != RANDOM:
            state["basis"] = basis
    moments, root = _moments(project(gradient, basis), state, group)
    return project_back(moments / root, basis, right=is_right(gradient))


def _along_wavelets(
    gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], _steps: int, _place: int
) -> Tensor:
    """Return the direction of a step: details have no momentum, but the scale of where they are."""
    approximation, details = haar_wavelets.transform(gradient, group["levels"])
    moments, root = _moments(approximation, state, group)
    small = moments / root
    scaled = [each / haar_wavelets.spread(root, each.shape[1]) for each in details]
    direction = haar_wavelets.inverse(small, scaled, gradient.shape[1])
    length, before = small.norm(), state.get("length")
    if before is not None:
        # A step of no length, as of a gradient of zeros, does not bound the next.
        most = torch.where(before > 0, before * group["growth"], math.inf)
        shorter = (most / length.clamp_min(torch.finfo(length.dtype).tiny)).clamp_max(1)
        direction, length = direction * shorter, length * shorter
    state["length"] = length
    return direction


def _along_sketches(
    gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], _steps: int, _place: int
) -> Tensor:
    """Return the direction of a step in few entries of each row; A is the same at every step."""
    sparsity, columns = group["sparsity"], gradient.shape[1]
    if not gradient.isfinite().all():
        return gradient  # nothing is found in it, and what is wrong shows in the weights
    wide = torch.promote_types(gradient.dtype, torch.float32)
    sketch = draw_sketch(columns, sparsity, group["seed"], _NAME, columns, sparsity)
    sketch = sketch.to(gradient.device, wide)
    sketches = keep_largest(gradient, sparsity).to(wide) @ sketch.T
    moments, root = _moments(sketches.to(gradient.dtype), state, group)
    return recover((moments / root).to(wide), sketch, sparsity).to(gradient.dtype)


def _moments(
    small: Tensor, state: dict[str, Tensor], group: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Take a gradient into Adam's moments; return the first, and sqrt(v) + eps."""
    if "exp_avg" not in state:
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(small), torch.zeros_like(small)
    beta1, beta2 = group["betas"]
    state["exp_avg"].lerp_(small, 1 - beta1)
    state["exp_avg_sq"].mul_(beta2).addcmul_(small, small, value=1 - beta2)
    return state["exp_avg"], state["exp_avg_sq"].sqrt().add_(group["eps"])


def state_numbers(
    rows: int, columns: int, subspace: str, *, rank: int, levels: int, sparsity: int
) -> int:
    """Return how many numbers are kept for a matrix ``[m, n]``, its count of steps left out.

    Args:
        rows: m.
        columns: n.
        subspace: one of `SUBSPACES`.
        rank: as `LowRankAdam` takes it, like the others.
        levels: of wavelets.
        sparsity: of sketches.

    Example:
        >>> state_numbers(100, 50, "top", rank=8, levels=2, sparsity=8)  # 2 * 100 * 8 + 50 * 8
        2000
    """
    if subspace == WAVELET:
        return 2 * rows * math.ceil(columns / (1 << levels)) + 1
    if subspace == SKETCHED:
        return 2 * rows * sketch_size(columns, sparsity)
    side, other = sorted((rows, columns))
    rank = min(rank, side)
    return rank * (2 * other + (0 if subspace == RANDOM else side))


def check_parameters(every: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
    """Refuse targets that are no matrices, and parameters of which this process holds a part.

    Raises:
        ValueError: such a target, FSDP2's DTensors, or what DeepSpeed shards.
    """
    for parameter in every:
        for mark, owner in (("to_local", "FSDP2"), ("ds_id", "DeepSpeed")):
            if hasattr(parameter, mark):
                raise ValueError(
                    f"LowRankAdam needs whole weights, and {owner} shards them: train with DDP, or "
                    "with another optimiser."
                )
    for target in targets:
        check_matrix("targets", target)
