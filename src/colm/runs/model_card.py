"""The card of a trained model: TRL's, with what this run trained on and how it chose.

Names come from data and folders, whatever is in them, and the card is Markdown that hubs render:
what is no plain word stands in a span of code, in one line.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from colm.coreset.registry import get_selector
from colm.names import escaped, shown_name
from colm.run_record import RunRecord
from colm.source_names import MOST_SOURCES, OTHER_SOURCES
from colm.training.optimizers import OPTIMIZERS, ZEROTH_ORDER
from colm.training.papers import source_of_selector

_LOSSES_ALONE = (
    "Weights were trained by losses alone, without a backward. `colm_zeroth_order.json` has every "
    "step: `colm.replay_log(model, log)` makes these weights again from those that training began "
    "with."
)
_OPTIMIZER = ("optim", "optim_args", "optim_target_modules")
_SECTION_AFTER = "### Framework versions"
#: Words with one space, underscore, slash or dash between them: no renderer sees more in these.
_PLAIN = re.compile(r"(?=.{1,100}\Z)(?:[^\W_]+[ _/-])*[^\W_]+")


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
        record = trainer.run_record()
        if "side_block" in record.memory:
            text = _with_block_loaded(text, json.dumps(base_model, ensure_ascii=False), place)
        section = describe_training(record)
        text = text.replace(_SECTION_AFTER, f"{section}\n\n{_SECTION_AFTER}", 1)
        card.write_text(text, encoding="utf-8")
    return card


def describe_training(record: RunRecord) -> str:
    """Return Markdown that says what was drawn and kept at each step, by which options.

    Args:
        record: Of the run.

    Returns:
        Sections of third level.
    """
    parts = ["### Mini-batches", _in_words(record), _options(record.selection)]
    if record.subspaces:
        parts += [
            "### Random subspaces",
            "Weight matrices were trained along random directions, drawn again and again.",
            _options(record.subspaces),
        ]
    if "side_block" in record.memory:
        parts += [
            "### Side block",
            "All weights of the base model are frozen, and a small block beside its layers was "
            "trained: `colm.load_side_block(model, folder)` puts it there.",
            _options(record.memory),
        ]
    if (optim := record.options.get("optim")) in OPTIMIZERS:
        told = {name: record.options[name] for name in _OPTIMIZER if name in record.options}
        alone = [_LOSSES_ALONE] if optim == ZEROTH_ORDER else []
        parts += ["### Optimizer", *alone, _options(told)]
    if (vocabulary := record.model.get("vocabulary")) is not None:
        parts += [
            "### Vocabulary",
            f"Embeddings of the {vocabulary['tokens']} tokens that the data use were there while "
            f"the model was trained; those of all {vocabulary['all_tokens']} are there again, the "
            "others as they were.",
        ]
    if record.sources:
        parts += ["### Training data", _sources(record.sources)]
    return "\n\n".join(parts)


def _with_block_loaded(text: str, base_model: str, place: str) -> str:
    """The card whose quick start puts the side block beside its base; names are given as code."""
    loading = (
        "from colm import load_side_block\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({base_model})\n"
        f"load_side_block(model, {place})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({place})\n"
    )
    text = text.replace("from transformers import pipeline\n", loading, 1)
    generator = r'(pipeline\("text-generation", )model=.*\)$'
    return re.sub(generator, r"\1model=model, tokenizer=tokenizer)", text, flags=re.MULTILINE)


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


def _span(line: str) -> str:
    """A span of code; what would end it, or the cell that it is in, is written as Python does."""
    code = line.replace("`", r"\x60").replace("|", r"\x7c")
    return f"`{code}`"


def _in_words(record: RunRecord) -> str:
    """How many examples a step drew and kept, and what chose them."""
    lines = [f"Each step drew {record.drawn} examples and trained on {record.kept} of them.", ""]
    selector = record.selection.get("selector")
    if selector is None:
        return "\n".join([*lines, "Nothing was selected: `candidate_ratio` is 1."])
    if get_selector(selector).keeps_all:
        return "\n".join([*lines, f"The selector {as_code(selector)} keeps every example."])
    what = f"The selector {as_code(selector)} chose them"
    if "gradients" in get_selector(selector).needs:
        gradient = record.selection.get("gradient", get_selector(selector).defaults["gradient"])
        what += f" by gradients that are {as_code(gradient)}"
    if (source := source_of_selector(selector)) is not None:
        paper = f"[{source.title}](https://arxiv.org/abs/{source.arxiv})"
        what += f"; it is {source.words} {paper}"
    return "\n".join([*lines, f"{what}."])


def _options(options: Mapping[str, Any]) -> str:
    rows = ((f"`{name}`", as_code(str(value))) for name, value in options.items())
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
