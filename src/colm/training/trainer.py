"""``CoLMTrainer`` and ``CoLMSFTTrainer``: the plain trainers, drawing large and training small.

Two overrides do it and no training loop is forked: the data loader hands out pools of raw
candidates ``candidate_ratio`` times as large, and ``get_batch_samples`` selects among them,
collates what is kept into as many micro-batches as were drawn, and lets the plain trainer go on
from there. Symbols: n candidates, r kept.
"""

import time
from collections.abc import Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from trl import SFTTrainer

from colm.coreset.selector import CoresetSelector
from colm.data import source_counts
from colm.training.checkpoint import load_state, save_state, state_file
from colm.training.config import CoLMConfig, CoLMTrainingArguments, SelectionArguments
from colm.training.limits import (
    check_arguments,
    check_examples,
    check_parallelism,
    check_small_sources,
    report_unlabelled,
    resolve_source_column,
)
from colm.training.pool import Pool, even_parts, without_labels
from colm.training.selection import ExampleSelection, ModelAccess

if TYPE_CHECKING:  # to a type checker the mixin is a trainer, as it is wherever it is used
    from transformers import Trainer as _Base
else:
    _Base = object


class CoresetTrainerMixin(_Base):
    """Selection for any trainer of ``transformers``; placed before it in the bases of a class."""

    data_collator: Any
    _signature_columns: Any
    _arguments_class: type[SelectionArguments]

    def __init__(self, model: Any = None, args: Any = None, *rest: Any, **options: Any) -> None:
        """Take what the plain trainer takes; ``args`` may be its own configuration, too.

        Raises:
            ValueError: an option, a data set or a way of training that selection cannot work with.
        """
        args = _with_selection_arguments(args, self._arguments_class)
        self._selects = args.candidate_ratio > 1
        train_dataset = options.get("train_dataset", rest[1] if len(rest) > 1 else None)
        if self._selects:
            check_arguments(args)
        source_column = None
        if not getattr(args, "packing", False):  # packing leaves no sources to tell apart
            source_column = resolve_source_column(args.source_column, train_dataset)
        sizes = _source_sizes(train_dataset, source_column)
        check_small_sources(args.small_sources, sizes)
        super().__init__(model, args, *rest, **options)
        report_unlabelled("training", train_dataset, self.train_dataset, self.args)
        self._training_since: float | None = None
        if self._selects:
            check_parallelism(self.accelerator, args)
            check_examples(self.train_dataset)
        self._selection = self._build_selection(source_column, sizes)

    def _build_selection(
        self, source_column: str | None, sizes: dict[str, int] | None
    ) -> ExampleSelection:
        """Put selector, model and collator together."""
        args = self.args
        config = self.model.config.get_text_config(decoder=True)
        selector = CoresetSelector(
            args.selector,
            distance=args.distance,
            allocation=args.allocation,
            normalisation=args.normalisation,
            kept_dimensions=args.kept_dimensions or config.hidden_size,
            dimension_criterion=args.dimension_criterion,
            small_sources=args.small_sources,
            source_sizes=sizes,
            # Each process draws its own when it selects among its own candidates.
            seed=args.seed + 1_000_003 * args.process_index,
        )
        access = ModelAccess(
            model=lambda: self.accelerator.unwrap_model(self.model_wrapped),
            # Looked up at each call: the data loader swaps the collator, users may replace it.
            collate=lambda examples: self.data_collator(examples),  # noqa: PLW0108
            prepare=lambda batch: self._prepare_inputs(dict(batch)),
            autocast=self.accelerator.autocast,
        )
        return ExampleSelection(args, access, selector, source_column, args.seed)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return a loader of pools of raw candidates, ``candidate_ratio`` times as large."""
        if not self._selects:
            plain: DataLoader[Any] = super().get_train_dataloader()
            return plain
        self._set_signature_columns_if_needed()
        collator, columns = self.data_collator, self._signature_columns
        source_column = self._selection.source_column
        self.data_collator = Pool
        self._signature_columns = [*columns, *([source_column] if source_column else [])]
        try:
            loader: DataLoader[Any] = self._get_dataloader(
                dataset=self.train_dataset,
                description="Training",
                batch_size=self._candidates_per_batch,
                sampler_fn=self._get_train_sampler,
                is_training=True,
            )
        finally:
            self.data_collator, self._signature_columns = collator, columns
        return loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, *args: Any, **options: Any
    ) -> Any:
        """Draw pools, select among their examples, pass on as many micro-batches as were drawn."""
        parent = super().get_batch_samples
        if not self._selects:
            return parent(epoch_iterator, num_batches, *args, **options)
        self._note_training_time()
        pools = list(islice(epoch_iterator, num_batches))
        started = time.perf_counter()
        micro_batches = self._micro_batches(pools) if pools else []
        self._training_since = time.perf_counter()
        self._selection.metrics.measure("selection_seconds", self._training_since - started)
        return parent(iter(micro_batches), num_batches, *args, **options)

    def _micro_batches(self, pools: list[Pool]) -> list[Any]:
        """Collate what is kept of ``pools`` into one micro-batch each."""
        examples = [example for pool in pools for example in pool]
        # The last pools of an epoch are smaller; each micro-batch still needs an example.
        share = self._train_batch_size / self._candidates_per_batch
        budget = max(len(pools), round(len(examples) * share))
        kept = self._selection.keep(examples, budget, self.state.global_step)
        while len(kept) < len(pools):
            kept.append(without_labels(kept[0]))
        return [self.data_collator(part) for part in even_parts(kept, len(pools))]

    @property
    def _candidates_per_batch(self) -> int:
        """Candidates drawn for a micro-batch."""
        batch_size: int = self._train_batch_size
        return round(batch_size * float(self.args.candidate_ratio))

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Log the averages of selection with those of the training step."""
        if "loss" in logs:
            self._note_training_time()
            logs.update(self._selection.metrics.drain())
        super().log(logs, *args, **options)

    def _note_training_time(self) -> None:
        """Close the interval since the last selection: forward, backward and optimiser step."""
        if self._training_since is not None:
            seconds = time.perf_counter() - self._training_since
            self._selection.metrics.measure("training_seconds", seconds)
            self._training_since = None

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save the selector's state where the optimiser's is saved, in the same checkpoint."""
        super()._save_optimizer_and_scheduler(output_dir)
        if self._selects:
            state = self._selection.selector.state_dict()
            save_state(self._state_file(output_dir), state, self._resume_settings())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load the selector's state when the optimiser's is loaded."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        path = self._state_file(checkpoint)
        if self._selects or path.is_file():
            self._selection.selector.load_state_dict(load_state(path, self._resume_settings()))

    def _state_file(self, folder: str) -> Path:
        return state_file(folder, self.args.process_index, self.args.world_size)

    def _resume_settings(self) -> dict[str, str | int | float | None]:
        """Return what decides which candidates are drawn and how they are seen."""
        names = (
            "candidate_ratio",
            "selector",
            "gradient",
            "normalisation",
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "seed",
        )
        return {name: getattr(self.args, name) for name in names}


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
    _name = "CoLM"
    _paper: ClassVar = {
        "title": "Mini-batch Coresets for Memory-efficient Language Model Training on Data "
        "Mixtures",
        "id": "2407.19580",
        "citation": (
            "@inproceedings{nguyen2025colm,\n"
            "    title = {Mini-batch Coresets for Memory-efficient Language Model Training on Data "
            "Mixtures},\n"
            "    author = {Dang Nguyen and Wenhan Yang and Rathul Anand and Yu Yang and Baharan "
            "Mirzasoleiman},\n"
            "    booktitle = {International Conference on Learning Representations},\n"
            "    year = 2025\n"
            "}"
        ),
    }


def _with_selection_arguments(
    args: Any, arguments_class: type[SelectionArguments]
) -> SelectionArguments:
    """Add the defaults of selection to a plain configuration, as TRL adds its own."""
    if isinstance(args, SelectionArguments):
        return args
    if args is None:
        return arguments_class()
    if not isinstance(args, TrainingArguments):
        raise ValueError(f"args must be a {arguments_class.__name__}; got {type(args).__name__}.")
    known = {field.name for field in fields(arguments_class)}
    given = {field.name: getattr(args, field.name) for field in fields(args) if field.init}
    return arguments_class(**{name: value for name, value in given.items() if name in known})


def _source_sizes(dataset: Any, source_column: str | None) -> dict[str, int] | None:
    """Count the examples of each source; ``None`` where the data set cannot be counted."""
    if source_column is None or not isinstance(dataset, Dataset):
        return None
    return source_counts(dataset, source_column)
