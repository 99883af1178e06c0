r"""The final answer in what a model wrote: after "The answer is", in ``\boxed{}``, or at its end.

What is looked for depends on the right answer: a letter of a choice, a number, LaTeX, words.
"""

import re
from collections.abc import Iterator
from typing import Literal, TypeAlias

from colm.evaluation.quantities import numbers_in, parse_quantity, plain_text

Kind: TypeAlias = Literal["choice", "number", "maths", "text"]

_MARKER = re.compile(
    r"(?i:\banswer\b\**(?:\s+\w+){0,2}?\s*(?:\bis\b|:|=)\s*:?|\banswer\s*\n"
    r"|\banswer\s+(?:to|in|for|as|rounded)(?:\s+\w+){1,5}?\s+is\b\s*:?)|####"
)
#: How a model that does not stop goes on: the headings of prompts, the tokens of chats.
_NEXT_QUESTION = re.compile(
    r"\n###+ *(?:Instruction|Question|Problem|User|Human)(?: \d+)? *:? *(?=\n|\Z)"
    r"|\n(?:Question|Q|Problem|Instruction|User|Human)(?: \d+)?: "
    r"|<\|(?:im_start|im_end|endoftext|user|end|eot_id)\|>|</s>"
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_SENTENCE_END = re.compile(r"(?<!\\)[.!?](?=\s|$)")
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_LETTER_GOLD = re.compile(r"\(?([A-J])\)?")
_LETTER_ALONE = re.compile(r"\(([A-Ja-j])\)|(?<![\w'-])([A-J])(?=\s*(?:[.,:;)*]|\Z|\n))")
_LETTER_FIRST = re.compile(
    r"\W*(?:(?:option|choice)\W*)?([A-J])(?:\s*(?:[]).:,;'\"]|$)|\s+(?:because|since)\b)",
    re.IGNORECASE,
)
_LETTERS = re.compile(
    r"\W*(?:(?i:both|either|neither)\s+)?\(?[A-J]\)?(?:\s+(?:and|or|nor)\s+|\s*[,&/]\s*)\(?[A-J]\)?\W*"
)
_CHOICE = re.compile(r"\(([A-J])\)\s*(.*?)(?=\s*\([A-J]\)|\n\s*\n|\Z)", re.DOTALL)
_MATHS = re.compile(r"[\d\\=<>^]|[a-z]\s*[+*/]\s*[a-z]|sqrt|\bpi\b")
_FORMULA_IN_TEXT = re.compile(r"\\|sqrt|\bpi\b|\d\s*[*^/]|\d[a-z]\b")
_PRINTED_FRACTION = re.compile(r"\bFraction\((-?\d+), (\d+)\)")
_ABOUT = re.compile(r"\\approx|\u2248")
_REMARK = re.compile(r"\s\([^()]*\)$")
#: The name of a value, or of what holds values, in what programs print: "x =", "'x':", "Matrix(".
_NAMED = re.compile(r"['\"]?\b[A-Za-z_][\w.]*['\"]?\s*[:=(]")
_VALUE = re.compile(r"(?<![\w)\]}.])[-+]?[\d.,/]+(?:[eE][-+]?\d+)?")
_BETWEEN_VALUES = re.compile(r"(?:[\s()\[\]{},;%]|and\b)*")
#: Marks that are looked at, from the last; a model may write nothing else.
_MOST_MARKS = 20
_WRAPPING = "*_`\"'\u201c\u201d "
_YES_NO = {"yes": "yes", "no": "no", "true": "yes", "false": "no"}


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
    text = plain_text(gold)
    if _LETTER_GOLD.fullmatch(text) and (text != "I" or "(A)" in question):
        return "choice"
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
    written = before_next_question(written)
    marked = list(_marked_answers(written))
    if kind == "choice":
        return _letter(written, marked, question)
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
    return _trim("".join(formulas[-1]) if formulas else line)


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


def choices_of(question: str) -> dict[str, str]:
    """Return the choices that a question names.

    Args:
        question: With "(A) ... (B) ..." or without.

    Returns:
        Text of each letter.

    Example:
        >>> choices_of("Which? Answer Choices: (A) web (B) tree")
        {'A': 'web', 'B': 'tree'}
    """
    _, named, choices = question.rpartition("Choices:")
    return {
        letter: text.strip() for letter, text in _CHOICE.findall(choices if named else question)
    }


def _marked_answers(written: str) -> Iterator[str]:
    """What follows each mark and stands in each box, the last first; empty ones are left out."""
    marks = [*_BOX.finditer(written), *_MARKER.finditer(written)]
    for mark in sorted(marks, key=re.Match.start, reverse=True)[:_MOST_MARKS]:
        if mark[0].startswith("\\"):
            found = _trim(_inside(written, mark.end()))
        else:
            rest = written[mark.end() :].lstrip(_WRAPPING + "\n:")
            line = rest.split("\n", 1)[0]
            if line.strip() in {"\\[", "$$", "\\("}:
                line = " ".join(rest.split("\n")[1:2])
            found = _trim(_SENTENCE_END.split(line, maxsplit=1)[0])
        if found:
            yield found


def _states_number(text: str) -> bool:
    """Whether a text states a number, and is no "This answer is correct"."""
    return bool(
        parse_quantity(text) is not None or _FORMULA_IN_TEXT.search(text) or numbers_in(text)
    )


def _inside(text: str, start: int) -> str:
    """What stands between the brace before ``start`` and the one that closes it."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start:place]
    return text[start:]


def _trim(answer: str) -> str:
    """An answer without what surrounds it: white space, emphasis, signs of formulas, full stops."""
    answer = answer.strip(_WRAPPING)
    for opening, closing in (("\\(", "\\)"), ("\\[", "\\]")):
        answer = answer.replace(opening, "").replace(closing, "")
    answer = re.sub(r"(?<!\\)\$", "", answer).strip(_WRAPPING)
    return answer.rstrip(".,;:!?").rstrip(_WRAPPING)


def _number(text: str, *, is_marked: bool) -> str:
    """The number a text comes to: all of it, what follows its last "=", or one that is in it."""
    text = _PRINTED_FRACTION.sub(r"\1/\2", text)
    lines = text.split("\n") if is_marked else text.strip().rsplit("\n", 1)[-1:]
    if first := _first_value(lines[0]):
        return first
    if is_marked:
        _, _, last = text.rpartition("=")
        # What is exact comes before "approximately".
        last = next((part.strip() for part in _ABOUT.split(last) if part.strip()), "")
        if parse_quantity(plain := _REMARK.sub("", last)) is not None:
            return plain
        if _FORMULA_IN_TEXT.search(last):
            return last
        found = numbers_in(last)
        return found[0] if found else last
    is_formula = len(text.split()) == 1 and _FORMULA_IN_TEXT.search(text)
    if is_formula or parse_quantity(text) is not None:
        return _trim(text)
    found = numbers_in(text)
    return found[-1] if found else _trim(text.strip().rpartition("\n")[2])


def _first_value(line: str) -> str:
    """The first of several values that are all that a line states; else empty."""
    values = _NAMED.sub(" ", plain_text(line))
    found = numbers_in(values) if _BETWEEN_VALUES.fullmatch(_VALUE.sub(" ", values)) else []
    return found[0] if len(found) > 1 else ""


def _letter(written: str, marked: list[str], question: str) -> str:
    """The letter that is chosen, by its name or by the text of its choice."""
    choices = choices_of(question)
    by_text = {_as_words(choice): letter for letter, choice in choices.items()}
    last = marked[0] if marked else _trim(written.strip().rpartition("\n")[2])
    if _LETTERS.fullmatch(plain_text(last)):
        return last
    for text in (*marked, written):
        first_line = plain_text(text.strip().partition("\n")[0])
        if first := _LETTER_FIRST.match(first_line):
            return first[1].upper()
        if letter := by_text.get(_as_words(text)):
            return letter
        if named := _LETTER_ALONE.findall(plain_text(text)):
            return "".join(named[-1]).upper()
    return last


def _yes_or_no(text: str) -> str:
    """Yes or no where a text begins with it, else the text."""
    first = re.match(r"\W*(yes|no|true|false)\b(?!\s+\w)", text, re.IGNORECASE)
    return _YES_NO[first[1].lower()] if first else _trim(text)


def _as_words(text: str) -> str:
    words = " ".join(re.findall(r"[\w.%/-]+", plain_text(text).lower())).rstrip(".")
    return re.sub(r"^(?:an?|the) ", "", words)
