"""The part of a trainer that draws: which sampler, what it goes by, what is said of it."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from colm.data.joining import is_drawn_by_shares
from colm.training.step.adaptive import ROUND_STEPS, AdaptivePlan
from colm.training.step.draw import candidates_in_all, candidates_of_step
from colm.training.step.record import StepLosses
from colm.training.step.samplers import make_sampler
from colm.training.step.shares import most_repeats, report_draws
from colm.training.step_recording import StepRecordingMixin


class DrawingMixin(StepRecordingMixin):
    """Chooses how candidates are drawn, and says so when training begins."""

    _sources: tuple[str | None, dict[str, int] | None]
    _selects: bool
    # What adaptive draws go by in this training.
    _plan: AdaptivePlan | None = None

    def train(self, *args: Any, **options: Any) -> Any:
        """Train as the plain trainer does; what an earlier training told is not this one's."""
        self._plan = None
        return super().train(*args, **options)

    @property
    def _draws_by_source(self) -> bool:
        """Whether candidates are drawn in another way than the plain trainer draws examples."""
        if self.args.candidate_sampling == "uniform" or is_drawn_by_shares(self.train_dataset):
            return False
        return self._selection.source_column is not None

    def _loader_of(self, dataset: Any, batch_size: int) -> DataLoader[Any]:
        """Return the plain trainer's loader, with the sampler that draws candidates."""
        loader: DataLoader[Any] = self._get_dataloader(
            dataset=dataset,
            description="Training",
            batch_size=batch_size,
            sampler_fn=self._candidate_sampler,
            is_training=True,
        )
        return loader

    def _candidate_sampler(self, dataset: Any) -> Any:
        """Return the sampler of candidates: by source, or the plain trainer's."""
        if not self._draws_by_source:
            self._report_draws()
            return self._get_train_sampler(dataset)
        # What is passed in lacks the columns that the model does not take.
        column, draws = str(self._selection.source_column), candidates_in_all(self)
        sampler = make_sampler(self.train_dataset, column, self.args, draws, self._adaptive_plan)
        self._report_draws(sampler.sizes, sampler.shares)
        return sampler

    def _report_draws(
        self, sizes: Mapping[str, int] | None = None, shares: Mapping[str, float] | None = None
    ) -> None:
        """Log how draws are shared where training begins; in the data's proportions if not told."""
        sizes = sizes or self._sources[1]
        if sizes is None or not self.is_in_train or self.args.process_index:
            return
        total = sum(sizes.values())
        shares = shares or {name: size / total for name, size in sizes.items()}
        report_draws(self.args.candidate_sampling, sizes, shares, candidates_in_all(self))

    def _adaptive_plan(self, sizes: Mapping[str, int]) -> AdaptivePlan:
        """Return the plan of adaptive draws: of this training, where one is under way."""
        accumulated = self.args.gradient_accumulation_steps
        # Accelerate is one batch ahead, and workers are as many as they may hold.
        fetched = self.args.dataloader_num_workers * (self.args.dataloader_prefetch_factor or 2) + 1
        round_steps = max(ROUND_STEPS, math.ceil(fetched / accumulated) + 1)
        draws, step_draws = candidates_in_all(self), candidates_of_step(self)
        plan = AdaptivePlan(sizes, draws, step_draws, round_steps, most_repeats(self.args))
        under_way = self._plan is not None and self.is_in_train and self.state.global_step > 0
        if under_way and self._plan is not None and self._plan.draws_as(plan):
            return self._plan
        self._plan = plan
        return plan

    def _take_losses(self, losses: StepLosses) -> None:
        """Tell the plan of adaptive draws what a step told, in all processes."""
        super()._take_losses(losses)
        if self._plan is None:
            return
        places = {name: place for place, name in enumerate(self._plan.sources)}
        sums = torch.zeros(3, len(places), dtype=torch.float64)
        for name, told in losses.by_source().items():
            sums[:, places[name]] = torch.tensor(told, dtype=torch.float64)
        # A step is over when the share of its epoch that is done was added.
        epoch = max(0, math.ceil(self.state.epoch or 0) - 1)
        self._plan.take(epoch, self.state.global_step, self._group.total(sums))

    def _draw_state(self) -> dict[str, Tensor]:
        """Return what adaptive draws go by, the step that is over included."""
        self._record_losses()
        return {} if self._plan is None else self._plan.state_dict()

    def _load_draw_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `_draw_state` returned."""
        if self._plan is not None:
            self._plan.load_state_dict(state)
