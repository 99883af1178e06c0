r"""Whether an answer is right: as a letter, a number, a list, a formula, or words.

Own rules decide what is plain (``1,000`` is ``1000.0``); ``math-verify`` is asked about the rest.
"""

import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from colm.evaluation.final_answer import answer_kind, final_answer
from colm.evaluation.quantities import parse_quantity, plain_text, same_quantity

#: Tells whether two formulas, the right one first, are equal.
SameFormula: TypeAlias = Callable[[str, str], bool]

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_BASE = re.compile(r"([0-9A-Z]+)\s*_\s*\{?\s*(\d+)\s*\}?")
_ASSIGNED = re.compile(r"[A-Za-z]\w*\s*=\s*([^=<>]+)")
_MATRIX = re.compile(r"\\begin\{([pbBvV]?matrix)\}(.*)\\end\{\1\}")
_PRINTED_MATRIX = re.compile(r"Matrix\(\[\[(.*)\]\]\)")
_ARTICLES = {"a", "an", "the"}
_NAMES_OF = {"yes": "yes", "no": "no", "true": "yes", "false": "no"}


class Verdict(NamedTuple):
    """The final answer that was found in what was written, and whether it is right."""

    answer: str
    right: bool


class _Listing(NamedTuple):
    """Items of an answer, the bracket before and after them, and whether their order counts."""

    opening: str
    items: list[str]
    closing: str
    ordered: bool


def judge(
    written: str,
    gold: str,
    question: str = "",
    *,
    same_formula: SameFormula | None = None,
    direct: bool = False,
) -> Verdict:
    r"""Find the final answer in what was written and tell whether it is right.

    Args:
        written: What a model wrote, or what its program printed last.
        gold: The right answer.
        question: The question; names the choices of a multiple choice.
        same_formula: Such as ``FormulaComparison``; without it formulas must be written alike.
        direct: Whether the answer was to come first, without reasoning.

    Returns:
        The verdict.

    Example:
        >>> judge("6 times 7 is 42. The answer is $42.", "42.0")
        Verdict(answer='42', right=True)
        >>> judge("So \\boxed{\\tfrac{1}{2}}", "0.5").right, judge("The answer is B.", "A").right
        (True, False)
    """
    kind = answer_kind(gold, question)
    answer = final_answer(written, kind, question=question, direct=direct)
    if kind == "choice":
        return Verdict(answer, answer == plain_text(gold).strip("() "))
    if kind == "text":
        return Verdict(answer, bool(answer) and _words(gold) == _words(answer))
    try:
        return Verdict(answer, same_answer(gold, answer, same_formula))
    except RecursionError:  # brackets within hundreds of brackets
        return Verdict(answer, False)


def same_answer(gold: str, answer: str, same_formula: SameFormula | None = None) -> bool:
    r"""Tell whether an answer that is a number, a list or a formula is right.

    Args:
        gold: The right answer.
        answer: What was answered.
        same_formula: Compares formulas; without it they must be written alike.

    Returns:
        Whether it is.

    Example:
        >>> (
        ...     same_answer("(1, 2)", "(1,2.0)"),
        ...     same_answer("1, 2", "2,1"),
        ...     same_answer("[0,1)", "(0,1)"),
        ... )
        (True, True, False)
    """
    gold, answer = (_without_full_stop(plain_text(text)) for text in (gold, answer))
    if not gold or not answer:
        return False
    if re.sub(r"\s*([^\w\s])\s*", r"\1", gold) == re.sub(r"\s*([^\w\s])\s*", r"\1", answer):
        return True
    return _same_number_or_formula(gold, answer, same_formula)


def _same_number_or_formula(gold: str, answer: str, same_formula: SameFormula | None) -> bool:
    """Whether two plain texts, not written alike, are the same answer."""
    numbers = parse_quantity(gold), parse_quantity(answer)
    if numbers[0] is not None and numbers[1] is not None:
        return same_quantity(numbers[0], numbers[1])
    matrices = _rows(gold), _rows(answer)
    if matrices[0] and matrices[1]:
        return _same_matrix(matrices[0], matrices[1], same_formula)
    return _same_formula(gold, answer, same_formula)


def _same_formula(gold: str, answer: str, same_formula: SameFormula | None) -> bool:
    """Whether two answers that are not both numbers are the same."""
    lists = _listing(gold), _listing(answer)
    if (base := _BASE.fullmatch(gold)) is not None:
        return _same_digits(base, answer)
    if lists[0] is not None or lists[1] is not None:
        return _same_items(gold, answer, lists, same_formula)
    assigned = _ASSIGNED.fullmatch(gold), _ASSIGNED.fullmatch(answer)
    if assigned[0] is not None and assigned[1] is None:
        return same_answer(assigned[0][1], answer, same_formula)
    if assigned[1] is not None and assigned[0] is None:
        return same_answer(gold, assigned[1][1], same_formula)
    return same_formula is not None and same_formula(gold, answer)


def _words(text: str) -> list[str]:
    """A text as words in lower case, without articles and punctuation."""
    words = re.findall(r"[^\W_]+(?:['.-][^\W_]+)*", plain_text(text).lower())
    if len(words) == 1:
        return [_NAMES_OF.get(words[0], words[0])]
    return [word for word in words if word not in _ARTICLES]


def _without_full_stop(text: str) -> str:
    return text.rstrip(" .") if not text.endswith("..") else text


def _same_digits(gold: re.Match[str], answer: str) -> bool:
    """Whether digits in a base are those, with the base or where it is understood."""
    given = _BASE.fullmatch(answer)
    if given is None:
        return answer.replace(" ", "") == gold[1]
    return (given[1], given[2]) == (gold[1], gold[2])


def _rows(text: str) -> list[list[str]]:
    """The entries of a matrix, LaTeX or of sympy, row by row; none where a text is not one."""
    if (printed := _PRINTED_MATRIX.fullmatch(text)) is not None:
        return [_split(row) for row in re.split(r"\]\s*,\s*\[", printed[1])]
    matrix = _MATRIX.fullmatch(text)
    rows = matrix[2].strip().removesuffix(r"\\").split(r"\\") if matrix else []
    return [[entry.strip() for entry in row.split("&")] for row in rows]


def _same_matrix(
    gold: list[list[str]], answer: list[list[str]], same_formula: SameFormula | None
) -> bool:
    """Whether two matrices have the same shape and entries."""
    return list(map(len, gold)) == list(map(len, answer)) and all(
        same_answer(right, given, same_formula)
        for rows in zip(gold, answer, strict=True)
        for right, given in zip(*rows, strict=True)
    )


def _listing(text: str) -> _Listing | None:
    """The items of a list, ``None`` where a text is not one."""
    opening, closing = text[:1], text[-1:]
    enclosed = opening in _CLOSING and closing in _CLOSING.values() and _spans(text)
    inner = text[1:-1] if enclosed else text
    items = _split(inner if enclosed else re.sub(r",?\s+(?:and|or)\s+", ",", inner))
    if len(items) > 1:
        return _Listing(
            opening if enclosed else "",
            items,
            closing if enclosed else "",
            opening in "([" if enclosed else False,
        )
    if enclosed and opening == "[" and closing == "]":
        return _Listing("[", items, "]", ordered=True)
    words = inner.split()
    if len(words) > 1 and all(re.fullmatch(r"-?\d+(\.\d+)?", word) for word in words):
        return _Listing("", words, "", ordered=True)
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
    """A text between its commas, those inside brackets and between digits of a number left out."""
    parts, depth = [""], 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        if sign in ",;" and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    stripped = [part.strip() for part in parts]
    return stripped if all(stripped) else [text]


def _same_items(
    gold: str,
    answer: str,
    lists: tuple[_Listing | None, _Listing | None],
    same_formula: SameFormula | None,
) -> bool:
    """Whether two answers, one of them a list at least, have the same items."""
    right, given = lists
    if right is None or given is None:
        single = right or given
        assert single is not None
        if len(single.items) > 1:
            return same_formula is not None and same_formula(gold, answer)
        (item,) = single.items
        pair = (item, answer) if right is not None else (gold, item)
        return same_answer(*pair, same_formula)
    if len(right.items) != len(given.items) or not _brackets_agree(right, given):
        return False
    if right.ordered:
        return all(
            same_answer(a, b, same_formula) for a, b in zip(right.items, given.items, strict=True)
        )
    left = list(given.items)
    for item in right.items:
        found = next((i for i, b in enumerate(left) if same_answer(item, b, same_formula)), None)
        if found is None:
            return False
        left.pop(found)
    return True


def _brackets_agree(right: _Listing, given: _Listing) -> bool:
    """Whether brackets that mean something are the same: those of points and intervals."""
    if right.opening in {"", "{"}:
        # Programs print lists and tuples for what has no brackets.
        return given.opening + given.closing in {"", "{}", "[]", "()"}
    if right.opening + right.closing == "[]":
        # Two items may be an interval, where the kind of brackets matters; none tell nothing.
        return given.opening + given.closing in {"[]", "", "()" if len(right.items) != 2 else ""}
    return (right.opening, right.closing) == (given.opening, given.closing)
