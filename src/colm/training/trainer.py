"""``CoLMTrainer`` and ``CoLMSFTTrainer``: the plain trainers, drawing large and training small.

Two overrides do it and no training loop is forked: the data loader hands out pools of raw
candidates ``candidate_ratio`` times as large, and ``get_batch_samples`` selects among them,
collates what is kept into as many micro-batches as were drawn, and lets the plain trainer go on
from there. Symbols: n candidates, r kept.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer
from trl import SFTTrainer

from colm.coreset.coreset_selector import CoresetSelector
from colm.coreset.registry import get_selector
from colm.training.checkpoints.resuming import ResumingMixin
from colm.training.clusters import (
    CLUSTER_COLUMN,
    cluster_names,
    find_clusters,
    load_clusters,
    with_clusters,
)
from colm.training.example import WEIGHT_KEY, Pool, PoolCollator
from colm.training.limits import (
    check_arguments,
    check_not_empty,
    check_small_sources,
    check_trainer,
    hidden_size,
    naming_empty_data,
    report_unlabelled,
    shards_weights,
)
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
from colm.training.step.arrange import averages_over_step, is_padding_free, split_kept
from colm.training.step.draw import (
    goes_by_source,
    make_sampler,
    report_lack_of_sources,
    resolve_source_column,
    set_sampler_epoch,
    source_feature,
    source_sizes,
    with_source_names,
)
from colm.training.step.keep import ExampleSelection
from colm.training.step.model_access import ModelAccess
from colm.training.step.pool_size import check_pool, pool_size_of
from colm.training.step.streaming import as_endless, keep_shards, report_unknown_sizes
from colm.training.step.weigh import collate_weighted, weighted_loss
from colm.training.subspace_training import SubspaceMixin, check_subspaces
from colm.training.vocabulary import check_examples


class CoresetTrainerMixin(RecordingMixin, OutcomeMixin, SubspaceMixin, ResumingMixin):
    """Selection for any trainer of ``transformers``; placed before it in the bases of a class."""

    data_collator: Any
    train_dataset: Any
    _signature_columns: Any
    _arguments_class: type[SelectionArguments]

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
        report_unlabelled("training", train_dataset, self.train_dataset, self.args)
        report_unlabelled("evaluation", eval_dataset, self.eval_dataset, self.args)
        self._training_since: float | None = None
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
        if clusters is None and not getattr(args, "packing", False) and goes_by_source(args):
            source_column = resolve_source_column(args.source_column, train_dataset)
        self._source_feature = source_feature(source_column, train_dataset)
        sizes = source_sizes(train_dataset, source_column)
        check_small_sources(args.small_sources, cluster_names(clusters) if clusters else sizes)
        report_unknown_sizes(args, source_column, sizes)
        if clusters is None:
            report_lack_of_sources(args, train_dataset, source_column, sizes)
        return source_column, sizes

    def _build_anew(self, source_column: str | None, sizes: dict[str, int] | None) -> None:
        """Check what the trainer has, and build selection for it."""
        by_clusters = self.args.source_clusters is not None
        check_trainer(self, CLUSTER_COLUMN if by_clusters else source_column)
        if self.args.subspace_rank is not None:
            check_subspaces(self)
        self._sources = source_column, sizes
        self._selection = self._build_selection(source_column, sizes)
        self._built_for = BuiltFor.of(self)

    def train(self, *args: Any, **options: Any) -> Any:
        """Train as the plain trainer does, on what the trainer has now."""
        take_replaced_model(self, self._built_for.model)
        if self.model_init is not None:
            # Trainings of models that are made for each begin all alike.
            self._built_for = replace(self._built_for, model=None)
        if self.state.global_step > 0:
            # What the training before has not logged is not this one's.
            self._training_since = None
            self._selection.metrics.drain()
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
        access = ModelAccess(
            model=lambda: self.accelerator.unwrap_model(self.model_wrapped),
            # Looked up at each call: the data loader swaps the collator, users may replace it.
            collate=lambda examples: self.data_collator(examples),  # noqa: PLW0108
            prepare=lambda batch: self._prepare_inputs(dict(batch)),
            autocast=self.accelerator.autocast,
            optimizer=lambda: self.optimizer,
            sharing=self._group if shards_weights(self.accelerator) else Exchange(),
        )
        return ExampleSelection(args, access, selector, source_column, args.seed, exchange)

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
            access, seed = self._selection.access, self.args.seed
            self._clusters = find_clusters(bare, self.args, access, self._group, seed)
        elif self._selection.source_column == CLUSTER_COLUMN:
            return
        self.train_dataset = with_clusters(self.train_dataset, self._clusters)
        sizes = source_sizes(self.train_dataset, CLUSTER_COLUMN)
        self._selection = self._build_selection(CLUSTER_COLUMN, sizes)
        self._built_for = BuiltFor.of(self)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return a loader of pools of raw candidates, ``candidate_ratio`` times as large.

        Under the name of an input of the model, a pool has that of all its candidates, collated.
        """
        self._renew()
        if not self._selects:
            plain: DataLoader[Any] = super().get_train_dataloader()
            return plain
        self._set_signature_columns_if_needed()
        collator, columns = self.data_collator, self._signature_columns
        source_column = self._selection.source_column
        self.data_collator = PoolCollator(self._selection.collate)
        self._signature_columns = [*columns, *([source_column] if source_column else [])]
        try:
            loader: DataLoader[Any] = self._get_dataloader(
                dataset=as_endless(self.train_dataset, self.accelerator),
                description="Training",
                batch_size=pool_size_of(self).candidates,
                sampler_fn=self._get_train_sampler,
                is_training=True,
            )
        finally:
            self.data_collator, self._signature_columns = collator, columns
        keep_shards(loader)
        return loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, *args: Any, **options: Any
    ) -> Any:
        """Draw pools, select among their examples, pass on as many micro-batches as were drawn."""
        parent = super().get_batch_samples
        set_sampler_epoch(self.callback_handler.train_dataloader, int(self.state.epoch or 0))
        self._note_training_time()
        if not self._selects:
            batches = list(islice(epoch_iterator, num_batches))
            self._training_since = time.perf_counter()
            return parent(iter(batches), num_batches, *args, **options)
        pools = list(islice(epoch_iterator, num_batches))
        started = time.perf_counter()
        micro_batches = self._micro_batches(pools) if pools else []
        self._selection.metrics.measure("selection_seconds", time.perf_counter() - started)
        self._selection.measure_match()
        self._training_since = time.perf_counter()
        return parent(iter(micro_batches), num_batches, *args, **options)

    def _micro_batches(self, pools: list[Pool]) -> list[Any]:
        """Collate what is kept of ``pools`` into one micro-batch each."""
        column = self._selection.source_column
        examples = with_source_names(
            [example for pool in pools for example in pool],
            column,
            source_feature(column, self.train_dataset) or self._source_feature,
        )
        check_examples(self, examples)
        budget = pool_size_of(self).budget(len(examples), len(pools))
        kept = self._selection.keep(examples, budget, self.state.global_step)
        parts = split_kept(
            kept,
            len(pools),
            by_tokens=averages_over_step(self),
            padding_free=is_padding_free(self.data_collator),
        )
        if not self.args.weighted:
            return [self.data_collator(part) for part in parts]
        # Where each process averages over its own tokens, it weighs among its own.
        counts_together = self.args.average_tokens_across_devices
        return collate_weighted(
            parts,
            self.data_collator,
            lambda counts: self._group.total(counts) if counts_together else counts,
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Return the sampler of candidates."""
        column = self._selection.source_column
        if column is None or self.args.candidate_sampling == "uniform":
            return super()._get_train_sampler(train_dataset)
        # What is passed in lacks the columns that the model does not take.
        return make_sampler(self.train_dataset, column, self.args, self._candidates_in_all)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        """Compute the plain trainer's loss, weighted where the examples of a batch are."""
        weight = inputs.pop(WEIGHT_KEY, None)
        if weight is None:
            return super().compute_loss(model, inputs, *args, **options)
        with weighted_loss(self, model, weight):
            return super().compute_loss(model, inputs, *args, **options)

    @property
    def candidates_and_kept(self) -> tuple[int, int]:
        """What a step draws in this process, n, and keeps, r; less at the end of an epoch."""
        batches: int = self.args.gradient_accumulation_steps
        size = pool_size_of(self)
        drawn = batches * size.candidates
        return drawn, size.budget(drawn, batches)

    @property
    def _candidates_in_all(self) -> int:
        """Candidates of the whole run, in all processes."""
        args = self.args
        if args.max_steps <= 0:
            return math.ceil(float(args.num_train_epochs) * len(self.train_dataset))
        batches: int = args.max_steps * args.gradient_accumulation_steps * args.world_size
        return batches * pool_size_of(self).candidates

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Log the averages of selection with those of the training step."""
        if "loss" in logs:
            self._note_training_time()
            logs.update(self._selection.metrics.drain())
        super().log(logs, *args, **options)

    def _note_training_time(self) -> None:
        """Close the interval since batches were made: forward, backward and optimiser step."""
        if self._training_since is not None:
            seconds = time.perf_counter() - self._training_since
            self._selection.metrics.measure("training_seconds", seconds)
            self._training_since = None


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
