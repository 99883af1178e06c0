"""What a trainer that selects adds to saving a checkpoint and to resuming from one."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy

from colm.durable import naming_what_is_written
from colm.training import clusters
from colm.training.checkpoints import manifest
from colm.training.checkpoints.folder_lock import holding
from colm.training.checkpoints.identity import (
    Identity,
    describe_run,
    find_difference,
    load_identity,
    save_identity,
)
from colm.training.checkpoints.loading import check_groups, fitting, options_of_groups
from colm.training.checkpoints.selector_state import (
    SELECTOR_FILE,
    gather_states,
    load_state,
    resume_settings,
    save_state,
)
from colm.training.processes.exchange import Exchange
from colm.training.step.keep import ExampleSelection

if TYPE_CHECKING:  # to a type checker the mixin is a trainer, as it is wherever it is used
    from transformers import Trainer as _Base
else:
    _Base = object

logger = logging.getLogger(__name__)


class ResumingMixin(_Base):
    """Saving and loading of what selection needs beyond the model, the optimiser and the data.

    A checkpoint counts once its manifest is there, which comes last; older ones are deleted only
    after that.
    """

    _selects: bool
    _selection: ExampleSelection
    _clusters: Tensor | None
    _group: Exchange
    _deletes_later = False
    _resumes_from: str | None = None
    _identity: Identity | None = None
    _given_optimizer: str | None = None
    # Whether all processes have said if they find what is written.
    _all_were_asked = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take what the plain trainer takes."""
        super().__init__(*arguments, **options)
        given = self.optimizer or (self.optimizer_cls_and_kwargs or (None,))[0]
        if given is not None:
            self._given_optimizer = getattr(given, "__name__", type(given).__name__)

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **options: Any) -> Any:
        """Train as the plain trainer does, resuming from nothing but a complete checkpoint.

        Raises:
            ValueError: there is no complete checkpoint, or the one that is named is not complete,
                or it belongs to another run, or another run writes to the folder.
        """
        saves = self.args.save_strategy != SaveStrategy.NO
        with self._holding_the_folder(saves):
            checkpoint = None
            if resume_from_checkpoint is True:
                checkpoint = self._last_checkpoint()
            elif resume_from_checkpoint not in (None, False):
                checkpoint = str(resume_from_checkpoint)
                self._check_checkpoint(Path(checkpoint))
            self._identity = None
            if saves or checkpoint is not None:
                self._identity = self._settle_identity(checkpoint)
            self._resumes_from = checkpoint
            return super().train(checkpoint, *args, **options)

    @contextmanager
    def _holding_the_folder(self, saves: bool) -> Iterator[None]:
        """Keep other runs out of the output folder, or end on every process where one is in it."""
        lock, problem = holding(self.args.output_dir, saves and self.args.should_save), ""
        try:
            lock.__enter__()
        except (ValueError, OSError) as error:
            if self._group.num_processes == 1:
                raise
            problem = str(error)
        if saves:
            for found in self._group.names([problem]):
                if found:
                    raise ValueError(found)
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

    def _settle_identity(self, checkpoint: str | None) -> Identity:
        """Return what decides this run, the same on every process.

        Raises:
            ValueError: the checkpoint belongs to a run that something else decided.
        """
        own, problem = {}, None
        if self._group.process_index == 0:
            try:
                own = describe_run(self, self._given_optimizer)
                if checkpoint is not None:
                    own = self._as_before(own, Path(checkpoint))
            except ValueError as error:
                if self._group.num_processes == 1:
                    raise
                problem = str(error)
        first = self._group.names([json.dumps([own, problem])])[0]
        identity, problem = json.loads(first)
        if problem is not None:
            raise ValueError(problem)
        return dict(identity)

    def _as_before(self, own: Identity, checkpoint: Path) -> Identity:
        """Hold a run against the one that wrote a checkpoint, and take over what only that knew."""
        written = load_identity(checkpoint)
        if written is None:
            logger.warning(
                "%s does not say which data, model and options it was written with, so only those "
                "of the selection are compared: see that the others are the same",
                checkpoint,
            )
            return own
        difference = find_difference(written, own, checkpoint)
        if difference is not None and difference.matters:
            raise ValueError(difference.text)
        if difference is not None:
            logger.warning(difference.text)
        return own | {"weights": written.get("weights") or own["weights"]}

    def _last_checkpoint(self) -> str | None:
        """Return the newest checkpoint in the output folder that is complete on every process.

        None where a run was killed before it had any: there is nothing to go on from, nor to lose.
        """
        found = manifest.find_checkpoints(self.args.output_dir)
        # Machines may have folders of their own, and one may have been killed before another.
        own = json.dumps([path.name for path in found.complete])
        everyones = list(map(json.loads, self._group.names([own])))
        if not any(everyones):
            self._begin_anew(found)
            return None
        everywhere = set.intersection(*map(set, everyones))
        for path in [path for path in found.complete if path.name not in everywhere]:
            found.complete.remove(path)
            found.problems[path] = "is not complete on another machine"
        last, note = manifest.choose_last(self.args.output_dir, found)
        if note is not None and self._group.process_index == 0:
            logger.warning(note)
        return str(last)

    def _begin_anew(self, found: manifest.Found) -> None:
        """Say that a run starts from the beginning, unless a checkpoint is there but damaged."""
        note = problem = None
        try:
            _, note = manifest.choose_last(self.args.output_dir, found)
        except ValueError as error:
            problem = str(error)
        own = json.dumps([note, problem, not found.problems])
        told = list(map(json.loads, self._group.names([own])))
        notes = [note for note, _, _ in told if note]
        for _, problem, is_empty in told:
            # A machine whose folder is empty goes along with one that was killed a little later.
            if problem and not (is_empty and notes):
                raise ValueError(problem)
        if self._group.process_index == 0:
            logger.warning(notes[0])

    def _check_checkpoint(self, checkpoint: Path) -> None:
        """Refuse a checkpoint that is not complete, on every process where it is not on one."""
        problem = manifest.problem_of_named(checkpoint, by_others=not self._selects)
        own = json.dumps([checkpoint.name, problem])
        for name, found in map(json.loads, self._group.names([own])):
            if found is not None:
                raise ValueError(f"resume_from_checkpoint: {checkpoint} {found}")
            if name != checkpoint.name:
                raise ValueError(
                    f"resume_from_checkpoint: {checkpoint} here, but {name} in another process"
                )

    def _run_epoch(self, *args: Any, **options: Any) -> None:
        """Train for an epoch, or not at all where the checkpoint was the last of its run."""
        if self.state.global_step >= self.state.max_steps:
            # The plain trainer would train one step more than it was asked to.
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **options)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint, then its manifest, then delete those that it replaces.

        Raises:
            OSError: it cannot be written; those before it are untouched.
        """
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        checkpoint = Path(self._get_output_dir(trial=trial)) / name
        limit, self._deletes_later = self.args.save_total_limit, True
        if self._identity is None:
            self._identity = self._settle_identity(None)
        try:
            with naming_what_is_written(
                checkpoint,
                "It is not complete; those before it are untouched: make room, then "
                "resume_from_checkpoint=True goes on.",
                is_done=(checkpoint / manifest.MANIFEST_FILE).is_file,
            ):
                if self.args.should_save:
                    manifest.make_way(checkpoint)
                    save_identity(checkpoint, self._identity)
                self.accelerator.wait_for_everyone()
                super()._save_checkpoint(model, trial)
                self._complete(checkpoint)
            self._see_that_all_have(checkpoint)
        finally:
            self.args.save_total_limit, self._deletes_later = limit, False
        if self.args.should_save:
            manifest.rotate(checkpoint, limit, self.state.best_model_checkpoint)

    def save_model(self, *args: Any, **options: Any) -> None:
        """Save the model; where a checkpoint begins with it, nothing is deleted before its end."""
        super().save_model(*args, **options)
        if self._deletes_later:
            # The plain trainer would delete before the other processes have written their parts.
            # Not earlier: the arguments saved with the model are those that were given.
            self.args.save_total_limit = None

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push a checkpoint that is complete, to where the plain trainer pushes it."""
        self._complete(Path(checkpoint_folder))
        super()._push_from_checkpoint(checkpoint_folder)

    def _complete(self, checkpoint: Path) -> None:
        """Write the manifest of a checkpoint once every process has written its part."""
        self.accelerator.wait_for_everyone()
        if self.args.should_save and not (checkpoint / manifest.MANIFEST_FILE).is_file():
            manifest.write_manifest(checkpoint)

    def _see_that_all_have(self, checkpoint: Path) -> None:
        """Warn, once, where machines have folders of their own and one writes for all."""
        if self._all_were_asked or self.args.save_only_model:
            return
        self._all_were_asked = True
        # Written by one before the others write here, and looked for only now.
        has = (checkpoint / manifest.IDENTITY_FILE).is_file()
        answers = self._group.names(["has" if has else "lacks"])
        if "lacks" in answers and self._group.process_index == 0:
            logger.warning(
                "%s cannot be resumed from: %d of %d processes do not find there what the first "
                "one wrote. Let output_dir be on a drive that all machines share, or set "
                "save_on_each_node",
                checkpoint,
                answers.count("lacks"),
                len(answers),
            )

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save the selector's state where the optimiser's is saved, in the same checkpoint."""
        super()._save_optimizer_and_scheduler(output_dir)
        of_draws = self._draw_state()
        if not self._selects and self._clusters is None and not of_draws:
            return
        # Those that select together, or not at all, have one state.
        is_shared = self.args.selection_scope == "global" or not self._selects
        group = Exchange() if is_shared else self._group
        state = gather_states(self._selection.selector.state_dict(), group)
        state |= of_draws
        if self._clusters is not None:
            state[clusters.STATE_KEY] = self._clusters
        if self.args.should_save:
            save_state(Path(output_dir) / SELECTOR_FILE, state, resume_settings(self.args))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load the weights; those of a model of another kind are one line."""
        with fitting(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load the selector's state when the optimiser's is loaded."""
        before = options_of_groups(self.optimizer)
        with fitting(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
            check_groups(self.optimizer, before)
        if checkpoint is None:
            return
        path = Path(checkpoint) / SELECTOR_FILE
        if self._selects or path.is_file():
            state = load_state(path, resume_settings(self.args), self.args.process_index)
            self._selection.selector.load_state_dict(state)
            self._load_draw_state(state)

    def _draw_state(self) -> dict[str, Tensor]:
        """Return what draws go by, beside options and seed."""
        return {}

    def _load_draw_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `_draw_state` returned."""
