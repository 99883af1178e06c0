"""What is logged of label tokens is their mean, however examples are split into batches.

The plain trainers log means over batches: each counts the same, whether it has five label tokens or
five hundred. Batches of like length differ in just that, so a mean over them would tell how they
were formed. With ``arrange="by_length"`` what TRL logs of a step, and the loss of an evaluation,
are means over label tokens. An evaluation that asks for nothing but the loss then goes through the
held-out examples by length, too; predictions keep the order of their examples.
"""

from collections.abc import MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from colm.training.evaluation_loss import EvaluationLoss, label_tokens, rows_by_length
from colm.training.options.option_checks import BY_LENGTH
from colm.training.processes.exchange import Exchange
from colm.training.step.arrange import averages_over_step, is_overridden, is_padding_free

if TYPE_CHECKING:  # to a type checker the mixin is a trainer, as it is wherever it is used
    from transformers import Trainer as _Base
else:
    _Base = object

#: What TRL logs that is a mean over the label tokens of each batch.
_OF_TOKENS = ("entropy", "mean_token_accuracy")


class TokenMeansMixin(_Base):
    """Means over label tokens in the place of means over batches that may be of like length."""

    _group: Exchange
    _evaluation_loss: EvaluationLoss | None = None
    _evaluates_by_length = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take what the plain trainer takes."""
        # Of the micro-batches since the last log, in all processes.
        self._label_tokens: list[int] = []
        super().__init__(*arguments, **options)

    @property
    def _means_over_tokens(self) -> bool:
        """Whether batches may be of like length, and losses are means over label tokens."""
        return self.args.arrange == BY_LENGTH and self.args.n_gpu <= 1 and averages_over_step(self)

    def get_batch_samples(self, *args: Any, **options: Any) -> Any:
        """Return the batches of a step, and note the label tokens of each."""
        batches, items = super().get_batch_samples(*args, **options)
        if batches and hasattr(self, "_metrics") and self._means_over_tokens:
            # As many numbers on every process, also where one has fewer batches left.
            counts = torch.zeros(self.args.gradient_accumulation_steps, dtype=torch.int64)
            for number, batch in enumerate(batches):
                counts[number] = label_tokens(batch)
            self._label_tokens += self._group.total(counts)[: len(batches)].tolist()
        return batches, items

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Log what TRL measured of training batches as means over their label tokens."""
        if self._label_tokens and self.model.training:
            _average(self._metrics["train"], self._label_tokens)
            self._label_tokens.clear()
        super().log(logs, *args, **options)

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """Evaluate as the plain trainer does; by length, where only the loss is asked for."""
        before, self._evaluates_by_length = self._evaluates_by_length, self._may_reorder()
        try:
            metrics: dict[str, float] = super().evaluate(*args, **options)
        finally:
            self._evaluates_by_length = before
        return metrics

    def _may_reorder(self) -> bool:
        """Whether nobody sees in which order an evaluation goes through the examples."""
        return (
            self._means_over_tokens
            and (self.compute_metrics is None or self.args.prediction_loss_only)
            # Without padding there is nothing to save.
            and not is_padding_free(self.data_collator)
            # The loader would stay, for whatever comes next.
            and not self.args.dataloader_persistent_workers
            and not is_overridden(self, "get_eval_dataloader", "evaluation_loop", "prediction_step")
        )

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """Return the rows by length, or the plain trainer's sampler."""
        rows = rows_by_length(eval_dataset) if self._evaluates_by_length else None
        return super()._get_eval_sampler(eval_dataset) if rows is None else rows

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """Run the plain trainer's loop; its loss is the mean over all label tokens."""
        self._evaluation_loss = EvaluationLoss(self) if self._means_over_tokens else None
        try:
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
            if self._evaluation_loss is not None and f"{metric_key_prefix}_loss" in output.metrics:
                self._report(output.metrics, f"{metric_key_prefix}_loss", self._evaluation_loss)
        finally:
            self._evaluation_loss = None
        return output

    def _report(self, metrics: dict[str, float], name: str, loss: EvaluationLoss) -> None:
        """Put the mean over label tokens where the plain trainer has that over batches."""
        summed, counts = loss.of_batches()
        if sum(counts):
            metrics[name] = summed / sum(counts)
            _average(getattr(self, "_metrics", {}).get("eval", {}), counts)

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Compute the plain trainer's loss, and note what it is over a held-out batch."""
        if self._evaluation_loss is None or self.model.training or "labels" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        batch = self._evaluation_loss.without_repeats(inputs)
        count = label_tokens(batch)
        # Divided by 1, a loss is the sum over label tokens.
        found = super().compute_loss(model, batch, return_outputs, torch.ones_like(count))
        loss = self._evaluation_loss.note(found[0] if return_outputs else found, count)
        return (loss, found[1]) if return_outputs else loss


def _average(metrics: MutableMapping[str, list[float]], counts: Sequence[int]) -> None:
    """Replace TRL's values, one a batch, by their mean over label tokens.

    Args:
        metrics: lists of values by name.
        counts: label tokens of each batch.
    """
    total = sum(counts)
    for name in _OF_TOKENS:
        values = metrics.get(name, [])
        if total and len(values) == len(counts):
            weighed = [value * count for value, count in zip(values, counts, strict=True)]
            metrics[name] = [sum(weighed) / total]
