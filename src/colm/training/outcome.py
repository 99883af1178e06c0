"""A run ends with a model that was trained and is finite, or in one line that says why not.

The plain trainer goes on when a loss is no number, logs another in its place, and saves what comes
of it. Here weights that were finite when training began must be so when they are saved; otherwise
nothing is written, and what was saved before stays.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from colm.training.checkpoints import manifest
from colm.training.limits import shards_weights
from colm.training.processes.exchange import Exchange

if TYPE_CHECKING:  # to a type checker the mixin is a trainer, as it is wherever it is used
    from transformers import Trainer as _Base
else:
    _Base = object


class OutcomeMixin(_Base):
    """Refuses runs that would train nothing, and stops those that have diverged."""

    _group: Exchange
    # Names of weights that were not finite to begin with, where training has begun.
    _never_finite: frozenset[str] | None = None

    def train(self, *args: Any, **options: Any) -> Any:
        """Train as the plain trainer does, and see that something has come of it.

        Raises:
            ValueError: no step was trained, or the options ask for none.
            FloatingPointError: the model has diverged; what was saved before is untouched.
        """
        check_duration(self.args)
        self._never_finite = frozenset(self._not_finite()) if self.model is not None else None
        try:
            result = super().train(*args, **options)
            self._check_weights()
        except FloatingPointError as error:
            raise FloatingPointError(f"{error} {self._what_is_left()}") from error
        if self.state.global_step == 0 and self.state.max_steps > 0:
            raise ValueError(
                f"no step of {self.state.max_steps} was trained: the training data did not give "
                f"the {self.args.gradient_accumulation_steps} batches of one. It is too small, or "
                "has been read already."
            )
        return result

    def create_optimizer(self, *args: Any, **options: Any) -> Any:
        """Make the plain trainer's optimiser; what it objects to in the options is one line.

        Raises:
            ValueError: such an option.
        """
        try:
            return super().create_optimizer(*args, **options)
        except ValueError as error:
            raise ValueError(f"optim={self.args.optim!s} cannot be made: {error}") from error

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Log, and look at the weights where a loss or the gradient is not finite.

        Raises:
            FloatingPointError: the model has diverged.
        """
        super().log(logs, *args, **options)
        told = [logs[name] for name in logs if name == "grad_norm" or name.endswith("loss")]
        # A single step may overflow and be skipped, with half precision: then weights are finite.
        if any(isinstance(value, float) and not math.isfinite(value) for value in told):
            self._check_weights()

    def _save_checkpoint(self, *args: Any, **options: Any) -> None:
        """Save a checkpoint of finite weights; those before it stay where there are others.

        Raises:
            FloatingPointError: the model has diverged.
        """
        self._check_weights()
        super()._save_checkpoint(*args, **options)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, unless training has made something of it that is not finite.

        Raises:
            FloatingPointError: it has.
        """
        if not _internal_call:
            self._check_weights()
        super().save_model(output_dir, _internal_call)

    def _check_weights(self) -> None:
        """Refuse weights that training made something of that is not finite."""
        if self._never_finite is None:
            return
        worse = [name for name in self._not_finite() if name not in self._never_finite]
        number = len(worse)
        # Processes that hold the same weights need not ask each other, and may not all be here.
        if shards_weights(self.accelerator):
            number = int(self._group.total(torch.tensor(number)))
        if number:
            raise FloatingPointError(
                f"The model has diverged: after step {self.state.global_step}, {number} of its "
                f"weights are not finite{f', {worse[0]} among them' if worse else ''}, and nothing "
                "is saved of it."
            )

    def _not_finite(self) -> list[str]:
        """Names of the trained weights with NaN or infinite values in this process."""
        names, largest = [], []
        for name, weight in self.model.named_parameters():
            values = _own_part(weight)
            if weight.requires_grad and values.is_floating_point() and values.numel():
                names.append(name)
                # Both NaN and infinity show in the largest magnitude, which takes no memory.
                largest.append(torch.linalg.vector_norm(values, math.inf).float().cpu())
        finite = torch.stack(largest).isfinite().tolist() if largest else []
        return [name for name, is_finite in zip(names, finite, strict=True) if not is_finite]

    def _what_is_left(self) -> str:
        """What to do after divergence, and where to go on from."""
        newest_first = manifest.find_checkpoints(self.args.output_dir).complete
        left = f"{newest_first[0]} was saved before" if newest_first else "no checkpoint was saved"
        return f"Lower learning_rate ({self.args.learning_rate}) or max_grad_norm; {left}."


def check_duration(args: Any) -> None:
    """Refuse to train for no time at all.

    Raises:
        ValueError: neither steps nor epochs are asked for.
    """
    epochs = args.num_train_epochs
    if args.max_steps <= 0 and not 0 < epochs < math.inf:
        raise ValueError(
            f"num_train_epochs must be a number above 0 where max_steps is not set; got {epochs}."
        )


def _own_part(weight: Tensor) -> Tensor:
    """What this process holds of a weight."""
    weight = getattr(weight, "ds_tensor", weight).detach()
    to_local = getattr(weight, "to_local", None)
    return to_local() if to_local is not None else weight
