"""The comparison that ``colm demo`` runs: its arms, what they share, and how they are judged."""

import platform
import textwrap
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from colm.coreset.mixture import small_sources
from colm.data import source_counts
from colm.evaluation import AnswerScores, generate_answers, held_out_loss, score_answers
from colm.reports import Arm, Comparison, Scores
from colm.runs.arms import ArmOptions, ComparisonResult, Setting, compare
from colm.runs.demo_material import RECORD_COLUMN, Material, generate_material, read_material
from colm.runs.pretrained import demo_model_folder, load_model, load_tokenizer
from colm.runs.progress import StepProgress
from colm.runs.saying import Say
from colm.training.options import hardware
from colm.versions import library_versions

ADAPTER_NAME = "adapter"
MOST_ANSWER_TOKENS = 64
ANSWERS_AT_A_TIME = 64
WARMUP_SHARE = 0.1


@dataclass(frozen=True)
class DemoOptions:
    """The options of ``colm demo``, checked."""

    model: str | None
    data: Sequence[str] | None
    source_column: str | None
    steps: int
    batch_size: int
    candidate_ratio: float
    learning_rate: float
    held_out: int
    max_length: int
    seed: int


def run_comparison(options: DemoOptions, folder: Path, say: Say) -> Comparison:
    """Train and evaluate CoLM and random mini-batches, saying on the way what happens.

    Args:
        options: What is compared, and how.
        folder: Where the adapter that CoLM trained is saved.
        say: Takes lines on what happens.

    Returns:
        Everything that a report tells.

    Raises:
        ValueError: An option, the data or the model cannot be used.
        FileNotFoundError: A data file is not there.
        ModuleNotFoundError: A package of the demo is not installed.
    """
    model_name = options.model or str(demo_model_folder())
    tokenizer = load_tokenizer(model_name)
    material = _load_material(options, bool(tokenizer.chat_template))
    sizes = source_counts(material.train, material.source_column)
    small = sorted(small_sources(sizes), key=lambda source: (-sizes[source], source))
    settings = _settings(options, Path(model_name).name, material)
    for line in _introduction(settings, sizes, small):
        say(line)
    setting = Setting(
        load_model=partial(load_model, model_name, settings["precision"]),
        tokenizer=tokenizer,
        train=material.train,
        held_out=material.held_out,
        evaluate=partial(_evaluate, tokenizer, material, sizes, small, say),
        adapter_dir=folder / ADAPTER_NAME,
        options=_training_options(options, material.source_column),
    )

    def make_callback(arm: ArmOptions) -> StepProgress:
        say(f"\n{arm.name}")
        return StepProgress(indented, small)

    def indented(line: str, kept: bool = True) -> None:
        say(f"  {line}", kept)

    with warnings.catch_warnings():
        # Deprecations inside other libraries: users can do nothing about them.
        warnings.simplefilter("ignore", FutureWarning)
        result = compare(_arms(), setting, make_callback)
    return _report(result, sizes, small, settings, _notes(material))


def _load_material(options: DemoOptions, conversational: bool) -> Material:
    """The mixture that the options ask for."""
    if options.data is None:
        if options.source_column is not None:
            raise ValueError("--source_column is for --data; the generated problems have theirs.")
        return generate_material(options.seed, options.held_out, conversational)
    return read_material(
        options.data, options.source_column, options.seed, options.held_out, conversational
    )


def _arms() -> list[ArmOptions]:
    return [
        ArmOptions("CoLM", {"selector": "colm"}),
        ArmOptions("random mini-batches", {"selector": "random", "small_sources": ["none"]}),
    ]


def _training_options(options: DemoOptions, source_column: str) -> dict[str, Any]:
    """The fields of ``CoLMConfig`` that both arms share."""
    return {
        "max_steps": options.steps,
        "per_device_train_batch_size": options.batch_size,
        "candidate_ratio": options.candidate_ratio,
        "learning_rate": options.learning_rate,
        "warmup_steps": round(WARMUP_SHARE * options.steps),
        "max_length": options.max_length,
        "seed": options.seed,
        "source_column": source_column,
    }


def _settings(options: DemoOptions, model: str, material: Material) -> dict[str, str]:
    """What the run is, in words, for the terminal and the report."""
    drawn = round(options.batch_size * options.candidate_ratio)
    return {
        "model": model,
        "data": material.name,
        "training examples": f"{len(material.train):,}",
        "held-out examples": f"{len(material.held_out):,}",
        "steps of each arm": str(options.steps),
        "drawn each step": f"{drawn} examples",
        "trained on each step": f"{options.batch_size} examples",
        "adapter": "LoRA, rank 16, every linear layer",
        "precision": _precision(),
        "learning rate": f"{options.learning_rate:g}",
        "seed": str(options.seed),
        "machine": _machine(),
    }


def _precision() -> str:
    """The type of weights and activations: half the memory where the machine has it."""
    has_bf16 = hardware.supports_bf16(use_cpu=not hardware.has_accelerator())
    return "bfloat16" if has_bf16 else "float32"


def _machine() -> str:
    """The accelerator, or how many threads of what processor."""
    processor = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return next(iter(hardware.accelerator_names()), processor)


def _introduction(
    settings: Mapping[str, str], sizes: Mapping[str, int], small: Sequence[str]
) -> list[str]:
    """What is about to happen."""
    large = [source for source in sizes if source not in small]
    lines = [
        f"model    {settings['model']}, {settings['adapter']}",
        f"data     {settings['training examples']} {settings['data']}, {len(sizes)} sources",
    ]
    for kind, sources in (("large", large), ("small", small)):
        listed = ", ".join(f"{source} {sizes[source]}" for source in sources) or "none"
        lines += textwrap.wrap(f"  {kind}  {listed}", 90, subsequent_indent=" " * 9)
    return [
        *lines,
        f"arms     CoLM and random mini-batches, {settings['steps of each arm']} steps each: both "
        f"draw {settings['drawn each step']}",
        f"         and train on {settings['trained on each step'].split()[0]}, chosen by their "
        "gradients or at random",
        f"\nuntouched {settings['model']}",
    ]


def _evaluate(
    tokenizer: Any,
    material: Material,
    sizes: Mapping[str, int],
    small: Sequence[str],
    say: Say,
    model: Any,
    examples: Any,
) -> Scores:
    """The scores of a model, told in one line as well."""
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
    say(f"  held-out loss {loss.macro:.3f}{accuracy} ({time.monotonic() - began:.0f} s)")
    return Scores(
        macro=loss.macro,
        micro=loss.micro,
        small_sources=loss.small_sources,
        loss_by_source=loss.by_source,
        answers=answers.macro if answers else None,
        answers_by_source=answers.by_source if answers else {},
    )


def _score_answers(
    tokenizer: Any, material: Material, model: Any, rows: list[Any]
) -> AnswerScores | None:
    """The scores of the model's own answers, ``None`` where nothing scores them."""
    score = material.score
    if score is None:
        return None
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
    result: ComparisonResult[Scores],
    sizes: Mapping[str, int],
    small: Sequence[str],
    settings: Mapping[str, str],
    notes: Sequence[str],
) -> Comparison:
    """The result in the form that reports are made of."""
    return Comparison(
        arms=[Arm(arm.name, arm.metrics, arm.log_history) for arm in result.arms],
        before=result.before,
        source_sizes=sizes,
        small_sources=small,
        settings=settings,
        versions=library_versions(),
        notes=notes,
    )
