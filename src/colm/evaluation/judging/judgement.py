r"""Whether an answer is right: as a letter, a number, a list, a formula, or words.

Own rules decide what is plain (``1,000`` is ``1000.0``); ``math-verify`` is asked about the rest.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeAlias

from colm.evaluation.judging.final_answer import answer_kind, final_answer
from colm.evaluation.judging.quantities import Quantity, parse_quantity, same_quantity
from colm.evaluation.reading.choices import choices_of, gold_choice
from colm.evaluation.reading.dates import parse_moment, same_moment
from colm.evaluation.reading.listings import Listing, brackets_agree, matrix_rows, parse_listing
from colm.evaluation.reading.notation import plain_text
from colm.evaluation.reading.units import parse_unit

#: Tells whether two formulas, the right one first, are equal.
SameFormula: TypeAlias = Callable[[str, str], bool]

_BASE = re.compile(r"([0-9A-Z]+)\s*_\s*\{?\s*(\d+)\s*\}?")
_ASSIGNED = re.compile(
    r"(?:[A-Za-z]\w*(?:\([a-z]\))?|\([A-Za-z](?:,\s*[A-Za-z])+\))\s*=\s*([^=<>]+)"
)
_RATIO = re.compile(r"(\d+)\s*(?::|\bto\b)\s*(\d+)")
_LONG_WORD = re.compile(r"(?<![\\A-Za-z])(?!sqrt|sinh|cosh|tanh)[A-Za-z]{4,}")
#: Groups of digits that may be several numbers.
_SPACED = re.compile(r"-?\d{1,3}(?: \d{3})+")
_LETTER_UNIT = re.compile(r"-?[\d.,]+([ghlms])")
_INITIALS = re.compile(r"(?<![^\W_])[^\W\d_](?:\.\s?[^\W\d_](?![^\W_]))+")
_ARTICLES = {"a", "an", "the"}
_NAMES_OF = {"yes": "yes", "no": "no", "true": "yes", "false": "no"}
_MONEY = {parse_unit(name) for name in ("dollar", "cent", "euro", "rupee", "paise", "yen")}
_NO_SOLUTION = {
    r"\emptyset", r"\varnothing", r"\{\}", "{}", "empty set", "the empty set", "no solution",
    "no solutions", "no real solution", "no real solutions", "none",
}  # fmt: skip


class Verdict(NamedTuple):
    """The final answer that was found in what was written, and whether it is right."""

    answer: str
    right: bool


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
    try:
        if kind == "choice":
            right = _same_choice(gold, answer, written, question, same_formula)
        elif kind == "text":
            right = _same_words(gold, answer)
        else:
            money = _money(gold, gold), _money(answer, written)
            if money[0] and money[1]:
                right = same_quantity(money[0], money[1])
            else:
                readings = [answer, *_other_readings(answer, written, question)]
                right = any(same_answer(gold, reading, same_formula) for reading in readings)
                if not right and _SPACED.fullmatch(gold):
                    several = final_answer(written, "maths", direct=direct)
                    right = same_answer(gold.replace(" ", ", "), several, same_formula)
    except RecursionError:  # brackets within hundreds of brackets
        right = False
    return Verdict(answer, right)


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
    if _compact(gold) == _compact(answer):
        return True
    if gold.lower() in _NO_SOLUTION:
        return answer.lower() in _NO_SOLUTION
    moments = parse_moment(gold), parse_moment(answer)
    if moments[0] is not None and moments[1] is not None:
        return same_moment(moments[0], moments[1])
    return _same_number_or_formula(gold, answer, same_formula)


def _same_number_or_formula(gold: str, answer: str, same_formula: SameFormula | None) -> bool:
    """Whether two plain texts, not written alike, are the same answer."""
    right, given = parse_quantity(gold), parse_quantity(answer)
    if right is not None and given is None and right.unit:
        given = parse_quantity(answer, attached=True)
    if given is not None and right is None and given.unit:
        right = parse_quantity(gold, attached=True)
    if right is not None and given is not None:
        return same_quantity(right, given)
    if (right and _LETTER_UNIT.fullmatch(answer)) or (given and _LETTER_UNIT.fullmatch(gold)):
        return False
    if _LONG_WORD.search(gold) and "\\" not in gold:
        return _words(gold) == _words(answer)
    matrices = matrix_rows(gold), matrix_rows(answer)
    if matrices[0] and matrices[1]:
        return _same_matrix(matrices[0], matrices[1], same_formula)
    return _same_formula(gold, answer, same_formula)


def _same_formula(gold: str, answer: str, same_formula: SameFormula | None) -> bool:
    """Whether two answers that are not both numbers are the same."""
    ratio = _RATIO.fullmatch(gold)
    if ratio and ":" in gold and (given := _RATIO.fullmatch(answer)):
        return int(ratio[1]) * int(given[2]) == int(ratio[2]) * int(given[1])
    lists = parse_listing(gold), parse_listing(answer)
    if (base := _BASE.fullmatch(gold)) is not None:
        return _same_digits(base, answer)
    if lists[0] is not None or lists[1] is not None:
        return _same_items(gold, answer, lists, same_formula)
    assigned = _ASSIGNED.fullmatch(gold), _ASSIGNED.fullmatch(answer)
    if assigned[0] is not None and not re.search("[=<>]", answer):
        return same_answer(assigned[0][1], answer, same_formula)
    if assigned[1] is not None and not re.search("[=<>]", gold):
        return same_answer(gold, assigned[1][1], same_formula)
    if "ln" in gold:
        # Python's logarithm is the natural one.
        answer = re.sub(r"(?<![\\A-Za-z])log(?=\s*\()", "ln", answer)
    return same_formula is not None and same_formula(gold, answer)


def _same_choice(
    gold: str, answer: str, written: str, question: str, same_formula: SameFormula | None
) -> bool:
    """Whether the right choice was made, by its letter or by what it says."""
    letter, text = gold_choice(gold, question) or ("", "")
    if re.fullmatch("[A-J]", answer) or not text:
        return answer == letter
    others = [choice for name, choice in choices_of(question).items() if name != letter]
    said = [judge(written, choice, same_formula=same_formula).right for choice in (text, *others)]
    return said[0] and not any(said[1:])


def _other_readings(answer: str, written: str, question: str) -> list[str]:
    """What else an answer may be where how it is written leaves two ways to read it."""
    readings = []
    if _SPACED.fullmatch(answer) and " 0" not in answer:
        readings.append(answer.split(" ", 1)[0])
    if answer and re.search(rf"(?<!\d){re.escape(answer)}!", plain_text(written)):
        readings.append(f"{answer}!")
    letter = _LETTER_UNIT.fullmatch(answer)
    if letter and question and not re.search(rf"(?<![\w'])(?<!\d ){letter[1]}(?![\w'])", question):
        readings.append(f"{answer[:-1]} {letter[1]}")
    return readings


def _money(number: str, written: str) -> Quantity | None:
    """An amount of money, dollars where a sign for them stands before it; else ``None``."""
    quantity = parse_quantity(number)
    if quantity is None or quantity.unit is not None:
        return quantity if quantity is not None and quantity.unit in _MONEY else None
    digits = re.escape(number.strip().lstrip("\\$ "))
    signed = re.search(rf"\\?\$\s*{digits}(?![\d.,]*\d)(?!\s*\$)", written)
    return replace(quantity, unit=parse_unit("dollar")) if signed else None


def _same_words(gold: str, answer: str) -> bool:
    """Whether an answer in words is right."""
    if plain_text(gold).lower() in _NO_SOLUTION:
        return plain_text(answer).lower() in _NO_SOLUTION
    return bool(answer) and _words(gold) == _words(answer)


def _words(text: str) -> list[str]:
    """A text as words in lower case, without articles, punctuation and accents."""
    text = unicodedata.normalize("NFKD", plain_text(text).lower())
    text = "".join(sign for sign in text if not unicodedata.combining(sign))
    # "U.S." and "J. R. R." as "us" and "jrr".
    text = _INITIALS.sub(lambda m: re.sub(r"[.\s]", "", m[0]), text)
    words = re.findall(r"[^\W_]+(?:['.-][^\W_]+)*", text)
    if len(words) == 1:
        return [_NAMES_OF.get(words[0], words[0])]
    return [word for word in words if word not in _ARTICLES]


def _compact(text: str) -> str:
    """A text without spaces around signs, and with its indices on the line: "H_2 O" as "H2O"."""
    text = re.sub(r"(?<=[A-Za-z])_\{?(\w+)\}?", r"\1", text)
    return re.sub(r"\s*([^\w\s])\s*", r"\1", text)


def _without_full_stop(text: str) -> str:
    return text.rstrip(" .") if not text.endswith("..") else text


def _same_digits(gold: re.Match[str], answer: str) -> bool:
    """Whether digits in a base are those, with the base or where it is understood."""
    given = _BASE.fullmatch(answer)
    if given is None:
        return answer.replace(" ", "") == gold[1]
    return (given[1], given[2]) == (gold[1], gold[2])


def _same_matrix(
    gold: list[list[str]], answer: list[list[str]], same_formula: SameFormula | None
) -> bool:
    """Whether two matrices have the same shape and entries."""
    return list(map(len, gold)) == list(map(len, answer)) and all(
        same_answer(right, given, same_formula)
        for rows in zip(gold, answer, strict=True)
        for right, given in zip(*rows, strict=True)
    )


def _same_items(
    gold: str,
    answer: str,
    lists: tuple[Listing | None, Listing | None],
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
    if right.opening + right.closing == "()" and not given.opening:
        # "x = 3, y = 4" for a point.
        names = [item.partition("=")[0].strip() for item in given.items]
        if all(map(_ASSIGNED.fullmatch, given.items)) and names == sorted(set(names)):
            given = given._replace(opening="(", closing=")")
    if len(right.items) != len(given.items) or not brackets_agree(right, given):
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
