"""One arm of a comparison in a process of its own, which trains when it is its turn.

``python -m colm.runs.arm_process`` reads its job and then, turn by turn, until when to train, as
lines of JSON on its input; it writes what it measured as lines of JSON on its output. Between turns
it holds its model and waits. Where its input ends, whoever started it is gone, and so is it.

Only training counts as time: neither loading, nor checkpoints, nor measuring. The learning rate is
constant after the recipe's warm-up, so that what is measured at any time stands for a run of that
length; sources are drawn as in a run of the recipe's length.
"""

import hashlib
import json
import math
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, set_seed

from colm.coreset.mixture import small_sources
from colm.data import SOURCE_COLUMN, source_counts, source_of
from colm.evaluation.held_out import held_out_loss
from colm.names import one_line
from colm.run_record import RunRecord
from colm.runs.arguments import SFTArguments, parse_arguments
from colm.runs.arms import option_words
from colm.runs.players import Told
from colm.runs.sft import build_trainer, named_refusals, run_facts
from colm.runs.step_lines import say_log
from colm.runs.training_data import HeldOut, load_examples
from colm.training.step.draw import candidates_in_all, candidates_of_step
from colm.training.trainer import CoLMSFTTrainer

Hear = Callable[[], Told]
Tell = Callable[[Told], None]

#: What a run is told to be as long as: it ends when it is told to.
ENDLESS = 10**9
#: Folder of the trained model in that of the arm, where it is kept.
MODEL_FOLDER = "model"
_OWN_OPTIONS = {
    "lr_scheduler_type": "constant_with_warmup",
    "eval_strategy": "no",
    "eval_on_start": False,
    "eval_packing": False,
    "load_best_model_at_end": False,
    "logging_strategy": "steps",
    "save_strategy": "steps",
    "save_steps": ENDLESS,
    # The one before stays until the next is known to whoever tells the turns.
    "save_total_limit": 2,
    "save_only_model": False,
    "push_to_hub": False,
    "report_to": "none",
    "disable_tqdm": True,
}
_GONE = 3


class EndlessTrainer(CoLMSFTTrainer):
    """Trains until it is stopped, on draws of a run of the recipe's length."""

    def go_on_without_end(self) -> None:
        """Let no number of steps end the run; what depends on it stays as in the recipe's run."""
        args = self.args
        self.planned_candidates = draws = candidates_in_all(self)
        if 0 < args.warmup_steps < 1:
            args.warmup_steps = math.ceil(args.warmup_steps * draws / candidates_of_step(self))
        args.max_steps = ENDLESS

    def run_record(self) -> RunRecord:
        """Return what there is to say of the run; how long it was to be is no number of steps."""
        record = super().run_record()
        options = {name: v for name, v in record.options.items() if name != "max_steps"}
        return replace(record, options=options)


class TurnTaking(TrainerCallback):
    """Trains until its turn ends, saves a checkpoint, tells what it measured, and waits.

    Args:
        measure: Returns what is to be told of the model as it is.
        hear: Returns what is to be done next, when it is there.
        tell: Takes what was measured.
        used: Seconds that a run which goes on has trained for.
        until: Seconds at which the first turn ends, those used included.
        clock: Returns seconds.
    """

    def __init__(
        self,
        measure: Callable[[], Told],
        hear: Hear,
        tell: Tell,
        used: float,
        until: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._measure, self._hear, self._tell = measure, hear, tell
        self._used, self._until, self._clock = used, until, clock
        self._since: float | None = None
        self.last: Told | None = None

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock; what it took to come so far is not training."""
        if self._since is None:
            self._since = self._clock()

    def on_step_end(
        self, _args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Stop the clock where the turn is over, and ask for a checkpoint."""
        if self._passed() >= self._until:
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
            self._used, self._since = self._passed(), None
            control.should_save = control.should_log = True
            # A checkpoint is of a run of its length: it may be the last.
            state.max_steps = state.global_step
        return control

    def on_save(
        self, _args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Tell what the turn came to, and wait for the next."""
        state.max_steps = ENDLESS
        self._tell(
            {
                "event": "measured",
                "step": state.global_step,
                "seconds": self._used,
                "checkpoint": f"checkpoint-{state.global_step}",
                **self._measure(),
            }
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # for the arms whose turns come now
        message = self._hear()
        if message["do"] == "train":
            self._until, self._since = message["until"], self._clock()
        else:
            self.last = message
            control.should_training_stop = True
        return control

    def _passed(self) -> float:
        return self._used + (0.0 if self._since is None else self._clock() - self._since)


def take_turns(
    job: Told, hear: Hear, tell: Tell, clock: Callable[[], float] = time.perf_counter
) -> None:
    """Build an arm, and train, measure and save it as it is told to.

    Args:
        job: ``words`` of the recipe and the arm as for ``colm sft``, ``folder`` to write to,
            ``seed`` of the run, ``held_out`` examples of each source and the seed of the ``split``,
            ``halves``: whether half of them only chooses a learning rate, and ``checkpoint`` and
            ``seconds`` of a run that goes on.
        hear: Returns what is to be done next: ``measure``, ``train`` until so many seconds, or
            ``finish``, and whether to keep the model.
        tell: Takes what came of it.
        clock: Returns seconds.

    Raises:
        ValueError: Something the options ask for cannot be, or the data ended before the time.
        FileNotFoundError: A local file is not there.
    """
    trainer, arguments, sizes = _build(job)
    rows = _held_out_rows(trainer, arguments.training.source_column or SOURCE_COLUMN)
    small = sorted(small_sources(sizes), key=lambda source: (-sizes[source], source))
    digest = hashlib.sha256(json.dumps([sizes, rows], sort_keys=True).encode()).hexdigest()
    tell({"event": "ready", "sizes": sizes, "small": small, "digest": digest, "held": len(rows)})
    measure = partial(_measured, trainer, rows, sizes, small, job["halves"])
    message = hear()
    while message["do"] == "measure":
        tell({"event": "measured", "step": 0, "seconds": 0.0, "checkpoint": None, **measure()})
        message = hear()
    if message["do"] == "train":
        turns = TurnTaking(measure, hear, tell, job["seconds"], message["until"], clock)
        trainer.add_callback(turns)
        name = job["checkpoint"]
        # A chat template may refuse a record of a stream on the way.
        with named_refusals(arguments, trainer.processing_class):
            trainer.train(resume_from_checkpoint=name and str(Path(job["folder"]) / name))
        if turns.last is None:
            raise ValueError(
                f"the data ended after step {trainer.state.global_step}, before the time did"
            )
        message = turns.last
    elif job["checkpoint"] and message["keep"]:  # all turns had been taken before
        trainer._load_from_checkpoint(str(Path(job["folder"]) / job["checkpoint"]))
    if message["keep"]:
        trainer.save_model(str(Path(job["folder"]) / MODEL_FOLDER))
    tell({"event": "finished"})


def _build(job: Told) -> tuple[EndlessTrainer, SFTArguments, dict[str, int]]:
    """The trainer of an arm, its options, and the training examples of each source."""
    own = {**_OWN_OPTIONS, "output_dir": job["folder"], "seed": job["seed"]}
    arguments = parse_arguments([*job["words"], *option_words(own)])
    # None cannot be said on a command line.
    arguments.training.resume_from_checkpoint = None
    arguments.training.lr_scheduler_kwargs = None
    held_out, sizes = HeldOut(job["held_out"], job["split"]), {}

    def load(arguments: SFTArguments, conversational: bool) -> Any:
        examples = load_examples(arguments, conversational, held_out=held_out)
        column = arguments.training.source_column or SOURCE_COLUMN
        if hasattr(examples.train, "__len__"):
            sizes.update(source_counts(examples.train, column))
        return examples

    set_seed(job["seed"])
    trainer = build_trainer(arguments, EndlessTrainer, load)
    say_log(trainer, _say_to_log, has_end=False)
    trainer.run_facts = run_facts(arguments, "colm compare")
    trainer.go_on_without_end()
    return trainer, arguments, sizes


def _say_to_log(line: str, kept: bool = True) -> None:
    """Write a line where the process's notes go, at once: who looks wants to see how it stands."""
    if kept:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _held_out_rows(trainer: Any, column: str) -> list[dict[str, Any]]:
    """Tokens, labels and source of each held-out example, as the trainer collates it."""
    trainer._set_signature_columns_if_needed()
    taken = set(trainer._signature_columns)
    rows = []
    for example in trainer.eval_dataset:
        batch = trainer.data_collator([{k: v for k, v in example.items() if k in taken}])
        source = source_of(example[column], column) if column in example else ""
        rows.append(
            {
                "input_ids": batch["input_ids"][0].tolist(),
                "labels": batch["labels"][0].tolist(),
                "source": source,
            }
        )
    return rows


def _measured(
    trainer: Any,
    rows: Sequence[Mapping[str, Any]],
    sizes: Mapping[str, int],
    small: Sequence[str],
    halves: bool,
) -> dict[str, Any]:
    """Losses of the model as it is; with halves, those of one choose and the other's are told."""
    known = sizes if {row["source"] for row in rows} <= set(sizes) else None
    chooses = set(_every_other(rows)) if halves else set()
    told = [row for place, row in enumerate(rows) if place not in chooses]
    loss = held_out_loss(trainer.model, told, source_sizes=known, small_sources=small)
    choice = None
    if chooses:
        choice = held_out_loss(trainer.model, [rows[place] for place in sorted(chooses)]).macro
    scores = {
        "macro": loss.macro,
        "micro": loss.micro,
        "small_sources": loss.small_sources,
        "loss_by_source": loss.by_source,
    }
    return {"scores": scores, "choice": choice}


def _every_other(rows: Sequence[Mapping[str, Any]]) -> Iterator[int]:
    """Places of every second example of each source."""
    seen: dict[str, int] = {}
    for place, row in enumerate(rows):
        seen[row["source"]] = number = seen.get(row["source"], 0) + 1
        if number % 2 == 0:
            yield place


def describe_failure(error: BaseException) -> str:
    """Return in a line what ended an arm.

    Args:
        error: That was raised.

    Example:
        >>> describe_failure(ValueError("no such option")), describe_failure(KeyError("a"))
        ('no such option', "KeyError: 'a'")
    """
    plain = isinstance(error, ValueError | OSError | FloatingPointError)
    return one_line(str(error) if plain else f"{type(error).__name__}: {error}")


def main() -> int:
    """Take turns with whoever started this process, and return its exit code."""
    # What libraries print must not come between the lines.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    messages: queue.SimpleQueue[Told] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin, messages), daemon=True).start()

    def tell(message: Told) -> None:
        print(json.dumps(message), file=output, flush=True)

    try:
        take_turns(messages.get(), messages.get, tell)
    except BaseException as error:
        traceback.print_exc()
        tell({"event": "failed", "message": describe_failure(error)})
        return 1
    return 0


def _listen(lines: IO[str], messages: "queue.SimpleQueue[Told]") -> None:
    """Pass on messages as they come; leave at once where there will be no more."""
    for line in lines:
        messages.put(json.loads(line))
    os._exit(_GONE)


if __name__ == "__main__":
    sys.exit(main())
