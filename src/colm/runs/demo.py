"""What ``colm demo`` compares: CoLM and its controls on generated problems, by a recipe that stays.

The recipe and the data lie in the demo's folder, so that ``colm compare --config`` can be run on
them with other arms, more seeds or more time.
"""

import json
import platform
import textwrap
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from trl.scripts.utils import DatasetConfig

from colm.checks import check_number
from colm.coreset.mixture import small_sources
from colm.data import SOURCE_COLUMN, generated, source_counts
from colm.data.generated import GeneratedMixture
from colm.durable import UNFINISHED, write_whole
from colm.reports import Comparison
from colm.runs.arguments import parse_arguments
from colm.runs.arms import EVEN, PLAIN_R, option_words
from colm.runs.compare import ComparisonPlan, compare
from colm.runs.compared import report_comparison
from colm.runs.comparison_file import COMPARISON_FILE, check_same, read_state
from colm.runs.players import ArmProcess, Start
from colm.runs.pretrained import demo_model_folder, load_tokenizer
from colm.runs.recipes import load_recipe
from colm.runs.saying import Say
from colm.runs.training_data import HeldOut, load_examples
from colm.training.checkpoints.folder_lock import holding
from colm.training.options import hardware

RECIPE_FILE = "recipe.yaml"
DATA_FOLDER = "data"
#: In a comparison's folder before it begins.
MATERIAL = (RECIPE_FILE, f"{RECIPE_FILE}{UNFINISHED}", DATA_FOLDER)
#: Steps of the recipe, by which sources are drawn; how many are trained is a matter of time.
RECIPE_STEPS = 100
WARMUP_STEPS = 3


@dataclass(frozen=True)
class DemoOptions:
    """The options of ``colm demo``, checked."""

    model: str | None
    data: Sequence[str] | None
    source_column: str | None
    minutes: float
    turns: int
    batch_size: int
    candidate_ratio: float
    learning_rate: float
    held_out: int
    max_length: int
    seed: int


def run_comparison(
    options: DemoOptions, folder: Path, say: Say, start: Start = ArmProcess
) -> Comparison:
    """Train CoLM and its controls for equal time, saying on the way what happens.

    Args:
        options: What is compared, and how.
        folder: Where recipe, data and comparison lie; that of one that was interrupted goes on.
        say: Takes lines on what happens.
        start: Begins an arm; in a process of its own by default.

    Returns:
        Everything that a report tells.

    Raises:
        ValueError: An option, the data, the model or the folder cannot be used; nothing in it has
            been written then.
        FileNotFoundError: A data file is not there.
        ModuleNotFoundError: A package of the demo is not installed.
    """
    read_state(folder, MATERIAL)  # what cannot be written to is neither loaded for nor held
    with warnings.catch_warnings(), holding(folder):
        # Deprecations inside other libraries: users can do nothing about them.
        warnings.simplefilter("ignore", FutureWarning)
        return _run(options, folder, say, start)


def _run(options: DemoOptions, folder: Path, say: Say, start: Start) -> Comparison:
    """See that all can be loaded, write it down, and compare."""
    if options.data is None and options.source_column is not None:
        raise ValueError("--source_column is for --data; the generated problems have theirs.")
    check_number("--candidate_ratio", options.candidate_ratio, above=1)
    plan = _plan(options, folder)
    plan.check()
    model_name = options.model or str(demo_model_folder())
    template = bool(load_tokenizer(model_name).chat_template)
    recipe = _recipe(options, model_name, folder)
    mixture, sizes = _load(options, recipe, template)
    _write_material(recipe, mixture, folder)
    settings = _settings(options, Path(model_name).name)
    for line in _introduction(settings, sizes):
        say(line)
    return report_comparison(compare(plan, say, start), settings)


def _plan(options: DemoOptions, folder: Path) -> ComparisonPlan:
    """CoLM, what it is to be held against, and even draws."""
    return ComparisonPlan(
        recipe=["--config", str(folder / RECIPE_FILE)],
        arms=["colm", EVEN],
        folder=folder,
        minutes=options.minutes,
        seeds=1,
        held_out=options.held_out,
        turns=options.turns,
        plain=[PLAIN_R],
        beside=MATERIAL,
    )


def _load(
    options: DemoOptions, recipe: Mapping[str, Any], conversational: bool
) -> tuple[GeneratedMixture | None, dict[str, int]]:
    """The generated problems, where files are not to be read; training examples of each source.

    What cannot be is refused here, before anything is written.
    """
    arguments = parse_arguments(option_words({k: v for k, v in recipe.items() if k != "datasets"}))
    if options.data is None:
        made = generated.generate_mixture(
            options.seed, options.held_out, conversational=conversational
        )
        return made, dict(Counter(record[SOURCE_COLUMN] for record in made.train))
    for path in options.data:
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file")
    arguments.mixture.datasets = [DatasetConfig(path=path) for path in options.data]
    held_out = HeldOut(options.held_out, options.seed)
    examples = load_examples(arguments, conversational, held_out=held_out)
    return None, source_counts(examples.train, options.source_column or SOURCE_COLUMN)


def _recipe(options: DemoOptions, model_name: str, folder: Path) -> dict[str, Any]:
    """What all arms share, as ``colm sft`` takes it."""
    data: dict[str, Any] = {"dataset_name": str(folder / DATA_FOLDER)}
    if options.data is not None:
        data = {"datasets": [{"path": path} for path in options.data]}
    if options.source_column is not None:
        data["source_column"] = options.source_column
    return {
        "model_name_or_path": model_name,
        **data,
        "dtype": _precision(),
        "per_device_train_batch_size": options.batch_size,
        "candidate_ratio": options.candidate_ratio,
        "learning_rate": options.learning_rate,
        "max_steps": RECIPE_STEPS,
        "warmup_steps": WARMUP_STEPS,
        "max_length": options.max_length,
        "seed": options.seed,
        "use_peft": True,
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_target_modules": "all-linear",
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "output_dir": str(folder / "sft"),
    }


def _write_material(
    recipe: Mapping[str, Any], mixture: GeneratedMixture | None, folder: Path
) -> None:
    """Write the recipe, and the generated problems as a training and a test split.

    Of a comparison that has begun nothing is written over: it was made from what is there.
    """
    text = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
    files = {folder / RECIPE_FILE: text}
    if mixture is not None:
        for split, records in (("train", mixture.train), ("test", mixture.held_out)):
            bare = [{k: r[k] for k in ("prompt", "completion", SOURCE_COLUMN)} for r in records]
            lines = "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in bare)
            files[folder / DATA_FOLDER / f"{split}.jsonl"] = lines
    if (folder / COMPARISON_FILE).exists():
        if (folder / RECIPE_FILE).exists():
            check_same(load_recipe(folder / RECIPE_FILE), recipe, folder)
        files = {path: content for path, content in files.items() if not path.exists()}
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.encode())


def _settings(options: DemoOptions, model: str) -> dict[str, str]:
    """What the run is, in words, for the terminal and the report."""
    drawn = round(options.batch_size * options.candidate_ratio)
    names = ", ".join(Path(path).name for path in options.data or ())
    return {
        "model": model,
        "data": f"records of {names}" if names else "generated problems",
        "drawn for a step": f"{drawn} examples, of those that select",
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


def _introduction(settings: Mapping[str, str], sizes: Mapping[str, int]) -> list[str]:
    """What is trained, and on what."""
    small = small_sources(sizes)
    lines = [
        f"model  {settings['model']}, {settings['adapter']}",
        f"data   {sum(sizes.values()):,} {settings['data']}, {len(sizes)} sources",
    ]
    for kind, wanted in (("large", False), ("small", True)):
        named = sorted((s for s in sizes if (s in small) == wanted), key=lambda s: (-sizes[s], s))
        listed = ", ".join(f"{source} {sizes[source]}" for source in named) or "none"
        lines += textwrap.wrap(f"  {kind}  {listed}", 90, subsequent_indent=" " * 9)
    return lines
