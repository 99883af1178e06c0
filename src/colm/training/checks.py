"""Checks of single options: one line names the option, its value and what it may be."""

import math
from collections.abc import Iterable
from typing import Any

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
    whole: bool = False,
) -> None:
    """Refuse what is no number, or not ``least`` or more, or not ``above`` something.

    Raises:
        ValueError: it is not.
    """
    kind = "a whole number" if whole else "a number"
    bound = f"at least {least}" if least is not None else f"above {above}"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = is_number and math.isfinite(value) and not (whole and value != int(value))
    if fits and least is not None:
        fits = value >= least
    if fits and above is not None:
        fits = value > above
    if not fits:
        raise ValueError(f"{option} must be {kind} {bound}; got {value!r}.")
