"""How the kept examples of a step are split into micro-batches: by tokens, not by number.

The loss of a step is a mean over its label tokens, wherever those stand, so any split gives the
same gradient up to rounding. Sorted by length, many short examples then share a micro-batch and few
long ones do, with less padding in all; no micro-batch has more tokens than the largest would have
if each had as many examples. Symbols: r kept examples.
"""

from collections.abc import Sequence
from typing import Any

from transformers import DataCollatorWithFlattening

from colm.training.model_access import text_config
from colm.training.pool import Example, even_parts, token_count, without_labels
from colm.training.runs import fewest_padded


def split_kept(
    kept: Sequence[Example], parts: int, *, by_tokens: bool = True, padding_free: bool = False
) -> list[list[Example]]:
    """Split kept examples into micro-batches, each with at least one.

    Args:
        kept: r examples, at least one.
        parts: micro-batches. Where there are more than examples, they are filled up with the
            shortest example, without labels.
        by_tokens: whether micro-batches may differ in number, so that less is padded; else their
            numbers differ by one at most.
        padding_free: whether the examples of a micro-batch stand in one row: then nothing is
            padded, and the rows are made about equally long.

    Returns:
        The micro-batches, those of the longest examples first.
    """
    kept = sorted(kept, key=token_count, reverse=True)
    while len(kept) < parts:
        kept.append(without_labels(kept[-1]))
    if not by_tokens:
        return even_parts(kept, parts)
    lengths = [token_count(example) for example in kept]
    if padding_free:
        return [[kept[index] for index in row] for row in _even_rows(lengths, parts)]
    # What memory must hold anyway: micro-batches of equal numbers, the longest in one of them.
    most_tokens = -(-len(kept) // parts) * max(1, lengths[0])
    return [kept[run] for run in fewest_padded(lengths, parts, most_tokens)]


def averages_over_step(trainer: Any) -> bool:
    """Tell whether a trainer divides each micro-batch's summed loss by the label tokens of a step.

    Else it averages over each micro-batch by itself, as it does for models that do not count, for a
    loss of the user's own perhaps, and for the balance of a mixture of experts: then how examples
    are split decides what they weigh.
    """
    return bool(
        trainer.model_accepts_loss_kwargs
        and trainer.compute_loss_func is None
        and getattr(trainer, "loss_is_scaled_for_ga", None) is not False
        and not _balances_experts(trainer)
    )


def is_padding_free(collator: Any) -> bool:
    """Tell whether a collator puts the examples of a micro-batch into one row."""
    flattens = isinstance(collator, DataCollatorWithFlattening)
    return flattens or bool(getattr(collator, "padding_free", False))


def _balances_experts(trainer: Any) -> bool:
    return bool(getattr(text_config(trainer.model), "output_router_logits", False))


def _even_rows(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Deal indices out in rounds, the longest of each round to the row with the fewest tokens.

    No row gets longer than the ``ceil(r / rows)`` longest examples together.
    """
    dealt: list[list[int]] = [[] for _ in range(rows)]
    load = [0] * rows
    for start in range(0, len(lengths), rows):
        emptiest_first = sorted(range(rows), key=load.__getitem__)
        for index, row in zip(range(start, len(lengths)), emptiest_first, strict=False):
            dealt[row].append(index)
            load[row] += lengths[index]
    return dealt
