"""What a trainer adds for an optimiser of colm's own: it is made, or refused."""

import importlib.util
from typing import TYPE_CHECKING, Any

from transformers import Trainer

from colm.training.limits import SHARDING
from colm.training.optimizers import OPTIMIZERS, read_optim_args

if TYPE_CHECKING:  # to a type checker the mixin is a trainer, as it is wherever it is used
    from transformers import Trainer as _Base
else:
    _Base = object


class NamedOptimizerMixin(_Base):
    """Optimisers of `colm.training.optimizers` for any trainer of ``transformers``."""

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: Any, model: Any = None) -> tuple[Any, Any]:
        """Return the class and the arguments of the optimiser that ``optim`` names."""
        if args.optim in OPTIMIZERS:
            given = read_optim_args(args.optim, args.optim_args)
            return OPTIMIZERS[args.optim].make(args, model, given)
        plain: tuple[Any, Any] = Trainer.get_optimizer_cls_and_kwargs(args, model)
        return plain


def check_optimizer(trainer: Any) -> None:
    """Refuse an optimiser of colm's own where it cannot be made, or does not fit the training.

    Args:
        trainer: built, not yet trained.

    Raises:
        ValueError: one line that names ``optim``.
    """
    optim = trainer.args.optim
    if optim not in OPTIMIZERS:
        return
    named = OPTIMIZERS[optim]
    if named.package is not None and importlib.util.find_spec(named.package) is None:
        raise ValueError(f"optim={optim!r} needs {named.package}: pip install 'colm[optimizers]'.")
    distribution = getattr(trainer.accelerator.distributed_type, "name", "NO")
    if distribution in SHARDING:
        raise ValueError(
            f"optim={optim!r} needs whole weights and gradients, which {distribution} shards: "
            "train with DDP, or with another optimiser."
        )
    if named.check is not None:
        named.check(trainer)
