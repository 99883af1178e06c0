"""A run, counted at any size of its micro-batches: what lies there, its looks and its steps.

Symbols: r examples trained on in a micro-batch, n candidates for them, t tokens an example.
"""

from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass
from functools import cache

from torch import nn

from colm.memory.zeroth_order_optimizer import ZerothOrderOptimizer
from colm.planning.held import count_weights, optimizer_bytes, trained_weights
from colm.planning.projected_states import LAYERWISE, is_projected
from colm.planning.skeleton import (
    autocast_dtype,
    build_skeleton,
    cut_vocabulary,
    has_loss_kernels,
    loss_in_place,
    observer_of,
)
from colm.planning.step_counter import Counted, StepCounter
from colm.planning.tally import storage_bytes
from colm.runs.arguments import SFTArguments
from colm.training.limits import UPDATES_IN_BACKWARD
from colm.training.low_rank_training import LOW_RANK_ADAM, find_targets
from colm.training.optimizers import (
    OPTIMIZERS,
    ZEROTH_ORDER,
    optimizer_name,
    read_optim_args,
)
from colm.training.options.config import CoLMConfig
from colm.training.papers import selects
from colm.training.step.chunks import token_limit
from colm.training.step.trunk_outputs import reused_block
from colm.training.zeroth_order_training import check_no_selection


def updates_in_backward(optimizer: str) -> bool:
    """Return whether an optimizer takes its step, and lets go of gradients, weight by weight."""
    return optimizer in UPDATES_IN_BACKWARD or optimizer.endswith(LAYERWISE)


@dataclass(frozen=True)
class Held:
    """What lies in memory between steps, and gradients.

    Attributes:
        parameters: all that are there; of a pruned vocabulary, those of used tokens.
        trained_parameters: those that training changes.
        weight_bytes: of parameters and buffers, and of random subspaces' directions.
        gradient_bytes: of the trained parameters; of the largest where the optimiser updates
            them one by one inside the backward; 0 where there is no backward.
        optimizer: its name.
        optimizer_bytes: of its state, ``None`` where it is not known.
        host_bytes: rows of a pruned vocabulary that lie on the CPU until training ends.
    """

    parameters: int
    trained_parameters: int
    weight_bytes: int
    gradient_bytes: int
    optimizer: str
    optimizer_bytes: int | None
    host_bytes: int


class RunCounter:
    """Counts what a run holds and does.

    Args:
        arguments: options of the run, from ``colm.runs.arguments.parse_arguments``.
        tokens: t.
        accelerator: count the loss as an accelerator's kernels compute it, without one at hand.
        used_tokens: that the data use, for ``prune_vocabulary``.

    Attributes:
        model: its shape.
        optimizer: its name.

    Raises:
        ValueError: an option, or a model that cannot be planned for, in one line.
    """

    def __init__(
        self,
        arguments: SFTArguments,
        tokens: int,
        *,
        accelerator: bool = False,
        used_tokens: int | None = None,
    ) -> None:
        training = self._training = arguments.training
        self._tokens = tokens
        self.optimizer = optimizer_name(training)
        if self.optimizer == ZEROTH_ORDER:
            check_no_selection(training)
        self.model = build_skeleton(arguments)
        self._host_bytes = (
            cut_vocabulary(self.model, used_tokens) if training.prune_vocabulary else 0
        )
        self._counter = StepCounter(
            self.model,
            autocast_dtype(arguments),
            tokens,
            updates_in_backward(self.optimizer),
        )
        self._observer = observer_of(training, self.model)
        looks = self._observer is not None and selects(training)
        self._reused = reused_block(self.model, training) if looks else None
        self._in_place = accelerator or has_loss_kernels(training.device)
        # Kept for as long as this is: a step takes as long to count whatever its size.
        self.step = cache(self._step)
        self.look = cache(self._look)

    def held(self, training: CoLMConfig | None = None) -> Held:
        """Return what lies there between steps, by the optimiser of other options where given."""
        training = training or self._training
        optimizer = optimizer_name(training)
        trained = trained_weights(self.model)
        sizes = [storage_bytes([weight]) for weight in trained]
        gradient_bytes = max(sizes) if updates_in_backward(optimizer) else sum(sizes)
        targets = self._targets(optimizer, training)
        return Held(
            parameters=count_weights(self.model),
            trained_parameters=sum(weight.numel() for weight in trained),
            weight_bytes=storage_bytes(self._counter.weights),
            gradient_bytes=0 if optimizer == ZEROTH_ORDER else gradient_bytes,
            optimizer=optimizer,
            optimizer_bytes=optimizer_bytes(optimizer, trained, training.optim_args, targets),
            host_bytes=self._host_bytes,
        )

    def _targets(self, optimizer: str, training: CoLMConfig) -> list[nn.Parameter]:
        """Return the matrices of which the optimizer keeps less, if it is one that does so."""
        if optimizer != LOW_RANK_ADAM and not is_projected(optimizer):
            return []
        modules = training.optim_target_modules
        if optimizer != LOW_RANK_ADAM and modules is None:
            raise ValueError(
                f"optim={optimizer!r} needs optim_target_modules, such as [attn, mlp]; got None"
            )
        return find_targets(self.model, modules, optimizer)

    def _look(self, kept: int, drawn: int, micro_batches: int) -> Counted:
        """Count what a step looks at: ``drawn`` for each micro-batch of ``kept``."""
        if self._observer is None:
            return Counted()
        options = copy(self._training)
        options.per_device_train_batch_size = kept
        most_tokens = token_limit(options).tokens([self._tokens])
        candidates = micro_batches * drawn
        return self._counter.look(self._observer, candidates, most_tokens, self._reused)

    def _step(self, examples: int, micro_batches: int, after_look: bool = False) -> Counted:
        """Count a step of micro-batches of so many examples; a look may have run some layers."""
        with loss_in_place() if self._in_place else nullcontext():
            if self.optimizer == ZEROTH_ORDER:
                return self._counter.measure(self._by_losses(), examples, micro_batches)
            block = self._reused if after_look else None
            reused = block if block is not None and block.trunk.can_be_given else None
            return self._counter.train(examples, micro_batches, reused)

    def _by_losses(self) -> ZerothOrderOptimizer:
        training = self._training
        given = read_optim_args(self.optimizer, training.optim_args)
        if given["estimator"] == "forward_gradient":
            raise ValueError(
                "estimator='forward_gradient' in optim_args takes derivatives on the way forward, "
                "which a plan does not count: plan for estimator='central', which takes less"
            )
        kind, options = OPTIMIZERS[self.optimizer].make(training, self.model, given)
        optimizer: ZerothOrderOptimizer = kind(**options)
        return optimizer
