"""What each example of a step counts for in the training loss, whatever its micro-batch.

With w_i the weight of example i, c_i its label tokens and l_it the loss of each, the loss of an
optimiser step, over all its micro-batches and processes, is

    sum_i w_i c_i^p m_i / sum_i w_i c_i^p,   m_i = sum_t l_it / c_i,

where p is 1 for an average over label tokens, 0 for one over examples, and 1/2 between them: square
averaging.  Paper: Chen et al. 2024, "Expanding Performance Boundaries of Open-Source Multimodal
Models" (InternVL 2.5).

A token so counts w_i c_i^(p-1). The trainers divide by the plain count of label tokens, sum_i c_i.
So what tokens count is scaled, once a step, until both counts are equal, and nothing of how a
trainer counts, averages or accumulates has to change; what is equal becomes 1 exactly. Symbols: r
examples of a step, t tokens a row.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from colm.gradients.batch import IGNORED_LABEL
from colm.training.example import WEIGHT_KEY, Example, without_own_keys
from colm.training.options.option_checks import EXAMPLE, INFOBATCH, ROOT, TOKEN
from colm.training.processes.exchange import Exchange
from colm.training.step.arrange import BatchRows
from colm.training.step.record import mark
from colm.training.step.trunk_outputs import carry

#: By which power of its label tokens an example counts.
POWERS = {TOKEN: 1.0, ROOT: 0.5, EXAMPLE: 0.0}


def weighing_option(args: Any) -> str | None:
    """Return the option by which examples count otherwise than by their label tokens, if any."""
    if args.loss_average != TOKEN:
        return f"loss_average={args.loss_average!r}"
    if args.weighted and args.candidate_ratio > 1:
        return "weighted=True"
    if args.stored_losses == INFOBATCH:
        return f"stored_losses={INFOBATCH!r}"
    return None


def weigh(trainer: Any, parts: Sequence[Sequence[Example]]) -> list[Any]:
    """Weigh the examples of a step, and collate its micro-batches, which tell whose rows they have.

    Args:
        trainer: whose collator and options decide.
        parts: the examples of each micro-batch.

    Raises:
        ValueError: see `collate_weighted`.
    """
    args, collate, option = trainer.args, trainer.data_collator, weighing_option(trainer.args)
    # By the options, and not by what is drawn: all processes count together, or none does.
    if option is None:
        batches = [collate([without_own_keys(each) for each in part]) for part in parts]
    else:
        # Where each process averages over its own tokens, it weighs among its own.
        group = trainer._group if args.average_tokens_across_devices else Exchange()
        power = POWERS[args.loss_average]
        batches = collate_weighted(parts, collate, group.total, power=power, option=option)
    if trainer.reads_losses:
        mark(batches, parts)
    carry(batches, parts)
    return batches


def collate_weighted(
    parts: Sequence[Sequence[Example]],
    collate: Callable[[Sequence[Example]], Any],
    total: Callable[[Tensor], Tensor],
    *,
    power: float = 1.0,
    option: str = "weighted=True",
) -> list[Any]:
    """Collate the micro-batches of a step with the weights of their examples.

    Args:
        parts: the examples of each micro-batch, with their weight under ``WEIGHT_KEY``, or 1.
        collate: the real collator; it sees no weights.
        total: sums a tensor over the processes that share the count of label tokens.
        power: p, of the label tokens of an example.
        option: that asks for it, for messages.

    Returns:
        The micro-batches. Where tokens do not all count the same they hold, under ``WEIGHT_KEY``,
        float32 weights that multiply the losses: ``[rows, 1]``, or ``[1, t]`` if padding-free.

    Raises:
        ValueError: the collator makes no labels, or rows that cannot be told apart.
    """
    batches, weights, counts = [], [], torch.zeros(2, dtype=torch.float64)
    for part in parts:
        batch = collate([without_own_keys(each) for each in part])
        if "labels" not in batch:
            raise ValueError(f"{option} needs a data collator whose batches have 'labels'.")
        rows = _rows(part, batch["labels"].shape, option)
        labelled = batch["labels"][:, 1:] != IGNORED_LABEL
        label_tokens = rows.sums(labelled.long())
        own = [float(each.get(WEIGHT_KEY, 1)) for each in part]
        weight = torch.tensor(own, dtype=torch.float64)
        if power != 1:
            weight *= label_tokens.clamp(min=1).double() ** (power - 1)
        counts += torch.stack([label_tokens.sum().double(), (weight * label_tokens).sum()])
        batches.append(batch)
        weights.append(rows.spread(weight))
    counted, weighed = total(counts).tolist()
    for batch, weight in zip(batches, weights, strict=True):
        scaled = (weight * counted / weighed if weighed else weight).float()
        if not bool((scaled == 1).all()):
            batch[WEIGHT_KEY] = scaled
    return batches


def _rows(examples: Sequence[Example], shape: Sequence[int], option: str) -> BatchRows:
    """Where examples stand in a batch, or a line about the collator."""
    try:
        return BatchRows.of(examples, shape)
    except ValueError as error:
        raise ValueError(
            f"{option} cannot tell the {error}: use a collator that pads, or TRL's "
            "padding-free one."
        ) from error
