"""Dates and times of day as people write them: ``July 4, 1776``, ``4 July 1776``, ``3:30 pm``."""

import re
from datetime import datetime
from typing import NamedTuple

_DATES = ("%B %d %Y", "%d %B %Y", "%b %d %Y", "%d %b %Y", "%Y-%m-%d", "%Y/%m/%d")
#: Without a year; that of the calendar's leap years lets the 29th of February stand.
_DAYS = ("%B %d", "%d %B", "%b %d", "%d %b")
_LEAP_YEAR = "2000"
_CLOCK = re.compile(
    r"(\d{1,2})(?::([0-5]\d))?(?::[0-5]\d)?\s*(?:([ap])\.?\s?m\b\.?)?", re.IGNORECASE
)
_WEEKDAY = re.compile(r"\b(?:mon|tues|wednes|thurs|fri|satur|sun)day\b", re.IGNORECASE)
_ORDINAL = re.compile(r"(?<=\d)(?:st|nd|rd|th)\b(?:\s+of\b)?", re.IGNORECASE)


class Moment(NamedTuple):
    """A date, with its year or without, or a time of day in minutes, of one half or of both."""

    date: tuple[int, int, int | None] | None = None
    minutes: int | None = None
    either_half: bool = False


def parse_moment(text: str) -> Moment | None:
    """Return the date or time of day that a text is; ``None`` where it is neither.

    Args:
        text: An answer.

    Returns:
        The moment.

    Example:
        >>> parse_moment("July 4th, 1776") == parse_moment("4 July 1776")
        True
        >>> parse_moment("3:30 p.m.") == parse_moment("15:30"), parse_moment("3.30")
        (True, None)
    """
    text = text.strip(" .").replace("noon", "12:00 pm").replace("midnight", "12:00 am")
    text = re.sub(r"^12 (?=12:00 [ap]m$)", "", text)
    clock = _CLOCK.fullmatch(text)
    if clock is not None and (clock[2] or clock[3]):
        return _time(clock)
    text = _ORDINAL.sub("", _WEEKDAY.sub("", text)).replace(",", " ").replace(".", " ")
    text = " ".join(text.removeprefix("the ").split())
    if len(text) > 30 or not re.search(r"\d", text):
        return None
    for form in _DATES:
        if (day := _read(text, form)) is not None:
            return Moment((day.month, day.day, day.year))
    for form in _DAYS:
        if (day := _read(f"{text} {_LEAP_YEAR}", f"{form} %Y")) is not None:
            return Moment((day.month, day.day, None))
    return None


def same_moment(gold: Moment, answer: Moment) -> bool:
    """Tell whether two moments are the same; a time without "a.m." is that of either half.

    Args:
        gold: The right one.
        answer: What was answered.

    Returns:
        Whether they are.

    Example:
        >>> afternoon = parse_moment("3:30 PM")
        >>> [same_moment(afternoon, parse_moment(t)) for t in ("3:30", "15:30", "3:30 a.m.")]
        [True, True, False]
    """
    if gold.minutes is None or answer.minutes is None:
        return gold == answer
    if gold.either_half or answer.either_half:
        return gold.minutes % 720 == answer.minutes % 720
    return gold.minutes == answer.minutes


def _time(clock: re.Match[str]) -> Moment | None:
    hour, minute = int(clock[1]), int(clock[2] or 0)
    if hour > 23 or (clock[3] and not 1 <= hour <= 12):
        return None
    if not clock[3]:
        return Moment(minutes=60 * hour + minute, either_half=1 <= hour <= 12)
    return Moment(minutes=60 * (hour % 12 + (12 if clock[3].lower() == "p" else 0)) + minute)


def _read(text: str, form: str) -> datetime | None:
    try:
        return datetime.strptime(text, form)
    except ValueError:
        return None
