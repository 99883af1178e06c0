"""The loss of each token as a trainer computes it: read for those who record it, and weighed.

Nothing is computed twice: TRL's model returns the log-probabilities that its loss is minus the sum
of; the plain trainer's takes the logits to losses by token here, in the place of the model's own
loss, which is their sum. Symbols: t tokens a row.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn
from transformers.loss.loss_utils import ForCausalLMLoss
from trl import SFTTrainer

from colm.gradients.batch import IGNORED_LABEL
from colm.gradients.decoder import base_model
from colm.training.step.arrange import averages_over_step

#: Takes the losses of a batch by token, ``[rows, t - 1]`` without gradient, 0 where there is no
#: label.
Note = Callable[[Tensor], None]


def can_read_losses(trainer: Any) -> bool:
    """Tell whether the losses of a trainer's tokens can be read at no cost, and without harm.

    The plain trainer's are where its loss is the mean over label tokens that most causal models
    have, computed from logits that are there.
    """
    if isinstance(trainer, SFTTrainer):
        return bool(trainer.args.n_gpu <= 1)
    model = base_model(trainer.accelerator.unwrap_model(trainer.model))
    return bool(
        averages_over_step(trainer)
        and trainer.label_smoother is None
        and not trainer.args.use_liger_kernel
        and trainer.args.n_gpu <= 1
        and unwrap(getattr(model, "loss_function", type(None))) is ForCausalLMLoss
    )


def reading_losses(
    trainer: Any, model: nn.Module, weight: Tensor | None, note: Note | None
) -> AbstractContextManager[None]:
    """Let a trainer's ``compute_loss`` tell the losses of a batch, and weigh them.

    Args:
        trainer: ``Trainer`` or TRL's ``SFTTrainer``.
        model: that ``compute_loss`` is called with.
        weight: what losses are multiplied by, ``[rows, 1]`` or ``[1, t]``; ``None`` for nothing.
        note: is called with the losses before they are weighed; ``None`` where nobody asks.
    """
    if isinstance(trainer, SFTTrainer):
        return _log_probs(model, weight, note)
    return _model_loss(trainer, weight, note)


def following(weight: Tensor) -> Tensor:
    """Return the weights ``[rows, 1 or t]`` of the tokens that are predicted, all but the first."""
    return weight if weight.shape[1] == 1 else weight[:, 1:]


@contextmanager
def _log_probs(model: nn.Module, weight: Tensor | None, note: Note | None) -> Iterator[None]:
    """TRL's loss is minus the sum of the log-probabilities that the model returns."""

    def read(_module: nn.Module, _inputs: Any, outputs: Any) -> Any:
        log_probs = getattr(outputs, "log_probs", None)
        if note is not None and log_probs is not None:
            note(-log_probs.detach())
        if weight is not None:
            outputs.log_probs = outputs.log_probs * following(weight)
        return outputs

    handle = model.register_forward_hook(read)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _model_loss(trainer: Any, weight: Tensor | None, note: Note | None) -> Iterator[None]:
    """A causal model's own loss is a sum already: let the trainer compute it from the logits."""

    def loss(outputs: Mapping[str, Any], labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
        logits = outputs["logits"]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        # PEFT may have put virtual tokens before an example's, which have no labels.
        labels = nn.functional.pad(
            labels, (logits.shape[1] - labels.shape[1], 0), value=IGNORED_LABEL
        )
        # The labels move instead of the logits, of which a slice would be a copy.
        targets = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL).to(logits.device)
        losses = nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED_LABEL, reduction="none"
        ).view_as(targets)[:, :-1]
        if note is not None:
            note(losses.detach())
        if weight is not None:
            losses = losses * following(weight)
        return losses.sum() / num_items_in_batch

    trainer.compute_loss_func = loss
    try:
        yield
    finally:
        trainer.compute_loss_func = None
