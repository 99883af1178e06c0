"""What a trainer records of its steps: time, what is kept, and the loss of each example.

Losses are read out of the forward that the step takes anyway; all of it stands in the log.
"""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from colm.training.example import WEIGHT_KEY
from colm.training.processes.exchange import Exchange
from colm.training.step.keep import ExampleSelection
from colm.training.step.record import (
    EXAMPLES_KEY,
    BatchExamples,
    ExampleLosses,
    SelectionMetrics,
    SourceLosses,
    StepLosses,
)
from colm.training.step.token_losses import can_read_losses, reading_losses

if TYPE_CHECKING:  # to a type checker the mixin is a trainer, as it is wherever it is used
    from transformers import Trainer as _Base
else:
    _Base = object


class StepRecordingMixin(_Base):
    """Records the steps of a training, and logs them."""

    _group: Exchange
    _selection: ExampleSelection
    # Whose losses are being computed.
    _computed_for: BatchExamples | None = None

    def _begin_recording(self) -> None:
        """Start afresh: what a training before has not logged is not this one's."""
        self._training_since: float | None = None
        self._selection_metrics = SelectionMetrics()
        self._example_losses = ExampleLosses()
        self._source_losses = SourceLosses()
        self._recorded_step = 0
        self._has_trained = False

    @property
    def asks_for_losses(self) -> bool:
        """Whether the losses of examples are asked for: to be logged by source, or stored."""
        return self._selection.source_column is not None or self.args.stored_losses is not None

    @property
    def reads_losses(self) -> bool:
        """Whether they are asked for, and can be read."""
        return self.asks_for_losses and can_read_losses(self)

    def training_step(self, *args: Any, **options: Any) -> Any:
        """Train on a micro-batch; nothing after this sees that it told whose losses its are."""
        batch = options["inputs"] if "inputs" in options else args[1]
        self._computed_for = batch.pop(EXAMPLES_KEY) if EXAMPLES_KEY in batch else None
        self._has_trained = True
        try:
            return super().training_step(*args, **options)
        finally:
            self._computed_for = None

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        """Compute the plain trainer's loss; read it where it is told whose it is, and weigh it."""
        examples, weight, note = self._computed_for, inputs.get(WEIGHT_KEY), None
        if examples is not None:
            note = lambda losses: self._example_losses.note(examples, losses)  # noqa: E731
        if weight is not None:
            inputs = {name: value for name, value in inputs.items() if name != WEIGHT_KEY}
        is_read = note is not None or weight is not None
        with reading_losses(self, model, weight, note) if is_read else nullcontext():
            return super().compute_loss(model, inputs, *args, **options)

    def record_drawn(self, sources: Sequence[str]) -> None:
        """Count what a step drew from each source, where it trains on all of it."""
        if self._selection.source_column is not None:
            self._selection_metrics.count_step(Counter(sources))

    def _record_losses(self) -> None:
        """Take in what the last step told of its examples, once it is over.

        All processes do so at the same time, and only once.
        """
        # The last step of the run that this one goes on from is in its checkpoint.
        if self._has_trained and self._recorded_step != self.state.global_step:
            self._recorded_step = self.state.global_step
            self._take_losses(self._example_losses.take())

    def _take_losses(self, losses: StepLosses) -> None:
        """Hand out the losses of a step."""
        self._source_losses.add(losses.by_source())

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Log the averages of selection and of sources with those of the training step."""
        if "loss" in logs:
            self._note_training_time()
            # Where processes select together, each counts what all of them draw and keep.
            together = self.args.selection_scope == "global"
            logs.update(self._selection_metrics.drain(None if together else self._group))
            if self.asks_for_losses:
                self._record_losses()
            if self._selection.source_column is not None:
                logs.update(self._source_losses.drain(self._group))
        super().log(logs, *args, **options)

    def _note_training_time(self) -> None:
        """Close the interval since batches were made: forward, backward and optimiser step."""
        if self._training_since is not None:
            seconds = time.perf_counter() - self._training_since
            self._selection_metrics.measure("training_seconds", seconds)
            self._training_since = None
