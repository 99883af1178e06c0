"""Options of several commands: those of ``colm sft``, which others take, too, and numbers."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from colm.runs.arguments import SFTArguments


def add_sft_options(parser: argparse.ArgumentParser) -> None:
    """Let a command take every option of ``colm sft`` beside its own, and list recipes alone.

    Args:
        parser: of the command, which must not take abbreviations.
    """
    parser.add_argument(
        "--config",
        metavar="FILE",
        action="append",
        help="recipe: a YAML file of options, or the name of one that comes with colm; of several, "
        "later ones go before earlier ones",
    )
    parser.set_defaults(takes_rest=True)


def parse_sft_options(namespace: argparse.Namespace) -> "SFTArguments":
    """Parse the options of ``colm sft`` that a command was given.

    Args:
        namespace: What the parser of `add_sft_options` returned.

    Returns:
        The options of the run.

    Raises:
        FileNotFoundError: A recipe is not there.
        ValueError: An option is unknown, has a value of the wrong kind, or one that cannot be.
    """
    from colm.runs.arguments import parse_arguments

    recipes = [word for path in namespace.config or () for word in ("--config", path)]
    return parse_arguments([*recipes, *namespace.rest])


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
        ValueError: --batch-size must be at least 1; got 0.
    """
    for option in options:
        value = getattr(namespace, option)
        if value is not None and value < 1:
            raise ValueError(f"--{option.replace('_', '-')} must be at least 1; got {value}.")
