"""What a source is called, whatever kind of value names it.

Columns of sources hold text, integers, booleans or scalars of numpy and PyTorch; options and sizes
may spell the same source in another of these ways. All of them meet here, so that a source has one
name from the column to the metrics. Plain Python: data files are read with it, too.
"""

import math
from collections.abc import Iterable, Mapping, Set
from typing import Any

#: Sources that are logged and shown by name; data of thousands would drown all else.
MOST_SOURCES = 50
OTHER_SOURCES = "other sources"

# From here on a float no longer tells one whole number from the next.
_EXACT_FLOATS = 2**53
_MANY = (list, tuple, Mapping, Set)


def as_source_name(value: Any) -> str:
    """Return the name of the source that a value names.

    Args:
        value: text, a number, a boolean, or a scalar of numpy or PyTorch.

    Returns:
        Text as it is; 3, ``"3"`` and 3.0 are one source, since readers of files turn whole numbers
        into floats where a column has both.

    Raises:
        ValueError: the value is missing (``None``, NaN, blank text), or is more than one.

    Example:
        >>> as_source_name("web"), as_source_name(3), as_source_name(3.0), as_source_name(True)
        ('web', '3', '3', 'True')
        >>> as_source_name(None)
        Traceback (most recent call last):
        ...
        ValueError: a source needs a name; got None
    """
    value = _as_scalar(value)
    if is_missing(value):
        raise ValueError(f"a source needs a name; got {value!r}")
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_FLOATS:
        value = int(value)
    return str(value)


def as_source_names(values: Iterable[Any]) -> list[str]:
    """Return the names of many sources, in order; a value that comes again costs a look-up.

    Raises:
        ValueError: one is missing, or is more than one value.
    """
    known: dict[Any, str] = {}
    names = []
    for value in values:
        # Of the values that are equal in Python, ``True == 1`` alone are of two names.
        key = (type(value), value) if isinstance(value, str | int | float) else None
        name = known.get(key) if key else None
        if name is None:
            name = as_source_name(value)
            if key:
                known[key] = name
        names.append(name)
    return names


def is_missing(value: Any) -> bool:
    """Tell whether a value names no source: ``None``, NaN, a blank text, "not a time".

    Example:
        >>> is_missing(None), is_missing(float("nan")), is_missing(" "), is_missing(0)
        (True, True, True, False)
    """
    if value is None:
        return True
    if isinstance(value, str | bytes):
        return not value.strip()
    if isinstance(value, float):
        return math.isnan(value)
    # pandas has values of its own for what is not there.
    return type(value).__name__ in ("NAType", "NaTType")


def _as_scalar(value: Any) -> Any:
    """A scalar of numpy or PyTorch as Python's; what holds several values is refused."""
    item = getattr(value, "item", None)
    if callable(item):
        try:
            return item()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"a source must be one value; got {type(value).__name__}") from error
    if isinstance(value, _MANY):
        raise ValueError(f"a source must be one value; got {type(value).__name__}")
    return value
