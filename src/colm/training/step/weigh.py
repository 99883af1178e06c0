"""Kept examples that weigh in the training loss by the candidates they stand for.

With w_i the weight of kept example i, c_i its label tokens and l_it the loss of each, the loss of
an optimiser step, over all its micro-batches and processes, is

    sum_i w_i sum_t l_it / sum_i w_i c_i.

The trainers divide by the plain count of label tokens, sum_i c_i. So weights are scaled, once a
step, until both counts are equal, and nothing of how a trainer counts, averages or accumulates has
to change; equal weights become 1 exactly. Symbols: r kept examples, t tokens a row.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from trl import SFTTrainer

from colm.gradients.batch import IGNORED_LABEL
from colm.training.example import WEIGHT_KEY, Example, token_count
from colm.training.processes.exchange import Exchange


def weigh(trainer: Any, parts: Sequence[Sequence[Example]]) -> list[Any]:
    """Weigh the examples of a step if they have weights, and collate its micro-batches.

    Args:
        trainer: whose collator and options decide.
        parts: the examples of each micro-batch.

    Raises:
        ValueError: see `collate_weighted`.
    """
    if not any(WEIGHT_KEY in each for part in parts for each in part):
        return [trainer.data_collator(part) for part in parts]
    # Where each process averages over its own tokens, it weighs among its own.
    group = trainer._group if trainer.args.average_tokens_across_devices else Exchange()
    return collate_weighted(parts, trainer.data_collator, group.total)


def collate_weighted(
    parts: Sequence[Sequence[Example]],
    collate: Callable[[Sequence[Example]], Any],
    total: Callable[[Tensor], Tensor],
) -> list[Any]:
    """Collate the micro-batches of a step with the weights of their examples.

    Args:
        parts: the examples of each micro-batch, with their weight under ``WEIGHT_KEY``.
        collate: the real collator; it sees no weights.
        total: sums a tensor over the processes that share the count of label tokens.

    Returns:
        The micro-batches. Where examples do not all weigh the same they hold, under ``WEIGHT_KEY``,
        float32 weights that multiply the losses: ``[rows, 1]``, or ``[1, t]`` if padding-free.

    Raises:
        ValueError: the collator makes no labels, or rows that cannot be told apart.
    """
    batches, weights, counts = [], [], torch.zeros(2, dtype=torch.float64)
    for part in parts:
        batch = collate([{k: v for k, v in each.items() if k != WEIGHT_KEY} for each in part])
        if "labels" not in batch:
            raise ValueError("weighted=True needs a data collator whose batches have 'labels'.")
        weight = _weight_of_tokens(part, batch["labels"].shape)
        labelled = batch["labels"][:, 1:] != IGNORED_LABEL
        weighed = labelled * _following(weight)
        counts += torch.stack([labelled.sum().double(), weighed.sum()])
        batches.append(batch)
        weights.append(weight)
    label_tokens, weighed_tokens = total(counts).tolist()
    for batch, weight in zip(batches, weights, strict=True):
        scaled = (weight * label_tokens / weighed_tokens if weighed_tokens else weight).float()
        if not bool((scaled == 1).all()):
            batch[WEIGHT_KEY] = scaled
    return batches


def _following(weight: Tensor) -> Tensor:
    """Return the weights ``[rows, 1 or t]`` of the tokens that are predicted, all but the first."""
    return weight if weight.shape[1] == 1 else weight[:, 1:]


def weighted_loss(trainer: Any, model: nn.Module, weight: Tensor) -> AbstractContextManager[None]:
    """Let a trainer's ``compute_loss`` weigh the losses of a batch.

    Args:
        trainer: ``Trainer`` or TRL's ``SFTTrainer``.
        model: that ``compute_loss`` is called with.
        weight: of the batch, from `collate_weighted`.
    """
    if isinstance(trainer, SFTTrainer):
        return _weighted_log_probs(model, weight)
    return _weighted_model_loss(trainer, weight)


@contextmanager
def _weighted_log_probs(model: nn.Module, weight: Tensor) -> Iterator[None]:
    """TRL's loss is minus the sum of the log-probabilities that the model returns: weigh those."""

    def multiply(_module: nn.Module, _inputs: Any, outputs: Any) -> Any:
        outputs.log_probs = outputs.log_probs * _following(weight)
        return outputs

    handle = model.register_forward_hook(multiply)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _weighted_model_loss(trainer: Any, weight: Tensor) -> Iterator[None]:
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
        ).view_as(targets)
        return (losses[:, :-1] * _following(weight)).sum() / num_items_in_batch

    trainer.compute_loss_func = loss
    try:
        yield
    finally:
        trainer.compute_loss_func = None


def _weight_of_tokens(examples: Sequence[Example], shape: tuple[int, ...]) -> Tensor:
    """Weights for the rows of a padded batch, ``[rows, 1]``, or a padding-free one's ``[1, t]``."""
    rows, tokens = shape
    weights = torch.tensor([float(each[WEIGHT_KEY]) for each in examples], dtype=torch.float64)
    if rows == len(examples):
        return weights.unsqueeze(1)
    lengths = torch.tensor([token_count(each) for each in examples])
    if rows != 1 or lengths.sum() > tokens:
        raise ValueError(
            f"weighted=True cannot tell the {len(examples)} examples apart in a batch of "
            f"{rows} x {tokens} tokens: use a collator that pads, or TRL's padding-free one."
        )
    spread = weights.repeat_interleave(lengths)
    return nn.functional.pad(spread, (0, tokens - len(spread))).unsqueeze(0)
