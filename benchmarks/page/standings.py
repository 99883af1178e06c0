"""How two kinds of mini-batch stand to each other over the seeds, in numbers and in words.

A lower loss counts as lower only beyond the spread of the seeds: no seed of the one reaches any of
the other. Words are chosen by the figures, so that they stay true when the figures change.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.page.result_files import BySeed

ABSENT = "–"  # noqa: RUF001 - the dash that tables use for "no value"


@dataclass(frozen=True)
class Spread:
    """Values of several seeds: their mean, standard deviation, least and most."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: BySeed | Iterable[float]) -> "Spread":
        """Collect values, by seed or not."""
        return cls(tuple(values.values() if isinstance(values, dict) else values))

    @property
    def mean(self) -> float:
        """The mean."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the sample; ``None`` of fewer than two values."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def show(self, digits: int = 3, times: float = 1.0, line: str = "<br>") -> str:
        """Return mean, deviation and range, the range on a line of its own.

        Example:
            >>> Spread((1.0, 2.0, 3.0)).show(1, line=", ")
            '2.0 ± 1.0, 1.0 to 3.0'
            >>> Spread((0.25,)).show(0, times=100), Spread(()).show() == ABSENT
            ('25', True)
        """
        shown = self.short(digits, times)
        if self.deviation is None:
            return shown
        least, most = times * min(self.values), times * max(self.values)
        return f"{shown}{line}{least:.{digits}f} to {most:.{digits}f}"

    def short(self, digits: int = 3, times: float = 1.0) -> str:
        """Return mean and deviation alone.

        Example:
            >>> Spread((1.0, 2.0, 3.0)).short(1), Spread((0.25,)).short(2)
            ('2.0 ± 1.0', '0.25')
        """
        if not self.values:
            return ABSENT
        shown = f"{times * self.mean:.{digits}f}"
        return shown if self.deviation is None else f"{shown} ± {times * self.deviation:.{digits}f}"


@dataclass(frozen=True)
class Standing:
    """One arm's values beside another's, seed by seed where both have it."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @classmethod
    def of(cls, ours: BySeed, theirs: BySeed) -> "Standing":
        """Compare over the seeds that both have."""
        seeds = sorted(ours.keys() & theirs.keys())
        return cls(tuple(ours[s] for s in seeds), tuple(theirs[s] for s in seeds))

    @property
    def difference(self) -> Spread:
        """Ours less theirs, by seed."""
        return Spread(tuple(a - b for a, b in zip(self.ours, self.theirs, strict=True)))

    @property
    def word(self) -> str:
        """Return how ours stands to theirs.

        ``lower`` and ``higher`` are beyond the spread; ``open`` without values; ``one seed`` where
        there is no spread to go by.

        Example:
            >>> Standing((1.0, 1.1), (1.2, 1.3)).word, Standing((1.2, 1.3), (1.0, 1.1)).word
            ('lower', 'higher')
            >>> Standing((1.0, 1.2), (1.1, 1.3)).word, Standing((1.0, 1.3), (1.1, 1.2)).word
            ('lower in every seed', 'level')
            >>> Standing((1.0,), (1.2,)).word, Standing((), ()).word
            ('one seed', 'open')
        """
        if len(self.ours) < 2:
            return "one seed" if self.ours else "open"
        if max(self.ours) < min(self.theirs):
            return "lower"
        if min(self.ours) > max(self.theirs):
            return "higher"
        differences = self.difference.values
        if max(differences) < 0:
            return "lower in every seed"
        return "higher in every seed" if min(differences) > 0 else "level"

    def say(self, ours: str, theirs: str, measure: str = "macro held-out loss") -> str:
        """Return a sentence on how ours stands to theirs.

        Args:
            ours: name of the arm that the sentence is about.
            theirs: name of the other.
            measure: what was compared, the lower the better.
        """
        if self.word == "open":
            return f"How {ours} stands to {theirs} is open: no seed of both has been measured."
        by = f"{abs(self.difference.mean):.3f}"
        side = "below" if self.difference.mean < 0 else "above"
        said = f"The {measure} of {ours} is on average {by} {side} that of {theirs}"
        ends = {
            "lower": ", beyond the spread of the seeds.",
            "higher": ", beyond the spread of the seeds.",
            "level": ", within the spread of the seeds: they are level.",
            "one seed": "; a single seed tells nothing apart.",
        }
        return said + ends.get(self.word, " in every seed, though their ranges overlap.")


def than(word: str) -> str:
    """Return the word of a standing as it goes before the other's name.

    Example:
        >>> than("lower"), than("level"), than("open")
        ('lower than', 'level with', 'open beside')
    """
    beside = {"level": "level with", "open": "open beside", "one seed": "with one seed beside"}
    return beside.get(word, f"{word} than")


def join(names: Sequence[str]) -> str:
    """Return names as a list in words.

    Example:
        >>> join(["a"]), join(["a", "b"]), join(["a", "b", "c"])
        ('a', 'a and b', 'a, b and c')
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def table(head: Sequence[str], rows: Iterable[Sequence[str]], rule: str = "--:") -> str:
    """Return a table in Markdown, the first column to the left.

    Args:
        head: of its columns.
        rows: as many cells each.
        rule: how all columns but the first are set, by default to the right.

    Example:
        >>> print(table(["arm", "loss"], [["plain r", "1.2"]]))
        | arm | loss |
        |---|--:|
        | plain r | 1.2 |
    """
    rules = ["---", *[rule] * (len(head) - 1)]
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, *rows]]
    return "\n".join([lines[0], "|" + "|".join(rules) + "|", *lines[1:]])
