"""Bounds of options that transformers, TRL and PEFT leave unchecked.

A negative length trains on what is left from the other end, an infinite learning rate saves a model
of NaN, a limit of no checkpoints keeps them all: nobody means that, and none of it is said. What
the libraries check themselves is left to them.
"""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from colm.checks import check_number

#: Seeds that every library's generator takes.
_MOST_SEED = 2**32 - 1
#: More of anything that is counted is a slip of the pen; it fits every library's whole numbers.
_MOST_COUNT = 2**31 - 1

_COUNT: Mapping[str, Any] = {"least": 1, "most": _MOST_COUNT, "whole": True}
_COUNT_OR_ZERO: Mapping[str, Any] = {"least": 0, "most": _MOST_COUNT, "whole": True}
_SEED: Mapping[str, Any] = {"least": 0, "most": _MOST_SEED, "whole": True}
_NOT_NEGATIVE: Mapping[str, Any] = {"least": 0}
_SHARE: Mapping[str, Any] = {"least": 0, "below": 1}

_BOUNDS: Mapping[str, Mapping[str, Any]] = {
    # Of one token there is nothing to predict.
    "max_length": {**_COUNT, "least": 2},
    "per_device_train_batch_size": _COUNT,
    "per_device_eval_batch_size": _COUNT,
    "gradient_accumulation_steps": _COUNT,
    "eval_accumulation_steps": _COUNT,
    "save_total_limit": _COUNT,
    "dataset_num_proc": _COUNT,
    "dataloader_num_workers": _COUNT_OR_ZERO,
    "dataloader_prefetch_factor": _COUNT,
    "ddp_timeout": _COUNT,
    "seed": _SEED,
    "data_seed": _SEED,
    "learning_rate": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "adam_epsilon": _NOT_NEGATIVE,
    "max_grad_norm": _NOT_NEGATIVE,
    "label_smoothing_factor": _SHARE,
    "neftune_noise_alpha": _NOT_NEGATIVE,
    "router_aux_loss_coef": _NOT_NEGATIVE,
    # Whether there are any is asked when it is known that the epochs decide.
    "num_train_epochs": {"most": 10**9},
    "warmup_steps": _NOT_NEGATIVE,
    "warmup_ratio": {"least": 0, "most": 1},
    "eval_delay": _NOT_NEGATIVE,
}
_MAY_BE_NONE = {
    "max_length",
    "eval_accumulation_steps",
    "save_total_limit",
    "dataset_num_proc",
    "dataloader_prefetch_factor",
    "data_seed",
    "neftune_noise_alpha",
    "router_aux_loss_coef",
    "max_grad_norm",
    "warmup_ratio",
    "warmup_steps",
}
#: Infinite, it clips nothing.
_MAY_BE_INFINITE = {"max_grad_norm", "most_repeats"}
#: Steps between what a strategy does, as a number or as a share of the run, and the strategy.
_EVERY = {
    "logging_steps": "logging_strategy",
    "eval_steps": "eval_strategy",
    "save_steps": "save_strategy",
}


def check_plain_options(args: Any) -> None:
    """Refuse values of the plain trainers' options that nobody can mean.

    Args:
        args: a configuration of transformers or TRL, before its own checks.

    Raises:
        ValueError: one line that names the option, its value and what it may be.
    """
    for name in (field.name for field in fields(args)):
        value = getattr(args, name)
        if name not in _MAY_BE_INFINITE and isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number; got {value}.")
    for option, bounds in _BOUNDS.items():
        value = getattr(args, option, None)
        if option in _MAY_BE_INFINITE and value == math.inf:
            continue
        if value is not None or (option not in _MAY_BE_NONE and hasattr(args, option)):
            check_number(option, value, **bounds)
    _check_max_steps(args.max_steps)
    multiple = getattr(args, "pad_to_multiple_of", None)
    if multiple is not None and not isinstance(multiple, str):
        check_number("pad_to_multiple_of", multiple, **_COUNT)
    for option, strategy in _EVERY.items():
        value, kind = getattr(args, option), getattr(args, strategy)
        # Of the logging and evaluation that 0 stands for, transformers speaks itself.
        if value is not None and str(getattr(kind, "value", kind)) == "steps":
            bounds = {"above": 0} if option == "save_steps" else {"least": 0}
            check_number(option, value, **bounds)


def check_adapter_options(model: Any) -> None:
    """Refuse values of adapter options that PEFT takes, and that would train nothing.

    Args:
        model: TRL's ``ModelConfig``.

    Raises:
        ValueError: one line that names the option, its value and what it may be.
    """
    if not model.use_peft:
        return
    check_number("lora_r", model.lora_r, **_COUNT)
    check_number("lora_alpha", model.lora_alpha, above=0)
    check_number("lora_dropout", model.lora_dropout, **_SHARE)


def _check_max_steps(value: Any) -> None:
    """Refuse what is neither a number of steps nor -1, which leaves it to the epochs."""
    if value != -1:
        check_number("max_steps", value, **_COUNT, instead="-1, as num_train_epochs says")
