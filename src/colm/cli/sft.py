"""``colm sft``: fine-tune a model on a mixture of data, from a recipe or the command line."""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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
    """
    with _notes_on_stderr():
        from colm.training.arguments import parse_arguments

        arguments = parse_arguments(namespace.rest)
        from colm.training.sft import run_sft

        run_sft(arguments)
    return 0


@contextmanager
def _notes_on_stderr() -> Iterator[None]:
    """Show notes of the first process, and progress bars where someone watches."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logger, handler = logging.getLogger("colm"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("colm: %(message)s"))
    level = logger.level
    # Says on import what this machine's processor cannot do, which nobody asked for.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            # TRL and PEFT still say what transformers deprecates; users can do nothing about it.
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated")
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
