"""Names as they are shown: of sources, files and models, whatever characters others gave them.

A line break in a name would make a line of a log, a table or a model card that nobody wrote; other
characters that are not printed would hide, or turn round, what stands beside them.
"""

import hashlib
import re

ELLIPSIS = "…"
#: Some trackers refuse the name of a metric that is longer than 250 with what stands before it.
MOST_IN_A_NAME = 100
#: Of a message, which may quote what users, files and libraries say.
MOST_IN_A_MESSAGE = 2000
_DIGEST_CHARACTERS = 8

_LOOKS_ESCAPED = re.compile(r"\\[\\nrtxuU]")


def printable(text: str) -> str:
    r"""Return a text in one line, what cannot be printed written as Python writes it.

    Args:
        text: Any.

    Returns:
        The same where all of it can be printed.

    Example:
        >>> print(printable("a\nb"))
        a\nb
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def one_line(message: str) -> str:
    r"""Return a message in a line that can be printed, and read.

    Args:
        message: Any.

    Returns:
        At most ``MOST_IN_A_MESSAGE`` characters, the middle left out where it was longer.

    Example:
        >>> print(one_line("no such\nfile \x1b[31mred"))
        no such file \x1b[31mred
    """
    text = printable(" ".join(message.split()))
    half = (MOST_IN_A_MESSAGE - len(ELLIPSIS)) // 2
    return text if len(text) <= MOST_IN_A_MESSAGE else text[:half] + ELLIPSIS + text[-half:]


def escaped(text: str) -> str:
    r"""Return a text as ``printable`` does, and so that different texts stay different.

    Args:
        text: Any.

    Returns:
        The same where it can be printed, and is not what another becomes.

    Example:
        >>> print(escaped("web"), escaped("web\n# Heading"), escaped(r"a\nb"))
        web web\n# Heading a\\nb
    """
    if text.isprintable() and not _LOOKS_ESCAPED.search(text):
        return text
    return printable(text.replace("\\", r"\\"))


def shown_name(name: str) -> str:
    """Return a name as it is shown and logged: in one line, and not without end.

    Args:
        name: Any.

    Returns:
        At most ``MOST_IN_A_NAME``; a longer name ends in a digest, so that different names stay
        different. ``''`` for no name.

    Example:
        >>> shown_name("web"), shown_name(""), len(shown_name("web" * 1000))
        ('web', "''", 100)
    """
    text = escaped(name) or "''"
    if len(text) <= MOST_IN_A_NAME:
        return text
    digest = hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()
    kept = text[: MOST_IN_A_NAME - _DIGEST_CHARACTERS - len(ELLIPSIS)]
    return kept + ELLIPSIS + digest[:_DIGEST_CHARACTERS]
