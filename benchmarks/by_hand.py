"""A trainer whose steps a benchmark takes itself, to measure them one by one."""

from collections.abc import Iterable
from typing import Any

import torch
from transformers import Trainer

from colm.planning.skeleton import checkpoint_activations
from colm.training.side_block_training import put_side_block


def prepare(trainer: Trainer) -> tuple[Any, Any]:
    """Make a trainer ready as ``train`` does; return its model and its optimiser."""
    if getattr(trainer.args, "side_block", None) is not None:
        put_side_block(trainer.model, trainer.args)
    trainer.create_optimizer()
    model, optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    if trainer.args.activation_checkpointing:
        checkpoint_activations(trainer.model, trainer.args.activation_checkpointing_kwargs)
    model.train()
    trainer.model_wrapped = model
    return model, optimizer


def take_step(
    trainer: Trainer, model: Any, optimizer: Any, batches: Iterable[Any], items: Any
) -> None:
    """Train on the micro-batches of one step, as ``train`` does.

    Args:
        trainer: from `prepare`.
        model: likewise.
        optimizer: likewise.
        batches: what ``get_batch_samples`` returned.
        items: the label tokens that it counted.
    """
    batches = list(batches)
    trainer.current_gradient_accumulation_steps = len(batches)
    for batch in batches:
        trainer.training_step(model, batch, items)
    optimizer.step()
    optimizer.zero_grad()


def synchronise() -> None:
    """Wait for the accelerator, where there is one."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
