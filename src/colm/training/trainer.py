"""``CoLMTrainer`` and ``CoLMSFTTrainer``: the plain trainers, drawing large and training small.

No training loop is forked. A step of selection is `CoresetTrainerMixin._micro_batches`, which calls
the modules of ``training/step`` one after the other. Symbols: n candidates, r kept.

What is overridden of ``transformers.Trainer``, here and in the mixins beside it, and why:

- ``get_train_dataloader``: the loader hands out pools of raw candidates;
- ``get_batch_samples``: a step's pools become as many micro-batches of what is kept;
- ``training_step``, ``compute_loss``: losses of examples are read out of the plain trainer's, and
  may be weighed; beside a side block, layers that the look has run are not run again; a step by
  losses alone has no backward;
- ``_clip_grad_norm``, ``_get_grad_norm``, ``_wrap_model``: such a step has no gradients to clip or
  to reduce;
- ``_prepare_inputs``: labels become places in a vocabulary that is pruned;
- ``train``: selection is for what the trainer has now; only complete checkpoints are resumed from;
  the model enters its subspaces and leaves them, is given its side block, or has its vocabulary
  pruned and gets it back; a run that trained nothing is refused;
- ``log``: the averages of selection stand beside the loss; a run that has diverged ends;
- ``evaluate``, ``_get_eval_sampler``, ``evaluation_loop``: by length, means over label tokens, with
  the whole vocabulary;
- ``create_optimizer``: Adam works inside subspaces; options it objects to are one line;
- ``get_optimizer_cls_and_kwargs``: the option may name an optimiser of colm's own;
- ``save_model``, ``_save_checkpoint``, ``_push_from_checkpoint``: a checkpoint counts once all of
  it is there, is not pushed before, and replaces older ones only then; of a pruned vocabulary they
  have all;
- ``_save``, ``_save_optimizer_and_scheduler``: a model in subspaces is saved as a plain one, of one
  with a side block the block alone; what that cannot give back lies beside it, with the selector's
  state, and so does the log of steps by losses alone;
- ``_load_from_checkpoint``, ``_load_best_model``, ``_load_optimizer_and_scheduler``,
  ``_issue_warnings_after_load``: these bring it back, without a warning of what lies elsewhere;
- ``create_model_card``: the card cites this software, too;
- ``_run_epoch``: a run that is over takes no further step when it is resumed.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer
from trl import SFTTrainer

from colm.coreset.coreset_selector import CoresetSelector
from colm.coreset.registry import get_selector
from colm.data.joining import keep_drawn
from colm.training.checkpoints.resuming import ResumingMixin
from colm.training.citing import CitingMixin
from colm.training.clusters import (
    CLUSTER_COLUMN,
    cluster_names,
    find_clusters,
    load_clusters,
    with_clusters,
)
from colm.training.example import Pool
from colm.training.limits import (
    check_arguments,
    check_not_empty,
    check_small_sources,
    check_trainer,
    hidden_size,
    naming_empty_data,
    report_unlabeled,
    shards_weights,
)
from colm.training.named_optimizer import NamedOptimizerMixin, check_optimizer
from colm.training.options.config import (
    CoLMConfig,
    CoLMTrainingArguments,
    with_selection_arguments,
)
from colm.training.options.option_checks import check_options
from colm.training.options.selection_arguments import SelectionArguments
from colm.training.outcome import OutcomeMixin
from colm.training.papers import as_trl_cites, name_of_method, papers_of
from colm.training.processes.exchange import Exchange
from colm.training.processes.parts import in_parts
from colm.training.recording import RecordingMixin
from colm.training.renewal import BuiltFor, take_replaced_model
from colm.training.side_block_training import SideBlockMixin, check_side_block
from colm.training.step.arrange import arrange
from colm.training.step.draw import (
    DrawnCandidates,
    check_pool,
    drawn_candidates,
    pool_size_of,
    set_sampler_epoch,
    source_feature,
)
from colm.training.step.keep import ExampleSelection, Kept
from colm.training.step.look import CandidateObserver, ModelAccess
from colm.training.step.match import match
from colm.training.step.pools import check_pools, handing_out_pools, rearranged, rearranges
from colm.training.step.shares import check_source_weights
from colm.training.step.source_columns import (
    goes_by_source,
    readable_source_column,
    report_lack_of_sources,
    resolve_source_column,
    source_sizes,
)
from colm.training.step.stored_losses import check_stored_losses
from colm.training.step.streaming import as_endless, keep_shards, report_unknown_sizes
from colm.training.step.weigh import weigh
from colm.training.stored_loss_drawing import StoredLossMixin
from colm.training.subspace_training import SubspaceMixin, check_subspaces
from colm.training.token_means import TokenMeansMixin
from colm.training.vocabulary import check_examples
from colm.training.vocabulary_training import VocabularyMixin, check_vocabulary
from colm.training.zeroth_order_training import ZerothOrderMixin


class CoresetTrainerMixin(
    StoredLossMixin,
    CitingMixin,
    RecordingMixin,
    OutcomeMixin,
    SubspaceMixin,
    SideBlockMixin,
    NamedOptimizerMixin,
    ZerothOrderMixin,
    ResumingMixin,
    VocabularyMixin,
    TokenMeansMixin,
):
    """Selection for any trainer of ``transformers``; placed before it in the bases of a class."""

    data_collator: Any
    train_dataset: Any
    _signature_columns: Any
    _arguments_class: type[SelectionArguments]
    planned_candidates: int | None = None

    def __init__(self, model: Any = None, args: Any = None, *rest: Any, **options: Any) -> None:
        """Take what the plain trainer takes; ``args`` may be its own configuration, too.

        Raises:
            ValueError: an option, a data set or a way of training that selection cannot work with.
        """
        args = with_selection_arguments(args, self._arguments_class)
        self._selects = args.candidate_ratio > 1
        train_dataset = options.get("train_dataset", rest[1] if len(rest) > 1 else None)
        source_column, sizes = self._find_sources(args, train_dataset)
        eval_dataset = options.get("eval_dataset", rest[2] if len(rest) > 2 else None)
        check_not_empty(train_dataset, eval_dataset, args)
        with naming_empty_data():
            super().__init__(model, args, *rest, **options)
        keep_drawn(train_dataset, self.train_dataset)
        report_unlabeled("training", train_dataset, self.train_dataset, self.args)
        report_unlabeled("evaluation", eval_dataset, self.eval_dataset, self.args)
        everyone = self.accelerator
        self._group = Exchange(everyone.num_processes, everyone.process_index, everyone.device)
        self._clusters: Tensor | None = None
        self._build_anew(source_column, sizes)
        check_pool(self)

    def _find_sources(
        self, args: Any, train_dataset: Any
    ) -> tuple[str | None, dict[str, int] | None]:
        """Find the column that names sources and their sizes; refuse what does not go together."""
        if self._selects:
            check_arguments(args)
        source_column, clusters = None, args.source_clusters
        # Packing leaves no sources to tell apart; clusters are found when training begins.
        has_sources = clusters is None and not getattr(args, "packing", False)
        if has_sources and goes_by_source(args):
            source_column = resolve_source_column(args.source_column, train_dataset)
        sizes = source_sizes(train_dataset, source_column)
        if has_sources and not goes_by_source(args):
            source_column = readable_source_column(train_dataset)
        self._source_feature = source_feature(source_column, train_dataset)
        known = cluster_names(clusters) if clusters else sizes
        check_small_sources(args.small_sources, known)
        if known is not None:
            check_source_weights(args.source_weights, known)
        report_unknown_sizes(args, source_column, sizes)
        if clusters is None:
            report_lack_of_sources(args, train_dataset, source_column, sizes)
        return source_column, sizes

    def _build_anew(self, source_column: str | None, sizes: dict[str, int] | None) -> None:
        """Check what the trainer has, and build selection for it."""
        by_clusters = self.args.source_clusters is not None
        check_trainer(self, CLUSTER_COLUMN if by_clusters else source_column)
        check_stored_losses(self)
        check_pools(self)
        if self.args.subspace_rank is not None:
            check_subspaces(self)
        check_side_block(self)
        check_optimizer(self)
        if self.args.prune_vocabulary:
            check_vocabulary(self)
        self._sources = source_column, sizes
        self._selection = self._build_selection(source_column, sizes)
        self._begin_recording()
        self._built_for = BuiltFor.of(self)

    def train(self, *args: Any, **options: Any) -> Any:
        """Train as the plain trainer does, on what the trainer has now."""
        take_replaced_model(self, self._built_for.model)
        if self.model_init is not None:
            # Trainings of models that are made for each begin all alike.
            self._built_for = replace(self._built_for, model=None)
        self._begin_recording()
        return super().train(*args, **options)

    def _renew(self) -> None:
        """Build selection anew where model, data or options have been replaced."""
        before, now = self._built_for, BuiltFor.of(self)
        if not before.has_model_and_data_of(now):
            self._clusters = None
        if not before.has_data_and_options_of(now):
            self._selects = self.args.candidate_ratio > 1
            check_options(self.args)
            self._build_anew(*self._find_sources(self.args, self.train_dataset))
            check_pool(self)
        elif before.model is not now.model:
            self._build_anew(*self._sources)
        if self.args.source_clusters is not None and self.is_in_train:
            self._use_clusters(self._resumes_from)

    def _build_selection(
        self, source_column: str | None, sizes: dict[str, int] | None
    ) -> ExampleSelection:
        """Put selector, model and collator together."""
        args = self.args
        together = args.selection_scope == "global"
        exchange = self._group if together else Exchange()
        selector = CoresetSelector(
            in_parts(get_selector(args.selector), exchange),
            distance=args.distance,
            allocation=args.allocation,
            normalization=args.normalization,
            kept_dimensions=args.kept_dimensions or hidden_size(self.model),
            dimension_criterion=args.dimension_criterion,
            reference_behaviour=args.reference_behaviour,
            prompt_features=args.prompt_features,
            example_weights="label_tokens",
            small_sources=args.small_sources,
            source_sizes=sizes,
            # Selecting together, all must draw the same; on its own, each draws its own.
            seed=args.seed + (0 if together else 1_000_003 * args.process_index),
        )
        observer = CandidateObserver(
            args, self._model_access(), selector.needs, args.seed, exchange
        )
        return ExampleSelection(args, selector, observer, source_column, exchange)

    def _model_access(self) -> ModelAccess:
        """What looks at examples has of this trainer."""
        sharing = self._group if shards_weights(self.accelerator) else Exchange()
        return ModelAccess.of(self, sharing)

    def _enter_subspaces(self) -> None:
        """Put the model into its subspaces; features are taken from B, and so are their moments."""
        super()._enter_subspaces()
        assert self._subspaces is not None
        # Looked up at each call: clusters, once found, bring a selector of their own.
        forget = lambda: self._selection.selector.forget_moments()  # noqa: E731, PLW0108
        self._subspaces.on_redraw.append(forget)

    def _leave_subspaces(self) -> None:
        """Merge; what is observed of candidates is looked for anew."""
        super()._leave_subspaces()
        self._selection.look_anew()

    def _use_clusters(self, checkpoint: Any) -> None:
        """Make clusters the sources: those of the checkpoint, or else those found now."""
        if isinstance(checkpoint, str | Path):
            self._clusters = load_clusters(checkpoint, len(self.train_dataset))
        elif self._clusters is None:
            bare = self._remove_unused_columns(self.train_dataset, "Training")
            access, seed = self._model_access(), self.args.seed
            self._clusters = find_clusters(bare, self.args, access, self._group, seed)
        elif self._selection.source_column == CLUSTER_COLUMN:
            return
        self.train_dataset = with_clusters(self.train_dataset, self._clusters)
        sizes = source_sizes(self.train_dataset, CLUSTER_COLUMN)
        self._selection = self._build_selection(CLUSTER_COLUMN, sizes)
        self._built_for = BuiltFor.of(self)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return a loader of pools of raw candidates, ``candidate_ratio`` times as large.

        Without selection it is the plain trainer's, in pools of raw examples where steps are
        rearranged. Under the name of an input of the model, a pool has that of all its examples,
        collated.
        """
        self._renew()
        if not self._selects:
            return self._plain_loader()
        with handing_out_pools(self, self._selection.source_column):
            endless = as_endless(self.train_dataset, self.accelerator)
            loader = self._loader_of(endless, pool_size_of(self).candidates)
        keep_shards(loader)
        return loader

    def _plain_loader(self) -> DataLoader[Any]:
        """Return the plain trainer's loader, or one of pools where steps are rearranged."""
        raw = handing_out_pools(self, self._selection.source_column)
        with raw if rearranges(self) else nullcontext():
            if self._draws_by_source or self.args.stored_losses is not None:
                return self._loader_of(self.train_dataset, self._train_batch_size)
            self._report_draws()
            loader: DataLoader[Any] = super().get_train_dataloader()
        return loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, *args: Any, **options: Any
    ) -> Any:
        """Draw pools, select among their examples, pass on as many micro-batches as were drawn."""
        parent = super().get_batch_samples
        set_sampler_epoch(self.callback_handler.train_dataloader, int(self.state.epoch or 0))
        self._note_training_time()
        self._record_losses()
        batches = list(islice(epoch_iterator, num_batches))
        if self._selects and batches:
            batches = self._micro_batches(batches)
        elif any(isinstance(batch, Pool) for batch in batches):
            batches = rearranged(self, batches)
        self._training_since = time.perf_counter()
        return parent(iter(batches), num_batches, *args, **options)

    def _micro_batches(self, pools: list[Pool]) -> list[Any]:
        """Take one step of selection, in its order; as many micro-batches come of it as pools."""
        started, step, selection = time.perf_counter(), self.state.global_step, self._selection
        drawn = self.drawn(pools)
        if not isinstance(self.train_dataset, Dataset):
            check_examples(self, drawn.examples)
        budget = pool_size_of(self).budget(len(drawn.examples), len(pools))
        split = selection.split(drawn, budget, step)
        seen = selection.observer.look(split.own, split.table, split.to_see, step)
        kept = selection.keep(split, seen)
        examples = selection.observer.completed(kept.examples)
        micro_batches = weigh(self, arrange(self, examples, len(pools)))
        self._record_kept(kept)
        self._selection_metrics.measure("selection_seconds", time.perf_counter() - started)
        if self.args.match_every and step % self.args.match_every == 0:
            found = match(kept, selection.observer.access, selection.exchange.total)
            for name, value in found.items():
                self._selection_metrics.measure(name, value)
        return micro_batches

    def drawn(self, pools: Sequence[Pool]) -> DrawnCandidates:
        """Return the examples of a step's pools, with their sources."""
        column = self._selection.source_column
        feature = source_feature(column, self.train_dataset) or self._source_feature
        return drawn_candidates(pools, column, feature)

    def _record_kept(self, kept: Kept) -> None:
        """Count what a step kept of which candidates."""
        self._selection_metrics.record(kept)

    @property
    def candidates_and_kept(self) -> tuple[int, int]:
        """What a step draws in this process, n, and keeps, r; less at the end of an epoch."""
        batches: int = self.args.gradient_accumulation_steps
        size = pool_size_of(self)
        drawn = batches * size.candidates
        return drawn, size.budget(drawn, batches)


class CoLMTrainer(CoresetTrainerMixin, Trainer):
    """``transformers.Trainer`` that trains on coresets.

    Takes what ``Trainer`` takes, with `CoLMTrainingArguments` (or `CoLMConfig`) as
    ``args``; the data set is tokenised, with ``input_ids`` and, where the collator does not make
    them, ``labels``.  Paper: CoLM v3, Alg. 1.
    """

    _arguments_class = CoLMTrainingArguments


class CoLMSFTTrainer(CoresetTrainerMixin, SFTTrainer):
    """TRL's ``SFTTrainer`` that trains on coresets; ``args`` is a `CoLMConfig`.

    Paper: CoLM v3, Alg. 1.
    """

    _arguments_class = CoLMConfig
    _tag_names: ClassVar = ["trl", "sft", "colm"]

    @property
    def _name(self) -> str:
        """What TRL's model card says that the model was trained with."""
        return name_of_method(self.args)

    @property
    def _paper(self) -> dict[str, str]:
        """What TRL's model card cites for it."""
        return as_trl_cites(papers_of(self.args))
