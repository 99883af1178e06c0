r"""Answers of several parts: lists, points, intervals and sets with their brackets, matrices."""

import re
from typing import NamedTuple

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_MATRIX = re.compile(r"\\begin\{([pbBvV]?matrix)\}(.*)\\end\{\1\}")
_PRINTED_MATRIX = re.compile(r"Matrix\(\[\[(.*)\]\]\)")


class Listing(NamedTuple):
    """Items of an answer, the bracket before and after them, and whether their order counts."""

    opening: str
    items: list[str]
    closing: str
    ordered: bool


def parse_listing(text: str) -> Listing | None:
    """Return the items of a list; ``None`` where a text is not one.

    Args:
        text: A plain text.

    Returns:
        The list.

    Example:
        >>> parse_listing("[0, 1)").items, parse_listing("1 and 2").items, parse_listing("x")
        (['0', '1'], ['1', '2'], None)
    """
    text = re.sub(r"\\([{}])", r"\1", text)
    opening, closing = text[:1], text[-1:]
    enclosed = opening in _CLOSING and closing in _CLOSING.values() and _spans(text)
    inner = text[1:-1] if enclosed else text
    items = _split(inner if enclosed else re.sub(r",?\s+(?:and|or)\s+", "; ", inner))
    if len(items) > 1:
        return Listing(
            opening if enclosed else "",
            items,
            closing if enclosed else "",
            opening in "([" if enclosed else False,
        )
    if enclosed and opening == "[" and closing == "]":
        return Listing("[", items, "]", ordered=True)
    words = inner.split()
    if len(words) > 1 and all(re.fullmatch(r"-?\d+(\.\d+)?", word) for word in words):
        return Listing("", words, "", ordered=True)
    return None


def _spans(text: str) -> bool:
    """Whether the first bracket of a text is closed by its last character."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0:
            return place == len(text) - 1
    return False


def _split(text: str) -> list[str]:
    """A text between its commas, those inside brackets and those that group digits left out."""
    if re.search(r",\s|;", text):
        text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    parts, depth = [""], 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        if sign in ",;" and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    stripped = [part.strip() for part in parts]
    return stripped if all(stripped) else [text]


def matrix_rows(text: str) -> list[list[str]]:
    """Return the entries of a matrix, of LaTeX or sympy, row by row; none where it is not one."""
    if (printed := _PRINTED_MATRIX.fullmatch(text)) is not None:
        return [_split(row) for row in re.split(r"\]\s*,\s*\[", printed[1])]
    matrix = _MATRIX.fullmatch(text)
    rows = matrix[2].strip().removesuffix(r"\\").split(r"\\") if matrix else []
    return [[entry.strip() for entry in row.split("&")] for row in rows]


def brackets_agree(right: Listing, given: Listing) -> bool:
    """Tell whether brackets that mean something are the same: those of points and intervals."""
    if right.opening in {"", "{"}:
        # Programs print lists and tuples for what has no brackets.
        return given.opening + given.closing in {"", "{}", "[]", "()"}
    if right.opening + right.closing == "[]":
        # Two items may be an interval, where the kind of brackets matters; none tell nothing.
        return given.opening + given.closing in {"[]", "", "()" if len(right.items) != 2 else ""}
    return (right.opening, right.closing) == (given.opening, given.closing)
