"""Checks of single options: one line names the option, its value and what it may be."""

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

from colm.coreset.checks import shown
from colm.source_names import as_source_names


def as_names(option: str, value: Any) -> list[str]:
    """One name, or several, as a list: YAML and Python users write ``auto``, the CLI a list.

    Numbers are names, too: those of sources that a column numbers.

    Raises:
        ValueError: it is neither.
    """
    many = isinstance(value, Iterable) and not isinstance(value, str | bytes)
    is_one = isinstance(value, str | int | float)
    try:
        if not many and not is_one:
            raise ValueError
        return as_source_names(value if many else [value])
    except (TypeError, ValueError):
        raise ValueError(f"{option} must be one name or a list of names; got {value!r}.") from None


def check_number(
    option: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    most: float | None = None,
    whole: bool = False,
    instead: str = "",
) -> None:
    """Refuse what is no number, or not between its bounds: ``least`` and ``most`` are allowed.

    ``instead`` says what else the option may be.

    Raises:
        ValueError: it is not.

    Example:
        >>> check_number("adam_beta1", 1.0, least=0, below=1)
        Traceback (most recent call last):
        ...
        ValueError: adam_beta1 must be a number at least 0 and below 1; got 1.0.
    """
    bounds = {"at least": least, "above": above, "below": below, "at most": most}
    said = " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)
    fits = _is_number(value) and not (whole and value != int(value))
    fits = fits and (least is None or value >= least) and (above is None or value > above)
    fits = fits and (below is None or value < below) and (most is None or value <= most)
    if not fits:
        kind = "a whole number" if whole else "a number"
        said += f", or {instead}" * bool(instead)
        raise ValueError(f"{option} must be {kind} {said}; got {shown(value)}.")


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number that floats have, too; numpy's are numbers."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
