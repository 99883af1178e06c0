"""JSON that others wrote, read within bounds.

A file that was damaged, or made to do damage, is one ``ValueError``: broken text, and nesting that
would exhaust the stack of whatever goes through the value later. Files of data have a reader of
their own, `colm.data`, which names the line.
"""

import json
from pathlib import Path
from typing import Any

#: Nothing that trainers, reports or libraries write is nested as deep.
MOST_LEVELS = 100


def parse_json(text: str | bytes) -> Any:
    """Return what a text of JSON stands for.

    Args:
        text: All of it.

    Returns:
        Mappings, lists, texts and numbers, in ``MOST_LEVELS`` levels at most.

    Raises:
        ValueError: It is not JSON, or is nested deeper.

    Example:
        >>> parse_json("[" * 100_000 + "]" * 100_000)
        Traceback (most recent call last):
        ...
        ValueError: nested in more than 100 levels
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"nested in more than {MOST_LEVELS} levels") from error
    check_levels(value)
    return value


def read_json(path: Path) -> Any:
    """Return what a file of JSON holds.

    Args:
        path: The file.

    Returns:
        What ``parse_json`` returns.

    Raises:
        ValueError: It is no JSON in UTF-8, or is nested too deep; the message does not name it.
        OSError: It cannot be read.
    """
    return parse_json(path.read_bytes().decode("utf-8"))


def check_levels(value: Any) -> None:
    """Refuse what is nested too deep; level by level, for a recursion would not come back.

    Args:
        value: What ``json`` returned.

    Raises:
        ValueError: It has more than ``MOST_LEVELS`` levels.
    """
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [
            each
            for container in level
            if isinstance(container, dict | list)
            for each in (container.values() if isinstance(container, dict) else container)
            if isinstance(each, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"nested in more than {MOST_LEVELS} levels")
