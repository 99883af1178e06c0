"""``colm demo``: CoLM and what it is to be held against, on a small model and a mixture."""

import argparse
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colm.cli.compare import tell_comparison
from colm.cli.libraries import set_environment, silence_bitsandbytes
from colm.cli.parsing import check_counts
from colm.cli.terminal import Saying

if TYPE_CHECKING:
    from colm.reports import Comparison

DEFAULT_FOLDER = Path("runs/demo")
WITHOUT_BARS = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


#: Every option, and what ``add_argument`` takes for it.
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "--model": {
        "metavar": "NAME_OR_FOLDER",
        "help": "model on the hub or in a folder (default: SmolLM2-135M-Instruct from its wheel)",
    },
    "--only_model": {
        "action": "store_true",
        "help": "train nothing: print the folder of that model, made from its wheel the first "
        "time, for model_name_or_path",
    },
    "--data": {
        "metavar": "FILE",
        "nargs": "+",
        "help": "your own JSONL, JSON, CSV or Parquet files (default: generated problems)",
    },
    "--source_column": {
        "metavar": "NAME",
        "help": "column of --data that names the source of a record (default: 'source' where there "
        "is one, else each file is a source)",
    },
    "--minutes": {
        "type": float,
        "default": 1.2,
        "help": "of training, for each of four arms (default: 1.2)",
    },
    "--turns": {
        "type": int,
        "default": 2,
        "help": "into how many that time is cut; it is measured after each (default: 2)",
    },
    "--batch_size": {
        "type": int,
        "default": 8,
        "help": "examples trained on each step (default: 8)",
    },
    "--candidate_ratio": {
        "type": float,
        "default": 2.0,
        "help": "examples drawn for each one trained on, where some are selected (default: 2)",
    },
    "--learning_rate": {
        "type": float,
        "default": 1e-3,
        "help": "after its warm-up (default: 1e-3)",
    },
    "--held_out": {
        "type": int,
        "default": 8,
        "help": "held-out examples of each source (default: 8)",
    },
    "--max_length": {
        "type": int,
        "default": 512,
        "help": "longest example, in tokens (default: 512)",
    },
    "--seed": {
        "type": int,
        "default": 0,
        "help": "of data, adapters and selection (default: 0)",
    },
    "--output_dir": {
        "metavar": "FOLDER",
        "help": "folder for the report, the recipe and the data: new or empty, or that of a demo "
        f"to go on with (default: {DEFAULT_FOLDER}, or where that is taken {DEFAULT_FOLDER}-2 and "
        "so on)",
    },
}


def add_parser(subparsers: Any) -> None:
    """Add the command and its options.

    Args:
        subparsers: What ``add_subparsers`` returned.
    """
    parser = subparsers.add_parser(
        "demo",
        help="fine-tune a small model with CoLM and with its controls for equal time, and compare",
        description="Fine-tune a model with LoRA in four ways for equal time: with CoLM, with a "
        "random choice that keeps small sources as CoLM does, with even draws, and plainly; and "
        "write a report that compares them. Without options it needs no network: the model is from "
        "a PyPI wheel, the data are generated problems. It is colm compare on a recipe that it "
        "writes.",
    )
    for name, properties in OPTIONS.items():
        parser.add_argument(name, **properties)
    parser.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> int:
    """Train all arms, print the tables and write the report.

    Args:
        namespace: The options of ``add_parser``.

    Returns:
        Exit code 0; only the model's folder is printed where that is asked for.

    Raises:
        ValueError: An option, the data, the model or the output folder cannot be used.
        FileNotFoundError: A data file is not there.
    """
    if namespace.only_model:
        return _print_model_folder(namespace)
    began = time.monotonic()
    check_counts(namespace, ["turns", "batch_size", "held_out", "max_length"])
    folder = choose_folder(namespace.output_dir)
    downloads = namespace.model is not None
    set_environment(**({} if downloads else WITHOUT_BARS))
    silence_bitsandbytes()
    try:
        comparison = _compare(namespace, folder)
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error
    tell_comparison(comparison, folder)
    from colm.runs.demo import RECIPE_FILE
    from colm.runs.saying import duration_in_words

    print(f"recipe   {folder / RECIPE_FILE}, for colm compare or colm sft --config")
    print(f"took     {duration_in_words(time.monotonic() - began)}")
    return 0


def _print_model_folder(namespace: argparse.Namespace) -> int:
    """Print where the model of the package lies, and nothing else: a shell may take it up."""
    if namespace.model is not None:
        raise ValueError(
            "--only_model prints the folder of the demo's own model: leave --model out."
        )
    set_environment(**WITHOUT_BARS)
    silence_bitsandbytes()
    from colm.runs.pretrained import demo_model_folder

    try:
        print(demo_model_folder())
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error
    return 0


def _compare(namespace: argparse.Namespace, folder: Path) -> "Comparison":
    """Load what the comparison needs, which takes a while, and make it."""
    say = Saying()
    say("Loading libraries, model and data (the first time, half a minute more) ...")
    from colm.runs.demo import DemoOptions, run_comparison

    options = {each.name: getattr(namespace, each.name) for each in fields(DemoOptions)}
    return run_comparison(DemoOptions(**options), folder, say)


def choose_folder(output_dir: str | None) -> Path:
    """Return the folder to write to; whether what was asked for will do is seen when it is held.

    Args:
        output_dir: What was asked for; ``None`` for the demo's own, numbered where taken.

    Returns:
        The one asked for, or the demo's own that is empty or not there.
    """
    if output_dir is not None:
        return Path(output_dir)
    folder, number = DEFAULT_FOLDER, 1
    while _is_taken(folder):
        number += 1
        folder = DEFAULT_FOLDER.with_name(f"{DEFAULT_FOLDER.name}-{number}")
    return folder


def _is_taken(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
