"""Checks of what a caller passes: one line names the option, what it may be and what came.

Symbols: n examples, d features.
"""

import math
import operator
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from colm.json_text import parse_json
from colm.source_names import as_source_names

_LARGEST = 2**63 - 2


def check_whole(option: str, value: Any, least: int | None = None) -> int:
    """Return a whole number as an ``int``; numpy's and PyTorch's are taken, too.

    Raises:
        ValueError: it is no whole number, or below ``least``, or does not fit in 64 bits, as all
            that is saved or sent must.

    Example:
        >>> check_whole("num_directions", 2, least=1)
        2
    """
    number = _index(value)
    if number is not None and abs(number) > _LARGEST:
        raise ValueError(f"{option} must fit in 64 bits; got {shown(value)}.")
    if number is None or (least is not None and number < least):
        bound = "" if least is None else f" at least {least}"
        raise ValueError(f"{option} must be a whole number{bound}; got {shown(value)}.")
    return number


def check_budget(budget: Any, n: int, least: int = 1) -> int:
    """Return a budget of ``least`` to n examples.

    Raises:
        ValueError: it is anything else.
    """
    number = _index(budget)
    if number is None or not least <= number <= n:
        raise ValueError(
            f"budget must be between {least} and the number of examples, {n}; got {shown(budget)}."
        )
    return number


def check_not_negative(option: str, value: Any) -> None:
    """Refuse anything but a finite number of at least 0.

    Raises:
        ValueError: it is anything else.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise ValueError(f"{option} must be a number of at least 0; got {shown(value)}.")
    if value < 0:
        raise ValueError(f"{option} must not be negative; got {value}.")


def check_choice(option: str, value: Any, choices: Iterable[str]) -> None:
    """Refuse anything but one of the choices.

    Raises:
        ValueError: it is anything else.
    """
    choices = tuple(choices)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{option} must be one of {', '.join(choices)}; got {shown(value)}.")


def check_matrix(option: str, value: Any, what: str = "a matrix") -> None:
    """Refuse anything but a real, dense ``[n, d]`` tensor.

    Args:
        option: its name.
        value: it.
        what: it must be, in words.

    Raises:
        ValueError: it is anything else.
    """
    check_tensor(option, value, what)
    if value.ndim != 2:
        raise ValueError(f"{option} must be {what}; got shape {[*value.shape]}.")


def check_vector(option: str, value: Any, n: int) -> None:
    """Refuse anything but a real, dense ``[n]`` tensor.

    Raises:
        ValueError: it is anything else.
    """
    check_tensor(option, value, f"a vector of {n} entries")
    if value.shape != (n,):
        raise ValueError(f"{option} must be [{n}]; got shape {[*value.shape]}.")


def check_tensor(option: str, value: Any, what: str) -> None:
    """Refuse anything but a real, dense tensor.

    Raises:
        ValueError: it is anything else.
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"{option} must be {what}, a torch.Tensor; got {shown(value)}.")
    if value.is_complex() or value.is_meta or value.layout != torch.strided:
        kind = "on no device" if value.is_meta else f"{value.layout} of {value.dtype}"
        raise ValueError(f"{option} must be {what} of dense real numbers; got one {kind}.")


def check_generator(option: str, value: Any) -> None:
    """Refuse anything but a generator.

    Raises:
        ValueError: it is anything else.
    """
    if not isinstance(value, torch.Generator):
        raise ValueError(f"{option} must be a torch.Generator; got {shown(value)}.")


def check_flags(**flags: Any) -> None:
    """Refuse anything but true or false.

    Raises:
        ValueError: one of them.
    """
    for option, value in flags.items():
        if not isinstance(value, bool):
            raise ValueError(f"{option} must be True or False; got {shown(value)}.")


def as_list(values: Any) -> list[Any] | None:
    """Return what can be gone through as a list, ``None`` where it cannot."""
    try:
        return list(values)
    except (TypeError, RuntimeError):
        return None


def _index(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def shown(value: Any) -> str:
    """A value in a line: what is long, or has lines of its own, by its type."""
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else type(value).__name__


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
    """Refuse anything but a number between its bounds: ``least`` and ``most`` are allowed.

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


def as_numbers(option: str, value: Any) -> dict[str, float]:
    """Return numbers by name, as YAML and Python have them, or a command line.

    Args:
        option: its name.
        value: a mapping; or the text of one in JSON; or ``name=number``, one or several.

    Raises:
        ValueError: it is none of these, or a name comes twice.

    Example:
        >>> as_numbers("source_weights", ["web=1", "code=2.5"])
        {'web': 1.0, 'code': 2.5}
    """
    pairs = [value] if isinstance(value, str) else value
    if isinstance(pairs, list) and len(pairs) == 1 and str(pairs[0]).lstrip().startswith("{"):
        pairs = _from_json(option, pairs[0])
    if isinstance(pairs, Mapping):
        given = list(pairs.items())
    elif isinstance(pairs, list | tuple) and all("=" in str(pair) for pair in pairs):
        given = [str(pair).rpartition("=")[::2] for pair in pairs]
    else:
        raise ValueError(f"{option} must be numbers by name, such as a=1 b=2; got {shown(value)}.")
    try:
        names = as_source_names(name for name, _ in given)
    except ValueError as error:
        raise ValueError(f"{option}: {error}.") from error
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{option} must name each once, and one at least; got {shown(value)}.")
    return {
        name: _as_float(option, name, number)
        for name, (_, number) in zip(names, given, strict=True)
    }


def _from_json(option: str, text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{option} is no JSON: {error}; got {shown(text)}.") from error


def _as_float(option: str, name: str, value: Any) -> float:
    """A number, from text where it comes from a command line."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{option} of {shown(name)} must be a number; got {shown(value)}."
        ) from None
