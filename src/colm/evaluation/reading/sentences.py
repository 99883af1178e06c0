"""Where a sentence ends, and where none does: ``approx. 5``, ``J. R. R. Tolkien``, ``5! = 120``."""

import re

_STOP = re.compile(r"(?<!\\)[.!?]+(?=[\s*\"')\]]|$)")
#: No sentence ends at these, whatever follows.
_BEFORE_NAMES = set(
    "mr mrs ms mx dr prof st mt ft gen col sgt capt lt sen rep gov pres hon rev fr messrs "  # noqa: SIM905
    "approx appr ca cf vs e.g i.e viz fig eq rs us$ op resp incl excl".split()
)
#: No sentence ends at these where a digit follows.
_BEFORE_NUMBERS = set(
    "no nos nr p pp vol ch sec art jan feb mar apr jun jul aug sep sept oct nov dec".split()  # noqa: SIM905
)
#: No sentence ends at these where it goes on in lower case or with a digit.
_INSIDE = set(
    "jr sr inc ltd co corp dept est ave blvd a.m p.m am pm etc sq cu in ft yd mi oz lb lbs hr hrs "  # noqa: SIM905
    "min mins sec secs mo yr yrs cm mm km kg mg ml tbsp tsp max avg".split()
)
_WORD_BEFORE = re.compile(r"([A-Za-z$]+(?:\.[A-Za-z]+)*)$")
#: A name that goes on after an initial, up to where it ends.
_NAME = re.compile(
    r"\s+(?:[A-Z]\.\s*)*[A-Z][\w'\u2019-]+(?:\s+[A-Z][\w'\u2019-]+)?\s*(?:$|[.,;!?)*\"'])"
)
_OPERATOR = re.compile(r"\s*[=+*/^)\]}\\<>-]")


def first_sentence(text: str) -> str:
    """Return a text up to the end of its first sentence.

    Args:
        text: A line.

    Returns:
        The sentence without the full stop, exclamation or question mark that ends it.

    Example:
        >>> [first_sentence(t) for t in ("Mr. Smith. He left.", "No. 5. Then", "5! = 120. So")]
        ['Mr. Smith', 'No. 5', '5! = 120']
        >>> first_sentence("B. The others are wrong."), first_sentence("J. R. R. Tolkien. He")
        ('B', 'J. R. R. Tolkien')
    """
    for stop in _STOP.finditer(text):
        if _ends(text, stop):
            return text[: stop.start()]
    return text


def _ends(text: str, stop: re.Match[str]) -> bool:
    """Whether a sentence ends at a mark."""
    before, after = text[: stop.start()], text[stop.end() :]
    if not after.strip():
        return True
    if stop[0][0] != ".":
        # "5! = 120" and "(5!)" go on.
        return not (stop[0] == "!" and _OPERATOR.match(after) and re.search(r"[\w)\]}]$", before))
    word = _WORD_BEFORE.search(before)
    return word is None or not _goes_on(word[1], after)


def _goes_on(word: str, after: str) -> bool:
    """Whether a sentence goes on after a word with a full stop."""
    name, following = word.lower(), after.lstrip(" *\"'([")[:1]
    if name in _BEFORE_NAMES:
        # "5 ft. They", but "Ft. Worth".
        return word != "ft" or not following.isupper()
    if name in _BEFORE_NUMBERS and following.isdecimal():
        return True
    if (name in _INSIDE or "." in name) and (following.islower() or following.isdecimal()):
        return True
    is_initial = len(word) == 1 and word.isupper()
    return bool((is_initial or re.fullmatch(r"(?:[A-Z]\.)+[A-Z]", word)) and _NAME.match(after))
