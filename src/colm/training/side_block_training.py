"""What a trainer adds to train a side block: putting it beside the model, reuse, checkpoints.

The block is put there before the model is wrapped, and stays when training ends, as PEFT's adapters
do. What is saved is the block alone, and the tokenizer: the model that it stands beside has not
changed.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.trainer import TRAINING_ARGS_NAME

from colm.gradients.decoder import class_name
from colm.memory.side_block import attach_side_block, is_adapted, side_block_of
from colm.training.checkpoints.side_block_file import load_side_block, save_side_block
from colm.training.example import TRUNK_KEY
from colm.training.limits import SHARDING
from colm.training.step.trunk_outputs import placed

if TYPE_CHECKING:  # to a type checker the mixin is a trainer, as it is wherever it is used
    from transformers import Trainer as _Base
else:
    _Base = object


class SideBlockMixin(_Base):
    """Training of a side block for any trainer of ``transformers``.  Paper: SHERL."""

    def train(self, *args: Any, **options: Any) -> Any:
        """Train as ever, a side block where ``side_block`` is set; the model keeps it."""
        if self.args.side_block is not None and side_block_of(self.model) is None:
            put_side_block(self.accelerator.unwrap_model(self.model), self.args)
        return super().train(*args, **options)

    def training_step(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        """Train on a micro-batch, from what the look kept of the frozen layers if it did."""
        outputs = inputs.pop(TRUNK_KEY) if TRUNK_KEY in inputs else None
        block = side_block_of(self.model)
        if outputs is None or block is None:
            return super().training_step(model, inputs, *args, **options)
        with block.trunk.given(placed(outputs, inputs)):
            return super().training_step(model, inputs, *args, **options)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the side block, and what the plain trainer saves beside a model."""
        if side_block_of(self.model) is None:
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            save_side_block(self.model, folder)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(folder)
            torch.save(self.args, folder / TRAINING_ARGS_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load a checkpoint's side block."""
        if side_block_of(self.model) is None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_side_block(self.model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        """Load the side block of the best checkpoint."""
        if side_block_of(self.model) is None:
            super()._load_best_model()
        else:
            load_side_block(self.model, str(self.state.best_model_checkpoint))


def put_side_block(model: Any, args: Any) -> None:
    """Put a side block beside a model as the options say.

    Raises:
        ValueError: the model takes none.
    """
    try:
        attach_side_block(model, args.side_block, every=args.side_block_every, seed=args.seed)
    except ValueError as error:
        raise ValueError(f"side_block={args.side_block}: {error}") from error


def check_side_block(trainer: Any) -> None:
    """Refuse what no side block can be trained with, before anything is changed.

    Raises:
        ValueError: such a way of training, or a block that the options do not ask for, by name.
    """
    args, block = trainer.args, side_block_of(trainer.model)
    if block is not None and (args.side_block, args.side_block_every) != (
        block.reduction,
        block.trunk.every,
    ):
        raise ValueError(
            f"{class_name(trainer.model)} has a side block, and side_block={args.side_block} with "
            f"side_block_every={args.side_block_every} asks for another: set "
            f"side_block={block.reduction} and side_block_every={block.trunk.every}, or detach it."
        )
    if args.side_block is None:
        return
    distribution = getattr(trainer.accelerator.distributed_type, "name", "NO")
    noise, given = args.neftune_noise_alpha, trainer.optimizer is not None and block is None
    whole = "it reads what whole layers put out: train on one device, or with DDP"
    refused = {
        "adapters (use_peft, peft_config)": (is_adapted(trainer.model), "both are trained alone"),
        "an optimizer that was made before": (given, "its weights are made when training begins"),
        "model_init": (trainer.model_init is not None, "it stands beside the model that is there"),
        f"neftune_noise_alpha={noise}": (noise is not None, "what is frozen is in evaluation mode"),
        f"n_gpu={args.n_gpu}": (args.n_gpu > 1, whole),
        distribution: (distribution in SHARDING, whole),
    }
    for name, (is_so, why) in refused.items():
        if is_so:
            raise ValueError(f"side_block={args.side_block} does not go with {name}: {why}.")
