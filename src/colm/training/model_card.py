"""The card of a trained model: TRL's, with what this run trained on and how it chose."""

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from datasets import Dataset

from colm.data import SOURCE_COLUMN, source_counts
from colm.training.config import SelectionArguments
from colm.training.metrics import MOST_SOURCES, OTHER_SOURCES

_SECTION_AFTER = "### Framework versions"


def write_model_card(trainer: Any, base_model: str, dataset_name: str | None = None) -> Path:
    """Write the card of a trainer's model into its output folder.

    Args:
        trainer: Trainer that has trained.
        base_model: Folder or hub name of the model that it started from.
        dataset_name: Name of the training data on the hub, if it has one.

    Returns:
        File of the card.
    """
    folder = Path(trainer.args.output_dir)
    trainer.create_model_card(model_name=folder.resolve().name, dataset_name=dataset_name)
    card = folder / "README.md"
    if trainer.is_world_process_zero():
        text = card.read_text(encoding="utf-8")
        # TRL knows no name for a model that comes from a folder and stays on this machine.
        text = text.replace("[None](https://huggingface.co/None)", f"`{base_model}`")
        text = text.replace('model="None"', f'model="{trainer.args.output_dir}"')
        section = describe_training(trainer.args, trainer.train_dataset)
        text = text.replace(_SECTION_AFTER, f"{section}\n\n{_SECTION_AFTER}")
        card.write_text(text, encoding="utf-8")
    return card


def describe_training(args: Any, train_dataset: Any) -> str:
    """Return Markdown that says what was drawn and kept at each step, by which options.

    Args:
        args: ``CoLMConfig`` of the run.
        train_dataset: What was trained on.

    Returns:
        Sections of third level.
    """
    kept = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    drawn = round(args.per_device_train_batch_size * args.candidate_ratio)
    drawn *= args.gradient_accumulation_steps * args.world_size
    options = ((f.name, getattr(args, f.name)) for f in fields(SelectionArguments))
    rows = ((f"`{name}`", f"`{value}`") for name, value in options if value is not None)
    parts = [
        "### Mini-batches",
        f"Each step drew {drawn} examples and trained on {kept} of them.",
        _table(("option", "value"), rows),
    ]
    column = args.source_column or SOURCE_COLUMN
    if isinstance(train_dataset, Dataset) and column in train_dataset.column_names:
        counts = list(source_counts(train_dataset, column).items())
        shown, rest = counts[:MOST_SOURCES], counts[MOST_SOURCES:]
        if rest:
            shown.append((f"{len(rest)} {OTHER_SOURCES}", sum(count for _, count in rest)))
        parts += ["### Training data", _table(("source", "examples"), shown)]
    return "\n\n".join(parts)


def _table(head: tuple[str, str], rows: Iterable[tuple[Any, Any]]) -> str:
    lines = [head, ("---", "---"), *rows]
    return "\n".join(f"| {left} | {right} |" for left, right in lines)
