"""Numbers in words: ``twenty-one``, ``two and a half``, ``three quarters``."""

import re
from fractions import Fraction

_SMALL = (  # noqa: SIM905 - easier to read than a list of them
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
_VALUES = {word: value for value, word in enumerate(_SMALL)}
_VALUES |= {word: 10 * value for value, word in enumerate(_TENS, 2)}
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_PARTS = {"half": 2, "halves": 2}
for _part, _name in enumerate(
    "third quarter fifth sixth seventh eighth ninth tenth".split(),  # noqa: SIM905
    3,
):
    _PARTS |= {_name: _part, f"{_name}s": _part}
_PARTS |= {"fourth": 4, "fourths": 4}
_WORD = re.compile(r"[A-Za-z]+")


def spelled_number(text: str) -> tuple[Fraction, str] | None:
    """Return the number in words with which a text begins, and the rest of the text.

    Args:
        text: Any text.

    Returns:
        The number and what follows; ``None`` where there is none.

    Example:
        >>> spelled_number("Twenty-one apples"), spelled_number("two and a half")
        ((Fraction(21, 1), 'apples'), (Fraction(5, 2), ''))
        >>> spelled_number("three quarters of it"), spelled_number("third")
        ((Fraction(3, 4), 'of it'), None)
    """
    words = list(_WORD.finditer(text))
    names = [word[0].lower() for word in words]
    if not words or text[: words[0].start()].strip("- "):
        return None
    negative = names[0] in {"minus", "negative"}
    value, used = _number(names[negative:])
    if not used:
        return None
    used += negative
    rest = text[words[used - 1].end() :].strip(" -")
    return (-value if negative else value), rest


def _number(names: list[str]) -> tuple[Fraction, int]:
    """The number at the beginning of some words, and how many of them it takes."""
    if names[:1] in (["half"], ["a"], ["an"]):
        return _share(names, 0)
    whole, used = _whole(names)
    if not used:
        return Fraction(0), 0
    if used < len(names) and names[used] in _PARTS:
        return Fraction(whole, _PARTS[names[used]]), used + 1
    if names[used : used + 1] == ["and"]:
        share, more = _share(names[used + 1 :], 1)
        if more:
            return whole + share, used + 1 + more
    return Fraction(whole), used


def _share(names: list[str], least: int) -> tuple[Fraction, int]:
    """A part of one, "a half" or "three quarters", and how many words it takes."""
    if names[:1] == ["half"]:
        return Fraction(1, 2), 1
    top, used = (1, 1) if names[:1] in (["a"], ["an"]) else _whole(names) if least else (0, 0)
    if names[:2] == ["a", "dozen"]:
        return Fraction(1), 1
    if used and used < len(names):
        if names[used] in _PARTS:
            return Fraction(top, _PARTS[names[used]]), used + 1
        if names[used] in _SCALES and not least:  # "a hundred"
            return Fraction(_SCALES[names[used]]), used + 1
    return Fraction(0), 0


def _whole(names: list[str]) -> tuple[int, int]:
    """A whole number and how many words it takes."""
    total, group, used, room = 0, 0, 0, 0
    for place, name in enumerate(names):
        if name == "and" and used == place and group % 100 == 0 and place:
            continue
        if name in _SCALES and used:
            if name == "hundred":
                group, room = group * 100, 100
            else:
                total, group, room = total + group * _SCALES[name], 0, 1000
        elif name in _VALUES and (not used or _VALUES[name] < room) and name != "zero":
            value = _VALUES[name]
            group += value
            room = 10 if value >= 20 else 0
        elif name == "zero" and not used:
            return 0, 1
        else:
            break
        used = place + 1
    return total + group, used
