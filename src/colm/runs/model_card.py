"""The card of a trained model: TRL's, with what this run trained on and how it chose.

Names come from data and folders, whatever is in them, and the card is Markdown that hubs render and
``colm report`` reads: what is no plain word stands in a span of code, in one line.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from datasets import Dataset

from colm.coreset.registry import get_selector
from colm.data import SOURCE_COLUMN, source_counts
from colm.names import escaped, shown_name
from colm.training.options.config import SelectionArguments
from colm.training.options.subspace_arguments import SubspaceArguments
from colm.training.papers import selects, source_of_selector
from colm.training.step.record import MOST_SOURCES, OTHER_SOURCES

_SECTION_AFTER = "### Framework versions"
#: Words with one space, underscore, slash or dash between them: no renderer sees more in these.
_PLAIN = re.compile(r"(?=.{1,100}\Z)(?:[^\W_]+[ _/-])*[^\W_]+")
#: Options of selection that act where nothing is selected.
_ALWAYS = {"candidate_ratio", "candidate_sampling", "source_clusters", "source_column"}


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
    trainer.create_model_card(
        model_name=shown_name(folder.resolve().name), dataset_name=dataset_name
    )
    card = folder / "README.md"
    if trainer.is_world_process_zero():
        text = card.read_text(encoding="utf-8")
        # TRL knows no name for a model that comes from a folder and stays on this machine.
        text = text.replace("[None](https://huggingface.co/None)", as_code(base_model))
        place = json.dumps(str(trainer.args.output_dir), ensure_ascii=False)
        text = text.replace('model="None"', f"model={place}")
        section = describe_training(
            trainer.args, trainer.train_dataset, trainer.candidates_and_kept
        )
        text = text.replace(_SECTION_AFTER, f"{section}\n\n{_SECTION_AFTER}", 1)
        card.write_text(text, encoding="utf-8")
    return card


def describe_training(
    args: Any, train_dataset: Any, per_process: tuple[int, int] | None = None
) -> str:
    """Return Markdown that says what was drawn and kept at each step, by which options.

    Args:
        args: ``CoLMConfig`` of the run.
        train_dataset: What was trained on.
        per_process: Examples that a step drew in each process, and that it trained on; as many as
            the options ask for where ``None``.

    Returns:
        Sections of third level.
    """
    if per_process is None:
        batches, kept = args.gradient_accumulation_steps, args.per_device_train_batch_size
        per_process = batches * round(kept * args.candidate_ratio), batches * kept
    parts = ["### Mini-batches", _in_words(args, per_process), _options(args, SelectionArguments)]
    if args.subspace_rank is not None:
        parts += [
            "### Random subspaces",
            "Weight matrices were trained along random directions, drawn again and again.",
            _options(args, SubspaceArguments),
        ]
    if sizes := _source_sizes(args, train_dataset):
        parts += ["### Training data", _sources(sizes)]
    return "\n\n".join(parts)


def as_code(text: str) -> str:
    r"""Return a text as a span of code, which a cell of a table can hold.

    Args:
        text: Any.

    Returns:
        One line of Markdown in which nothing of the text is markup.

    Example:
        >>> print(as_code("a|b\n# c"))
        `a\x7cb\n# c`
    """
    return _span(escaped(text))


def _source_sizes(args: Any, train_dataset: Any) -> dict[str, int]:
    """Examples of each source; none where the data have no column of sources that can be read."""
    column = args.source_column or SOURCE_COLUMN
    if not isinstance(train_dataset, Dataset) or column not in train_dataset.column_names:
        return {}
    try:
        return source_counts(train_dataset, column)
    except ValueError:  # plain training takes whatever a column of that name holds
        return {}


def _span(line: str) -> str:
    """A span of code; what would end it, or the cell that it is in, is written as Python does."""
    code = line.replace("`", r"\x60").replace("|", r"\x7c")
    return f"`{code}`"


def _in_words(args: Any, per_process: tuple[int, int]) -> str:
    """How many examples a step drew and kept, and what chose them."""
    drawn, kept = (number * args.world_size for number in per_process)
    kept = kept if selects(args) else drawn
    # This line is what `colm report` reads.
    lines = [f"Each step drew {drawn} examples and trained on {kept} of them.", ""]
    if args.candidate_ratio == 1:
        return "\n".join([*lines, "Nothing was selected: `candidate_ratio` is 1."])
    selector = as_code(args.selector)
    if get_selector(args.selector).keeps_all:
        return "\n".join([*lines, f"The selector {selector} keeps every example."])
    source = source_of_selector(args.selector)
    what = f"The selector {selector} chose them"
    if source is not None:
        paper = f"[{source.title}](https://arxiv.org/abs/{source.arxiv})"
        what += f"; it is {source.words} {paper}"
    return "\n".join([*lines, f"{what}."])


def _options(args: Any, arguments_class: type[Any]) -> str:
    """The options of a kind that acted in a run."""
    everything = selects(args) or arguments_class is not SelectionArguments
    acted = _ALWAYS | ({"selector"} if args.candidate_ratio > 1 else set())
    options = (
        (f.name, getattr(args, f.name))
        for f in fields(arguments_class)
        if everything or f.name in acted
    )
    rows = ((f"`{name}`", as_code(str(value))) for name, value in options if value is not None)
    return _table(("option", "value"), rows)


def _sources(sizes: Mapping[str, int]) -> str:
    """The largest sources with their examples, the others in one row."""
    counts = list(sizes.items())
    shown = [(_cell(name), count) for name, count in counts[:MOST_SOURCES]]
    if rest := counts[MOST_SOURCES:]:
        shown.append((f"{len(rest)} {OTHER_SOURCES}", sum(count for _, count in rest)))
    return _table(("source", "examples"), shown)


def _cell(name: str) -> str:
    """A name as it is where nothing in it can be markup, else as code."""
    return name if _PLAIN.fullmatch(name) else _span(shown_name(name))


def _table(head: tuple[str, str], rows: Iterable[tuple[Any, Any]]) -> str:
    lines = [head, ("---", "---"), *rows]
    return "\n".join(f"| {left} | {right} |" for left, right in lines)
