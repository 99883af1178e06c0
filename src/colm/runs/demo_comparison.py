"""The comparison that ``colm demo`` runs: its arms, what they share, and how they are judged."""

import argparse
import platform
import sys
import textwrap
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colm.runs.demo_material import RECORD_COLUMN, Material, generate_material, read_material
from colm.training.options.hardware import accelerator_names
from colm.versions import library_versions

if TYPE_CHECKING:
    from colm.reports import Comparison, Scores
    from colm.runs.arms import ArmOptions, ComparisonResult

ADAPTER_NAME = "adapter"
MOST_ANSWER_TOKENS = 64
ANSWERS_AT_A_TIME = 64
WARMUP_SHARE = 0.1


def run_comparison(namespace: argparse.Namespace, folder: Path) -> "Comparison":
    """Train and evaluate CoLM and random mini-batches, saying on the way what happens.

    Args:
        namespace: The options of ``colm demo``.
        folder: Where the adapter that CoLM trained is saved.

    Returns:
        Everything that a report tells.

    Raises:
        ValueError: An option, the data or the model cannot be used.
        FileNotFoundError: A data file is not there.
        ModuleNotFoundError: A package of the demo is not installed.
    """
    print("Loading libraries, model and data (the first time, half a minute more) ...", flush=True)
    from colm.coreset.mixture import small_sources
    from colm.data import source_counts
    from colm.runs.arms import Setting, compare
    from colm.runs.pretrained import load_model, load_tokenizer
    from colm.runs.progress import StepProgress

    model_name = namespace.model or _packaged_model()
    tokenizer = load_tokenizer(model_name)
    material = _load_material(namespace, bool(tokenizer.chat_template))
    sizes = source_counts(material.train, material.source_column)
    small = sorted(small_sources(sizes), key=lambda source: (-sizes[source], source))
    settings = _settings(namespace, Path(model_name).name, material)
    _introduce(settings, sizes, small)
    setting = Setting(
        load_model=partial(load_model, model_name, settings["precision"]),
        tokenizer=tokenizer,
        train=material.train,
        held_out=material.held_out,
        evaluate=partial(_evaluate, tokenizer, material, sizes, small),
        adapter_dir=folder / ADAPTER_NAME,
        options=_training_options(namespace, material.source_column),
    )

    def make_callback(arm: "ArmOptions") -> StepProgress:
        print(f"\n{arm.name}", flush=True)
        return StepProgress(_show, small)

    with warnings.catch_warnings():
        # Deprecations inside other libraries: users can do nothing about them.
        warnings.simplefilter("ignore", FutureWarning)
        result = compare(_arms(), setting, make_callback)
    return _report(result, sizes, small, settings, _notes(material))


def _packaged_model() -> str:
    """The folder of the model from the wheel, made at the first call."""
    from colm.runs.pretrained import demo_model_folder

    return str(demo_model_folder())


def _load_material(namespace: argparse.Namespace, conversational: bool) -> Material:
    """The mixture that the options ask for."""
    if namespace.data is None:
        if namespace.source_column is not None:
            raise ValueError("--source_column is for --data; the generated problems have theirs.")
        return generate_material(namespace.seed, namespace.held_out, conversational)
    return read_material(
        namespace.data, namespace.source_column, namespace.seed, namespace.held_out, conversational
    )


def _arms() -> list["ArmOptions"]:
    from colm.runs.arms import ArmOptions

    return [
        ArmOptions("CoLM", {"selector": "colm"}),
        ArmOptions("random mini-batches", {"selector": "random", "small_sources": ["none"]}),
    ]


def _training_options(namespace: argparse.Namespace, source_column: str) -> dict[str, Any]:
    """The fields of ``CoLMConfig`` that both arms share."""
    return {
        "max_steps": namespace.steps,
        "per_device_train_batch_size": namespace.batch_size,
        "candidate_ratio": namespace.candidate_ratio,
        "learning_rate": namespace.learning_rate,
        "warmup_steps": round(WARMUP_SHARE * namespace.steps),
        "max_length": namespace.max_length,
        "seed": namespace.seed,
        "source_column": source_column,
    }


def _settings(namespace: argparse.Namespace, model: str, material: Material) -> dict[str, str]:
    """What the run is, in words, for the terminal and the report."""
    drawn = round(namespace.batch_size * namespace.candidate_ratio)
    return {
        "model": model,
        "data": material.name,
        "training examples": f"{len(material.train):,}",
        "held-out examples": f"{len(material.held_out):,}",
        "steps of each arm": str(namespace.steps),
        "drawn each step": f"{drawn} examples",
        "trained on each step": f"{namespace.batch_size} examples",
        "adapter": "LoRA, rank 16, every linear layer",
        "precision": _precision(),
        "learning rate": f"{namespace.learning_rate:g}",
        "seed": str(namespace.seed),
        "machine": _machine(),
    }


def _precision() -> str:
    """The type of weights and activations: half the memory where the machine has it."""
    from colm.training.options.hardware import has_accelerator, supports_bf16

    return "bfloat16" if supports_bf16(use_cpu=not has_accelerator()) else "float32"


def _machine() -> str:
    """The accelerator, or how many threads of what processor."""
    import torch

    processor = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return next(iter(accelerator_names()), processor)


def _introduce(settings: Mapping[str, str], sizes: Mapping[str, int], small: Sequence[str]) -> None:
    """Say what is about to happen."""
    large = [source for source in sizes if source not in small]
    print(f"model    {settings['model']}, {settings['adapter']}")
    print(f"data     {settings['training examples']} {settings['data']}, {len(sizes)} sources")
    for kind, sources in (("large", large), ("small", small)):
        listed = ", ".join(f"{source} {sizes[source]}" for source in sources) or "none"
        print(textwrap.fill(f"  {kind}  {listed}", 90, subsequent_indent=" " * 9))
    print(
        f"arms     CoLM and random mini-batches, {settings['steps of each arm']} steps each: both "
        f"draw {settings['drawn each step']}\n         and train on "
        f"{settings['trained on each step'].split()[0]}, chosen by their gradients or at random"
    )
    print(f"\nuntouched {settings['model']}", flush=True)


def _evaluate(
    tokenizer: Any,
    material: Material,
    sizes: Mapping[str, int],
    small: Sequence[str],
    model: Any,
    examples: Any,
) -> "Scores":
    """The scores of a model, told in one line as well."""
    from colm.evaluation import held_out_loss
    from colm.reports import Scores

    began = time.monotonic()
    rows = [
        {**example, "source": example[material.source_column]}
        for example in examples.select_columns(
            ["input_ids", "labels", RECORD_COLUMN, material.source_column]
        )
    ]
    loss = held_out_loss(model, rows, source_sizes=sizes, small_sources=small)
    answers = _score_answers(tokenizer, material, model, rows)
    accuracy = f", accuracy {answers.macro:.1%}" if answers else ""
    print(
        f"  held-out loss {loss.macro:.3f}{accuracy} ({time.monotonic() - began:.0f} s)", flush=True
    )
    return Scores(
        macro=loss.macro,
        micro=loss.micro,
        small_sources=loss.small_sources,
        loss_by_source=loss.by_source,
        answers=answers.macro if answers else None,
        answers_by_source=answers.by_source if answers else {},
    )


def _score_answers(tokenizer: Any, material: Material, model: Any, rows: list[Any]) -> Any:
    """The scores of the model's own answers, ``None`` where nothing scores them."""
    score = material.score
    if score is None:
        return None
    from colm.evaluation import generate_answers, score_answers

    starts = [next(i for i, label in enumerate(r["labels"]) if label != -100) for r in rows]
    longest = max(len(row["labels"]) - start for row, start in zip(rows, starts, strict=True))
    answers = generate_answers(
        model,
        [row["input_ids"][:start] for row, start in zip(rows, starts, strict=True)],
        partial(tokenizer.decode, skip_special_tokens=True),
        end_token=tokenizer.eos_token_id,
        max_new_tokens=min(longest, MOST_ANSWER_TOKENS),
        batch_size=ANSWERS_AT_A_TIME,
    )
    return score_answers(answers, rows, lambda answer, row: score(answer, row[RECORD_COLUMN]))


def _show(line: str, kept: bool) -> None:
    """Print a line; on a terminal, one that need not stay is written over by the next."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K  {line}", end="\n" if kept else "", flush=True)
    elif kept:
        print(f"  {line}", flush=True)


def _notes(material: Material) -> list[str]:
    """What a reader of the figures must know."""
    notes = [
        f"One run with one seed, {len(material.held_out)} held-out examples: before believing a "
        "small difference, repeat it with another --seed."
    ]
    if material.score is None:
        notes.append("Accuracy is left out: nothing scores answers to --data.")
    return notes


def _report(
    result: "ComparisonResult[Scores]",
    sizes: Mapping[str, int],
    small: Sequence[str],
    settings: Mapping[str, str],
    notes: Sequence[str],
) -> "Comparison":
    """The result in the form that reports are made of."""
    from colm.reports import Arm, Comparison

    return Comparison(
        arms=[Arm(arm.name, arm.metrics, arm.log_history) for arm in result.arms],
        before=result.before,
        source_sizes=sizes,
        small_sources=small,
        settings=settings,
        versions=library_versions(),
        notes=notes,
    )
