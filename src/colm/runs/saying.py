"""What a run says on its way: a line at a time, of which some need not stay."""

import time
from collections.abc import Callable
from typing import Protocol

#: After so many seconds a line on answers is.
SECONDS_BETWEEN_LINES = 60.0


class Say(Protocol):
    """Takes lines, on a terminal or elsewhere; commands have theirs."""

    def __call__(self, line: str, kept: bool = True) -> None:
        """Take a line that is to stay, or that the next may be written over."""


class AnsweringProgress:
    """Tells how far a model has come with the questions of a set.

    Args:
        say: Takes the lines.
        clock: Returns seconds.
    """

    def __init__(self, say: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._step = ("", "")
        self._began = self._last = clock()
        self._first = 0

    def __call__(self, set_name: str, step: str, done: int, total: int) -> None:
        """Tell how many questions of a set are answered in a step."""
        now = self._clock()
        is_new = (set_name, step) != self._step
        if is_new:
            self._step, self._began, self._first = (set_name, step), now, done
        line = f"{set_name}  {step}  {done}/{total}"
        if done > self._first:
            seconds = (now - self._began) / (done - self._first)
            left = duration_in_words(seconds * (total - done))
            line += f"  {seconds:.1f} s a question, {left} left"
        kept = is_new or done == total or now - self._last > SECONDS_BETWEEN_LINES
        if kept:
            self._last = now
        self._say(line, kept)


def duration_in_words(seconds: float) -> str:
    """Return a duration as people say it.

    Args:
        seconds: How long, 0 or more.

    Returns:
        Seconds, or minutes and seconds, or hours and minutes.

    Example:
        >>> duration_in_words(9.4), duration_in_words(125), duration_in_words(7290)
        ('9 s', '2 min 05 s', '2 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
