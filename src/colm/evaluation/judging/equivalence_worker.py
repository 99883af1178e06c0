"""The process that compares formulas: a line with two of them in, a line with a word out.

The word is "true" or "false"; "probably" or "unknown" where the time was over, and "probably" where
both have the same values. Run as a file and not as a module, so that nothing else of colm, PyTorch
above all, is loaded.
"""

import contextlib
import itertools
import json
import logging
import signal
import sys
from types import FrameType
from typing import Any

#: What comparing two formulas may take; reading LaTeX needs far less.
MOST_BYTES = 2 * 2**30
#: How far values may lie apart where decimals are written, relative to them, and where none are.
DECIMAL_NOISE, EXACT = 1e-6, 1e-50
DIGITS = 60
#: Where formulas are evaluated; no values that people write.
POINTS = ("1.2718", "0.6137")


class OutOfTimeError(BaseException):
    """No ``Exception``, for libraries catch these."""


def main() -> None:
    """Answer until there is nothing more to read."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    # It warns that nothing bounds its time; the alarm does.
    logging.disable(logging.CRITICAL)
    # The first comparison loads much that the others find there.
    are_equal("x + 1", "1 + x", [])
    _say("ready")
    for line in sys.stdin:
        gold, answer, seconds = json.loads(line)
        values: list[str] = []
        try:
            _end_after(seconds)
            said = "true" if are_equal(gold, answer, values) else "false"
        except OutOfTimeError:
            said = values[0] if values else "unknown"
        except Exception:
            said = "false"
        finally:
            _end_after(0)
        _say(said)


def are_equal(gold: str, answer: str, values: list[str]) -> bool:
    """Tell whether two formulas are equal; ``values`` gets "probably" where their values are.

    Values that differ settle it at once, where an algebra system would try all that it knows, and
    tell very small numbers apart, which it rounds to zero.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    def read(formula: str) -> list[Any]:
        return list(
            parse(
                f"${formula}$",
                extraction_config=[LatexExtractionConfig()],
                fallback_mode="no_fallback",
                parsing_timeout=None,
            )
        )

    right, given = read(gold), read(answer)
    apart = [difference(*pair) for pair in itertools.product(right, given)]
    if apart and all(each is not None and each > DECIMAL_NOISE for each in apart):
        return False
    if any(each is not None and each < EXACT for each in apart):
        values.append("probably")
    # A condition is compared with an interval where it comes first.
    if verify(right, given, timeout_seconds=None) or verify(given, right, timeout_seconds=None):
        return True
    # Values that agree to many digits are the same, but for rational ones, which may differ later.
    return any(
        each is not None and each < EXACT and not _are_rational(one, other)
        for each, (one, other) in zip(apart, itertools.product(right, given), strict=True)
    )


def difference(one: Any, other: Any) -> float | None:
    """Return how far the values of two formulas lie apart, relative to them; ``None`` unknown."""
    from sympy import Expr, gamma

    if not isinstance(one, Expr) or not isinstance(other, Expr):
        return None
    symbols = sorted(one.free_symbols, key=str)
    if symbols != sorted(other.free_symbols, key=str):
        return None
    furthest = 0.0
    for point in POINTS if symbols else POINTS[:1]:
        at = {symbol: f"{point}{place}" for place, symbol in enumerate(symbols)}
        first, second = (formula.rewrite(gamma).evalf(DIGITS, subs=at) for formula in (one, other))
        if not (first.is_number and second.is_number and first.is_finite and second.is_finite):
            return None
        size = max(abs(first), abs(second))
        furthest = max(furthest, float(abs(first - second) / size) if size else 0.0)
    return furthest


def _are_rational(one: Any, other: Any) -> bool:
    return bool(one.is_number and other.is_number and one.is_rational and other.is_rational)


def _end_after(seconds: float) -> None:
    """Let the alarm ring in so many seconds; 0 takes it back."""
    if not hasattr(signal, "setitimer"):
        return
    signal.signal(signal.SIGALRM, _ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _ring(_number: int, _frame: FrameType | None) -> None:
    raise OutOfTimeError


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
