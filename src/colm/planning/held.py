"""What a model and its optimiser hold whether they train or not: weights in any form, states.

What is listed of optimisers was read off their code; of others nothing is said. Those of 8 bits
keep small tensors and, in bitsandbytes, embeddings in 32 bits, which is not counted.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from colm.memory.low_rank_adam import state_numbers
from colm.memory.subspaces.linear import draw_directions
from colm.planning.projected_states import is_projected, projected_bytes
from colm.training.low_rank_training import LOW_RANK_ADAM
from colm.training.optimizers import ZEROTH_ORDER, read_optim_args

#: Optimisers whose state has the type of the weight: how many numbers they keep of each.
_LIKE_WEIGHTS = {
    "adamw_torch": 2,
    "adamw_torch_fused": 2,
    "adamw_torch_xla": 2,
    "adamw_torch_npu_fused": 2,
    "adagrad": 1,
    "rmsprop": 1,
    "sgd": 0,
    "lomo": 0,
    "lamb": 2,
}
#: Those that keep a number for each row and column of a matrix.
_FACTORED = {"adafactor", "adalomo"}
#: Bytes for each trained number; a block of eight-bit ones shares a scale of 32 bits.
_EIGHT_BITS = 1 + 4 / 256
_FIXED = {
    "adamw_torch_8bit": 2 * _EIGHT_BITS,
    "adamw_torch_4bit": 2 * (0.5 + 4 / 128),
    "adamw_8bit": 2 * _EIGHT_BITS,
    "adamw_bnb_8bit": 2 * _EIGHT_BITS,
    "ademamix": 12.0,
    "ademamix_8bit": 3 * _EIGHT_BITS,
    "lion_32bit": 4.0,
    "lion_8bit": _EIGHT_BITS,
    "rmsprop_bnb": 4.0,
    "rmsprop_bnb_32bit": 4.0,
    "rmsprop_bnb_8bit": _EIGHT_BITS,
}
PAGED = "paged_"


def optimizer_bytes(
    optim: str,
    trained: Iterable[Tensor],
    options: str | None = None,
    targets: Iterable[Tensor] = (),
) -> int | None:
    """Return the bytes of an optimiser's state once it has stepped, scalars left out.

    Paged optimisers are counted as their unpaged twins, though some of theirs may lie on the host.

    Args:
        optim: its name in ``TrainingArguments``.
        trained: the weights it steps.
        options: ``optim_args``; momentum makes SGD keep a number for each weight.
        targets: those that low-rank Adam, GaLore or APOLLO keeps less of.

    Returns:
        Bytes, ``None`` for an optimiser that is not known here.

    Example:
        >>> import torch
        >>> optimizer_bytes("adamw_torch", [torch.zeros(10)])
        80
    """
    weights = list(trained)
    name = _unpaged(optim)
    by_weight = {"came": _came, **dict.fromkeys(_FACTORED, _factored)}
    if name in by_weight:
        return sum(map(by_weight[name], weights))
    if is_projected(name):
        return projected_bytes(name, weights, options, {id(each) for each in targets})
    if name == LOW_RANK_ADAM:
        return _low_rank(weights, read_optim_args(name, options), {id(each) for each in targets})
    if name == ZEROTH_ORDER:
        return _by_losses(weights, read_optim_args(name, options))
    if name in _LIKE_WEIGHTS:
        momentum = name in {"sgd", "rmsprop"} and "momentum" in (options or "")
        kept = _LIKE_WEIGHTS[name] + momentum
        return sum(kept * weight.numel() * weight.element_size() for weight in weights)
    numbers = sum(weight.numel() for weight in weights)
    return round(_FIXED[name] * numbers) if name in _FIXED else None


def _unpaged(optim: str) -> str:
    """The unpaged twin: ``adamw_8bit`` of ``paged_adamw_8bit``; 32-bit Adam is PyTorch's."""
    name = optim.removeprefix(PAGED)
    plain = {"adamw_32bit": "adamw_torch", "ademamix_32bit": "ademamix"}
    return plain.get(name, name) if optim.startswith(PAGED) else name


def _factored(weight: Tensor) -> int:
    """A float32 for each row and column of a matrix, for each number of a vector."""
    if weight.dim() < 2:
        return 4 * int(weight.numel())
    *leading, rows, columns = weight.shape
    return 4 * math.prod(leading) * (rows + columns)


def _came(weight: Tensor) -> int:
    """A first moment, and two second ones: of rows and columns where there are both."""
    size = weight.element_size()
    if weight.dim() < 2:
        return 2 * size * int(weight.numel())
    return size * (int(weight.numel()) + 2 * _factored(weight) // 4)


def _low_rank(weights: list[Tensor], given: Mapping[str, Any], targets: set[int]) -> int:
    """Of targets what low-rank Adam keeps, of others two numbers of each."""
    sizes = {name: given[name] for name in ("rank", "levels", "sparsity")}
    total = 0
    for weight in weights:
        numbers = 2 * weight.numel()
        if id(weight) in targets:
            rows, columns = weight.shape
            numbers = state_numbers(rows, columns, given["subspace"], **sizes)
        total += numbers * weight.element_size()
    return total


def _by_losses(weights: list[Tensor], given: Mapping[str, Any]) -> int:
    """Moments of updates, and the factors of directions that are kept between steps."""
    moments = {"momentum": 1, "adam": 2}.get(given["update"], 0)
    total = 0
    for weight in weights:
        numbers = moments * weight.numel()
        if weight.ndim == 2 and given["direction"] != "gaussian":
            rows, columns = weight.shape
            rank = min(given["rank"], rows, columns)
            if given["direction"] == "subspace":
                numbers += rank * (rows + columns)
            else:
                # A heavy ball lies in the factor that is drawn each step.
                numbers = rank * columns + (
                    rank * rows if given["update"] == "momentum" else numbers
                )
        total += numbers * torch.promote_types(weight.dtype, torch.float32).itemsize
    return total


def trained_weights(model: nn.Module) -> list[Any]:
    """Return the parameters that training changes, tied ones once."""
    return [weight for weight in model.parameters() if weight.requires_grad]


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
    scales += [
        scale
        for module in model.modules()
        for holder in (getattr(module, "state", None), getattr(module, "weight", None))
        for scale in [getattr(holder, "SCB", None)]  # of weights in eight bits
        if isinstance(scale, Tensor)
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
