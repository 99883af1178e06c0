"""Looking with another model: a smaller one of the same tokenizer, for the one in training.

What its gradients say of the candidates is then compared instead. It is frozen and in evaluation
mode, whole on every process, and loaded when candidates are first looked at.
"""

from typing import Any

from torch import nn
from transformers import AutoConfig

from colm.coreset.sparsify import WEIGHT_CRITERIA
from colm.training.pretrained import (
    LOADING_ERRORS,
    cannot_load,
    check_folder,
    load_model,
    load_tokenizer,
)
from colm.training.step.model_access import ModelAccess


def check_proxy(args: Any) -> None:
    """Refuse options that need the model in training, where another one is looked with.

    Raises:
        ValueError: such an option.
    """
    if args.selection_model is None:
        return
    option = f"selection_model={str(args.selection_model)!r}"
    if args.normalization == "adam":
        raise ValueError(
            f"{option} has no part in the optimiser's steps, which normalization='adam' goes by: "
            "set normalization='rms' or 'none'."
        )
    if args.dimension_criterion in WEIGHT_CRITERIA:
        raise ValueError(
            f"{option} has weights of its own, and dimension_criterion="
            f"{args.dimension_criterion!r} goes by those in training: set 'gradient' or 'random'."
        )


def check_tokenizer(args: Any, tokenizer: Any) -> None:
    """Refuse a model whose tokens are others than those of the training data.

    Args:
        args: the options.
        tokenizer: of the model in training; without one nothing is checked.

    Raises:
        ValueError: it is not there or cannot be read, brings code that is not trusted, or its
            tokenizer lacks some of the tokens or has them under other numbers.
    """
    if args.selection_model is None:
        return
    name, trusted = str(args.selection_model), trusts_code(args)
    check_folder(name, "selection_model")
    try:
        # The model is loaded when candidates are first looked at; what it needs is asked now.
        AutoConfig.from_pretrained(name, trust_remote_code=trusted)
    except LOADING_ERRORS as error:
        raise cannot_load("load selection_model", name, error) from error
    if not hasattr(tokenizer, "get_vocab"):
        return
    known = load_tokenizer(name, trust_remote_code=trusted).get_vocab()
    wrong = [token for token, number in tokenizer.get_vocab().items() if known.get(token) != number]
    if wrong:
        raise ValueError(
            f"selection_model={str(args.selection_model)!r} has {len(wrong)} tokens of the model "
            f"in training under other numbers or not at all, such as {wrong[0]!r}: choose one "
            "with the same tokenizer."
        )


def model_to_look_with(args: Any, access: ModelAccess) -> nn.Module:
    """Return the model that candidates are looked at with: the one in training, or its proxy.

    Args:
        args: the options; ``selection_model`` is a folder or a name on the hub, or ``None``.
        access: the model in training.
    """
    trained = access.model()
    if args.selection_model is None:
        return trained
    proxy: Any = load_model(str(args.selection_model), "auto", trust_remote_code=trusts_code(args))
    proxy.requires_grad_(False).eval()
    moved: nn.Module = proxy.to(next(trained.parameters()).device)
    return moved


def trusts_code(args: Any) -> bool:
    """Whether models may run code that they bring: as the user has set it, and not unless set."""
    return bool(getattr(args, "trust_remote_code", False))
