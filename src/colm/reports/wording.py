"""What a comparison says in sentences: the outcome, whichever way it went, and its conditions."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from colm.reports.arm import LARGEST, Arm
from colm.reports.comparison import Comparison
from colm.reports.run_names import join_in_words, short_names
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
    """A loss on held-out examples that every arm has."""

    label: str
    values: Sequence[float]


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
    names, outcome = _names(comparison), _outcome(comparison)
    after = _after(comparison.arms)
    if len(names) == 1:
        return f"{names[0]}: {_one(comparison.arms[0], outcome)} {after}"
    if outcome is None:
        return f"{len(names)} runs, with no loss on held-out examples to compare them by"
    diverged = [n for n, v in zip(names, outcome.values, strict=True) if not math.isfinite(v)]
    if len(names) > 2:
        return _best_of(names, outcome, after)
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
    names, arms, before = _names(comparison), comparison.arms, comparison.before
    if len(names) > MOST_NAMED:
        return ""
    sentences = []
    outcome = _outcome(comparison)
    scores = [arm.scores for arm in arms if arm.scores]
    if before and len(scores) == len(arms):
        macro, micro = (
            join_in_words([f"{number(v)} with {n}" for v, n in zip(values, names, strict=True)])
            for values in ([s.macro for s in scores], [s.micro for s in scores])
        )
        sentences += [
            f"Held-out loss, averaged over {len(before.loss_by_source)} sources, went from "
            f"{number(before.macro)} to {macro}.",
            f"Averaged over the examples of the mixture, it went from {number(before.micro)} to "
            f"{micro}.",
        ]
    elif outcome and len(names) > 1:
        pairs = zip(outcome.values, names, strict=True)
        values = join_in_words([f"{number(value)} with {name}" for value, name in pairs])
        sentences.append(f"The last {outcome.label} was {values}.")
    times = [(name, arm.whole_step_seconds()) for arm, name in zip(arms, names, strict=True)]
    seconds = [
        f"{time:{'.1f' if 1 <= time < 1e6 else '.2g'}} s with {name}"
        for name, time in times
        if time is not None
    ]
    if seconds:
        sentences.append(f"A step took {join_in_words(seconds)}.")
    return " ".join(sentences)


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
        for name, arm in zip(_names(comparison), comparison.arms, strict=True)
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


def _names(comparison: Comparison) -> list[str]:
    return short_names([arm.name for arm in comparison.arms], _MOST_IN_A_SENTENCE)


def _outcome(comparison: Comparison) -> _Outcome | None:
    """The loss that arms are compared by: of all sources alike, or else of an evaluation."""
    arms = comparison.arms
    macro = [arm.scores.macro for arm in arms if arm.scores]
    if macro and len(macro) == len(arms):
        return _Outcome("held-out loss", macro)
    logged = [arm.evaluations() for arm in arms]
    for key in logged[0] if logged else ():
        if all(key in found for found in logged):
            return _Outcome(evaluation_name(key), [found[key][1][-1] for found in logged])
    return None


def _one(arm: Arm, outcome: _Outcome | None) -> str:
    """What is told of an arm alone."""
    if outcome is not None:
        return f"{outcome.label} {number(outcome.values[0])}"
    losses = arm.series("loss")[1]
    return f"training loss {number(losses[-1])}" if losses else "no loss logged"


def _best_of(names: Sequence[str], outcome: _Outcome, after: str) -> str:
    """The lowest of several losses."""
    ranked = sorted(
        (value, name)
        for value, name in zip(outcome.values, names, strict=True)
        if math.isfinite(value)
    )
    if not ranked:
        return f"None of {len(names)} runs ends with a finite {outcome.label} {after}"
    (lowest, best), *others = ranked
    level = [name for value, name in others if value <= lowest * (1 + LEVEL)]
    if len(level) >= MOST_NAMED:
        many = "All" if len(level) + 1 == len(names) else f"{len(level) + 1} of"
        return f"{many} {len(names)} runs are level in {outcome.label} {after}"
    if level:
        named = join_in_words([best, *level])
        return f"{named} end level with the lowest {outcome.label} of {len(names)} runs {after}"
    return f"{best} ends with the lowest {outcome.label} of {len(names)} runs {after}"


def _after(arms: Sequence[Arm]) -> str:
    """After how many steps, of all arms or of each."""
    steps = [arm.steps_taken() for arm in arms]
    if len(set(steps)) == 1:
        return f"after {steps[0]} steps"
    if len(steps) > MOST_NAMED:
        return f"after {min(steps)} to {max(steps)} steps"
    return f"after {join_in_words([str(number) for number in steps])} steps"
