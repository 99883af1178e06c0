"""Options of several commands: how they are spelled, those of ``colm sft``, and numbers."""

import argparse
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colm.runs.arguments import SFTArguments


_DASHED = re.compile(r"\A--\w+(-\w+)+(?==|\Z)")

_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?) *(?P<unit>[A-Za-z]+)")
_UNITS: dict[str, int] = {f"{p}B": 1000**n for n, p in enumerate(("k", "M", "G", "T"), start=1)}
_UNITS |= {f"{p}iB": 1024**n for n, p in enumerate(("K", "M", "G", "T"), start=1)}

#: Options that there were of commands other than ``colm sft``, and what says the same now.
_FORMER = {"--length_normalised": "--length_normalized"}


def spelled_one_way(argv: Sequence[str]) -> list[str]:
    """Spell options with underscores, as TRL does; who writes ``--a-b`` means ``--a_b``.

    Args:
        argv: arguments of a command; after a ``--`` among them, none is an option.

    Returns:
        The same, options spelled as the parsers know them.

    Raises:
        ValueError: an option is spelled as it was before; the line has its name of today.

    Example:
        >>> spelled_one_way(["--batch-size=4", "--data", "my-file", "--", "--a-b"])
        ['--batch_size=4', '--data', 'my-file', '--', '--a-b']
    """
    end = list(argv).index("--") if "--" in argv else len(argv)
    words = [_DASHED.sub(lambda found: _underscored(found[0]), word) for word in argv[:end]]
    for word in words:
        if (now := _FORMER.get(word.partition("=")[0])) is not None:
            raise ValueError(
                f"{word.partition('=')[0]} is no option any more: it is spelled {now}."
            )
    return [*words, *argv[end:]]


def _underscored(option: str) -> str:
    return f"--{option.removeprefix('--').replace('-', '_')}"


def add_sft_command(
    subparsers: Any, name: str, *, summary: str, usage: str, description: str
) -> argparse.ArgumentParser:
    """Add a command that takes every option of ``colm sft`` beside its own, and lists recipes.

    Args:
        subparsers: What ``add_subparsers`` returned.
        name: Of the command.
        summary: A line on it.
        usage: Its own options, as the usage shows them.
        description: What it does.

    Returns:
        The parser, to which the command's own options are to be added.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        allow_abbrev=False,
        help=summary,
        usage=f"colm {name} [--config FILE]... {usage} [any option of colm sft]",
        description=f"{description} Takes every option of colm sft, which colm sft --help lists.",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        action="append",
        help="recipe: a YAML file of options, or the name of one that comes with colm; of several, "
        "later ones go before earlier ones",
    )
    parser.set_defaults(takes_rest=True)
    return parser


def parse_sft_options(namespace: argparse.Namespace) -> "SFTArguments":
    """Parse the options of ``colm sft`` that a command was given.

    Args:
        namespace: What the parser of `add_sft_command` returned.

    Returns:
        The options of the run.

    Raises:
        FileNotFoundError: A recipe is not there.
        ValueError: An option is unknown, has a value of the wrong kind, or one that cannot be.
    """
    from colm.runs.arguments import parse_arguments

    return parse_arguments(sft_words(namespace))


def sft_words(namespace: argparse.Namespace) -> list[str]:
    """Return the options of ``colm sft`` that a command was given, as they were typed.

    Args:
        namespace: What the parser of `add_sft_command` returned.
    """
    recipes = [word for path in namespace.config or () for word in ("--config", path)]
    return [*recipes, *namespace.rest]


def read_size(option: str, text: str) -> int:
    """Return the bytes that a size says.

    Args:
        option: What it is given with.
        text: A number and its unit: kB, MB, GB, TB are powers of 1000, KiB to TiB of 1024.

    Raises:
        ValueError: It is no such size, or none at all.

    Example:
        >>> read_size("--fit", "24GB"), read_size("--fit", "1.5 GiB")
        (24000000000, 1610612736)
    """
    found = _SIZE.fullmatch(text.strip())
    units = [*_UNITS]
    number = float(found["number"]) if found else 0.0
    by_name = {name.lower(): size for name, size in _UNITS.items()}
    unit = by_name.get(found["unit"].lower() if found else "")
    if unit is None or number * unit < 1:
        raise ValueError(
            f"{option} must be a number above 0 with one of {', '.join(units)}, such as 24GB; got "
            f"{text!r}."
        )
    return round(number * unit)


def check_counts(namespace: argparse.Namespace, options: Sequence[str]) -> None:
    """Refuse numbers below 1.

    Args:
        namespace: The options given.
        options: Those that count something, as they stand in the namespace; ``None`` is none given.

    Raises:
        ValueError: One is below 1.

    Example:
        >>> check_counts(argparse.Namespace(batch_size=0), ["batch_size"])
        Traceback (most recent call last):
        ...
        ValueError: --batch_size must be at least 1; got 0.
    """
    for option in options:
        value = getattr(namespace, option)
        if value is not None and value < 1:
            raise ValueError(f"--{option} must be at least 1; got {value}.")


def check_one_process(command: str) -> None:
    """Refuse to be one of several processes that a launcher started.

    Args:
        command: That is for one process.

    Raises:
        ValueError: There are several.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise ValueError(
            f"colm {command} is for one process, and this is one of {os.environ['WORLD_SIZE']}: "
            "start it by itself, without torchrun or accelerate launch"
        )
