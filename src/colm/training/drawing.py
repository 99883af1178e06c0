"""The part of a trainer that draws candidates: which sampler, and what is said of it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from colm.training.step.draw import candidates_in_all
from colm.training.step.keep import ExampleSelection
from colm.training.step.samplers import make_sampler
from colm.training.step.shares import report_draws

if TYPE_CHECKING:  # to a type checker the mixin is a trainer, as it is wherever it is used
    from transformers import Trainer as _Base
else:
    _Base = object


class DrawingMixin(_Base):
    """Chooses how candidates are drawn, and says so when training begins."""

    _selection: ExampleSelection
    _sources: tuple[str | None, dict[str, int] | None]

    @property
    def _draws_by_source(self) -> bool:
        """Whether candidates are drawn in another way than the plain trainer draws examples."""
        sampling = self.args.candidate_sampling
        return self._selection.source_column is not None and sampling != "uniform"

    def _candidate_sampler(self, dataset: Any) -> Any:
        """Return the sampler of candidates: by source, or the plain trainer's."""
        if not self._draws_by_source:
            self._report_draws()
            return self._get_train_sampler(dataset)
        # What is passed in lacks the columns that the model does not take.
        column = str(self._selection.source_column)
        sampler = make_sampler(self.train_dataset, column, self.args, candidates_in_all(self))
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
