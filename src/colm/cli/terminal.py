"""Lines that a command says while it works."""

import sys
from typing import TextIO


class Saying:
    """Says lines on a stream: on a terminal, one that need not stay is written over by the next.

    Args:
        stream: Where to; by default what is the standard output when a line is said.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def __call__(self, line: str, kept: bool = True) -> None:
        """Say a line; in a file or a pipe, only one that is to stay."""
        stream = self._stream or sys.stdout
        if stream.isatty():
            print(f"\r\x1b[K{line}", end="\n" if kept else "", file=stream, flush=True)
        elif kept:
            print(line, file=stream, flush=True)
