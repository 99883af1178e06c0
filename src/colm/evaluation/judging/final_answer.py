r"""The final answer in what a model wrote: after "The answer is", in ``\boxed{}``, or at its end.

What is looked for depends on the right answer: a letter of a choice, a number, LaTeX, words.
"""

import re
from collections.abc import Iterator
from typing import Literal, TypeAlias

from colm.evaluation.judging.quantities import (
    numbers_in,
    parse_quantity,
    same_quantity,
    with_repeating_digits,
)
from colm.evaluation.reading.choices import chosen_letter, gold_choice
from colm.evaluation.reading.notation import plain_text
from colm.evaluation.reading.number_words import spelled_number
from colm.evaluation.reading.sentences import first_sentence

Kind: TypeAlias = Literal["choice", "number", "maths", "text"]

_MARKER = re.compile(
    r"(?i:\banswer\b\**(?:\s+\w+){0,2}?\s*(?:\bis(?P<negated>n't)?\b|:|=)\s*:?|\banswer\s*\n"
    r"|\banswer\s+(?:to|in|for|as|rounded)(?:\s+\w+){1,5}?\s+is\b\s*:?)|####"
)
#: How a model that does not stop goes on: the headings of prompts, the tokens of chats.
_NEXT_QUESTION = re.compile(
    r"\n###+ *(?:Instruction|Question|Problem|User|Human)(?: \d+)? *:? *(?=\n|\Z)"
    r"|\n(?:Question|Q|Problem|Instruction|User|Human)(?: \d+)?: "
    r"|<\|(?:im_start|im_end|endoftext|user|end|eot_id)\|>|</s>"
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
#: A model corrects itself: "no wait, it is 6".
_CORRECTION = re.compile(
    r"(?:[.,;!?\u2014-]|\n)\s*\(?(?:oh,?\s+|hmm,?\s+)?(?:(?:no,?\s+)?wait,?(?:\s+no)?|sorry|"
    r"scratch\s+that|correction|i\s+mean(?:t)?|(?P<weak>no|actually))\b[\s,.:;!\u2014-]*"
    r"(?P<stated>(?:(?:it|that|this)(?:'s|\s+(?:is|should\s+be|must\s+be|would\s+be))|"
    r"make\s+(?:it|that)|i\s+meant?)\s+)?(?:actually\s+)?",
    re.IGNORECASE,
)
_NEW_VALUE = re.compile(r"\W*\d[\d.,/]*%?(?:\s+[a-z]+){0,2}|\(?[A-J]\)?|\\[a-z]+\W.*")
_NEW_NAME = re.compile(r"[A-Z][\w'-]*(?:\s+[A-Z][\w'-]*){0,3}")
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_MATHS = re.compile(
    r"[\d\\=<>^|]|[a-z]\s*[+*/]\s*[a-z]|\b[a-z]\s*-\s*[a-z]\b|\b[a-z]!|\)!|sqrt|\bpi\b|"
    r"\b(?:log|ln|sin|cos|tan|exp)\b"
)
_FORMULA_IN_TEXT = re.compile(
    r"\\|sqrt|\bpi\b|\d\s*[*^/]|\d[a-z]\b|\d!|\b(?:factorial|binomial|log|ln|sin|cos|tan|exp)[\d_]*\s*[\d(]"
)
#: Arithmetic that is left to the reader: "10 - 3".
_ARITHMETIC = re.compile(r"[\d.,()\s*/^-]*\d\s*[-+*/^]\s*\(?\d[\d.,()\s*/^+-]*")
_PRINTED_FRACTION = re.compile(r"\bFraction\((-?\d+), (\d+)\)")
_ABOUT = re.compile(r"\\approx|\u2248")
#: Words before a number that do not change it.
_HEDGE = re.compile(
    r"(?:approx(?:imately)?\b\.?|about\b|around\b|roughly\b|nearly\b|almost\b|exactly\b|just\b|only\b|"
    r"ca\.|no\.\s|nos?\.?\s?(?=\d)|number\b|rs\.?(?=\s?\d)|us(?=\s?\$?\d)|(?:inr|usd|eur|gbp)\b|"
    r"a total of\b|[=:~])\s*",
    re.IGNORECASE,
)
_NEGATED = re.compile(r"not\b", re.IGNORECASE)
_NOT_BUT = re.compile(r"not\b[^.;]*?\bbut\s+(?:rather\s+)?(.+)", re.IGNORECASE | re.DOTALL)
#: Not the number that follows but one above or below it.
_BEYOND = re.compile(
    r"(?:(?:more|less|fewer|greater|higher|lower|larger|smaller) than|between|either)\b",
    re.IGNORECASE,
)
#: Two numbers of which one is left open, or a range.
_OPEN = re.compile(r"[^\d]*[\d.,/]+%?(?:\s+[a-z]+)?\s+(?:or|to)\s+(?:maybe\s+|perhaps\s+)?-?\d")
_NOT_A_NUMBER = re.compile(
    r"(?:\bnot|n't|\brather than|\binstead of)\s+(?:be\s+)?[$\u00a3\u20ac]?-?\d[\d.,/]*",
    re.IGNORECASE,
)
_REMARK = re.compile(r"\s\([^()]*\)$")
#: The name of a value, or of what holds values, in what programs print: "x =", "'x':", "Matrix(".
_NAMED = re.compile(r"['\"]?\b[A-Za-z_][\w.]*['\"]?\s*[:=(]")
_VALUE = re.compile(r"(?<![\w)\]}.])[-+]?[\d.,/]+(?:[eE][-+]?\d+)?")
_BETWEEN_VALUES = re.compile(r"(?:[\s()\[\]{},;%]|and\b)*")
#: Marks that are looked at, from the last; a model may write nothing else.
_MOST_MARKS = 20
_LONGEST_SPELLED = 100
_WRAPPING = "*_`\"'\u201c\u201d "
_YES_NO = {"yes": "yes", "no": "no", "true": "yes", "false": "no"}
_IT_IS = re.compile(
    r"(?:(?:so|thus|hence|therefore)\b,?\s*)?(?:it|that|this|he|she|they|there)(?:'s|\s+(?:is|are|was|were))\s+",
    re.IGNORECASE,
)


def answer_kind(gold: str, question: str = "") -> Kind:
    r"""Return what sort of answer a question has.

    Args:
        gold: The right answer.
        question: The question, whose "(A) ... (B) ..." make a letter a choice.

    Returns:
        The letter of a choice, a number, maths that is more than a number, or words.

    Example:
        >>> [answer_kind(gold) for gold in (r"\text{(A)}", "1,000", r"2\pi", "x", "yes")]
        ['choice', 'number', 'maths', 'maths', 'text']
    """
    if gold_choice(gold, question) is not None:
        return "choice"
    text = plain_text(gold)
    if parse_quantity(text) is not None:
        return "number"
    return "maths" if _MATHS.search(text) or len(text) == 1 else "text"


def final_answer(written: str, kind: Kind, *, question: str = "", direct: bool = False) -> str:
    r"""Return the final answer in what was written.

    Args:
        written: What a model wrote, or what its program printed last.
        kind: What sort of answer is right.
        question: The question; names the choices.
        direct: Whether the answer was to come first, without reasoning.

    Returns:
        The answer; empty where there is none.

    Example:
        >>> final_answer("5 + 6 = 11, so the answer is 11 apples.", "number")
        '11 apples'
        >>> final_answer(r"Thus $x = \boxed{\frac{1}{2}}$.", "maths")
        '\\frac{1}{2}'
        >>> final_answer("It is (B), the web.", "choice")
        'B'
    """
    written = with_repeating_digits(before_next_question(written))
    marked = list(_marked_answers(written))
    if kind == "choice":
        return _trim(chosen_letter(written, marked, question))
    if kind == "number":
        texts = marked or [written]
        stated = next((text for text in texts if _states_number(text)), texts[0])
        return _number(stated, is_marked=bool(marked))
    if marked and kind == "maths":
        return next((text for text in marked if _MATHS.search(text) or len(text) == 1), marked[0])
    lines = marked[:1] or [line.strip() for line in written.splitlines() if line.strip()]
    if not lines:
        return ""
    line = lines[0 if direct else -1]
    if kind == "text":
        return _yes_or_no(line)
    formulas = _FORMULA.findall(line if direct else written)
    return _trim("".join(formulas[-1]) if formulas else _IT_IS.sub("", line))


def marked_answer(written: str) -> str | None:
    r"""Return what follows the last "answer is", "Answer:" or "####", or the last ``\boxed{}``.

    Args:
        written: What was written.

    Returns:
        The answer up to the end of its sentence; ``None`` where nothing marks one.

    Example:
        >>> marked_answer("The answer is $3.50. Then I rest."), marked_answer("Three.")
        ('3.50', None)
    """
    return next(_marked_answers(written), None)


def before_next_question(written: str) -> str:
    r"""Return what was written up to where a model that does not stop asks itself the next.

    Args:
        written: What was written.

    Returns:
        Its beginning, or all of it.

    Example:
        >>> before_next_question("The answer is 4.\n\n### Instruction:\nAnd 3 + 3?")
        'The answer is 4.\n'
    """
    for found in _NEXT_QUESTION.finditer(written):
        # A model may begin with the question that it was asked.
        if written[: found.start()].strip():
            return written[: found.start()]
    return written


def _marked_answers(written: str) -> Iterator[str]:
    """What follows each mark and stands in each box, the last first; empty ones are left out."""
    marks = [*_BOX.finditer(written), *_MARKER.finditer(written), *_CORRECTION.finditer(written)]
    for mark in sorted(marks, key=re.Match.start, reverse=True)[:_MOST_MARKS]:
        if mark.re is _BOX:
            found = _trim(_inside(written, mark.end()), prose=False)
        else:
            rest = written[mark.end() :].lstrip(_WRAPPING + "\n:")
            line = rest.split("\n", 1)[0]
            if line.strip() in {"\\[", "$$", "\\("}:
                line = " ".join(rest.split("\n")[1:2])
            found = _trim(first_sentence(line))
            if mark.re is _CORRECTION:
                found = found if _is_new_answer(mark, found) else ""
            elif mark["negated"]:
                found = f"not {found}"
        if instead := _NOT_BUT.match(found):
            found = instead[1]
        if found:
            yield found


def _is_new_answer(correction: re.Match[str], text: str) -> bool:
    """Whether what follows "no wait" is an answer, and not how the model goes on thinking."""
    if _NEW_VALUE.fullmatch(text):
        return True
    if correction["weak"]:
        return False
    return bool(_NEW_NAME.fullmatch(text) or (correction["stated"] and len(text.split()) < 4))


def _states_number(text: str) -> bool:
    """Whether a text states a number, and is no "This answer is correct"."""
    return bool(
        parse_quantity(text) is not None or _FORMULA_IN_TEXT.search(text) or numbers_in(text)
    ) or bool(_spelled_numbers(text))


def _inside(text: str, start: int) -> str:
    """What stands between the brace before ``start`` and the one that closes it."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start:place]
    return text[start:]


def _trim(answer: str, *, prose: bool = True) -> str:
    """An answer without what surrounds it: white space, emphasis, signs of formulas, full stops.

    In prose an exclamation mark ends a sentence; in a formula it is a factorial.
    """
    answer = answer.strip(_WRAPPING).rstrip(".,;:!?" if prose else ".,;:?").strip(_WRAPPING)
    for opening, closing in (("\\(", "\\)"), ("\\[", "\\]")):
        answer = answer.replace(opening, "").replace(closing, "")
    answer = re.sub(r"(?<!\\)\$", "", answer).strip(_WRAPPING)
    return answer.rstrip(".,;:?").rstrip(_WRAPPING)


def _number(text: str, *, is_marked: bool) -> str:
    """The number a text comes to: all of it, what follows its last "=", or one that is in it."""
    text = "\n".join(plain_text(line) for line in text.strip().split("\n"))
    text = _PRINTED_FRACTION.sub(r"\1/\2", text)
    lines = text.split("\n") if is_marked else text.rsplit("\n", 1)[-1:]
    if first := _first_value(lines[0]):
        return first
    if is_marked:
        return _stated_number(text)
    is_formula = len(text.split()) == 1 and _FORMULA_IN_TEXT.search(text)
    if is_formula or parse_quantity(text) is not None:
        return _trim(text)
    text = _NOT_A_NUMBER.sub(" ", text)
    last = _trim(text.strip().rpartition("\n")[2])
    return (numbers_in(text) or _spelled_numbers(last) or [last])[-1]


def _stated_number(text: str) -> str:
    """The number that stands after a mark, or the text where it leaves open which."""
    _, _, last = text.rpartition("=")
    # What is exact comes before "approximately".
    last = next((part.strip() for part in _ABOUT.split(last) if part.strip()), "")
    while (hedge := _HEDGE.match(last)) and hedge.end():
        last = last[hedge.end() :]
    if _NEGATED.match(last) or _BEYOND.match(last):
        return last
    plain = _REMARK.sub("", last)
    if parse_quantity(plain) is not None or _ARITHMETIC.fullmatch(plain):
        return plain
    found = numbers_in(last)
    if len(found) > 1 and _OPEN.match(plain_text(last)):
        values = [parse_quantity(each) for each in found[:2]]
        if not (values[0] and values[1] and same_quantity(values[0], values[1])):
            return last
        return found[0]
    if _FORMULA_IN_TEXT.search(last):
        return last
    return (found or _spelled_numbers(last) or [last])[0]


def _spelled_numbers(text: str) -> list[str]:
    """Numbers that a text has in words, where it has no digits."""
    if any(sign.isdecimal() for sign in text):
        return []
    found, place = [], 0
    for word in re.finditer(r"[A-Za-z]+", text):
        part = text[word.start() : word.start() + _LONGEST_SPELLED]
        if word.start() >= place and (spelled := spelled_number(part)):
            found.append(str(spelled[0]))
            place = word.start() + len(part) - len(spelled[1])
    return found


def _first_value(line: str) -> str:
    """The first of several values that are all that a line states; else empty."""
    values = _NAMED.sub(" ", plain_text(line))
    found = numbers_in(values) if _BETWEEN_VALUES.fullmatch(_VALUE.sub(" ", values)) else []
    return found[0] if len(found) > 1 else ""


def _yes_or_no(text: str) -> str:
    """Yes or no where a text begins with it, else the text."""
    first = re.match(r"\W*(yes|no|true|false)\b(?!\s+\w)", text, re.IGNORECASE)
    return _YES_NO[first[1].lower()] if first else _trim(_IT_IS.sub("", text))
