"""What a trainer that selects adds to saving a checkpoint and to resuming from one."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import disk_usage
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from colm.training import clusters, manifest
from colm.training.checkpoint import (
    FILE_NAME,
    gather_states,
    load_state,
    resume_settings,
    save_state,
)
from colm.training.exchange import Exchange
from colm.training.selection import ExampleSelection

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

    def _use_clusters(self, checkpoint: Any) -> None:
        """Make clusters the sources: those of the checkpoint, or else those found now."""
        raise NotImplementedError

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **options: Any) -> Any:
        """Train as the plain trainer does, resuming from nothing but a complete checkpoint.

        Where clusters serve as sources, they are found first.

        Raises:
            ValueError: there is no complete checkpoint, or the one that is named is not complete,
                or it belongs to a run of another kind.
        """
        checkpoint = None
        if resume_from_checkpoint is True:
            checkpoint = self._last_checkpoint()
        elif resume_from_checkpoint not in (None, False):
            checkpoint = str(resume_from_checkpoint)
            self._check_checkpoint(Path(checkpoint))
        if self.args.source_clusters is not None:
            self._use_clusters(checkpoint)
        return super().train(checkpoint, *args, **options)

    def _last_checkpoint(self) -> str:
        """Return the newest checkpoint in the output folder that is complete on every process."""
        found = manifest.find_checkpoints(self.args.output_dir)
        # Machines may have folders of their own, and one may have been killed before another.
        own = json.dumps([path.name for path in found.complete])
        everywhere = set.intersection(*map(set, map(json.loads, self._group.names([own]))))
        for path in [path for path in found.complete if path.name not in everywhere]:
            found.complete.remove(path)
            found.problems[path] = "is not complete on another machine"
        last, note = manifest.choose_last(self.args.output_dir, found)
        if note is not None and self._group.process_index == 0:
            logger.warning(note)
        return str(last)

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
        try:
            with _naming_the_folder(checkpoint):
                if self.args.should_save:
                    manifest.remove_manifest(checkpoint)
                self.accelerator.wait_for_everyone()
                super()._save_checkpoint(model, trial)
                self._complete(checkpoint)
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
        if self.args.should_save and not (checkpoint / manifest.FILE_NAME).is_file():
            manifest.write_manifest(checkpoint)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save the selector's state where the optimiser's is saved, in the same checkpoint."""
        super()._save_optimizer_and_scheduler(output_dir)
        if not self._selects and self._clusters is None:
            return
        # Those that select together have one state.
        group = Exchange() if self.args.selection_scope == "global" else self._group
        state = gather_states(self._selection.selector.state_dict(), group)
        if self._clusters is not None:
            state[clusters.STATE_KEY] = self._clusters
        if self.args.should_save:
            save_state(Path(output_dir) / FILE_NAME, state, resume_settings(self.args))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load the selector's state when the optimiser's is loaded."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        path = Path(checkpoint) / FILE_NAME
        if self._selects or path.is_file():
            state = load_state(path, resume_settings(self.args), self.args.process_index)
            self._selection.selector.load_state_dict(state)


@contextmanager
def _naming_the_folder(checkpoint: Path) -> Iterator[None]:
    """Turn what the libraries say when a disk is full into one line with the folder."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        written = (checkpoint / manifest.FILE_NAME).is_file()
        # ``torch.save`` knows no other error than this one.
        other = isinstance(error, RuntimeError) and "inline_container" not in str(error)
        if written or other:
            raise
        free = disk_usage(_existing(checkpoint)).free // 10**6
        reason = " ".join(str(error).split())
        raise OSError(
            f"cannot write {checkpoint}: {reason} ({free} MB are free there). It is not complete; "
            "those before it are untouched: make room, then resume_from_checkpoint=True goes on."
        ) from error


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.is_dir())
