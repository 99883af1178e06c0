"""``colm sft``: fine-tune a model on a mixture of data, from a recipe or the command line."""

import argparse
from typing import Any

from colm.cli.libraries import notes_on_stderr
from colm.cli.terminal import Saying


def add_parser(subparsers: Any) -> None:
    """Add the command; its options are TRL's and are parsed when it runs.

    Args:
        subparsers: What ``add_subparsers`` returned.
    """
    parser = subparsers.add_parser(
        "sft", help="fine-tune a model on your data; all options: colm sft --help", add_help=False
    )
    parser.set_defaults(run=run, takes_rest=True)


def run(namespace: argparse.Namespace) -> int:
    """Fine-tune as the options say.

    Args:
        namespace: Its ``rest`` holds the arguments after ``colm sft``.

    Returns:
        Exit code 0.

    Raises:
        SystemExit: Help was asked for and printed.
    """
    with notes_on_stderr():
        if {"-h", "--help"} & set(namespace.rest):
            from colm.runs.option_help import parts_of_help

            for part in parts_of_help():
                print(part, end="", flush=True)
            raise SystemExit(0)
        from colm.runs.arguments import parse_arguments

        arguments = parse_arguments(namespace.rest)
        from colm.runs.sft import run_sft

        run_sft(arguments, Saying())
    return 0
