"""Multiple choice: the choices that a question names, and the letter that an answer chooses."""

import re
from collections.abc import Sequence

from colm.evaluation.reading.notation import plain_text

#: How the letters of choices are written; one way in one question.
_LABELS = tuple(
    re.compile(label)
    for label in (
        r"\(([A-J])\)",
        r"(?<![\w(.])([A-J])\)",
        r"(?<![\w.])([A-J])\.(?=\s*\S)",
        r"(?<![\w.])([A-J]):(?=\s*\S)",
        r"\(([a-j])\)",
        r"(?<![\w(.])([a-j])\)",
    )
)
_LETTER_GOLD = re.compile(r"\(?([A-J])\)?[.:]?")
_LABELLED_GOLD = re.compile(r"(\(?)([A-J])([).:])\s*(\S.*)", re.DOTALL)

_LEADING = (
    r"(?i:(?:it(?:'s| is)|is|(?:most )?(?:likely|probably)|clearly|definitely|therefore|so|the|"
    r"correct|option|choice|letter|answer|statement|both|either|neither)\b[\s:]*|[^\w\\])*"
)
_LETTER = r"\(?(?:[Oo]ption |[Cc]hoice )?\(?\b([A-J])\b(?![-'\u2019]\w)\)?"
#: Two letters, of which neither is the one that is chosen.
_SEVERAL = re.compile(
    rf"{_LEADING}{_LETTER}(?:\s*[,&/]\s*(?:and\s+|or\s+)?|\s+(?:and|or|nor)\s+){_LETTER}"
    r"(?![^.!?]*\b(?:wrong|incorrect|false)\b)"
)
_NOT_BUT = re.compile(rf"{_LEADING}not\s+{_LETTER}[\s,]+but\s+")
_FIRST = re.compile(
    rf"{_LEADING}(?:([A-Ja-j])(?=\s*(?:[]).:,;'\"*}}]|$))|([A-J])(?![\w'\u2019]|-\w))"
)
#: What follows a letter with which all that was written begins.
_LABEL_END = re.compile(r"\s*(?:[]).:;'\"*}]|$|,?\s*(?:because|since|as)\b)")
#: What follows "A" where it is a letter, and "I" where nobody speaks.
_AFTER_LETTER = re.compile(
    r"\s*(?:$|[^\s\w'\u2019]|(?:because|since|as|which|rather|instead|over|and|or|not|is|are|was|with|"
    r"for|due|by|that|where|while|but|fails|works|seems|cannot)\b|[A-Z0-9])"
)
_MENTION = re.compile(r"\(([A-Ja-j])\)|(?<![\w'\\\u2019-])([A-J])(?![\w'\u2019]|-\w)")
_VERB = r"\W{0,4}(?:is|are|was|must be|would be|should be|has to be|seems|looks)\s+"
_CONFIRMED_AFTER = re.compile(
    rf"{_VERB}(?!not\b)(?:\w+\s+){{0,3}}?(?:correct|right|true|best|answer|choice|solution|one)\b"
)
_CONFIRMED_BEFORE = re.compile(
    r"\b(?:choose|chose|pick|select|say|go(?:ing)? with|(?:answer|choice|option|it) is|it's|"
    r"must be|(?:therefore|so|thus|hence),?)\s+(?:option|choice|answer|letter)?\s*\(?$",
    re.IGNORECASE,
)
_DISMISSED_BEFORE = re.compile(
    r"(?:\bnot|n't|rather than|instead of|unlike|\bthan|\bsee|\bover|neither|\bnor|except|"
    r"eliminat\w+|reject\w*|exclud\w+|rul\w+ out|compared? (?:to|with)|besides|while|"
    r"whereas|though|although)\s+"
    r"(?:be\s+)?(?:the\s+)?(?:options?|choices?|answers?)?\s*\(?$",
    re.IGNORECASE,
)
_DISMISSED_AFTER = re.compile(
    rf"\W{{0,3}}(?:fails|cannot|can't|isn't|doesn't|does not|won't|{_VERB}(?:also\s+)?(?:not|wrong|"
    r"incorrect|false|out|impossible|too|clearly (?:not|wrong|false))\b)"
)


def choices_of(question: str) -> dict[str, str]:
    """Return the choices that a question names.

    Args:
        question: With "(A) ... (B) ...", "A) ... B) ..." or "A. ... B. ...", or without.

    Returns:
        Text of each letter, in upper case.

    Example:
        >>> choices_of("Which? Answer Choices: (A) web (B) tree")
        {'A': 'web', 'B': 'tree'}
        >>> choices_of("How many? A. 12 B. 13"), choices_of("Who is J. R. R. Tolkien?")
        ({'A': '12', 'B': '13'}, {})
    """
    _, named, choices = question.rpartition("Choices:")
    text = choices if named else question
    for label in _LABELS:
        run = _run(list(label.finditer(text)))
        if len(run) > 1:
            starts = [each.start() for each in run[1:]]
            texts = [text[a.end() : b] for a, b in zip(run, starts, strict=False)]
            return {
                each[1].upper(): written.strip().rstrip(",;").strip()
                for each, written in zip(run, [*texts, _last_text(text, run)], strict=True)
            }
    return {}


def gold_choice(gold: str, question: str) -> tuple[str, str] | None:
    """Return the letter of the right choice and its text; ``None`` where nothing is to be chosen.

    Args:
        gold: The right answer: a letter, a letter and its text, or the text of a choice.
        question: The question.

    Returns:
        Letter and text; the text is empty where nothing tells it.

    Example:
        >>> gold_choice("(B)", ""), gold_choice("A) 12", ""), gold_choice("13", "A) 12 B) 13")
        (('B', ''), ('A', '12'), ('B', '13'))
    """
    text, choices = plain_text(gold), choices_of(question)
    if (letter := _LETTER_GOLD.fullmatch(text)) and (text != "I" or choices):
        return letter[1], choices.get(letter[1], "")
    if (letter := _LETTER_GOLD.fullmatch(text.upper())) and letter[1] in choices:
        return letter[1], choices[letter[1]]
    labelled = _LABELLED_GOLD.fullmatch(text)
    if labelled is not None:
        _, name, sign, rest = labelled.groups()
        if name in choices or sign == ")" or rest[0].isdecimal():
            return name, choices.get(name, rest)
    by_text = [name for name, choice in choices.items() if as_words(choice) == as_words(text)]
    return (by_text[0], choices[by_text[0]]) if len(by_text) == 1 else None


def chosen_letter(written: str, marked: Sequence[str], question: str) -> str:
    """Return the letter that an answer chooses, by its name or by the text of its choice.

    Letters that are compared with it or dismissed ("rather than C") do not count.

    Args:
        written: All that was written.
        marked: What stands after marks such as "The answer is", the last first.
        question: The question; names the choices.

    Returns:
        The letter; what was written last where there is none.

    Example:
        >>> chosen_letter("So B is correct, as (A) fails.", [], "")
        'B'
    """
    choices = choices_of(question)
    by_text = {as_words(choice): letter for letter, choice in choices.items()}
    for number, text in enumerate((*marked, written)):
        line, is_marked = plain_text(text.strip().partition("\n")[0]), number < len(marked)
        if several := _SEVERAL.match(line) if is_marked else _SEVERAL.fullmatch(line.rstrip(".")):
            return several[0].strip()
        if letter := _stated(line, by_text, choices, is_marked):
            return letter
    for text in (*marked, written):
        if letter := _named(plain_text(text), choices):
            return letter
    return marked[0] if marked else written.strip().rpartition("\n")[2]


def as_words(text: str) -> str:
    """Return a text as words in lower case, without an article that leads it."""
    words = " ".join(re.findall(r"[\w.%/-]+", plain_text(text).lower())).rstrip(".")
    return re.sub(r"^(?:an?|the) ", "", words)


def _run(labels: list[re.Match[str]]) -> list[re.Match[str]]:
    """The longest run of labels A, B, C; the last of several."""
    runs: list[list[re.Match[str]]] = []
    for label in labels:
        letter = label[1].upper()
        if letter == "A":
            runs.append([label])
        elif runs and ord(letter) == ord("A") + len(runs[-1]):
            runs[-1].append(label)
    return max(reversed(runs), key=len, default=[])


def _last_text(text: str, run: list[re.Match[str]]) -> str:
    """The text of the last choice: up to a blank line, or the line's end where each has its own."""
    rest = re.split(r"\n\s*\n", text[run[-1].end() :], maxsplit=1)[0]
    starts = [text[: each.start()].rstrip(" \t*-") for each in run]
    own_line = all(before.endswith("\n") for before in starts[1:])
    return rest.strip().partition("\n")[0] if own_line else rest


def _stated(line: str, by_text: dict[str, str], choices: dict[str, str], is_marked: bool) -> str:
    """The letter with which a line begins, or whose text it is."""
    if instead := _NOT_BUT.match(line):
        line = line[instead.end() :]
    found = _FIRST.match(line)
    if found is not None:
        letter, rest = (found[1] or found[2]), line[found.end() :]
        is_word = letter in "AIai" and not _AFTER_LETTER.match(rest)
        is_word = is_word or not (is_marked or _LABEL_END.match(rest))
        is_word = is_word or bool(_DISMISSED_AFTER.match(rest))
        if not is_word and (not choices or letter.upper() in choices):
            return letter.upper()
    return by_text.get(as_words(line), "")


def _named(text: str, choices: dict[str, str]) -> str:
    """The letter that is named last and not dismissed; one that is called right goes first."""
    confirmed, neutral = "", ""
    for found in _MENTION.finditer(text):
        letter, rest, before = (found[1] or found[2]), text[found.end() :], text[: found.start()]
        if choices and letter.upper() not in choices:
            continue
        if found[2] and letter in "AI" and not _AFTER_LETTER.match(rest):
            continue
        if _DISMISSED_BEFORE.search(before[-60:]) or _DISMISSED_AFTER.match(rest):
            continue
        neutral = letter.upper()
        if _CONFIRMED_AFTER.match(rest) or _CONFIRMED_BEFORE.search(before[-60:]):
            confirmed = letter.upper()
    return confirmed or neutral
