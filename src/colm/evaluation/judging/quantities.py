r"""Numbers as people, programs and LaTeX write them: ``1,000``, ``$5``, ``50\%``, ``\frac12``.

Values are exact fractions, so that ``0.1`` is a tenth and large numbers keep their last digit.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from colm.evaluation.reading.notation import plain_text
from colm.evaluation.reading.number_words import spelled_number
from colm.evaluation.reading.units import Unit, differ, parse_unit

#: Longer texts, larger powers and factorials are not read: their value would not fit anywhere.
_MOST_CHARACTERS = 200
_MOST_EXPONENT = 300
_MOST_FACTORIAL = 100
#: What rounding in a program's arithmetic may change, relative to the value.
_NOISE = Fraction(1, 10**6)
#: How far off a rounded answer may be at most, relative to the value.
_ROUNDED = Fraction(1, 100)

#: Digits grouped in threes, by commas or spaces, or as in India; a line over those that repeat.
_DIGITS = (
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!,?\d)|\d{1,2}(?:,\d{2})+,\d{3}(?!\d)"
    r"|[1-9]\d{0,2}(?: \d{3})+(?!\d|/|\s*\\frac)|\d+)(?:\.\d*(?:\\overline\s*\{\d+\})?)?"
    r"|\.\d+(?:\\overline\s*\{\d+\})?|\.\\overline\s*\{\d+\})"
)
_POWER = (
    r"(?:[eE](?P<e>[+-]?\d+)|(?P<ten>\s*(?:\\times|\\cdot|\*|x)\s*10(?=\s*(?:\^|\*\*)))?"
    r"\s*(?:\^|\*\*)\s*(?:\{\s*(?P<braced>[+-]?\d+)\s*\}|(?P<power>[+-]?\d+)))?"
)
_PERCENT = r"(?:%|per\s?cent\b)"
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)\s*(?:(?P<whole>\d+)(?:\s+and)?\s+(?=\d+\s*/))?(?P<currency>[£€¥₹]|Rs\.?|INR|USD|EUR)?\s*"
    rf"(?P<digits>{_DIGITS}){_POWER}(?P<factorial>!?)"
    rf"(?:\s*/\s*(?P<divisor>{_DIGITS}))?(?:\s*(?P<percent>{_PERCENT}))?(?P<rest>.*)",
    re.DOTALL,
)
#: A number inside a text; a minus after a letter, digit or bracket is a subtraction.
_IN_TEXT = re.compile(
    rf"(?:(?<![\w)\]}}.!])-)?[£€¥₹]?(?:\d+\s(?:and\s)?(?=\d+/\d))?{_DIGITS}"
    + re.sub(r"\?P<\w+>", "?:", _POWER)
    + rf"(?:!(?=\s*(?:[a-z=*+\-/)\\^.,;])))?(?:\s?/\s?\d+(?:\.\d+)?)?(?:\s?{_PERCENT})?"
)
#: What may be a unit after a number in a text; "in" is seldom an inch there, "a" no ampere.
_UNIT_IN_TEXT = re.compile(
    r"\s?((?:(?:square|sq\.?|cubic|cu\.?)\s)?(?!in\b|a\b)[^\W\d_]+(?:\^\{?[23]\}?)?)"
    r"(\s*/\s*[^\W\d_]+(?:\^\{?[23]\}?)?|\s(?:per|an?)\s[a-z]+)?"
)
_UNIT = re.compile(r"[^\W\d_]+(?:(?:\s+|\s*/\s*|-)[^\W\d_]+|\^\{?-?[1-3]\}?|(?<=[a-z])[23]\b|\.)*")
_SCALES = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "lakh": 10**5, "lakhs": 10**5, "crore": 10**7, "crores": 10**7,
}  # fmt: skip
_DOZENS = {"dozen", "dozens"}
_NOT_UNITS = {
    "am",
    "pm",
    "a.m",
    "p.m",
    "and",
    "or",
    "to",
    "pi",
    "sqrt",
    "times",
    "plus",
    "minus",
    "mod",
    "not",
    "but",
}
_LETTER_UNITS = set("ACFJKLNVWghlms")
#: "2 hours 30 minutes", in one unit less the last part.
_COMPOUND = re.compile(r"(.*\d.*?[^\W\d_]\.?),?\s+(?:and\s+)?(\d.*)")
#: "0.1666..." goes on as it ends.
_GOES_ON = re.compile(r"(?<=\d)(\.\d*?)(\d{1,3}?)\2+(?:\.\.\.+|\u2026|\\(?:l|c)?dots\b)")
_REPEATED = re.compile(r"\\overline\s*\{(\d+)\}")
_PLAIN_FRACTION = re.compile(r"(\d*)\s*\\frac\{\s*(\d+)\s*\}\{\s*(\d+)\s*\}")


@dataclass(frozen=True)
class Quantity:
    """A number that a text states.

    Attributes:
        value: Exactly what is written, 50 for "50%".
        decimals: Digits after the decimal point, 0 without one.
        percent: Whether a percent sign follows.
        unit: The unit, where it is a common one.
        dozens: Whether dozens are counted, so that 2 may be 24.
    """

    value: Fraction
    decimals: int = 0
    percent: bool = False
    unit: Unit | None = None
    dozens: bool = False


def parse_quantity(text: str, *, attached: bool = False) -> Quantity | None:
    r"""Return the number that a text is, with or without a unit; ``None`` where it is not one.

    Args:
        text: An answer, LaTeX or not.
        attached: Whether a letter right after a number is a unit, "5m", and no variable.

    Returns:
        The number; ``None`` for anything more than that, such as ``2x`` or ``3 and 4``.

    Example:
        >>> [parse_quantity(t).value for t in ("1,000.0", r"\frac{3}{4}", "5 1/2 hours", "four")]
        [Fraction(1000, 1), Fraction(3, 4), Fraction(11, 2), Fraction(4, 1)]
        >>> parse_quantity("2x")
    """
    text = plain_text(with_repeating_digits(text)).rstrip(" .")
    if not text or len(text) > _MOST_CHARACTERS:
        return None
    if not any(sign.isdecimal() for sign in text):
        return _in_words(text)
    found = _NUMBER.fullmatch(_without_latex_fractions(text))
    if found is None:
        return None
    value, rest = _value(found), _read_unit(found["rest"], attached)
    if value is None or rest is None:
        return _compound(text)
    scale, unit, dozens = rest
    exact = (
        "overline" in found["digits"]
        or found["divisor"]
        or found["e"]
        or found["power"]
        or found["braced"]
        or scale != 1
    )
    return Quantity(
        value=value * scale,
        decimals=0 if exact else len(found["digits"].partition(".")[2]),
        percent=bool(found["percent"]),
        unit=unit or (parse_unit(found["currency"]) if found["currency"] else None),
        dozens=dozens,
    )


def with_repeating_digits(text: str) -> str:
    r"""Return a text with a line over the digits that repeat in what goes on for ever.

    Args:
        text: Any text.

    Returns:
        The text in LaTeX's notation.

    Example:
        >>> with_repeating_digits("It is 0.1666...")
        'It is 0.1\\overline{6}'
    """
    return _GOES_ON.sub(r"\1\\overline{\2}", text)


def numbers_in(text: str) -> list[str]:
    """Return the numbers that stand in a text, as they are written, with common units.

    Args:
        text: Any text.

    Returns:
        Texts that ``parse_quantity`` reads, in their order.

    Example:
        >>> numbers_in("He pays $1,200 - 5% of 10-3.5 for 2 km.")
        ['1,200', '5%', '10', '3.5', '2 km']
    """
    text = _without_latex_fractions(plain_text(text))
    numbers, place = [], 0
    while found := _IN_TEXT.search(text, place):
        unit = _unit_after(text, found.end())
        numbers.append(found[0].strip().rstrip(".") + unit)
        place = found.end() + len(unit)
    return numbers


def same_quantity(gold: Quantity, answer: Quantity) -> bool:
    """Tell whether a number answers a question.

    Whole numbers and fractions must be equal. With decimals a millionth is forgiven, which
    arithmetic may lose, and where the right answer has two decimals or more, what rounds to it
    within one in a hundred.
    "50%" answers both 50 and 0.5, but not 0.5%. Units that measure different things are different
    answers, 5000 m are 5 km, and no unit is any.

    Args:
        gold: The right answer.
        answer: What was answered.

    Returns:
        Whether it is right.

    Example:
        >>> third, rounded = Quantity(Fraction(1, 3)), Quantity(Fraction(33, 100), decimals=2)
        >>> same_quantity(rounded, third), same_quantity(third, rounded)
        (True, False)
    """
    if gold.unit and answer.unit:
        if differ(gold.unit, answer.unit):
            return False
        if gold.unit.size != answer.unit.size:
            ratio = answer.unit.size / gold.unit.size
            answer = replace(answer, value=answer.value * ratio, decimals=max(answer.decimals, 1))
    return any(
        _same_value(right, given)
        for right in _readings(gold, answer)
        for given in _readings(answer, gold)
    )


def _readings(quantity: Quantity, other: Quantity) -> Iterator[Quantity]:
    """What a number may mean beside another: as it stands, a share for percent, 12 for a dozen."""
    yield quantity
    if quantity.percent and not other.percent:
        # Whole percents have two decimals as a share, and are no rounded numbers for that.
        decimals = quantity.decimals + 2 if quantity.decimals >= 2 else 1
        yield Quantity(quantity.value / 100, decimals)
    if quantity.dozens and not other.dozens:
        yield Quantity(quantity.value * 12)


def _in_words(text: str) -> Quantity | None:
    """The number that a text is in words, with no more than a common unit."""
    spelled = spelled_number(text)
    if spelled is None:
        return None
    value, rest = spelled
    if re.fullmatch(_PERCENT, rest):
        return Quantity(value, percent=True)
    counted = _read_unit(f" {rest.removeprefix('a ')}" if rest else "", False)
    if counted is None:
        return None
    scale, unit, dozens = counted
    # "One Direction" is no number.
    is_number = not rest or unit is not None or dozens or scale > 1
    return Quantity(value * scale, unit=unit, dozens=dozens) if is_number else None


def _value(found: re.Match[str]) -> Fraction | None:
    """The value of a number, without its unit; ``None`` where it would fit nowhere."""
    value = _exact(found["digits"])
    exponent = int(found["e"] or found["power"] or found["braced"] or 0)
    has_power = found["power"] or found["braced"]
    if abs(exponent) > _MOST_EXPONENT:
        return None
    if has_power and not found["ten"]:
        if not value and exponent < 0:
            return None
        value = value**exponent
    else:
        value *= Fraction(10) ** exponent
    if found["factorial"]:
        if value.denominator > 1 or value > _MOST_FACTORIAL:
            return None
        value = Fraction(math.factorial(int(value)))
    if found["divisor"]:
        divisor = _exact(found["divisor"])
        if not divisor:
            return None
        value /= divisor
    value += int(found["whole"] or 0)
    return -value if found["sign"] == "-" else value


def _exact(digits: str) -> Fraction:
    """The value of digits; those under a line repeat without an end."""
    repeated = _REPEATED.search(digits)
    if repeated is not None:
        digits = digits[: repeated.start()]
    whole, _, decimals = re.sub("[, ]", "", digits).partition(".")
    value = Fraction(int(f"{whole}{decimals}" or "0"), 10 ** len(decimals))
    if repeated is not None:
        nines = 10 ** len(repeated[1]) - 1
        value += Fraction(int(repeated[1]), nines * 10 ** len(decimals))
    return value


def _compound(text: str) -> Quantity | None:
    """The sum of two numbers with units that measure the same, "2 hours 30 minutes"."""
    parts = _COMPOUND.fullmatch(text)
    if parts is None:
        return None
    first, second = parse_quantity(parts[1], attached=True), parse_quantity(parts[2], attached=True)
    if not first or not second or not first.unit or not second.unit:
        return None
    ratio = second.unit.size / first.unit.size
    if differ(first.unit, second.unit) or ratio >= 1:
        return None
    return Quantity(first.value + second.value * ratio, unit=first.unit)


def _without_latex_fractions(text: str) -> str:
    """A text with fractions of whole numbers as 3/4."""
    return _PLAIN_FRACTION.sub(lambda m: f"{m[1]} {m[2]}/{m[3]}".strip(), text)


def _same_value(gold: Quantity, answer: Quantity) -> bool:
    difference = abs(gold.value - answer.value)
    are_whole = gold.value.denominator == answer.value.denominator == 1
    if not difference or are_whole or gold.decimals == answer.decimals == 0:
        return not difference
    size = max(abs(gold.value), abs(answer.value))
    if difference <= _NOISE * size:
        return True
    half_a_digit = Fraction(1, 2 * 10**gold.decimals)
    return gold.decimals >= 2 and difference <= half_a_digit and difference <= _ROUNDED * size


def _read_unit(rest: str, attached: bool) -> tuple[int, Unit | None, bool] | None:
    """The factor and unit that follow a number, and whether it counts dozens; else ``None``."""
    separated = rest.startswith((" ", "-")) or not rest
    words = rest.lstrip(" -").split()
    scale = 1
    while words and words[0].lower() in _SCALES:
        scale *= _SCALES[words.pop(0).lower()]
    dozens = bool(words) and words[0].lower() in _DOZENS
    unit = " ".join(words[dozens:]).removeprefix("of ") if words else ""
    if not unit:
        return scale, None, dozens
    first = re.split(r"[\s/^.-]", unit)[0]
    if not _UNIT.fullmatch(unit) or _NOT_UNITS & set(unit.lower().split()):
        return None
    if len(first) == 1 and not ((separated or attached) and first in _LETTER_UNITS):
        return None
    return scale, parse_unit(unit), dozens


def _unit_after(text: str, place: int) -> str:
    """The common unit that follows a number in a text, with the space before it."""
    found = _UNIT_IN_TEXT.match(text, place)
    if found is None or (
        len(found[1]) == 1 and not (found[0][0] == " " and found[1] in _LETTER_UNITS)
    ):
        return ""
    for end in (found.end(), found.end(1)):
        if parse_unit(text[place:end].strip()) is not None:
            return text[place:end].rstrip()
    return ""
