r"""Numbers as people, programs and LaTeX write them: ``1,000``, ``$5``, ``50\%``, ``\frac12``.

Values are exact fractions, so that ``0.1`` is a tenth and large numbers keep their last digit.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

#: Longer texts and larger powers of ten are not read: their value would not fit anywhere.
_MOST_CHARACTERS = 200
_MOST_EXPONENT = 300
#: What rounding in a program's arithmetic may change, relative to the value.
_NOISE = Fraction(1, 10**6)
#: How far off a rounded answer may be at most, relative to the value.
_ROUNDED = Fraction(1, 100)

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+"
_POWER = (
    r"(?:[eE]([+-]?\d+)|\s*(?:\\times|\\cdot|\*|x)\s*10\s*(?:\^|\*\*)\s*\{?\s*([+-]?\d+)\s*\}?)?"
)
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*(?:(?P<whole>\d+)\s+(?=\d+\s*/))?[£€¥]?\s*"
    rf"(?P<digits>{_DIGITS}){_POWER}(?:\s*/\s*(?P<divisor>{_DIGITS}))?"
    r"\s*(?P<percent>%|percent\b)?(?P<rest>.*)",
    re.DOTALL,
)
#: A number inside a text; a minus after a letter, digit or bracket is a subtraction.
_IN_TEXT = re.compile(
    rf"(?:(?<![\w)\]}}.])-)?[£€¥]?(?:\d+\s(?=\d+/\d))?(?:{_DIGITS})(?:[eE][+-]?\d+)?(?:\s?/\s?\d+(?:\.\d+)?)?"
    r"(?:\s?%)?"
)
_UNIT = re.compile(r"[^\W\d_]+(?:(?:\s+|\s*/\s*|-)[^\W\d_]+|\^\{?[23]\}?|\.)*")
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NOT_UNITS = {"and", "or", "to", "pi", "sqrt", "times", "plus", "minus", "dozen", "hundred", "mod"}
_LETTER_UNITS = set("ACFJKLNVWghlms")
_WORDS = (  # noqa: SIM905 - easier to read than a list of them
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()
_UNIT_NAMES = (
    "mm millimeter millimetre", "cm centimeter centimetre", "m meter metre", "km kilometer "
    "kilometre", "in inch inche", "ft foot feet", "yd yard", "mi mile", "mg milligram", "g gram",
    "kg kilogram", "oz ounce", "lb pound", "s sec second", "min minute", "h hr hour", "day", "week",
    "month", "year", "ml milliliter millilitre", "l liter litre", "cent", "dollar",
)  # fmt: skip
_UNITS = {name: names.split()[0] for names in _UNIT_NAMES for name in names.split()}

_REMOVED = re.compile(
    r"\\!\s*|(?<!\\)\\[,;:> ]|\\left(?![a-z])|\\right(?![a-z])|\\displaystyle|\\?\$|~|\u200b"
)
_TEXT_COMMAND = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|hbox)\s*\{([^{}]*)\}"
)
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|°")
_SHORT_FRACTION = re.compile(r"\\frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
_PLAIN_FRACTION = re.compile(r"(\d*)\s*\\frac\{\s*(\d+)\s*\}\{\s*(\d+)\s*\}")


@dataclass(frozen=True)
class Quantity:
    """A number that a text states.

    Attributes:
        value: Exactly what is written, 50 for "50%".
        decimals: Digits after the decimal point, 0 without one.
        percent: Whether a percent sign follows.
        unit: Unit by one of its names where it is a common one, else empty.
    """

    value: Fraction
    decimals: int = 0
    percent: bool = False
    unit: str = ""


def plain_text(text: str) -> str:
    r"""Return a text without what changes only its looks: spacing, dollars, ``\text``, ``\dfrac``.

    Args:
        text: An answer, LaTeX or not.

    Returns:
        The same answer on one line.

    Example:
        >>> plain_text(r"25,\!972 \, \text{km}"), plain_text(r"$\dfrac12$")
        ('25,972 km', '\\frac{1}{2}')
    """
    text = re.sub(r"\\[dtc]frac(?![a-z])", r"\\frac", text).replace("\\%", "%").replace("{,}", ",")
    for sign in "\u2212\u2013\u2010\u2011":
        text = text.replace(sign, "-")
    text = text.replace("\u00a0", " ").replace("\u202f", " ").replace("\u00d7", "*")
    text = _TEXT_COMMAND.sub(r" \1 ", _DEGREES.sub(" degrees ", _REMOVED.sub("", text)))
    text = _SHORT_FRACTION.sub(
        lambda m: f"\\frac{{{m[2] if m[1] is None else m[1]}}}{{{m[4] if m[3] is None else m[3]}}}",
        text,
    )
    return re.sub(r"(?<=[A-Za-z])\s+(?=\^)", "", " ".join(text.split()))


def parse_quantity(text: str) -> Quantity | None:
    r"""Return the number that a text is, with or without a unit; ``None`` where it is not one.

    Args:
        text: An answer, LaTeX or not.

    Returns:
        The number; ``None`` for anything more than that, such as ``2x`` or ``3 and 4``.

    Example:
        >>> [parse_quantity(t).value for t in ("1,000.0", r"\frac{3}{4}", "5 1/2 hours", "four")]
        [Fraction(1000, 1), Fraction(3, 4), Fraction(11, 2), Fraction(4, 1)]
        >>> parse_quantity("2x")
    """
    text = plain_text(text).rstrip(" .")
    if not text or len(text) > _MOST_CHARACTERS:
        return None
    if text.lower() in _WORDS:
        return Quantity(Fraction(_WORDS.index(text.lower())))
    found = _NUMBER.fullmatch(_without_latex_fractions(text))
    if found is None:
        return None
    exponent = int(found[4] or found[5] or 0)
    scale, unit = _read_unit(found["rest"])
    if abs(exponent) > _MOST_EXPONENT or scale is None:
        return None
    value = _exact(found["digits"]) * Fraction(10) ** exponent
    if found["divisor"]:
        divisor = _exact(found["divisor"])
        if not divisor:
            return None
        value /= divisor
    value = (value + int(found["whole"] or 0)) * scale
    decimals = len(found["digits"].partition(".")[2]) if not found["divisor"] else 0
    exact_decimals = decimals if exponent == 0 and scale == 1 else 0
    return Quantity(
        -value if found["sign"] == "-" else value, exact_decimals, bool(found["percent"]), unit
    )


def numbers_in(text: str) -> list[str]:
    """Return the numbers that stand in a text, as they are written.

    Args:
        text: Any text.

    Returns:
        Texts that ``parse_quantity`` reads, in their order.

    Example:
        >>> numbers_in("He pays $1,200 - 5% of 10-3.5.")
        ['1,200', '5%', '10', '3.5']
    """
    return [
        found.strip().rstrip(".")
        for found in _IN_TEXT.findall(_without_latex_fractions(plain_text(text)))
    ]


def same_quantity(gold: Quantity, answer: Quantity) -> bool:
    """Tell whether a number answers a question.

    Whole numbers and fractions must be equal. With decimals a millionth is forgiven, which
    arithmetic may lose, and where the right answer has two decimals or more, what rounds to it
    within one in a hundred.
    "50%" answers both 50 and 0.5, but not 0.5%. Different common units are different answers; no
    unit is any.

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
    if gold.unit and answer.unit and gold.unit != answer.unit:
        return False
    if gold.percent == answer.percent:
        return _same_value(gold, answer)
    readings = (gold, _as_share(gold)) if gold.percent else (answer, _as_share(answer))
    return any(
        _same_value(reading, answer) if gold.percent else _same_value(gold, reading)
        for reading in readings
    )


def _as_share(percent: Quantity) -> Quantity:
    """What a percentage is as a share of one."""
    # Whole percents have two decimals as a share, and are no rounded numbers for that.
    return Quantity(percent.value / 100, percent.decimals + 2 if percent.decimals >= 2 else 1)


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


def _exact(digits: str) -> Fraction:
    whole, _, decimals = digits.replace(",", "").partition(".")
    return Fraction(int(f"{whole}{decimals}" or "0"), 10 ** len(decimals))


def _read_unit(rest: str) -> tuple[int | None, str]:
    """The factor and the unit that follow a number; no factor where it is something else."""
    separated = rest.startswith((" ", "-")) or not rest
    words = rest.lstrip(" -").split()
    scale = 1
    if words and words[0].lower() in _SCALES:
        scale = _SCALES[words.pop(0).lower()]
    unit = " ".join(words)
    if not unit:
        return scale, ""
    first = re.split(r"[\s/^.-]", unit)[0]
    is_unit = _UNIT.fullmatch(unit) and not _NOT_UNITS & set(unit.lower().split())
    if not is_unit or (len(first) == 1 and not (separated and first in _LETTER_UNITS)):
        return None, ""
    name = unit.lower().rstrip(".")
    return scale, _UNITS.get(name) or _UNITS.get(name.removesuffix("s"), "")
