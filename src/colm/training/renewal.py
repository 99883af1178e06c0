"""What selection was built for, so that it is built anew where that has been replaced.

The model, the data and the options of a trainer are its user's to replace between two trainings,
and a trainer with ``model_init`` makes a model for each. What is remembered of the ones before
(where V is, the sizes of sources, clusters, moments) must go with them.
"""

from copy import copy
from dataclasses import dataclass, fields
from typing import Any

from trl import SFTTrainer
from trl.trainer import add_fused_lm_head

from colm.gradients.decoder import base_model
from colm.training.options.selection_arguments import SelectionArguments

_OPTIONS = (*(option.name for option in fields(SelectionArguments)), "seed")


@dataclass(frozen=True)
class BuiltFor:
    """The model, the training data and the options that a trainer's selection was built for.

    Attributes:
        model: of the trainer.
        dataset: it trains on.
        options: that decide how it selects, by name.
    """

    model: Any
    dataset: Any
    options: dict[str, Any]

    @classmethod
    def of(cls, trainer: Any) -> "BuiltFor":
        """Return what a trainer has now."""
        options = {name: copy(getattr(trainer.args, name, None)) for name in _OPTIONS}
        return cls(trainer.model, trainer.train_dataset, options)

    def has_model_and_data_of(self, other: "BuiltFor") -> bool:
        """Whether model and data are those of another."""
        return self.model is other.model and self.dataset is other.dataset

    def has_data_and_options_of(self, other: "BuiltFor") -> bool:
        """Whether data and options are those of another."""
        return self.dataset is other.dataset and self.options == other.options


def take_replaced_model(trainer: Any, before: Any) -> None:
    """Train the model that a user has put into ``trainer.model``, with an optimiser of its own.

    The plain trainer would go on with what it has wrapped: the model before.

    Args:
        trainer: about to train.
        before: the model that it had.
    """
    wrapped = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    is_wrapped_still = getattr(wrapped, "_orig_mod", wrapped) is before
    if trainer.model is before or not is_wrapped_still:
        return
    trainer.model_wrapped = trainer.model
    # Which columns a model takes is looked up once.
    trainer._signature_columns = None
    base = base_model(trainer.model)
    if isinstance(trainer, SFTTrainer) and "forward" not in vars(base):
        # As TRL does for the model that a trainer is made with: its loss goes by these.
        add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))
    if trainer.optimizer is not None:
        own = {id(parameter) for parameter in trainer.model.parameters()}
        held = [each for group in trainer.optimizer.param_groups for each in group["params"]]
        if not any(id(parameter) in own for parameter in held):
            trainer.optimizer = trainer.lr_scheduler = None
