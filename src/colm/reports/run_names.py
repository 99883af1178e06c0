"""Names as they are shown: cleaned of what a page cannot hold, and short where room is short."""

import re
from collections.abc import Sequence
from itertools import takewhile

from colm.names import ELLIPSIS

_BETWEEN = r"[\s_./=()-]"
#: How a name goes on where only a seed follows.
_BEFORE_A_SEED = re.compile(rf"(?:{_BETWEEN}+(?:seeds?|s)?|seeds?){_BETWEEN}*\d*$", re.IGNORECASE)


def clean(name: str) -> str:
    r"""Return a name in one line of printable characters.

    Args:
        name: Of a file, a run or a source, whatever it holds.

    Returns:
        The same without control characters and half characters; ``"?"`` where nothing is left.

    Example:
        >>> clean("runs\n of\x1b mine")
        'runs of mine'
    """
    words = " ".join("".join(c if c.isprintable() else " " for c in word) for word in name.split())
    return " ".join(words.split()) or "?"


def shorten(name: str, most: int) -> str:
    """Return a name with its middle left out where it is longer than there is room for.

    Args:
        name: A name.
        most: Characters, at least 3.

    Returns:
        At most as many characters.

    Example:
        >>> shorten("a-run-with-a-very-long-name-7", 14), shorten("short", 14)
        ('a-run-w…name-7', 'short')
    """
    if len(name) <= most:
        return name
    tail = (most - 1) // 2
    return name[: most - 1 - tail] + ELLIPSIS + name[len(name) - tail :]


def short_names(names: Sequence[str], most: int) -> list[str]:
    """Return names shortened, with a number where that makes two of them the same.

    Args:
        names: All names that must be told apart.
        most: Characters, at least 6.

    Returns:
        One each, in their order.

    Example:
        >>> short_names(["the-first-run-of-all", "the-last-run-of-all", "other"], 9)
        ['the…ll #1', 'the…ll #2', 'other']
    """
    short = [shorten(name, most) for name in names]
    return [
        f"{shorten(name, most - 3)} #{short[:place].count(name) + 1}"
        if short.count(name) > 1
        else name
        for place, name in enumerate(short)
    ]


def distinct(names: Sequence[str]) -> list[str]:
    """Return names with a number behind those that were there before.

    Args:
        names: Of which some may be the same.

    Returns:
        One each, in their order, no two the same.

    Example:
        >>> distinct(["a", "b", "a"])
        ['a', 'b', 'a (2)']
    """
    found: list[str] = []
    for name in names:
        number, candidate = 1, name
        while candidate in found:
            number += 1
            candidate = f"{name} ({number})"
        found.append(candidate)
    return found


def common_name(names: Sequence[str]) -> str:
    """Return what names of runs that differ by their seed have in common.

    Args:
        names: At least one.

    Returns:
        What they begin with, without what leads up to the seed; or what they end with, or the
        first of them.

    Example:
        >>> common_name(["colm-seed1", "colm-seed2"]), common_name(["r-64", "r-64 (2)"])
        ('colm', 'r-64')
        >>> common_name(["0/even", "1/even"]), common_name(["one", "two"])
        ('even', 'one')
    """
    begin = _beginning(names)
    if begin not in names:
        begin = _BEFORE_A_SEED.sub("", begin)
    end = _beginning([name[::-1] for name in names])[::-1]
    return begin or re.sub(rf"^{_BETWEEN}+", "", end) or names[0]


def _beginning(names: Sequence[str]) -> str:
    """What all begin with: of the first and the last by alphabet, all others lie between."""
    pairs = zip(min(names), max(names), strict=False)
    return "".join(first for first, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def join_in_words(parts: Sequence[str]) -> str:
    """Return parts as a list in a sentence.

    Args:
        parts: Texts.

    Returns:
        Commas between them and "and" before the last.

    Example:
        >>> join_in_words(["a", "b", "c"])
        'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
