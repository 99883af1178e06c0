"""A long run with random faults: memory stays flat, no hook and no file handle is left behind.

A tiny random model is trained on random token sequences of changing lengths, some of them without
labels, some with a token whose embedding is not finite. As it runs, memory runs out in looks at
candidates, errors end training in the middle of one, and training is stopped and resumed from its
checkpoints, by the same trainer or by a new one; the seed decides when. Every so many steps what
the process holds is noted:

- ``rss_bytes``: resident memory;
- ``objects``: what Python's garbage collector knows of, after a collection;
- ``hooks``: on all modules of the model;
- ``files``: open file handles; ``threads``: of the process.

``python -m benchmarks soak --steps 2000`` takes a few minutes on a CPU. Resident memory and file
handles are read from ``/proc``.
"""

import argparse
import gc
import logging
import random
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, TrainerCallback
from transformers.utils.logging import disable_progress_bar

from benchmarks.record import write_result
from colm import CoLMTrainer, CoLMTrainingArguments

EXAMPLES = 256
VOCABULARY = 64
# Its embedding is not finite, and so is all that a model makes of an example that has it.
POISON = 3
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
SAVE_EVERY = 10
# Of 1,000 steps, in how many a fault is armed, and of 10 legs, how many a new trainer begins.
OUT_OF_MEMORY, CRASH = 40, 10
NEW_TRAINER = 3


class CrashError(RuntimeError):
    """What ends training in the middle of a look."""


@dataclass
class Soak:
    """What happened, and what the process held, in the course of a run.

    Attributes:
        random: decides when a fault comes.
        every: steps between notes.
        notes: what was held, by name, one entry a note.
        faults: how often each kind of fault came.
        losses: logged.
    """

    random: random.Random
    every: int
    notes: list[dict[str, float]] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    losses: list[float] = field(default_factory=list)


def main() -> None:
    """Run, print what grew, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=50, help="steps between notes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger("colm").setLevel(logging.ERROR)
    disable_progress_bar()
    soak = run_soak(options.steps, options.every, options.seed, progress=True)
    summary = summarize(soak)
    path = write_result("soak", vars(options), soak.notes, summary)
    for name, value in summary.items():
        print(f"{name:30s} {value:g}")
    print(f"wrote {path}")


def run_soak(steps: int, every: int, seed: int, *, progress: bool = False) -> Soak:
    """Train for ``steps`` steps under faults and return what was seen.

    Args:
        steps: of the optimiser, in all.
        every: steps between notes of what the process holds.
        seed: of data, weights and faults.
        progress: whether to print each note.
    """
    soak = Soak(random.Random(seed), every)
    data = random_examples(seed)
    watch = Watch(soak, progress)
    trainer: CoLMTrainer | None = None
    done, resume = 0, False
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while done < steps:
            if trainer is None or soak.random.randrange(10) < NEW_TRAINER:
                soak.faults["new trainers"] += 1
                trainer = make_trainer(folder, data, watch, steps, seed)
            watch.stop_at = min(steps, done + soak.random.randint(SAVE_EVERY, 6 * SAVE_EVERY))
            with faulty(trainer.model, soak):
                try:
                    trainer.train(resume_from_checkpoint=resume)
                except CrashError:
                    soak.faults["crashes"] += 1
            resume = any(Path(folder).glob("checkpoint-*"))
            soak.faults["resumed"] += resume
            done = trainer.state.global_step
    return soak


def random_examples(seed: int) -> Dataset:
    """Token sequences of 2 to 64 tokens, of two large sources and a small one."""
    rng = random.Random(seed)
    rows = []
    for index in range(EXAMPLES):
        tokens = [rng.randrange(4, VOCABULARY) for _ in range(rng.randint(2, 32))]
        labels = list(tokens)
        if index % 16 == 1:
            labels = [-100] * len(tokens)
        if index % 16 == 2:
            tokens[0] = POISON
        source = "rare" if index % 32 == 0 else f"large {index % 2}"
        rows.append({"input_ids": tokens, "labels": labels, "source": source})
    return Dataset.from_list(rows)


def make_trainer(folder: str, data: Dataset, watch: "Watch", steps: int, seed: int) -> CoLMTrainer:
    """A trainer on a model of two layers, saving as it goes."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            pad_token_id=0,
        )
    )
    with torch.no_grad():
        model.get_input_embeddings().weight[POISON] = float("nan")
    args = CoLMTrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        logging_steps=watch.soak.every,
        save_steps=SAVE_EVERY,
        save_total_limit=2,
        seed=seed,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.accelerator.is_available(),
        bf16=False,
        match_every=40,
    )
    trainer = CoLMTrainer(model, args, data_collator=pad, train_dataset=data, callbacks=[watch])
    trainer.remove_callback(PrinterCallback)
    return trainer


def pad(examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad token ids and labels on the right."""
    longest = max(len(example["input_ids"]) for example in examples)

    def padded(key: str, value: int) -> torch.Tensor:
        rows = [each[key] + [value] * (longest - len(each[key])) for each in examples]
        return torch.tensor(rows)

    lengths = torch.tensor([len(example["input_ids"]) for example in examples])
    return {
        "input_ids": padded("input_ids", 0),
        "labels": padded("labels", -100),
        "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
    }


class Watch(TrainerCallback):
    """Notes what the process holds, and stops training where it is told to."""

    def __init__(self, soak: Soak, progress: bool) -> None:
        self.soak = soak
        self.progress = progress
        self.stop_at = 0
        self.started = time.perf_counter()

    def on_step_end(self, _args: Any, state: Any, control: Any, **kept: Any) -> Any:
        """Take a note where it is time, and stop where it is time."""
        if state.global_step % self.soak.every == 0:
            note = held(kept["model"]) | {
                "step": float(state.global_step),
                "seconds": time.perf_counter() - self.started,
            }
            self.soak.notes.append(note)
            if self.progress:
                print({name: round(value) for name, value in note.items()}, flush=True)
        control.should_training_stop |= state.global_step >= self.stop_at
        control.should_save |= control.should_training_stop
        return control

    def on_log(self, *_: Any, logs: dict[str, float], **_kept: Any) -> None:
        """Keep the losses."""
        if "loss" in logs:
            self.soak.losses.append(float(logs["loss"]))
            self.soak.faults["not finite"] += logs.get("colm/non_finite", 0) > 0


def held(model: nn.Module) -> dict[str, float]:
    """What the process holds, the hooks of the faults not counted."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "rss_bytes": float(pages * 4096),
        "objects": float(len(gc.get_objects())),
        "hooks": float(hooks_of(model) - 1),
        "files": float(len(list(Path("/proc/self/fd").iterdir()))),
        "threads": float(len(list(Path("/proc/self/task").iterdir()))),
    }


def hooks_of(model: nn.Module) -> int:
    """Hooks on all modules of a model."""
    return sum(len(getattr(module, name)) for module in model.modules() for name in HOOKS)


@contextmanager
def faulty(model: nn.Module, soak: Soak) -> Iterator[None]:
    """Let memory run out, or the process fail, in the last layer of some looks."""
    last = [*model.get_submodule("model.layers").children()][-1]

    def fail(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        # Looks run in evaluation mode, training does not.
        if module.training:
            return
        drawn = soak.random.randrange(1000)
        if drawn < CRASH:
            raise CrashError
        if drawn < CRASH + OUT_OF_MEMORY and len(inputs[0]) > 1:
            soak.faults["out of memory"] += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = last.register_forward_pre_hook(fail)
    try:
        yield
    finally:
        handle.remove()


def summarize(soak: Soak) -> dict[str, float]:
    """Faults, and growth from the second quarter of the notes to the last, per 1,000 steps."""
    quarter = max(1, len(soak.notes) // 4)
    early, late = soak.notes[quarter : 2 * quarter] or soak.notes[:1], soak.notes[-quarter:]

    def middle(notes: list[dict[str, float]], name: str) -> float:
        return statistics.median(note[name] for note in notes)

    thousands = (middle(late, "step") - middle(early, "step")) / 1000 or 1.0
    summary = {
        f"{name}_growth_per_1000_steps": (middle(late, name) - middle(early, name)) / thousands
        for name in ("rss_bytes", "objects", "files", "threads")
    }
    summary |= {f"faults: {kind}": float(count) for kind, count in soak.faults.items()}
    summary["most_hooks_left"] = max(note["hooks"] for note in soak.notes)
    summary["last_loss"] = soak.losses[-1]
    return summary
