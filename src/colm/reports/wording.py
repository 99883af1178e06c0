"""What a comparison says in sentences: the outcome, whichever way it went, and its conditions."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean
from typing import NamedTuple

from colm.reports.arm import LARGEST, Arm, Scores
from colm.reports.comparison import Comparison
from colm.reports.run_names import join_in_words, short_names
from colm.reports.seeds import (
    Way,
    have_seeds,
    last_evaluation,
    macro,
    mean_over_seeds,
    micro,
    ways,
)
from colm.reports.summaries import evaluation_name, number

#: Losses closer than this share of each other are called level.
LEVEL = 0.005
#: More than this many times as much is told as that.
MOST_TIMES = 1000
#: Of a name in a sentence.
_MOST_IN_A_SENTENCE = 48
#: More arms than this are left to the tables.
MOST_NAMED = 3


class _Outcome(NamedTuple):
    """A loss on held-out examples that every arm has.

    Attributes:
        label: What it is called.
        values: Of each way of training, the mean over its seeds.
        ranges: The least and the most of its seeds.
    """

    label: str
    values: Sequence[float]
    ranges: Sequence[tuple[float, float]]


def headline(comparison: Comparison) -> str:
    """Return the outcome in one sentence, whichever way it went.

    Args:
        comparison: Of two arms the first is held against the second; of more the lowest loss is
            told.

    Returns:
        A sentence without a full stop.
    """
    findings = comparison.findings
    return findings.headline if findings is not None else _headline(comparison)


def _headline(comparison: Comparison) -> str:
    """The outcome by what is known of each arm."""
    told = ways(comparison.arms)
    names, outcome = _names(told), _outcome(told)
    after = _after(comparison.arms)
    if len(names) == 1:
        return f"{names[0]}: {_one(told[0], outcome)} {after}"
    several = f"{len(names)} {'ways' if have_seeds(told) else 'runs'}"
    if outcome is None:
        return f"{several}, with no loss on held-out examples to compare them by"
    diverged = [n for n, v in zip(names, outcome.values, strict=True) if not math.isfinite(v)]
    if len(names) > 2:
        return _best_of(names, outcome, several, after)
    if diverged:
        return f"{join_in_words(diverged)}: {outcome.label} that is not finite {after}"
    first, other = outcome.values
    change = first / other - 1 if other else math.copysign(1, first)
    if abs(change) < LEVEL or first == other:
        return f"{names[0]} and {names[1]} are level in {outcome.label} {after}"
    much = f"{abs(change):.1%}" if abs(change) < MOST_TIMES else f"over {MOST_TIMES:,} times"
    way = f"{much} {'lower' if change < 0 else 'higher'}"
    return f"{names[0]} ends {way} in {outcome.label} than {names[1]} {after}"


def lead(comparison: Comparison) -> str:
    """Return what the headline's figure is made of, and what else must be known with it.

    Args:
        comparison: As for ``headline``.

    Returns:
        Sentences; none where there are too many arms to name.
    """
    told, before = ways(comparison.arms), comparison.before
    names = _names(told)
    if len(names) > MOST_NAMED:
        return ""
    outcome, sentences = _outcome(told), []
    if before and all(arm.scores for arm in comparison.arms):
        sentences += _from_before(told, names, before)
    elif outcome and len(names) > 1:
        pairs = zip(outcome.values, names, strict=True)
        values = join_in_words([f"{number(value)} with {name}" for value, name in pairs])
        sentences.append(f"The last {outcome.label} was {values}.")
    if outcome and have_seeds(told):
        sentences += _over_seeds(told, names, outcome)
    times = [
        (name, mean_over_seeds(way, Arm.whole_step_seconds))
        for way, name in zip(told, names, strict=True)
    ]
    seconds = [
        f"{time:{'.1f' if 1 <= time < 1e6 else '.2g'}} s with {name}"
        for name, time in times
        if time is not None
    ]
    if seconds:
        sentences.append(f"A step took {join_in_words(seconds)}.")
    return " ".join(sentences)


def _from_before(told: Sequence[Way], names: Sequence[str], before: Scores) -> list[str]:
    """From what loss to what others training went."""
    over_sources, over_examples = (
        join_in_words(
            [
                f"{number(mean_over_seeds(way, of))} with {name}"
                for way, name in zip(told, names, strict=True)
            ]
        )
        for of in (macro, micro)
    )
    return [
        f"Held-out loss, averaged over {len(before.loss_by_source)} sources, went from "
        f"{number(before.macro)} to {over_sources}.",
        f"Averaged over the examples of the mixture, it went from {number(before.micro)} to "
        f"{over_examples}.",
    ]


def _over_seeds(told: Sequence[Way], names: Sequence[str], outcome: _Outcome) -> list[str]:
    """How far seeds lie from each other."""
    ranges = [
        f"from {number(least)} to {number(most)} with {name}"
        for (least, most), name, way in zip(outcome.ranges, names, told, strict=True)
        if len(way.arms) > 1
    ]
    return [f"Over seeds it went {join_in_words(ranges)}."] if ranges else []


def remarks(comparison: Comparison) -> list[str]:
    """Return what the logs lack or have wrong, which a reader must know.

    Args:
        comparison: Arms with their logs.

    Returns:
        Sentences; none where all is well.
    """
    found = []
    logged = [
        (name, arm, arm.series("loss")[1])
        for name, arm in zip(_arm_names(comparison), comparison.arms, strict=True)
    ]
    for name, _, losses in logged:
        wrong = sum(not math.isfinite(loss) for loss in losses)
        if wrong:
            found.append(
                f"{name}: {wrong} of {len(losses)} logged losses are not finite numbers, or beyond "
                f"{LARGEST:.0e}; plots and means leave them out."
            )
    silent = [name for name, _, losses in logged if not losses]
    if silent:
        found.append(f"Nothing logged of any step: {join_in_words(silent)}.")
    untimed = [name for name, arm, losses in logged if losses and arm.seconds_at([]) is None]
    if untimed:
        found.append(
            f"No loss is drawn against the time for {join_in_words(untimed)}, whose log does not "
            "say how long a step takes."
        )
    return found


def _names(told: Sequence[Way]) -> list[str]:
    return short_names([way.name for way in told], _MOST_IN_A_SENTENCE)


def _arm_names(comparison: Comparison) -> list[str]:
    return short_names([arm.name for arm in comparison.arms], _MOST_IN_A_SENTENCE)


def _outcome(told: Sequence[Way]) -> _Outcome | None:
    """The loss that ways are compared by: of all sources alike, or else of an evaluation."""
    evaluations = [evaluation for way in told[:1] for evaluation in way.arms[0].evaluations()]
    losses: list[tuple[str, Callable[[Arm], float | None]]] = [("held-out loss", macro)]
    losses += [(evaluation_name(key), partial(last_evaluation, key=key)) for key in evaluations]
    for label, of in losses:
        values = [[value for arm in way.arms if (value := of(arm)) is not None] for way in told]
        if all(len(each) == len(way.arms) for each, way in zip(values, told, strict=True)):
            ranges = [(min(each), max(each)) for each in values]
            return _Outcome(label, [fmean(each) for each in values], ranges)
    return None


def _one(way: Way, outcome: _Outcome | None) -> str:
    """What is told of a way alone."""
    if outcome is not None:
        return f"{outcome.label} {number(outcome.values[0])}"
    losses = [arm.series("loss")[1][-1] for arm in way.arms if arm.series("loss")[1]]
    return f"training loss {number(fmean(losses))}" if losses else "no loss logged"


def _best_of(names: Sequence[str], outcome: _Outcome, several: str, after: str) -> str:
    """The lowest of several losses."""
    ranked = sorted(
        (value, name)
        for value, name in zip(outcome.values, names, strict=True)
        if math.isfinite(value)
    )
    if not ranked:
        return f"None of {several} ends with a finite {outcome.label} {after}"
    (lowest, best), *others = ranked
    level = [name for value, name in others if value <= lowest * (1 + LEVEL)]
    if len(level) >= MOST_NAMED:
        many = "All" if len(level) + 1 == len(names) else f"{len(level) + 1} of"
        return f"{many} {several} are level in {outcome.label} {after}"
    if level:
        named = join_in_words([best, *level])
        return f"{named} end level with the lowest {outcome.label} of {several} {after}"
    return f"{best} ends with the lowest {outcome.label} of {several} {after}"


def _after(arms: Sequence[Arm]) -> str:
    """After how many steps, of all arms or of each."""
    steps = [arm.steps_taken() for arm in arms]
    if len(set(steps)) == 1:
        return f"after {steps[0]} steps"
    if len(steps) > MOST_NAMED:
        return f"after {min(steps)} to {max(steps)} steps"
    return f"after {join_in_words([str(number) for number in steps])} steps"
