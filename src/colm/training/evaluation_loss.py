"""The loss over all label tokens of held-out examples, from the batches of an evaluation.

Symbols: w processes.
"""

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from colm.gradients.batch import IGNORED_LABEL, LABEL_KEYS
from colm.training.step.arrange import is_padding_free


class EvaluationLoss:
    """Sums the losses of an evaluation's batches; no example is counted twice.

    Args:
        trainer: that evaluates; it divides summed losses by a count of label tokens.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._sums: list[Tensor] = []
        self._counts: list[Tensor] = []

    def without_repeats(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return a batch without the labels of examples that only fill up the last of w batches."""
        state = self._trainer.accelerator.gradient_state
        processes = self._trainer.accelerator.num_processes
        if processes == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return dict(batch)
        labels = batch["labels"]
        examples, rows = torch.arange(len(labels), device=labels.device)[:, None], len(labels)
        if is_padding_free(self._trainer.data_collator):
            examples = (batch["position_ids"] == 0).cumsum(1) - 1
            split = processes if self._trainer.accelerator.split_batches else 1
            rows = self._trainer.args.eval_batch_size // split
        own = state.remainder - rows * self._trainer.accelerator.process_index
        masked = {
            name: batch[name].masked_fill(examples >= own, IGNORED_LABEL)
            for name in LABEL_KEYS
            if isinstance(batch.get(name), Tensor)
        }
        return {**batch, **masked}

    def note(self, loss: Tensor, count: Tensor) -> Tensor:
        """Note a batch.

        Args:
            loss: sum over its label tokens, as the trainer computes it.
            count: label tokens.

        Returns:
            The mean over them; 0 without any.
        """
        trainer = self._trainer
        if trainer.args.average_tokens_across_devices:
            # Made for gradients that are averaged over processes.
            loss = loss / (trainer.accelerator.num_processes // trainer.get_tp_size())
        self._sums.append(loss.detach())
        self._counts.append(count)
        return loss / count.clamp(min=1)

    def of_batches(self) -> tuple[float, list[int]]:
        """Return the sum of all losses, and the label tokens of each batch, over all processes.

        Where the option ``logging_nan_inf_filter`` is on, batches whose loss is no finite number
        are left out, as the plain trainer does, unless no other is left.
        """
        if not self._sums:
            return 0.0, []
        # Summed on the CPU: not every accelerator has float64.
        sums = self._trainer._group.total(torch.stack(self._sums).cpu().double())
        counts = self._trainer._group.total(torch.stack(self._counts).cpu())
        finite = sums.isfinite()
        if self._trainer.args.logging_nan_inf_filter and bool(finite.any()):
            sums, counts = sums.where(finite, 0), counts.where(finite, 0)
        return float(sums.sum()), counts.tolist()


def label_tokens(batch: Mapping[str, Any]) -> Tensor:
    """Return how many tokens of a batch are predicted, int64; 0 without labels.

    Example:
        >>> label_tokens({"labels": torch.tensor([[7, 8, -100, 9]])})
        tensor(2)
    """
    labels = batch.get("shift_labels")
    if labels is None:
        labels = batch.get("labels")
        labels = None if labels is None else labels[..., 1:]
    return torch.tensor(0) if labels is None else (labels != IGNORED_LABEL).sum()


def rows_by_length(dataset: Any) -> list[int] | None:
    """Return the rows of a data set, the longest first; ``None`` where it does not tell lengths.

    Example:
        >>> rows_by_length(datasets.Dataset.from_dict({"input_ids": [[1], [1, 2, 3], [1, 2]]}))
        [1, 2, 0]
    """
    if not isinstance(dataset, datasets.Dataset) or "input_ids" not in dataset.column_names:
        return None
    table = dataset.select_columns("input_ids").with_format("arrow")[:]
    try:
        lengths = pc.fill_null(pc.list_value_length(table["input_ids"]), 0)
    except pa.ArrowNotImplementedError:
        return None
    rows: list[int] = np.argsort(-lengths.to_numpy(), kind="stable").tolist()
    return rows
