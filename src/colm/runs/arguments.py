"""The options of ``colm sft``: TRL's, those of CoLM, and recipes in YAML that set any of them.

TRL's parser does the parsing. Around it, what a recipe says is read as if typed on the command
line (YAML takes ``2e-5`` for text and ``1`` for a whole number), and every mistake is one line that
names the option.
"""

import argparse
import difflib
import os
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, TrlParser
from trl.scripts.utils import DatasetConfig

from colm.checks import shown
from colm.runs.option_help import SFTParser
from colm.runs.recipes import find_recipe, load_recipe
from colm.training.options.config import CoLMConfig
from colm.training.options.former import refuse_former
from colm.training.options.hardware import has_accelerator
from colm.training.options.plain_options import check_adapter_options

_DATACLASSES = (ScriptArguments, CoLMConfig, ModelConfig, DatasetMixtureConfig)


class SFTArguments(NamedTuple):
    """Everything a run of supervised fine-tuning is told."""

    script: ScriptArguments
    training: CoLMConfig
    model: ModelConfig
    mixture: DatasetMixtureConfig


def parse_arguments(
    arguments: Sequence[str], instead: Mapping[str, Any] | None = None
) -> SFTArguments:
    """Parse the arguments of ``colm sft``.

    Args:
        arguments: What follows ``colm sft`` on the command line. ``--config FILE`` names a recipe
            in YAML: a file, or one that comes with colm. Of several recipes, later ones go before
            earlier ones, option by option, lists as a whole; what else stands there goes before
            them all.
        instead: Values of options that go before everything else, by name.

    Returns:
        The options, grouped as in TRL.

    Raises:
        FileNotFoundError: There is no such recipe.
        ValueError: An option is unknown, has a value of the wrong kind, or one that cannot be.
        SystemExit: Help was asked for and printed.

    Example:
        >>> parsed = parse_arguments(["--dataset_name", "train.jsonl", "--candidate_ratio", "4"])
        >>> parsed.script.dataset_name, parsed.training.candidate_ratio
        ('train.jsonl', 4.0)
    """
    parser = make_sft_parser()
    parser.instead = dict(instead or {})
    namespace, unknown = parser.parse_known_args(arguments)
    if unknown:
        _refuse_argument(unknown, parser)
    recipe: dict[str, Any] = {}
    for path in namespace.config or ():
        recipe |= _read_recipe(find_recipe(path), parser)
    parser.set_defaults_with_config(**recipe)
    try:
        parsed = parser.parse_args_into_dataclasses(list(arguments), look_for_args_file=False)
        check_adapter_options(parsed[2])
    except RecursionError as error:  # JSON in the value of an option, or in a file that it names
        raise ValueError("the JSON of an option is nested too deep") from error
    except (ValueError, ImportError, OSError, OverflowError, TypeError) as error:
        raise ValueError(str(error)) from error
    return SFTArguments(*parsed[: len(_DATACLASSES)])


def make_sft_parser() -> SFTParser:
    """Return the parser of ``colm sft``, with every option of TRL's ``sft`` and of CoLM.

    Returns:
        Parser whose mistakes are ``ValueError``s.
    """
    parser = SFTParser(_DATACLASSES)
    # Without an accelerator, transformers refuses recipes' bf16 unless told to use the CPU.
    parser.set_defaults(use_cpu=not has_accelerator())
    return parser


def _read_recipe(path: Path, parser: TrlParser) -> dict[str, Any]:
    """The options of a recipe, each of the type that the command line would give it."""
    recipe = load_recipe(path)
    try:
        _set_environment(recipe.pop("env", None))
        return _read_options(recipe, parser)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_options(recipe: Mapping[str, Any], parser: TrlParser) -> dict[str, Any]:
    """Each value of a recipe with the type of its option."""
    # An option that is on by default comes twice; the second, --no_x, takes no value.
    actions = {action.dest: action for action in parser._actions if action.nargs != 0}
    hints = {name: hint for c in _DATACLASSES for name, hint in typing.get_type_hints(c).items()}
    options = {}
    for name, value in recipe.items():
        refuse_former([str(name)])
        if name not in actions or name not in hints:
            raise ValueError(f"unknown option '{name}'{_suggestion(name, hints)}")
        options[name] = _read_value(name, value, actions[name], hints[name], parser)
    return options


def _set_environment(variables: Any) -> None:
    """Set what the recipe lists under ``env``, as TRL does."""
    if variables is None:
        return
    if not isinstance(variables, dict):
        raise ValueError("env must be a mapping of environment variables to values")
    os.environ.update({str(name): str(value) for name, value in variables.items()})


def _read_value(
    name: str, value: Any, action: argparse.Action, hint: Any, parser: TrlParser
) -> Any:
    """A value of a recipe as the command line would read it, where it can stand there."""
    kinds = _kinds(hint)
    if name == "datasets":
        return [_read_source(entry) for entry in (value if isinstance(value, list) else [value])]
    if value is None and type(None) in kinds:
        return None
    if isinstance(value, dict) and dict in kinds:
        return value
    if isinstance(value, list) and action.nargs is None and list in kinds:
        return value
    if value is True and action.nargs == "?" and action.const is True:
        # A switch that takes words, too, such as fsdp: the word "true" is none of them.
        return True
    values = value if isinstance(value, list) and action.nargs == "+" else [value]
    texts = [_as_argument(item, action) for item in values]
    if not texts or None in texts:
        raise ValueError(f"option '{name}' cannot be {shown(value)}")
    text = typing.cast("list[str]", texts)
    tokens = [f"--{name}", *text] if action.nargs == "+" else [f"--{name}={text[0]}"]
    return getattr(parser.parse_known_args(tokens)[0], name)


def _kinds(hint: Any) -> set[Any]:
    """The plain types that a type hint allows: ``{list, NoneType}`` for ``list[str] | None``."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    members = typing.get_args(hint) if is_union else (hint,)
    return {typing.get_origin(member) or member for member in members}


def _as_argument(value: Any, action: argparse.Action) -> str | None:
    """A scalar as text, ``None`` for anything else; YAML reads ``no`` as false."""
    if isinstance(value, bool):
        if action.choices is not None and "no" in action.choices:
            return "yes" if value else "no"
        return str(value).lower()
    return str(value) if isinstance(value, str | int | float) else None


def _read_source(entry: Any) -> DatasetConfig:
    """An entry of ``datasets``: a path, or a mapping with the fields of TRL's ``DatasetConfig``."""
    if isinstance(entry, str):
        return DatasetConfig(path=entry)
    known = [field.name for field in fields(DatasetConfig)]
    if not isinstance(entry, Mapping) or not isinstance(entry.get("path"), str):
        raise ValueError(f"an entry of 'datasets' needs a path; got {shown(entry)}")
    for name in entry:
        if name not in known:
            raise ValueError(f"unknown field '{name}' in datasets{_suggestion(name, known)}")
    return DatasetConfig(**entry)


def _refuse_argument(unknown: Sequence[str], parser: argparse.ArgumentParser) -> NoReturn:
    """Name the first argument that no option takes, and options like it."""
    option = next((token for token in unknown if token.startswith("--")), None)
    if option is None:
        raise ValueError(f"unexpected argument '{unknown[0]}'; see colm sft --help")
    option = option.partition("=")[0]
    refuse_former([option.removeprefix("--").replace("-", "_")])
    known = {string for action in parser._actions for string in action.option_strings}
    raise ValueError(f"unknown option '{option}'{_suggestion(option, known)}")


def _suggestion(name: str, known: Collection[str] | Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=3)
    return f"; did you mean {' or '.join(close)}?" if close else "; see colm sft --help"
