"""Low-rank Adam in a trainer: which matrices it keeps less of, and what it is refused for."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from colm.gradients.decoder import class_name, find_layers, linear_maps
from colm.memory.low_rank_adam import OPTIONS_OF, LowRankAdam

LOW_RANK_ADAM = "low_rank_adam"
_ALL_LINEAR = "all-linear"


def make_low_rank_adam(
    args: Any, model: nn.Module, given: Mapping[str, Any]
) -> tuple[type, dict[str, Any]]:
    """Return the class and the arguments of the optimiser, as transformers takes them.

    Args:
        args: a trainer's options.
        model: that is trained.
        given: what ``optim_args`` says, with the defaults of the rest.

    Raises:
        ValueError: the model has no such matrices.
    """
    return LowRankAdam, {
        "lr": args.learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "eps": args.adam_epsilon,
        "targets": find_targets(model, args.optim_target_modules),
        "seed": args.seed,
        **given,
    }


def find_targets(
    model: nn.Module, modules: str | list[str] | None = None, optim: str = LOW_RANK_ADAM
) -> list[nn.Parameter]:
    """Return the trained matrices that low-rank Adam keeps less of.

    Args:
        model: a causal language model.
        modules: ``optim_target_modules``, read as transformers reads it for GaLore; the linear maps
            of the decoder's layers where ``None``.
        optim: what the line that refuses calls the optimizer.

    Raises:
        ValueError: there are none.
    """
    if modules is None:
        maps = [module for layer in find_layers(model) for _, module in linear_maps(layer)]
    else:
        maps = [each for name, each in model.named_modules() if _is_named(name, each, modules)]
    weights = [getattr(module, "weight", None) for module in maps]
    found = [w for w in weights if isinstance(w, nn.Parameter) and w.requires_grad and w.ndim == 2]
    if not found:
        of = "linear maps of its layers" if modules is None else f"modules named {modules!r}"
        raise ValueError(
            f"optim={optim!r} finds no trained matrix in the {of} of "
            f"{class_name(model)}: adapters are small as they are, and what is frozen has no state."
        )
    return found


def _is_named(name: str, module: nn.Module, modules: str | list[str]) -> bool:
    # Not above: the names of optimisers are read before transformers' trainer is loaded.
    from transformers.trainer_utils import check_target_module_exists

    if not isinstance(module, nn.Linear):
        return False
    if isinstance(modules, str) and modules.replace("_", "-") == _ALL_LINEAR:
        return True
    return bool(check_target_module_exists(modules, name))


def check_low_rank(trainer: Any) -> None:
    """Refuse a model without matrices to keep less of, before anything is trained.

    Raises:
        ValueError: one line that names ``optim``.
    """
    args = trainer.args
    if args.side_block is not None:
        raise ValueError(
            f"optim={LOW_RANK_ADAM!r} keeps less of the decoder's matrices, and side_block="
            f"{args.side_block} freezes them: set one of the two."
        )
    find_targets(trainer.model, args.optim_target_modules)


def check_low_rank_arguments(given: Mapping[str, Any], every: Mapping[str, Any]) -> None:
    """Refuse what is said of another choice of subspace than the one that is made.

    Args:
        given: what ``optim_args`` says.
        every: that, with the defaults of the rest.

    Raises:
        ValueError: one line that names both.
    """
    subspace = every["subspace"]
    acting = {"subspace", "scale", *OPTIONS_OF[subspace]}
    for name in given:
        if name not in acting:
            raise ValueError(
                f"{name} in optim_args of optim={LOW_RANK_ADAM!r} does nothing with "
                f"subspace={subspace}, which goes by {', '.join(OPTIONS_OF[subspace])} and scale."
            )
