r"""One notation for what people, programs and LaTeX write alike: ``10²``, ``10**2`` and ``10^{2}``.

Only the looks of a text change here; what it says is read elsewhere.
"""

# ruff: noqa: RUF001, RUF002 - signs that look like others are what this module is about

import re
import unicodedata
from collections.abc import Callable

_REMOVED = re.compile(r"\\!\s*|\\left(?![a-z])|\\right(?![a-z])|\\displaystyle|\\?\$|\u200b|\ufeff")
#: Spaces of LaTeX; those between groups of digits belong to the number.
_SPACE = re.compile(r"(?<!\\)\\[,;:> ]|~")
_GROUPING = re.compile(
    r"(?<=\d)(?:(?<!\\)\\[,;: ]|~|[\u00a0\u2007\u2009\u202f])(?=\d{3}(?!\d))"
    r"|(?<=\d)['\u2019](?=\d{3}(?!\d))"
)
_TEXT_COMMAND = re.compile(
    r"\\(?:text|textbf|textit|textrm|textup|mathrm|mathbf|mbox|hbox|operatorname)\s*\{([^{}]*)\}"
)
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|°|º|\\degree\b")
_SHORT_FRACTION = re.compile(r"\\frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")


def _signs(first: int, last: int, kind: str) -> str:
    """The signs of Unicode, between two, that stand for others above or below the line."""
    signs = map(chr, range(first, last))
    return "".join(s for s in signs if unicodedata.decomposition(s).startswith(kind))


#: Without the ordinals of Spanish, one of which people take for degrees.
_RAISED = _signs(0xB2, 0x2100, "<super>").replace("º", "")
_LOWERED = _signs(0x1D62, 0x2100, "<sub>")
_SCRIPTS = (
    (re.compile(f"[{re.escape(_RAISED)}]+"), "^"),
    (re.compile(f"[{re.escape(_LOWERED)}]+"), "_"),
)
_VULGAR = re.compile("[¼-¾⅐-⅞↉]")
_ROOT_SIGN = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|[^\W\d_](?![^\W\d_]))")
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
_PLAIN_SIGNS = {
    **dict.fromkeys("\u2212\u2013\u2010\u2011\ufe63", "-"),
    **dict.fromkeys("×✕·⋅∗", "*"),
    **dict.fromkeys("÷∕⁄", "/"),
    **dict.fromkeys("\u2018\u2019", "'"),
    "∶": ":",
    "‰": r" /1000 ",
}  # fmt: skip
_LATEX_SIGNS = {
    "∞": "infty", "≤": "le", "⩽": "le", "≥": "ge", "⩾": "ge", "≠": "ne", "≈": "approx",
    "±": "pm", "∓": "mp", "∪": "cup", "∩": "cap", "∅": "emptyset", "⌀": "emptyset", "∈": "in",
    "∉": "notin", "⊂": "subset", "⊆": "subseteq", "ℝ": "mathbb{R}", "ℤ": "mathbb{Z}",
    "ℕ": "mathbb{N}", "ℚ": "mathbb{Q}", "ℂ": "mathbb{C}", "∫": "int", "∑": "sum", "∠": "angle",
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "Δ": "Delta", "ε": "epsilon",
    "θ": "theta", "λ": "lambda", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi", "ϕ": "phi",
    "ω": "omega", "Ω": "Omega", "π": "pi",
}  # fmt: skip
_SIGNS = str.maketrans(
    {**_PLAIN_SIGNS, **{sign: rf"\{name} " for sign, name in _LATEX_SIGNS.items()}}
)

_MODULE = re.compile(r"\b(?:math|cmath|np|numpy|sp|sympy|mpmath)\.(?=[A-Za-z])")
#: Functions of Python whose brackets LaTeX replaces by signs of its own.
_AS_BRACKETS = {
    "sqrt": (r"\sqrt{", "}"),
    "cbrt": (r"\sqrt[3]{", "}"),
    "abs": ("|", "|"),
    "Abs": ("|", "|"),
    "floor": (r"\lfloor ", r"\rfloor "),
    "ceil": (r"\lceil ", r"\rceil "),
    "ceiling": (r"\lceil ", r"\rceil "),
    "factorial": ("(", ")!"),
}
_CALL = re.compile(r"(?<![\\A-Za-z])(" + "|".join(_AS_BRACKETS) + r")\s*\(")
_INVERSE = re.compile(r"(?<![\\A-Za-z])a(sin|cos|tan)(h?)(?![A-Za-z])")
_FUNCTION = re.compile(
    r"(?<![\\A-Za-z])((?:arc)?(?:sin|cos|tan)|(?:sin|cos|tan|cot)h|cot|sec|csc|log|ln|exp|min|max|"
    r"gcd|lcm)(?=$|[^A-Za-z]|[xy]\b)"
)
_LOG_BASE = re.compile(r"(?<![\\A-Za-z])log(2|10)\s*(?=\()")
_FRACTION = re.compile(r"(?<![\\A-Za-z])(?:Fraction|Rational)\(\s*(-?\d+)\s*,\s*(\d+)\s*\)")
#: As Python prints them; "2e-3" may be twice e, less 3.
_PRINTED_EXPONENT = re.compile(r"(?<=\d)e([+-]\d{2,})(?!\d)")
_EXPONENT = re.compile(r"\^\s*([+-]\s*(?:\d+(?:\.\d+)?|[A-Za-z])|\d{2,}(?:\.\d+)?|\d\.\d+)")


def plain_text(text: str) -> str:
    r"""Return a text without what changes only its looks: spacing, dollars, ``\text``, ``\dfrac``.

    Args:
        text: An answer: LaTeX, Unicode or neither.

    Returns:
        The same answer on one line.

    Example:
        >>> plain_text(r"25,\!972 \, \text{km}"), plain_text(r"$\dfrac12$"), plain_text("2½ × 10⁻³")
        ('25,972 km', '\\frac{1}{2}', '2\\frac{1}{2} * 10^{-3}')
    """
    if not text.isascii():
        text = _without_unicode_signs(text)
    text = re.sub(r"\\[dtc]frac(?![a-z])", r"\\frac", text).replace("\\%", "%").replace("{,}", ",")
    text = _SPACE.sub(" ", _REMOVED.sub("", _GROUPING.sub("", text)))
    text = _TEXT_COMMAND.sub(r" \1 ", _DEGREES.sub(" degrees ", text))
    text = _SHORT_FRACTION.sub(
        lambda m: f"\\frac{{{m[2] if m[1] is None else m[1]}}}{{{m[4] if m[3] is None else m[3]}}}",
        text,
    )
    return re.sub(r"(?<=[A-Za-z])\s+(?=\^)", "", " ".join(text.split()))


def as_latex(text: str) -> str:
    r"""Return a formula in LaTeX, where it may be written as Python or people write it.

    Args:
        text: A formula.

    Returns:
        LaTeX without what changes only its looks.

    Example:
        >>> as_latex("x**2 + 3*sqrt(2)*pi"), as_latex("10^-3"), as_latex("math.log(2)")
        ('x^{2} + 3 \\cdot \\sqrt{2} \\cdot \\pi ', '10^{-3}', '\\log(2)')
    """
    text = _MODULE.sub("", plain_text(text))
    text = _PRINTED_EXPONENT.sub(r" \\cdot 10^{\1}", _FRACTION.sub(r"(\1)/(\2)", text))
    text = re.sub(r"\*\*\s*(\([^()]*\)|-?[\w.]+)", lambda m: f"^{{{m[1].strip('()')}}}", text)
    text = re.sub(r"(?:\*\s*)?(?<![\\A-Za-z])I(?![A-Za-z])|(?<=\d)j\b", "i", text)
    text = replace_calls(text, _CALL, lambda name, inside: inside.join(_AS_BRACKETS[name]))
    text = _LOG_BASE.sub(r"\\log_{\1}", _INVERSE.sub(r"arc\1\2", text))
    text = _EXPONENT.sub(r"^{\1}", _FUNCTION.sub(r"\\\1 ", text).replace(" (", "("))
    # Without a sign "3 * 4" would read as 34, and "1/2*y" as 1/(2y).
    text = re.sub(r"\s*\*\s*", r" \\cdot ", text)
    text = re.sub(r"(?<![\\A-Za-z])oo(?![A-Za-z])", r"\\infty ", text)
    text = re.sub(r"\b(?:all )?real numbers\b", r"\\mathbb{R}", text, flags=re.IGNORECASE)
    return re.sub(r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi ", text)


def replace_calls(text: str, call: re.Pattern[str], write: Callable[[str, str], str]) -> str:
    """Return a text in which calls, whatever brackets their arguments hold, are written anew.

    Args:
        text: Any text.
        call: Finds a name, its first group, up to and with the bracket that opens.
        write: Takes the name and what stands in the brackets.

    Returns:
        The text; calls whose bracket nothing closes stay.
    """
    found = list(call.finditer(text))
    for match in reversed(found):  # the inner ones first
        end = closing_bracket(text, match.end() - 1)
        if end is not None:
            inside = text[match.end() : end]
            text = text[: match.start()] + write(match[1], inside) + text[end + 1 :]
    return text


def closing_bracket(text: str, start: int) -> int | None:
    """Return where the bracket at ``start`` is closed; ``None`` where it is not."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] in "([{") - (text[place] in ")]}")
        if depth == 0:
            return place
    return None


def _without_unicode_signs(text: str) -> str:
    """A text whose superscripts, fractions, roots, signs and wide letters are those of LaTeX."""
    text = unicodedata.normalize("NFC", text).replace("\u2044", "/")
    text = _GROUPING.sub("", text)
    for pattern, sign in _SCRIPTS:
        text = pattern.sub(lambda m, sign=sign: f"{sign}{{{_compatible(m[0])}}}", text)  # type: ignore[misc]
    text = _VULGAR.sub(lambda m: "\\frac{{{}}}{{{}}}".format(*_compatible(m[0]).split("/")), text)
    text = re.sub(r"([√∛∜])\s*\(", r"\1(", text)
    text = replace_calls(
        text, re.compile(r"([√∛∜])\("), lambda root, inside: f"{_ROOTS[root]}{{{inside}}}"
    )
    text = _ROOT_SIGN.sub(lambda m: f"{_ROOTS[m[1]]}{{{m[2]}}}", text)
    text = re.sub("[√∛∜]", lambda m: _ROOTS[m[0]], text)
    return unicodedata.normalize("NFKC", _DEGREES.sub(" degrees ", text).translate(_SIGNS))


def _compatible(signs: str) -> str:
    """Signs as those that they stand for, on the line."""
    return unicodedata.normalize("NFKC", signs).translate(_SIGNS)
