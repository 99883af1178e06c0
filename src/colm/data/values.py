"""Values of a record as text: what training and evaluation put into a prompt."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from datasets import Value

#: Types whose numbers have more digits once they are Python's: 0.1 is 0.10000000149011612.
_SHORT_FLOATS = {"float16": np.float16, "float32": np.float32}


def as_text(value: Any, column: str) -> str:
    """Return text as it is, numbers and truth values as JSON writes them, nothing as empty text.

    Args:
        value: Cell of a column, or part of one. NaN is what tables write for nothing.
        column: Its name, for messages.

    Returns:
        Text.

    Raises:
        ValueError: It is anything else, or a number that is not finite.

    Example:
        >>> [as_text(value, "answer") for value in ("05", 5, 2.5, True, None, float("nan"))]
        ['05', '5', '2.5', 'true', '', '']
    """
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and math.isinf(value):
        raise ValueError(f"{column} is no finite number but {value}")
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise ValueError(f"{column} is not text but {value!r:.80}")


def short_numbers(
    features: Mapping[str, Any],
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return a function that gives a record's numbers no more digits than their column holds.

    Args:
        features: Types of all columns.

    Returns:
        Function of a record, which returns it with 0.1 where a column of 32 bits holds 0.1.

    Example:
        >>> shorten = short_numbers({"answer": Value("float32")})
        >>> shorten({"answer": float(np.float32(0.1))})
        {'answer': 0.1}
    """
    short = {
        column: _SHORT_FLOATS[feature.dtype]
        for column, feature in features.items()
        if isinstance(feature, Value) and feature.dtype in _SHORT_FLOATS
    }

    def shorten(record: Mapping[str, Any]) -> dict[str, Any]:
        shortened = dict(record)
        for column, kind in short.items():
            if isinstance(record.get(column), float):
                shortened[column] = float(str(kind(record[column])))
        return shortened

    return shorten
