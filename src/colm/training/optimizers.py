"""The optimisers that ``optim`` names beside those of transformers, and their ``optim_args``.

Each has a record: what makes it, and which arguments it takes. Configurations, messages and help
are made of these.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from colm.checks import check_choice, check_number, shown
from colm.memory.low_rank_adam import SUBSPACES
from colm.memory.random_directions import DIRECTIONS
from colm.memory.zeroth_order_optimizer import ZerothOrderOptimizer
from colm.memory.zeroth_order_options import SLOPE_ESTIMATORS, UPDATES
from colm.training.low_rank_training import (
    LOW_RANK_ADAM,
    check_low_rank,
    check_low_rank_arguments,
    make_low_rank_adam,
)

#: Trains by losses alone.
ZEROTH_ORDER = "zeroth_order"

#: Makes an optimiser of a trainer's options, its model, and what ``optim_args`` says; returns the
#: class and its arguments, as ``Trainer.get_optimizer_cls_and_kwargs`` does.
Recipe = Callable[[Any, Any, Mapping[str, Any]], tuple[type, dict[str, Any]]]


@dataclass(frozen=True)
class Argument:
    """An argument that ``optim_args`` may set.

    Attributes:
        default: its value where none is given, of the type that it has.
        choices: those of a word.
        bounds: those of a number, as `colm.checks.check_number` takes them.
    """

    default: int | float | str
    choices: tuple[str, ...] = ()
    bounds: Mapping[str, Any] = field(default_factory=dict)

    def read(self, option: str, text: str) -> int | float | str:
        """Return a value of what stands in ``optim_args``.

        Args:
            option: what the line calls it.
            text: the value, as it stands there.

        Raises:
            ValueError: one line that names the argument, its value and what it may be.
        """
        if isinstance(self.default, str):
            check_choice(option, text, self.choices)
            return text
        kind = type(self.default)
        try:
            number: Any = kind(text)
        except ValueError:
            number = text
        check_number(option, number, whole=kind is int, **self.bounds)
        return kind(number)


@dataclass(frozen=True)
class NamedOptimizer:
    """An optimiser that ``optim`` names.

    Attributes:
        make: its class and arguments.
        arguments: what ``optim_args`` may set, by name.
        package: the module that it needs from ``colm[optimizers]``, if any.
        check: refuses a trainer, built and not yet trained, that it does not go with, if any.
        check_arguments: refuses what ``optim_args`` says, ahead of all of them with defaults.
    """

    make: Recipe
    arguments: Mapping[str, Argument]
    package: str | None = None
    check: Callable[[Any], None] | None = None
    check_arguments: Callable[[Mapping[str, Any], Mapping[str, Any]], None] | None = None


def _came(args: Any, _model: Any, given: Mapping[str, Any]) -> tuple[type, dict[str, Any]]:
    from pytorch_optimizer import CAME

    betas = args.adam_beta1, args.adam_beta2, given["beta3"]
    own = {name: given[name] for name in ("eps1", "eps2", "clip_threshold")}
    return CAME, {"lr": args.learning_rate, "betas": betas, **own}


def _lamb(args: Any, _model: Any, _given: Mapping[str, Any]) -> tuple[type, dict[str, Any]]:
    from pytorch_optimizer import Lamb

    # In the paper the trust ratio scales decay, too, and nothing comes after it; the package's own
    # defaults decay beside it, and divide the learning rate by 1 - beta1^step.
    return Lamb, {
        "lr": args.learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "eps": args.adam_epsilon,
        "weight_decouple": False,
        "adam_debias": True,
    }


def _zeroth_order(args: Any, model: Any, given: Mapping[str, Any]) -> tuple[type, dict[str, Any]]:
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [each for each in trained if (each.ndim > 1) == matrices], "weight_decay": decay}
        for matrices, decay in ((True, args.weight_decay), (False, 0.0))
    ]
    adam = {"beta1": args.adam_beta1, "beta2": args.adam_beta2, "eps": args.adam_epsilon}
    # Given a model, transformers passes that and not groups of its own.
    own = {"model": model, "groups": [group for group in groups if group["params"]]}
    return ZerothOrderOptimizer, {
        **own,
        "lr": args.learning_rate,
        "seed": args.seed,
        **adam,
        **given,
    }


def _check_zeroth_order(trainer: Any) -> None:
    # Not above: the opening of the help does without what that needs.
    from colm.training.zeroth_order_training import check_zeroth_order

    check_zeroth_order(trainer)


#: Name in ``optim`` -> optimiser.
OPTIMIZERS: Mapping[str, NamedOptimizer] = {
    "came": NamedOptimizer(
        _came,
        {
            "beta3": Argument(0.9999, bounds={"least": 0, "below": 1}),
            "eps1": Argument(1e-30, bounds={"least": 0}),
            "eps2": Argument(1e-16, bounds={"least": 0}),
            "clip_threshold": Argument(1.0, bounds={"above": 0}),
        },
        package="pytorch_optimizer",
    ),
    "lamb": NamedOptimizer(_lamb, {}, package="pytorch_optimizer"),
    LOW_RANK_ADAM: NamedOptimizer(
        make_low_rank_adam,
        {
            "subspace": Argument("top", choices=SUBSPACES),
            "rank": Argument(128, bounds={"least": 1}),
            "refresh": Argument(200, bounds={"least": 1}),
            "scale": Argument(0.25, bounds={"above": 0}),
            "levels": Argument(2, bounds={"least": 0, "most": 30}),
            "growth": Argument(1.01, bounds={"above": 1}),
            "sparsity": Argument(8, bounds={"least": 1}),
        },
        check=check_low_rank,
        check_arguments=check_low_rank_arguments,
    ),
    ZEROTH_ORDER: NamedOptimizer(
        _zeroth_order,
        {
            "estimator": Argument("central", SLOPE_ESTIMATORS),
            "update": Argument("sgd", UPDATES),
            "direction": Argument("gaussian", DIRECTIONS),
            "directions": Argument(1, bounds={"least": 1}),
            "epsilon": Argument(1e-3, bounds={"above": 0}),
            "rank": Argument(24, bounds={"least": 1}),
            "refresh": Argument(100, bounds={"least": 1}),
            "momentum": Argument(0.9, bounds={"least": 0, "below": 1}),
        },
        check=_check_zeroth_order,
    ),
}


def optimizer_name(args: Any) -> str:
    """Return the name in ``optim``, which transformers makes a member of an enumeration."""
    return str(getattr(args.optim, "value", args.optim))


def split_optim_args(optim_args: str | None) -> list[tuple[str, str, str]]:
    """Return name, ``=`` and value of each pair, the last two empty where there is no ``=``."""
    text = (optim_args or "").replace(" ", "")
    return [pair.partition("=") for pair in text.split(",") if pair]


def read_optim_args(optim: str, optim_args: str | None) -> dict[str, Any]:
    """Return every argument of an optimiser of `OPTIMIZERS`, the defaults of what is not given.

    Args:
        optim: its name.
        optim_args: ``name=value`` pairs with commas between them, as transformers takes them.

    Raises:
        ValueError: an argument is unknown, comes twice, or cannot have that value.

    Example:
        >>> read_optim_args("came", "beta3=0.99, clip_threshold=2")["clip_threshold"]
        2.0
    """
    known = OPTIMIZERS[optim].arguments
    of = f"optim_args of optim={optim!r}"
    given: dict[str, Any] = {}
    for name, equals, text in split_optim_args(optim_args):
        if name not in known or not equals or name in given:
            may = ", ".join(f"{known_name}=..." for known_name in known) or "nothing"
            raise ValueError(f"{of} may be {may}, each once; got {shown(optim_args)}.")
        given[name] = known[name].read(f"{name} in {of}", text)
    every = {name: argument.default for name, argument in known.items()} | given
    check = OPTIMIZERS[optim].check_arguments
    if check is not None:
        check(given, every)
    return every
