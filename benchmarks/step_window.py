"""What a step of training holds and how long it takes, from the look to the update."""

import time
from collections.abc import Collection
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.optimizer_tensors import state_tensors
from colm import CoLMSFTTrainer
from colm.planning.held import weight_tensors
from colm.planning.tally import SavedBytes, Tally, storage_bytes


class StepWindow(TrainerCallback):
    """Counts some steps of a trainer, and times others.

    Attributes:
        found: bytes, the most of all counted steps:

            - ``weight_bytes``: parameters, buffers, directions of random subspaces, scales of
              packed weights;
            - ``optimizer_bytes``: states, projections of GaLore and APOLLO among them;
            - ``gradient_bytes``: gradients that lie there when the optimizer steps;
            - ``saved_bytes``: most that is saved for backward at one time;
            - ``step_bytes``: most that tensors made in the step hold at one time, gradients
              included;
            - ``total_bytes``: weights, states and ``step_bytes``.
        seconds: of each timed step.
        cpu_seconds: processor time of each timed step.

    Args:
        trainer: whose steps these are; the callback has to be added to it.
        counted: steps, from 1; the first does not have the states of most optimizers yet.
        timed: steps.
    """

    def __init__(
        self, trainer: CoLMSFTTrainer, counted: Collection[int], timed: Collection[int] = ()
    ) -> None:
        self.trainer, self.counted, self.timed = trainer, counted, timed
        self.found: dict[str, float] = {}
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self._counts: tuple[Tally, SavedBytes] | None = None
        self._gradient_bytes = 0
        self._started = (0.0, 0.0)
        draw = trainer.get_batch_samples

        def drawing(*args: Any, **kwargs: Any) -> Any:
            self.begin(trainer.state.global_step + 1)
            return draw(*args, **kwargs)

        trainer.get_batch_samples = drawing  # type: ignore[method-assign]

    def begin(self, step: int) -> None:
        """Start to count or to time."""
        if step in self.counted:
            weights = self.weights()
            self._counts = Tally([*weights, *self.states()]), SavedBytes(weights)
            for count in self._counts:
                count.__enter__()
        self._started = time.perf_counter(), time.process_time()

    def on_pre_optimizer_step(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """Note the gradients."""
        gradients = (weight.grad for weight in self.trainer.model.parameters())
        self._gradient_bytes = storage_bytes(each for each in gradients if each is not None)

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Note what the step came to."""
        if state.global_step in self.timed:
            self.seconds.append(time.perf_counter() - self._started[0])
            self.cpu_seconds.append(time.process_time() - self._started[1])
        if self._counts is None:
            return
        tally, saved = self._counts
        saved.__exit__(None, None, None)
        tally.__exit__(None, None, None)
        self._counts = None
        weights, states = storage_bytes(self.weights()), storage_bytes(self.states())
        now = {
            "weight_bytes": weights,
            "optimizer_bytes": states,
            "gradient_bytes": self._gradient_bytes,
            "saved_bytes": saved.peak_bytes,
            "step_bytes": tally.peak_bytes,
            "total_bytes": weights + states + tally.peak_bytes,
        }
        self.found = {name: max(size, self.found.get(name, 0)) for name, size in now.items()}

    def weights(self) -> list[torch.Tensor]:
        """All that the model's weights lie in."""
        return weight_tensors(self.trainer.model)

    def states(self) -> list[torch.Tensor]:
        """Tensors of the optimizer's states."""
        optimizer = getattr(self.trainer.optimizer, "optimizer", self.trainer.optimizer)
        return state_tensors(optimizer)
