"""What a trainer adds to train by losses alone: a step without a backward, and its log.

A micro-batch is measured in the place of forward and backward, with the same directions for all of
a step; processes tell each other their slopes, and so take the same step. Every saved model has a
log beside it, from which `colm.memory.step_log.replay_log` makes its weights out of the first ones.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from transformers import Trainer

from colm.durable import write_whole
from colm.gradients.decoder import base_model, text_config
from colm.json_text import parse_json
from colm.memory.step_log import log_of
from colm.memory.zeroth_order_optimizer import ZerothOrderOptimizer
from colm.training.optimizers import ZEROTH_ORDER, read_optim_args
from colm.training.processes.exchange import Exchange
from colm.training.step.weigh import weighing_option

if TYPE_CHECKING:  # to a type checker the mixin is a trainer, as it is wherever it is used
    from transformers import Trainer as _Base
else:
    _Base = object

STEP_LOG_FILE = "colm_zeroth_order.json"
#: What a trainer counts of each loss that it computes.
_COUNTED = ("_metrics", "_total_train_tokens", "_computed_for")
_PREPARED = "_is_accelerate_prepared"


class ZerothOrderMixin(_Base):
    """Training by losses alone for any trainer of ``transformers``.  Paper: MeZO, Alg. 1."""

    _group: Exchange

    @property
    def _by_losses(self) -> ZerothOrderOptimizer | None:
        """The optimiser that trains by losses alone, where that is what there is."""
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        return optimizer if isinstance(optimizer, ZerothOrderOptimizer) else None

    def train(self, *args: Any, **options: Any) -> Any:
        """Train as ever; whoever has the model after may have its gradients reduced."""
        try:
            return super().train(*args, **options)
        finally:
            if self._by_losses is not None:
                self.model.__dict__.pop(_PREPARED, None)

    def create_optimizer(self, model: Any = None) -> Any:
        """Make the optimiser, which averages slopes over processes where it goes by losses."""
        optimizer = super().create_optimizer(model)
        if self._by_losses is not None:
            self._by_losses.average = self._average
        return optimizer

    def _average(self, values: Tensor) -> Tensor:
        return self._group.total(values) / self._group.num_processes

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        """Share the first process's weights, and keep DDP out, which holds room for gradients."""
        wrapped = super()._wrap_model(model, training, dataloader)
        if training and self._by_losses is not None and self._group.num_processes > 1:
            # What is prepared for evaluation is taken as prepared for training, too.
            self.accelerator.prepare_model(wrapped, evaluation_mode=True)
            for weight in (*wrapped.parameters(), *wrapped.buffers()):
                distributed.broadcast(weight.detach(), src=0)
        return wrapped

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Measure the slopes of a micro-batch; return its loss."""
        optimizer = self._by_losses
        if optimizer is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        batch = self._prepare_inputs(inputs)
        loss = optimizer.measure(self._loss_of(model, batch, num_items_in_batch))
        return torch.tensor(loss, device=self.args.device)

    def _loss_of(self, model: Any, batch: Any, items: Any) -> Callable[[], Tensor]:
        """What computes the loss of a micro-batch, as often as it is asked, and counts it once."""
        scale = 1.0 if self._is_scaled(items) else 1 / self.current_gradient_accumulation_steps
        is_counted = False

        def loss() -> Tensor:
            nonlocal is_counted
            with _counting(self, not is_counted), _as_in_training(self.model):
                is_counted = True
                with self.compute_loss_context_manager():
                    found = self._computed(model, dict(batch), items)
            return found * scale

        return loss

    def _computed(self, model: Any, batch: Any, items: Any) -> Tensor:
        """The loss of a micro-batch; TRL's own has no derivative along a direction."""
        optimizer = self._by_losses
        if optimizer is not None and optimizer.options.estimator == "forward_gradient":
            plain: Tensor = Trainer.compute_loss(self, model, batch, num_items_in_batch=items)
            return plain
        found: Tensor = self.compute_loss(model, batch, num_items_in_batch=items)
        return found

    def _is_scaled(self, items: Any) -> bool:
        """Whether losses of micro-batches add up to that of the step, as in the plain trainer."""
        if self.loss_is_scaled_for_ga is not None:
            return bool(self.loss_is_scaled_for_ga)
        by_model = self.model_accepts_loss_kwargs and items is not None
        return by_model or self.compute_loss_func is not None

    def _clip_grad_norm(self, model: Any) -> Any:
        """Clip nothing where there are no gradients."""
        return super()._clip_grad_norm(model) if self._by_losses is None else None

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Return the norm of the gradient, as slopes tell it where there are none."""
        if self._by_losses is not None:
            return self._by_losses.gradient_norm
        return super()._get_grad_norm(model, grad_norm)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the model, and beside it the log that its weights come of."""
        super()._save(output_dir, state_dict)
        optimizer = self._by_losses
        if optimizer is not None and self.args.should_save:
            folder = Path(self.args.output_dir if output_dir is None else output_dir)
            write_whole(folder / STEP_LOG_FILE, json.dumps(log_of(optimizer)).encode())

    def _load_best_model(self) -> None:
        """Load the best model; its log ends where it was."""
        super()._load_best_model()
        optimizer = self._by_losses
        if optimizer is not None:
            log = Path(str(self.state.best_model_checkpoint)) / STEP_LOG_FILE
            number = len(parse_json(log.read_text(encoding="utf-8"))["steps"])
            del optimizer.steps[number:]


@contextmanager
def _counting(trainer: Any, counts: bool) -> Iterator[None]:
    """Have a trainer count what it computes, or forget it."""
    before = {} if counts else {k: getattr(trainer, k) for k in _COUNTED if hasattr(trainer, k)}
    if not counts:
        trainer._computed_for = None
        if "_metrics" in before:
            trainer._metrics = deepcopy(before["_metrics"])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(trainer, name, value)


@contextmanager
def _as_in_training(model: nn.Module) -> Iterator[None]:
    """Let the model's own flag say training, which TRL goes by; its modules stay in evaluation."""
    before, model.training = model.training, True
    try:
        yield
    finally:
        model.training = before


def check_zeroth_order(trainer: Any) -> None:
    """Refuse what cannot be trained by losses alone, before anything is changed.

    Args:
        trainer: built, not yet trained.

    Raises:
        ValueError: one line that names the option.
    """
    args, option = trainer.args, f"optim={ZEROTH_ORDER!r}"
    if trainer.optimizer is not None or trainer.optimizer_cls_and_kwargs is not None:
        raise ValueError(
            f"{option} names an optimizer, and the trainer was given another: set one."
        )
    check_no_selection(args)
    parallelism = getattr(trainer.accelerator, "parallelism_config", None)
    noise, block = args.neftune_noise_alpha, args.side_block
    weights = "it moves weights as PyTorch's own operations read them"
    refused = {
        f"n_gpu={args.n_gpu}": (args.n_gpu > 1, "start one process a GPU"),
        "fp16=True": (args.fp16, "it has no gradients to scale, and float16 loses small updates"),
        "torch_compile=True": (args.torch_compile, weights),
        "use_liger_kernel=True": (args.use_liger_kernel, weights),
        f"neftune_noise_alpha={noise}": (noise is not None, "it trains in evaluation mode"),
        f"side_block={block}": (block is not None, "a block is for a backward that ends early"),
    } | {
        f"{kind}_size > 1": (getattr(parallelism, f"{kind}_enabled", False), weights)
        for kind in ("tp", "cp", "sp")
    }
    for name, (is_so, why) in refused.items():
        if is_so:
            raise ValueError(f"{option} does not go with {name}: {why}.")
    _check_forward_gradient(trainer)


def check_no_selection(args: Any) -> None:
    """Refuse to look at candidates for a step by losses alone.

    Raises:
        ValueError: one line that names both options.
    """
    if args.candidate_ratio > 1:
        raise ValueError(
            f"optim={ZEROTH_ORDER!r} makes a step of two forwards, which a look at candidate_ratio="
            f"{args.candidate_ratio} times as many examples would cost again: set "
            "candidate_ratio=1."
        )


def _check_forward_gradient(trainer: Any) -> None:
    """Refuse derivatives along a direction where attention or the loss has none."""
    args = trainer.args
    if read_optim_args(args.optim, args.optim_args)["estimator"] != "forward_gradient":
        return
    attention = getattr(text_config(base_model(trainer.model)), "_attn_implementation", "eager")
    if attention != "eager":
        raise ValueError(
            "estimator='forward_gradient' needs attention that has derivatives along a direction, "
            f"and attn_implementation={attention!r} has none: load the model with "
            "attn_implementation='eager', or set estimator='central'."
        )
    option = weighing_option(args)
    if args.stored_losses is not None:
        option = f"stored_losses={args.stored_losses!r}"
    elif args.candidate_sampling == "adaptive":
        option = "candidate_sampling='adaptive'"
    if option is not None:
        raise ValueError(
            f"{option} reads the losses of tokens, of which estimator='forward_gradient' has the "
            "mean alone: do without either."
        )
