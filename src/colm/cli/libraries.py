"""What the libraries read from the environment and say, as commands want it.

Called before they are imported: most of it they read once.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLES = {
    # Threads that wait by spinning make training many times slower on a machine that is busy.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    # Their notes and bars would break into a command's own lines.
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


def set_environment(**more: str) -> None:
    """Set what the libraries read when they are first imported, unless the user has.

    Args:
        more: Further variables and their values.
    """
    for name, value in (_VARIABLES | more).items():
        os.environ.setdefault(name, value)


def silence_bitsandbytes() -> None:
    """Silence what it says on import of what this machine's processor cannot do, unasked."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


class _Formatter(logging.Formatter):
    """One line a note, whatever the names in it hold."""

    def format(self, record: logging.LogRecord) -> str:
        from colm.names import one_line

        return f"colm: {one_line(record.getMessage())}"


@contextmanager
def notes_on_stderr() -> Iterator[None]:
    """Show colm's notes of the first process, and progress bars where someone watches."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logger, handler = logging.getLogger("colm"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    level = logger.level
    silence_bitsandbytes()
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
