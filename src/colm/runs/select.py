"""A dry run: what a run would keep of its first candidates, with nothing trained or written.

The trainer of ``colm sft`` goes its own way up to the micro-batches of each step and is given none
of them. So candidates are drawn, looked at and selected by the code that trains, as when it trains.
Symbols: n candidates of a step, r kept.
"""

import copy
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from colm.coreset.registry import get_selector
from colm.names import shown_name
from colm.runs.arguments import SFTArguments
from colm.runs.kept_shares import Candidate
from colm.runs.output_folder import find_checkpoint
from colm.runs.sft import build_trainer, named_refusals
from colm.training.checkpoints.manifest import choose_last, find_checkpoints
from colm.training.options.config import CoLMConfig
from colm.training.step.keep import Kept
from colm.training.step.record import PREFIX
from colm.training.trainer import CoLMSFTTrainer

logger = logging.getLogger(__name__)

# What a trainer writes, shows, sends or computes beside training.
_SILENT: Mapping[str, Any] = {
    "disable_tqdm": True,
    "enable_jit_checkpoint": False,
    "eval_on_start": False,
    "eval_strategy": IntervalStrategy.NO,
    "load_best_model_at_end": False,
    "logging_strategy": IntervalStrategy.NO,
    "push_to_hub": False,
    "report_to": [],
    "save_strategy": SaveStrategy.NO,
}


@dataclass(frozen=True)
class DryRun:
    """What a dry run saw.

    Attributes:
        candidates: those of all steps, in the order drawn.
        notes: what is worth knowing about them, a line each.
    """

    candidates: list[Candidate]
    notes: tuple[str, ...]


class DryRunTrainer(CoLMSFTTrainer):
    """Goes through the first steps of a run up to their micro-batches, and trains on none."""

    def __init__(self, *, args: CoLMConfig, **options: Any) -> None:
        """Take what the trainer of a run takes; what writes, shows or sends is turned off."""
        args = copy.copy(args)
        for name, value in _SILENT.items():
            setattr(args, name, value)
        super().__init__(args=args, **{**options, "eval_dataset": None})
        self.candidates: list[Candidate] = []
        self.kept_whole: set[str] = set()
        self._steps_left = 0

    def look_ahead(self, steps: int, checkpoint: str | None) -> None:
        """Select for the first steps of the run, and note what becomes of each candidate.

        Args:
            steps: how many; fewer where the run has no more.
            checkpoint: that the run goes on from, ``None`` where it begins.
        """
        self._steps_left = steps
        with _without_complaint():
            self.train(resume_from_checkpoint=checkpoint)

    def get_batch_samples(self, *args: Any, **options: Any) -> Any:
        """Select as in training, count the step as done, and pass on nothing to train on."""
        before = len(self.candidates)
        super().get_batch_samples(*args, **options)
        drawn = self.candidates[before:]
        if drawn:
            kept = sum(each.kept for each in drawn)
            logger.info(f"step {self.state.global_step}: {kept} of {len(drawn)} candidates kept")
            self._steps_left -= 1
            self.state.global_step += 1
        else:
            self._steps_left = 0  # the data have ended
        self.control.should_training_stop = self._is_done
        return [], None

    def _run_epoch(self, *args: Any, **options: Any) -> None:
        """Go through an epoch, after which there may be another."""
        super()._run_epoch(*args, **options)
        self.state.epoch = int(self.state.epoch or 0) + 1.0
        # An epoch that trained on nothing is the end of the data to the plain trainer.
        self.control.should_training_stop = self._is_done

    @property
    def _is_done(self) -> bool:
        return self._steps_left <= 0 or self.state.global_step >= self.state.max_steps

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Log nothing: no step was trained."""

    def _record_kept(self, kept: Kept) -> None:
        """Note all candidates of a step, where they are counted."""
        super()._record_kept(kept)
        split, table = kept.split, kept.split.table
        whole = list(kept.weights)[: kept.selection.kept_whole]
        self.kept_whole.update(table.sources[row] for row in whole)
        self.candidates += [
            Candidate(
                step=split.step,
                source=table.sources[row],
                key=f"{int(table.keys[row]):016x}",
                label_tokens=int(table.label_tokens[row]),
                kept=row in kept.weights,
                weight=kept.weights.get(row, 0.0),
                text=self.processing_class.decode(example["input_ids"]),
            )
            for row, example in zip(table.own, split.own, strict=True)
        ]


def nothing_to_select(training: CoLMConfig) -> str | None:
    """Return why a run selects nothing, in a line; ``None`` where it does.

    Args:
        training: the options.
    """
    if training.candidate_ratio == 1:
        return "candidate_ratio=1 turns selection off: what is drawn is trained on."
    if get_selector(training.selector).keeps_all:
        return f"selector={training.selector!r} keeps every candidate."
    return None


def make_dry_run(arguments: SFTArguments, steps: int) -> DryRun:
    """Select for the first steps of a run, with its model as it is before them.

    Costs what selection costs in training; nothing is trained, and nothing is left on the disk.

    Args:
        arguments: the options of the run.
        steps: optimiser steps, at least 1.

    Returns:
        What would be kept. That of the first step is what the run keeps; later ones would see a
        model that has been trained.

    Raises:
        FileNotFoundError: a local file is not there.
        ValueError: something the options ask for cannot be.
    """
    checkpoint = _checkpoint(arguments.training)
    with tempfile.TemporaryDirectory() as folder:
        training = copy.copy(arguments.training)
        training.output_dir = folder
        trainer = build_trainer(arguments._replace(training=training), DryRunTrainer)
        with named_refusals(arguments, trainer.processing_class):
            trainer.look_ahead(steps, checkpoint)
    if not trainer.candidates:
        raise ValueError("there is no step to select for: the run has ended, or has no data")
    return DryRun(trainer.candidates, _notes(trainer, steps))


def _checkpoint(training: CoLMConfig) -> str | None:
    """What the run goes on from. Where it goes on from nothing, its folder may hold another run."""
    folder, asked = training.output_dir, training.resume_from_checkpoint
    if asked is None:
        return None
    found = find_checkpoint(folder, asked)
    if found is not True:
        return str(found) if found else None
    last, note = choose_last(folder, find_checkpoints(folder))
    if note is not None:
        logger.warning(note)
    return None if last is None else str(last)


def _notes(trainer: DryRunTrainer, asked: int) -> tuple[str, ...]:
    """What a table does not tell."""
    args, metrics = trainer.args, trainer._selection_metrics.drain()
    first, last = trainer.candidates[0].step, trainer.candidates[-1].step
    steps = last - first + 1
    drawn, kept = trainer.candidates_and_kept
    fewer = f", all that the run has of {asked} asked for" if steps < asked else ""
    notes = [
        f"selector {args.selector}: r = {kept} kept of n = {drawn} drawn at a step",
        f"steps {first} to {last}{fewer}" if steps > 1 else f"step {first}{fewer}",
    ]
    if trainer.kept_whole:
        notes.append(
            f"small sources kept whole: {', '.join(map(shown_name, sorted(trainer.kept_whole)))}"
        )
    for name, scale in (("matching_error", ""), ("match_error", " in all trained parameters")):
        if (value := metrics.get(f"{PREFIX}{name}")) is not None:
            measure = f"mean {name.replace('_', ' ')}{scale} {value:.3f}"
            notes.append(f"{measure}: 1 is as good as a random choice, 0 is perfect")
    for name, what in (
        ("without_label_tokens", "without label tokens"),
        ("non_finite", "without a finite loss and gradient"),
    ):
        if number := round(metrics.get(f"{PREFIX}{name}", 0) * steps):
            notes.append(f"{number} candidates {what} were passed over")
    if steps > 1 and trainer._selection.selector.needs:
        notes.append(
            f"step {first} is what the run keeps; later ones are what it would keep if its weights "
            "stayed as they are now"
        )
    return tuple(notes)


@contextmanager
def _without_complaint() -> Iterator[None]:
    """Let the plain trainer not warn that epochs without training have no data."""
    plain = logging.getLogger("transformers.trainer")

    def is_other(record: logging.LogRecord) -> bool:
        return "not to be a single sample" not in record.getMessage()

    plain.addFilter(is_other)
    try:
        yield
    finally:
        plain.removeFilter(is_other)
