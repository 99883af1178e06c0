"""What each example of a step counts for in the training loss, whatever its micro-batch.

With w_i the weight of example i, c_i its label tokens and l_it the loss of each, the loss of an
optimiser step, over all its micro-batches and processes, is

    sum_i w_i sum_t l_it / sum_i w_i c_i.

The trainers divide by the plain count of label tokens, sum_i c_i. So weights are scaled, once a
step, until both counts are equal, and nothing of how a trainer counts, averages or accumulates has
to change; equal weights become 1 exactly. Symbols: r examples of a step, t tokens a row.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from colm.gradients.batch import IGNORED_LABEL
from colm.training.example import WEIGHT_KEY, Example, without_own_keys
from colm.training.processes.exchange import Exchange
from colm.training.step.batch_rows import BatchRows
from colm.training.step.example_losses import mark
from colm.training.step.token_losses import following


def weigh(trainer: Any, parts: Sequence[Sequence[Example]]) -> list[Any]:
    """Weigh the examples of a step, and collate its micro-batches, which tell whose rows they have.

    Args:
        trainer: whose collator and options decide.
        parts: the examples of each micro-batch.

    Raises:
        ValueError: see `collate_weighted`.
    """
    collate = trainer.data_collator
    if trainer.args.weighted and trainer.args.candidate_ratio > 1:
        # Where each process averages over its own tokens, it weighs among its own.
        group = trainer._group if trainer.args.average_tokens_across_devices else Exchange()
        batches = collate_weighted(parts, collate, group.total)
    else:
        batches = [collate([without_own_keys(each) for each in part]) for part in parts]
    if trainer.reads_losses:
        mark(batches, parts)
    return batches


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
        batch = collate([without_own_keys(each) for each in part])
        if "labels" not in batch:
            raise ValueError("weighted=True needs a data collator whose batches have 'labels'.")
        weight = _weight_of_tokens(part, batch["labels"].shape)
        labelled = batch["labels"][:, 1:] != IGNORED_LABEL
        weighed = labelled * following(weight)
        counts += torch.stack([labelled.sum().double(), weighed.sum()])
        batches.append(batch)
        weights.append(weight)
    label_tokens, weighed_tokens = total(counts).tolist()
    for batch, weight in zip(batches, weights, strict=True):
        scaled = (weight * label_tokens / weighed_tokens if weighed_tokens else weight).float()
        if not bool((scaled == 1).all()):
            batch[WEIGHT_KEY] = scaled
    return batches


def _weight_of_tokens(examples: Sequence[Example], shape: Sequence[int]) -> Tensor:
    """Weights for the rows of a padded batch, ``[rows, 1]``, or a padding-free one's ``[1, t]``."""
    weights = torch.tensor([float(each[WEIGHT_KEY]) for each in examples], dtype=torch.float64)
    try:
        return BatchRows.of(examples, shape).spread(weights)
    except ValueError as error:
        raise ValueError(
            f"weighted=True cannot tell the {error}: use a collator that pads, or TRL's "
            "padding-free one."
        ) from error
