"""The part of a trainer that stores the losses of examples, and draws by them."""

import logging
from collections.abc import Mapping
from typing import Any

import datasets
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from colm.training.drawing import DrawingMixin
from colm.training.options.option_checks import INFOBATCH
from colm.training.step.draw import candidates_in_all
from colm.training.step.record import StepLosses
from colm.training.step.samplers import StoredLossSampler, make_stored_loss_sampler
from colm.training.step.stored_losses import StoredLosses, WithRows

logger = logging.getLogger(__name__)


class StoredLossMixin(DrawingMixin):
    """Stores what each step tells of its examples, and lets them decide what an epoch draws."""

    # Where draws go by them.
    _stored: StoredLosses | None = None

    def train(self, *args: Any, **options: Any) -> Any:
        """Train as the plain trainer does; what an earlier training told is not this one's."""
        self._stored = None
        return super().train(*args, **options)

    def _loader_of(self, dataset: Any, batch_size: int) -> DataLoader[Any]:
        """Return the loader of examples, which know their row where their losses are stored."""
        if self.args.stored_losses is not None:
            if isinstance(dataset, datasets.Dataset):
                dataset = self._remove_unused_columns(dataset, "Training")
            is_weighed = self.args.stored_losses == INFOBATCH
            dataset = WithRows(dataset, 1 / (1 - self.args.stored_share) if is_weighed else 1.0)
        return super()._loader_of(dataset, batch_size)

    def _candidate_sampler(self, dataset: Any) -> Any:
        """Return the sampler of candidates."""
        if self.args.stored_losses is None:
            return super()._candidate_sampler(dataset)
        number = len(self.train_dataset)
        is_under_way = self.is_in_train and self.state.global_step > 0
        if self._stored is None or len(self._stored) != number or not is_under_way:
            self._stored = StoredLosses(number)
        column = self._selection.source_column if self._draws_by_source else None
        sampler = make_stored_loss_sampler(
            self.train_dataset, column, self.args, candidates_in_all(self), self._stored
        )
        self._report_draws(*((sampler.sizes, sampler.shares) if column is not None else ()))
        self._report_repeats(sampler)
        return sampler

    def _report_repeats(self, sampler: StoredLossSampler) -> None:
        """Say so where a run ends before any example comes again, and nothing is chosen."""
        draws = candidates_in_all(self)
        repeats = any(sampler.shares[name] * draws > size for name, size in sampler.sizes.items())
        if not repeats and self.is_in_train and self.args.process_index == 0:
            logger.warning(
                "stored_losses=%r changes nothing in a run of %d draws from %d examples: none of "
                "them comes again.",
                self.args.stored_losses,
                draws,
                len(self.train_dataset),
            )

    def _take_losses(self, losses: StepLosses) -> None:
        """Store what a step told of the examples of all processes."""
        super()._take_losses(losses)
        if self._stored is not None:
            means = losses.losses / losses.label_tokens
            told = self._group.rows(torch.stack([losses.rows.double(), means], 1)).cpu()
            self._stored.store(told[:, 0], told[:, 1])

    def _draw_state(self) -> dict[str, Tensor]:
        """Return what draws go by, the losses of the step that is over included."""
        state: dict[str, Tensor] = super()._draw_state()
        return state | (self._stored.state_dict() if self._stored is not None else {})

    def _load_draw_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `_draw_state` returned."""
        super()._load_draw_state(state)
        if self._stored is not None:
            self._stored.load_state_dict(state)
