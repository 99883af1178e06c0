"""How other libraries behave under a command: their environment variables, and what they print.

To be called before they are imported, which is when they read most of it.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_WAIT_POLICY = "OMP_WAIT_POLICY"
_VARIABLES = {
    # Threads that wait by spinning make training many times slower on a machine that is busy.
    _WAIT_POLICY: "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    # Their notes and bars would break into a command's own lines.
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


def set_environment(**more: str) -> None:
    """Set the environment variables that libraries read on import, where the user has set none.

    Args:
        more: Further variables and their values.
    """
    for name, value in (_VARIABLES | more).items():
        os.environ.setdefault(name, value)


def silence_bitsandbytes() -> None:
    """Silence what it logs on import about the processor of this machine."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


class _Formatter(logging.Formatter):
    """Formats each note as one line, also where names in it have line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        from colm.names import one_line

        return f"colm: {one_line(record.getMessage())}"


@contextmanager
def notes_on_stderr() -> Iterator[None]:
    """Print colm's notes on stderr, in the first process alone, and bars only on a terminal."""
    os.environ.setdefault(_WAIT_POLICY, _VARIABLES[_WAIT_POLICY])
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
