"""How the examples of a step are split into micro-batches, by tokens, and where they then stand.

The loss of a step is a mean over its label tokens, wherever those stand, so any split gives the
same gradient up to rounding. A run of rows is padded to its longest: sorted by length, many short
examples then share a micro-batch and few long ones do, with less padding in all; no micro-batch has
more tokens than the largest would have if each had as many examples. Costs are in tokens, padding
included. Symbols: r kept examples, k lengths, or examples of a micro-batch, t tokens a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DataCollatorWithFlattening
from trl import SFTTrainer

from colm.gradients.decoder import base_model, text_config
from colm.training.example import Example, token_count, without_labels
from colm.training.options.option_checks import AS_DRAWN

#: Kinds of model, as transformers names their losses, that take the count of a step's label tokens.
_COUNTING_LOSSES = ("ForCausalLM", "ForConditionalGeneration")

#: k^2 x runs that are cut at once: some ten milliseconds.
_MOST_WORK = 2**21


def arrange(trainer: Any, kept: Sequence[Example], parts: int) -> list[list[Example]]:
    """Split the examples of a step into micro-batches in the way that suits a trainer.

    Args:
        trainer: whose option ``arrange``, collator and loss decide.
        kept: r examples, at least one.
        parts: micro-batches.
    """
    if trainer.args.arrange == AS_DRAWN:
        return even_parts(_filled(kept, parts), parts)
    return split_kept(
        kept,
        parts,
        by_tokens=averages_over_step(trainer),
        padding_free=is_padding_free(trainer.data_collator),
    )


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
    kept = sorted(_filled(kept, parts), key=token_count, reverse=True)
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
    is_scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
    if is_scaled is None:
        is_scaled = not is_overridden(trainer, "compute_loss", "training_step")
    return bool(
        trainer.model_accepts_loss_kwargs
        and trainer.compute_loss_func is None
        and is_scaled
        and not _balances_experts(trainer)
        and (isinstance(trainer, SFTTrainer) or _counts_label_tokens(trainer.model))
    )


def is_overridden(trainer: Any, *methods: str) -> bool:
    """Tell whether a user's own trainer, made of one of ours, has methods of its own.

    Args:
        trainer: of a class of ``colm``, or made of one.
        methods: their names.
    """
    own = []
    for kind in type(trainer).__mro__:
        if kind.__module__.partition(".")[0] == __name__.partition(".")[0]:
            break
        own.append(kind)
    return any(name in vars(kind) for kind in own for name in methods)


def is_padding_free(collator: Any) -> bool:
    """Tell whether a collator puts the examples of a micro-batch into one row."""
    flattens = isinstance(collator, DataCollatorWithFlattening)
    return flattens or bool(getattr(collator, "padding_free", False))


def _balances_experts(trainer: Any) -> bool:
    return bool(getattr(text_config(trainer.model), "output_router_logits", False))


def _counts_label_tokens(model: Any) -> bool:
    """Whether a model's own loss is a mean over tokens, not over a batch's examples or rows."""
    base = base_model(model)
    encodes = getattr(getattr(base, "config", None), "is_encoder_decoder", False)
    return getattr(base, "loss_type", None) in _COUNTING_LOSSES and not encodes


def _filled(kept: Sequence[Example], parts: int) -> list[Example]:
    """Add the shortest example, without labels, until there is one for each micro-batch."""
    missing = max(0, parts - len(kept))
    return [*kept, *missing * [without_labels(min(kept, key=token_count))]]


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


def fewest_padded(lengths: Sequence[int], runs: int, most_tokens: int) -> list[slice]:
    """Cut into so many runs that padding is least, none of them empty.

    Costs O(k^2 runs), milliseconds for hundreds of examples in tens of runs. Beyond that both are
    halved, and each half is cut by itself: where lengths lie so close there is next to no padding.

    Args:
        lengths: ``[k]`` tokens, descending.
        runs: 1 to k of them.
        most_tokens: bound on rows x longest row of a run; as many as runs of equal numbers of rows
            need, ``ceil(k / runs) * lengths[0]``, always suffice.

    Returns:
        The runs in order.

    Example:
        >>> fewest_padded([9, 4, 4, 3], 2, most_tokens=18)
        [slice(0, 1, None), slice(1, 4, None)]
    """
    number = len(lengths)
    if runs > 1 and number**2 * runs > _MOST_WORK:
        first = runs // 2
        half = number * first // runs
        left = fewest_padded(lengths[:half], first, most_tokens)
        right = fewest_padded(lengths[half:], runs - first, most_tokens)
        return [*left, *(slice(run.start + half, run.stop + half) for run in right)]
    longest = np.maximum(1, np.asarray(lengths, dtype=np.int64))[:, None]
    rows = np.arange(1, number + 1) - np.arange(number)[:, None]
    # cost[start, stop - 1] of one run; what is no run, or too large a one, is not to be had.
    cost = np.where((rows > 0) & (rows * longest <= most_tokens), rows * longest, np.inf)
    least, came_from = cost[0], []
    for _ in range(runs - 1):
        through = np.vstack([np.full(number, np.inf), least[:-1, None] + cost[1:]])
        starts: NDArray[np.int64] = through.argmin(0)
        least = through[starts, np.arange(number)]
        came_from.append(starts)
    bounds = [number]
    for starts in reversed(came_from):
        bounds.append(int(starts[bounds[-1] - 1]))
    return [slice(start, stop) for start, stop in pairwise([0, *bounds[::-1]])]


def even_parts(items: Sequence[Example], parts: int) -> list[list[Example]]:
    """Split ``items`` into ``parts`` runs whose sizes differ by at most one, none empty.

    Raises:
        ValueError: fewer items than parts.

    Example:
        >>> even_parts(["a", "b", "c"], 2)
        [['a', 'b'], ['c']]
    """
    if len(items) < parts:
        raise ValueError(f"{len(items)} examples cannot fill {parts} micro-batches.")
    size, larger = divmod(len(items), parts)
    bounds = [0]
    for part in range(parts):
        bounds.append(bounds[-1] + size + (part < larger))
    return [list(items[start:stop]) for start, stop in pairwise(bounds)]


@dataclass(frozen=True)
class BatchRows:
    """The places of the examples of a collated micro-batch, in their order.

    Attributes:
        tokens: t.
        lengths: ``[k]`` tokens of each example where all stand in one row, one after the other;
            ``None`` where each has a row of its own.
    """

    tokens: int
    lengths: tuple[int, ...] | None = None

    @classmethod
    def of(cls, examples: Sequence[Example], shape: Sequence[int]) -> "BatchRows":
        """Return the places of examples in a batch.

        Args:
            examples: k of them, as they were collated.
            shape: of the batch's labels, ``[rows, t]``.

        Raises:
            ValueError: the examples of such a batch cannot be told apart.
        """
        rows, tokens = shape
        if rows == len(examples):
            return cls(tokens)
        lengths = tuple(token_count(each) for each in examples)
        if rows != 1 or sum(lengths) > tokens:
            raise ValueError(
                f"{len(examples)} examples apart in a batch of {rows} x {tokens} tokens"
            )
        return cls(tokens, lengths)

    def spread(self, values: Tensor) -> Tensor:
        """Return ``[k]`` values of examples as those of tokens: ``[k, 1]``, or ``[1, t]``."""
        if self.lengths is None:
            return values.unsqueeze(1)
        spread = values.repeat_interleave(torch.tensor(self.lengths))
        return nn.functional.pad(spread, (0, self.tokens - len(spread))).unsqueeze(0)

    def sums(self, values: Tensor) -> Tensor:
        """Sum values of the predicted tokens by example, in the same order on every device.

        Args:
            values: ``[rows, t - 1]``, of all tokens but the first of each row; or more, where a
                model puts virtual tokens, which have no labels, before each row.

        Returns:
            ``[k]``.
        """
        if self.lengths is None:
            return values.sum(1)
        ends = torch.tensor(self.lengths).cumsum(0)
        starts = ends - torch.tensor(self.lengths)
        places = starts.unsqueeze(1) + torch.arange(max(self.lengths))
        # A token is predicted one place before its own; nothing is at the last.
        inside = (places < ends.unsqueeze(1)) & (places > 0)
        places = torch.where(inside, places - 1, self.tokens - 1).to(values.device)
        return nn.functional.pad(values[0], (0, 1))[places].sum(1)
