"""A hook that hears from Python what a program does, and refuses what no program needs.

The confined process, which finds no package of colm, is sent this source and runs it.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # the module typing takes longer to import than all of the others
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# What no program needs; of what starts with "os." those below are not refused, nor is os.truncate.
_REFUSED_EVENTS: tuple[str, ...] = ("socket.", "subprocess.", "ctypes.", "os.", "pty.", "fcntl.")
_REFUSED_EVENTS += ("resource.", "sqlite3.", "gc.get_", "signal.pthread_kill")
_LISTING_EVENTS = ("os.listdir", "os.scandir", "os.walk", "os.fwalk")
_HARMLESS_EVENTS = ("os.putenv", "os.unsetenv")


def audit_hook(scratch: str, readable: tuple[str, ...]) -> Callable[[str, tuple[Any, ...]], None]:
    """Return a hook that refuses what no program needs, by what Python says that it does.

    It is the last line where the kernel holds too, and no wall where it does not: code that is not
    Python may open a file and say nothing.

    Args:
        scratch: The folder a program may write to, and its current one.
        readable: Folders and files it may read.

    Returns:
        A function for ``sys.addaudithook``; it raises ``PermissionError``.
    """
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    # Looked up now: the program may put others into the module.
    written, read = (scratch, os.devnull), (*readable, scratch, os.devnull)

    def within(path: object, roots: tuple[str, ...]) -> bool:
        if path is None or type(path) is int:
            return True  # the current folder, and what was opened before
        text = path.decode("utf-8", "surrogateescape") if type(path) is bytes else path
        if type(text) is not str or ".." in text.split("/"):
            return False
        full = text if text.startswith("/") else f"{scratch}/{text}"
        return any(full == root or full.startswith(f"{root}/") for root in roots)

    def allowed(event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open":
            return within(arguments[0], written if arguments[2] & writing else read)
        if event in _LISTING_EVENTS:
            return within(arguments[0], read)
        if event == "os.truncate":
            return within(arguments[0], written)
        return event in _HARMLESS_EVENTS or not event.startswith(_REFUSED_EVENTS)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not allowed(event, arguments):
            raise PermissionError(f"a model's program may not: {event}")

    return hook
