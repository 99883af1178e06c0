"""Runs that differ by their seed alone, told together: their mean, their spread, least and most.

A way is one way of training with however many seeds it was run.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from colm.reports.arm import Arm
from colm.reports.run_names import common_name, distinct
from colm.reports.standings import spread_over_seeds
from colm.reports.summaries import (
    ABSENT,
    TRAINING_TAIL,
    Pick,
    Show,
    best_place,
    evaluation_name,
    number,
    percent,
    plus_minus,
)
from colm.reports.tables import Table

#: Seeds that are listed one by one.
_MOST_LISTED = 8


@dataclass(frozen=True)
class Way:
    """One way of training, and its runs.

    Attributes:
        name: As it is shown.
        arms: Those that a comparison has, one a seed.
        others: Further seeds, which it has no arm for.
    """

    name: str
    arms: Sequence[Arm]
    others: Sequence[Arm] = ()

    @property
    def runs(self) -> list[Arm]:
        """All of them, one a seed."""
        return [*self.arms, *self.others]


def ways(arms: Sequence[Arm]) -> list[Way]:
    """Return arms with those that differ by their seed alone together.

    Args:
        arms: Of a comparison.

    Returns:
        In the order in which the first of each comes. What does not tell its recipe, and a seed
        that is there twice, is a way of its own.
    """
    together: dict[tuple[str, int], list[Arm]] = {}
    for place, arm in enumerate(arms):
        turn = 0
        while arm.recipe and arm.seed in [a.seed for a in together.get((arm.recipe, turn), ())]:
            turn += 1
        together.setdefault((arm.recipe, turn) if arm.recipe else ("", place), []).append(arm)
    groups = list(together.values())
    others = [group[0].others if len(group) == 1 else () for group in groups]
    names = [
        f"{common_name([arm.name for arm in group])} ({len(group) + len(more)} seeds)"
        if len(group) + len(more) > 1
        else group[0].name
        for group, more in zip(groups, others, strict=True)
    ]
    return [Way(*each) for each in zip(distinct(names), groups, others, strict=True)]


def have_seeds(told: Sequence[Way]) -> bool:
    """Return whether any way was run with several seeds.

    Args:
        told: From ``ways``.
    """
    return any(len(way.runs) > 1 for way in told)


def mean_over_seeds(way: Way, of: Callable[[Arm], float | None]) -> float | None:
    """Return the mean over a way's seeds.

    Args:
        way: Any.
        of: What is averaged.

    Returns:
        ``None`` where not every run tells it.
    """
    values = [of(arm) for arm in way.arms]
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def seeds_table(told: Sequence[Way]) -> Table:
    """Return one column a way: the mean over its seeds, the spread, the least and the most.

    Args:
        told: From ``ways``.

    Returns:
        A row a measure, of those that all runs of a way have, or several of them; the best mean is
        set off where they compare.
    """
    rows: list[list[str]] = [["seeds", *map(_seeds, told)]]
    strong: list[int | None] = [None]
    indented: list[int] = []
    for name, of, show, best in _measures([arm for way in told for arm in way.arms]):
        means = [mean_over_seeds(way, of) for way in told]
        values = [[v for arm in way.arms if (v := of(arm)) is not None] for way in told]
        if all(mean is None for mean in means) and all(len(each) < 2 for each in values):
            continue
        rows.append([name, *map(show, means)])
        strong.append(best_place(means, best, show) if best else None)
        if any(len(each) > 1 for each in values):
            details = [
                ["spread over seeds", *(_spread(each, show) for each in values)],
                ["least to most", *(_range(each, show) for each in values)],
            ]
            indented += [len(rows), len(rows) + 1]
            rows += details
            strong += [None, None]
    return Table(["", *(way.name for way in told)], rows, strong, indented)


_Measure = tuple[str, Callable[[Arm], float | None], Show, Pick | None]


def _measures(arms: Sequence[Arm]) -> Iterator[_Measure]:
    """What is known of any run, by its name: how to read it, to show it, and which is best."""
    scored = any(arm.scores for arm in arms)
    found: list[_Measure] = [
        ("held-out loss, macro", macro, number, min),
        ("held-out loss, micro", micro, number, min),
    ]
    for key in dict.fromkeys(key for arm in arms for key in arm.evaluations()):
        if key != "eval_macro_loss" or not scored:
            found.append((evaluation_name(key), partial(last_evaluation, key=key), number, min))
    for name in dict.fromkeys(name for arm in arms for name in arm.accuracies):
        found.append((f"accuracy, {name}", partial(_accuracy, name=name), percent, max))
    found += [
        (TRAINING_TAIL, partial(Arm.tail, key="loss"), number, None),
        ("seconds a step", Arm.whole_step_seconds, number, None),
    ]
    return (each for each in found if any(each[1](arm) is not None for arm in arms))


def macro(arm: Arm) -> float | None:
    """Return the held-out loss, mean over sources; ``None`` where it was not measured."""
    return arm.scores.macro if arm.scores else None


def micro(arm: Arm) -> float | None:
    """Return the held-out loss, mean over examples; ``None`` where it was not measured."""
    return arm.scores.micro if arm.scores else None


def _accuracy(arm: Arm, name: str) -> float | None:
    return arm.accuracies.get(name)


def last_evaluation(arm: Arm, key: str) -> float | None:
    """Return the loss of the last evaluation while training.

    Args:
        arm: Any.
        key: That it was logged under.

    Returns:
        ``None`` where it never was.
    """
    _, losses = arm.evaluations().get(key, ([], []))
    return losses[-1] if losses else None


def _seeds(way: Way) -> str:
    """Which seeds, or how many."""
    seeds = [arm.seed for arm in way.runs]
    if not all(seeds):
        return str(len(seeds)) if len(seeds) > 1 else ABSENT
    return ", ".join(seeds) if len(seeds) <= _MOST_LISTED else f"{len(seeds)} of them"


def _spread(values: Sequence[float], show: Show) -> str:
    value = spread_over_seeds(values)
    return plus_minus(value) if value is None or show is number else f"±{show(value)}"


def _range(values: Sequence[float], show: Show) -> str:
    return f"{show(min(values))} to {show(max(values))}" if len(values) > 1 else ABSENT
