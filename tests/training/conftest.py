"""Small prompt-completion data of several sources, and a way to make a trainer on it."""

import random
from copy import deepcopy
from dataclasses import fields
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, TrainingArguments
from trl import SFTConfig, SFTTrainer

from colm import CoLMConfig, CoLMSFTTrainer
from colm.training.step.draw import drawn_candidates

SIZES = {"adding": 40, "copying": 40, "rare": 4}


def make_records(seed: int = 0) -> list[dict]:
    """Two large sources and a small one, of different lengths, shuffled."""
    rng = random.Random(seed)
    records = []
    for source, size in SIZES.items():
        for _ in range(size):
            a, b = rng.randrange(100), rng.randrange(100)
            question = {
                "adding": f"{a}+{b}=",
                "copying": "copy " + "xyz"[a % 3] * (1 + b % 9),
                "rare": f"is {a} even?",
            }[source]
            answer = {
                "adding": str(a + b),
                "copying": "xyz"[a % 3] * (1 + b % 9),
                "rare": "yes" if a % 2 == 0 else "no",
            }[source]
            records.append({"prompt": question, "completion": answer, "source": source})
    rng.shuffle(records)
    return records


@pytest.fixture
def dataset() -> Dataset:
    return Dataset.from_list(make_records())


def select_among(selection, examples, budget, step=0):
    """What a selection keeps of raw examples, as a step of training has it choose."""
    split = selection.split(drawn_candidates([examples], selection.source_column), budget, step)
    seen = selection.observer.look(split.own, split.table, split.to_see, step)
    return selection.keep(split, seen)


def on_keep(trainer, note):
    """Call a function with what each step of a trainer keeps."""
    keep = trainer._selection.keep

    def noting(split, seen):
        kept = keep(split, seen)
        note(kept)
        return kept

    trainer._selection.keep = noting


def note_selections(trainer):
    """The token ids of what a trainer keeps, step by step, filled as it runs."""
    steps = []
    on_keep(
        trainer, lambda kept: steps.append([tuple(each["input_ids"]) for each in kept.examples])
    )
    return steps


@cache
def _loaded(folder, _changed):
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def _state_of(folder):
    return str(folder), tuple(sorted(file.stat().st_mtime_ns for file in Path(folder).iterdir()))


def load_copies(folder):
    """The model and the tokenizer of a folder, read once and copied: a tenth of the time."""
    return deepcopy(_loaded(*_state_of(folder)))


_prepare_dataset = SFTTrainer._prepare_dataset
_prepared = {}
_DATA_OPTIONS = sorted(
    {f.name for f in fields(SFTConfig)} - {f.name for f in fields(TrainingArguments)}
)


def preparing_once(folder):
    """Have TRL tokenise the same data in the same way once: half the time a trainer takes to make.

    Args:
        folder: of the tokenizer, as it is.
    """

    def prepare(self, dataset, tokenizer, args, *how):
        if not isinstance(dataset, Dataset):
            return _prepare_dataset(self, dataset, tokenizer, args, *how)
        options = [repr(getattr(args, name)) for name in _DATA_OPTIONS]
        own = self.completion_only_loss, self.chat_template, tokenizer.chat_template
        key = (*_state_of(folder), dataset._fingerprint, *options, *own, *how)
        if key not in _prepared:
            _prepared[key] = _prepare_dataset(self, dataset, tokenizer, args, *how)
        return _prepared[key]

    return patch.object(SFTTrainer, "_prepare_dataset", prepare)


def build_trainer(
    model_folder,
    train_dataset,
    *,
    trainer_class=CoLMSFTTrainer,
    config_class=CoLMConfig,
    trainer_options=None,
    **config,
):
    """A trainer on the model of a folder; keyword arguments go to the configuration."""
    torch.manual_seed(0)
    defaults = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "bf16": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
    }
    model, tokenizer = load_copies(model_folder)
    with preparing_once(model_folder):
        return trainer_class(
            model,
            args=config_class(**(defaults | config)),
            train_dataset=train_dataset,
            processing_class=tokenizer,
            **(trainer_options or {}),
        )


def keeping_the_best(dataset):
    """What `build_trainer` is told for the best of the checkpoints after each step to be loaded."""
    return {
        "save_strategy": "steps",
        "save_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "load_best_model_at_end": True,
        "trainer_options": {"eval_dataset": dataset.select(range(8))},
    }


@pytest.fixture
def make_trainer(tiny_model_folder, tmp_path):
    """A trainer on the tiny model; keyword arguments go to the configuration."""

    def make(train_dataset, **options):
        options = {"output_dir": str(tmp_path / "run")} | options
        return build_trainer(tiny_model_folder, train_dataset, **options)

    return make


@pytest.fixture(scope="session")
def smollm_folder(tmp_path_factory):
    """The pretrained model of the demo, where its package is installed."""
    from colm.runs.pretrained import demo_model_folder

    return demo_model_folder(tmp_path_factory.mktemp("smollm"))


def note_candidates(trainer):
    """Note the token ids of the candidates that a trainer draws, step by step."""
    steps = []
    on_keep(
        trainer, lambda kept: steps.append([tuple(each["input_ids"]) for each in kept.split.own])
    )
    return steps


class StopAt(TrainerCallback):
    """End training after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_training_stop = True
        return control


class SaveAt(TrainerCallback):
    """Save after these steps: what runs that stopped there would have left."""

    def __init__(self, *steps):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save |= state.global_step in self.steps
        return control


@pytest.fixture
def record_selections():
    return note_selections
