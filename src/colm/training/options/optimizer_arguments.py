"""The optimiser of a run: one of transformers, or one of colm's own, named by ``optim``."""

from dataclasses import dataclass

from colm.checks import check_choice
from colm.training.optimizers import OPTIMIZERS, optimizer_name, read_optim_args
from colm.training.options.selection_arguments import option

#: Transformers' own default; its checks see it in the place of a name that they do not know.
STANDS_IN = "adamw_torch_fused"


@dataclass
class OptimizerArguments:
    """The options of ``TrainingArguments`` that name an optimiser, with more names to choose from.

    Attributes:
        optim: an ``OptimizerNames`` of transformers, or a name of colm's own, which stays text.
    """

    optim: str = option(
        STANDS_IN,
        "The optimiser: one of transformers' `OptimizerNames`, or one of colm's: "
        f"{', '.join(f'`{name}`' for name in OPTIMIZERS)}.",
    )
    optim_args: str | None = option(
        None, "What the optimiser takes, as `name=value` pairs with commas between them."
    )

    def __post_init__(self) -> None:
        """Check the optimiser and its arguments, and let transformers settle everything else.

        Raises:
            ValueError: one line that names the option, its value and the choices.
        """
        # Not above: the opening of the help does without the rest of transformers.
        from transformers.training_args import OptimizerNames

        name = optimizer_name(self)
        check_choice("optim", name, [*OPTIMIZERS, *(each.value for each in OptimizerNames)])
        own = name in OPTIMIZERS
        if own:
            read_optim_args(name, self.optim_args)
            self.optim = STANDS_IN
        super().__post_init__()  # type: ignore[misc]
        if own:
            self.optim = name
