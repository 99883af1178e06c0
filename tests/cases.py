"""Cases of a test that has many: all of them in `make test`, some in `make quick`."""

import sys
from collections.abc import Iterable
from typing import Any

import pytest


def quick_first(values: Iterable[Any], every: int = sys.maxsize) -> list[Any]:
    """Values of a parameter, of which the first and each so many after it are not marked slow."""
    return [
        pytest.param(value, marks=pytest.mark.slow) if place % every else value
        for place, value in enumerate(values)
    ]
