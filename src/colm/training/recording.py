"""What a trainer writes down of its run: ``colm_run.json``, when training begins and when it ends.

A trainer that saves checkpoints does so, from the command line or from Python. What cannot be
written is a warning: it is no reason to lose what is trained.
"""

import logging
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy

from colm.coreset.mixture import SmallSources
from colm.data import SOURCE_COLUMN, source_counts
from colm.run_record import ENDED, RUNNING, STOPPED, RunRecord, read_record, write_record
from colm.training.checkpoints.model_digest import describe_adapters, plain
from colm.training.checkpoints.run_options import describe_options
from colm.training.options.memory_arguments import MemoryArguments, memory_options
from colm.training.options.selection_arguments import OPTIONS_OF_DRAWS, SelectionArguments
from colm.training.options.subspace_arguments import SubspaceArguments
from colm.training.papers import selects
from colm.training.step.keep import ExampleSelection
from colm.versions import library_versions

if TYPE_CHECKING:  # to a type checker the mixin is a trainer, as it is wherever it is used
    from transformers import Trainer as _Base
else:
    _Base = object

logger = logging.getLogger(__name__)

#: Options of selection that act where nothing is selected.
_ALWAYS = {
    "arrange",
    "candidate_ratio",
    "candidate_sampling",
    "loss_average",
    "source_clusters",
    "source_column",
    "stored_losses",
}
_SEEDS = ("seed", "data_seed")


class RecordingMixin(_Base):
    """Keeps the record of a run in its folder.

    Attributes:
        run_facts: What whoever made the trainer knows of the run: ``command``, ``model``, ``data``.
            Where it is set, the run is recorded although it saves no checkpoints.
    """

    run_facts: Mapping[str, Any] | None = None
    _selection: ExampleSelection
    # Tokens that the model was cut to, and all.
    _vocabulary_facts: Mapping[str, int] | None
    _record: RunRecord | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take what the plain trainer takes."""
        super().__init__(*arguments, **options)
        self.add_callback(_Beginning(self))

    def train(self, *args: Any, **options: Any) -> Any:
        """Train as the plain trainer does, and write down that it ended, or where it stopped."""
        self._record = None
        try:
            result = super().train(*args, **options)
        except BaseException:
            self._complete_record(STOPPED)
            raise
        self._complete_record(ENDED)
        return result

    def run_record(self) -> RunRecord:
        """Return what there is to say of the run now."""
        model = self.accelerator.unwrap_model(self.model)
        facts = dict(self.run_facts or {})
        name = {"name": str(getattr(model.config, "_name_or_path", ""))}
        record = record_of(
            self.args,
            self.train_dataset,
            self.candidates_and_kept,
            self._selection.source_column,
        )
        sizes = (("training_examples", self.train_dataset), ("held_out", self.eval_dataset))
        numbers = {key: len(data) for key, data in sizes if isinstance(data, Dataset)}
        vocabulary = {"vocabulary": plain(self._vocabulary_facts)} if self._vocabulary_facts else {}
        return replace(
            record,
            command=facts.get("command", "python"),
            step=self.state.global_step,
            model=plain(facts.get("model", name))
            | {"adapters": describe_adapters(model)}
            | vocabulary,
            data=plain(facts.get("data", {})) | numbers,
        )

    def begin_record(self) -> None:
        """Write down what is about to be trained."""
        records = self.run_facts is not None or self.args.save_strategy != SaveStrategy.NO
        if not (records and self.args.should_save):
            return
        self._record = self.run_record()
        before = read_record(Path(self.args.output_dir)) if self.state.global_step else None
        if before is not None:
            resumed = [*before.resumed, self._record.begun]
            self._record = replace(self._record, begun=before.begun, resumed=resumed)
        self._write_record()

    def _complete_record(self, state: str) -> None:
        """Write down how a run that was begun came out."""
        if self._record is None:
            return
        self._record = replace(
            self.run_record(),
            state=state,
            begun=self._record.begun,
            resumed=self._record.resumed,
            ended=_now(),
        )
        self._write_record()

    def _write_record(self) -> None:
        assert self._record is not None
        try:
            write_record(self._record, Path(self.args.output_dir))
        except OSError as error:
            logger.warning("what the run does is not written down: %s", error)


class _Beginning(TrainerCallback):
    """Tells a trainer that its first step is next: all that decides the run is settled."""

    def __init__(self, trainer: RecordingMixin) -> None:
        self._trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Begin the record."""
        self._trainer.begin_record()


def record_of(
    args: Any,
    train_dataset: Any = None,
    per_process: tuple[int, int] | None = None,
    source_column: str | None = None,
) -> RunRecord:
    """Return what options and data say of a run that begins now.

    Args:
        args: ``CoLMConfig`` of the run.
        train_dataset: What is trained on.
        per_process: Examples that a step draws in each process, and that it trains on; as many as
            the options ask for where ``None``.
        source_column: Column that names sources, where one was found.

    Returns:
        A record without a model, and with no more of the data than its sources.
    """
    if per_process is None:
        batches, size = args.gradient_accumulation_steps, args.per_device_train_batch_size
        per_process = batches * round(size * args.candidate_ratio), batches * size
    drawn, kept = (number * args.world_size for number in per_process)
    sizes = _source_sizes(train_dataset, source_column or args.source_column or SOURCE_COLUMN)
    small = SmallSources(args.small_sources, sizes).names() if selects(args) and sizes else ()
    in_subspaces = args.subspace_rank is not None
    selection, subspaces, memory = (
        [each.name for each in fields(kind)]
        for kind in (SelectionArguments, SubspaceArguments, MemoryArguments)
    )
    options = describe_options(args)
    length = {"max_steps": args.max_steps, "num_train_epochs": args.num_train_epochs}
    return RunRecord(
        command="python",
        state=RUNNING,
        step=0,
        begun=_now(),
        resumed=(),
        ended=None,
        model={},
        data={},
        sources=sizes,
        small_sources=sorted(small, key=lambda source: (-sizes.get(source, 0), source)),
        drawn=drawn,
        kept=kept if selects(args) else drawn,
        selection=_values(args, [name for name in selection if _acts(args, name)]),
        subspaces=_values(args, subspaces) if in_subspaces else {},
        memory=memory_options(args),
        options=length
        | {
            name: value
            for name, value in options.items()
            if name not in {*selection, *subspaces, *memory, *_SEEDS}
        },
        seeds=_values(args, _SEEDS),
        versions=library_versions(),
    )


def _acts(args: Any, name: str) -> bool:
    """Whether an option of selection changes what a run does."""
    if name == "stored_share":
        return args.stored_losses is not None
    if any(name in names for names in OPTIONS_OF_DRAWS.values()):
        return name in OPTIONS_OF_DRAWS.get(args.candidate_sampling, ())
    return selects(args) or name in _ALWAYS or (name == "selector" and args.candidate_ratio > 1)


def _values(args: Any, names: Any) -> dict[str, Any]:
    """The options that are set."""
    values = {name: getattr(args, name) for name in names}
    return {name: plain(value) for name, value in values.items() if value is not None}


def _source_sizes(train_dataset: Any, column: str) -> dict[str, int]:
    """Examples of each source; none where the data have no column of sources that can be read."""
    if not isinstance(train_dataset, Dataset) or column not in train_dataset.column_names:
        return {}
    try:
        return source_counts(train_dataset, column)
    except ValueError:  # plain training takes whatever a column of that name holds
        return {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
