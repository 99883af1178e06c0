"""Where arms stand that were trained for equal time: at that time, and at equal steps.

An arm is a way of training, a trial one run of it with a seed and a learning rate, measured again
and again as it trains. Between two measurements a loss is taken to change evenly. All comparisons
are within a seed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from colm.reports.arm import Scores


@dataclass(frozen=True)
class Entrant:
    """An arm as the comparison knows it.

    Attributes:
        name: As it is told.
        meaning: What it is, in a few words.
        looks: Whether a model looks at candidates before it trains on some.
        control: Name of the arm that does all but look, of one that looks.
    """

    name: str
    meaning: str
    looks: bool = False
    control: str | None = None


@dataclass(frozen=True)
class Measurement:
    """What a run had come to.

    Attributes:
        step: Optimizer steps taken.
        seconds: Of training.
        scores: On held-out examples.
        choice: Loss on those that a learning rate is chosen by; ``None`` where none is.
    """

    step: int
    seconds: float
    scores: Scores
    choice: float | None = None


@dataclass(frozen=True)
class Trial:
    """One run of an arm.

    Attributes:
        arm: Its name.
        seed: Of the run.
        learning_rate: ``None`` for the one that all have.
        measured: In the order of training.
        failure: What ended it before its time; empty where nothing did.
    """

    arm: str
    seed: int
    learning_rate: float | None
    measured: Sequence[Measurement]
    failure: str = ""


@dataclass(frozen=True)
class Contest:
    """Arms and their trials.

    Attributes:
        entrants: The arm of interest first.
        trials: Of all of them.
        before: Scores of the model that all started from.
        seconds: That each trained for.
        plain: Names of the arms that others are held against where they do not look.
    """

    entrants: Sequence[Entrant]
    trials: Sequence[Trial]
    before: Scores
    seconds: float
    plain: Sequence[str] = ()


@dataclass(frozen=True)
class Standing:
    """Where an arm stands.

    Attributes:
        entrant: The arm.
        learning_rate: The best of those tried; ``None`` where none was.
        at_time: Scores of each seed after equal time.
        at_steps: Scores of each seed after equally many steps.
        steps: That it took in the time, mean over seeds.
        step_seconds: What one took; ``None`` without a whole run.
        failures: What ended runs before their time, or made nothing of them.
    """

    entrant: Entrant
    learning_rate: float | None
    at_time: Mapping[int, Scores]
    at_steps: Mapping[int, Scores]
    steps: float | None
    step_seconds: float | None
    failures: Sequence[str]

    @property
    def name(self) -> str:
        """Name of the arm."""
        return self.entrant.name

    def macro(self) -> float:
        """Return the mean over seeds of the macro loss at equal time; infinite without any."""
        return mean_of(self.at_time, lambda scores: scores.macro) if self.at_time else math.inf


def standings(contest: Contest) -> tuple[list[Standing], int]:
    """Return where each arm stands, and the number of steps that all are compared at.

    Args:
        contest: Of any arms.

    Returns:
        Standings in the order of the arms; the fewest steps of any whole run.
    """
    chosen = {each.name: _best_rate(contest, each.name) for each in contest.entrants}
    own = [trial for trial in contest.trials if trial.learning_rate == chosen[trial.arm]]
    whole = [trial for trial in own if is_whole_trial(trial, contest.seconds)]
    fewest = min((trial.measured[-1].step for trial in whole), default=0)
    found = []
    for entrant in contest.entrants:
        trials = [trial for trial in whole if trial.arm == entrant.name]
        at_time = {t.seed: _at(contest, t, _seconds, contest.seconds) for t in trials}
        at_steps = {t.seed: _at(contest, t, _step, fewest) for t in trials}
        last = [trial.measured[-1] for trial in trials]
        pace = mean(m.seconds / m.step for m in last) if last else None
        of_arm = [(trial.seed, _failure(trial)) for trial in own if trial.arm == entrant.name]
        failures = [f"seed {seed}: {failure}" for seed, failure in of_arm if failure]
        steps = contest.seconds / pace if pace else None
        found.append(
            Standing(entrant, chosen[entrant.name], at_time, at_steps, steps, pace, failures)
        )
    return found, fewest


def fairest_control(standing: Standing, all_standings: Sequence[Standing], contest: Contest) -> str:
    """Return the name of the arm that one is to be held against.

    Args:
        standing: Of the arm.
        all_standings: Of all arms.
        contest: That they are of.

    Returns:
        Of an arm that looks, its control; else the better one of the plain arms, or, of a plain
        arm, the other. Empty where there is none.
    """
    if standing.entrant.control is not None:
        return standing.entrant.control
    plain = [s for s in all_standings if s.name in contest.plain and s.name != standing.name]
    return min(plain, key=Standing.macro).name if plain else ""


def differences(arm: Standing, other: Standing) -> list[float]:
    """Return by how much an arm's macro loss is above another's at equal time, seed by seed.

    Args:
        arm: Of interest.
        other: That it is held against.

    Returns:
        A difference for each seed that both have; below 0 where the arm is better.
    """
    return [
        arm.at_time[seed].macro - other.at_time[seed].macro
        for seed in arm.at_time
        if seed in other.at_time
    ]


def mean_of(scores: Mapping[int, Scores], of: Callable[[Scores], float]) -> float:
    """Return the mean over seeds.

    Args:
        scores: Of each seed, at least one.
        of: What is averaged.
    """
    return mean(of(each) for each in scores.values())


def spread_of(scores: Mapping[int, Scores]) -> float | None:
    """Return the standard deviation over seeds of the macro loss; ``None`` for less than two."""
    return spread_over_seeds([each.macro for each in scores.values()])


def spread_over_seeds(values: Sequence[float]) -> float | None:
    """Return the standard deviation of what seeds came to; ``None`` for less than two.

    Args:
        values: One a seed.

    Example:
        >>> spread_over_seeds([1.0, 2.0, 3.0]), spread_over_seeds([1.0])
        (1.0, None)
    """
    return stdev(values) if len(values) > 1 else None


def mean_scores(scores: Mapping[int, Scores]) -> Scores | None:
    """Return the scores averaged over seeds; ``None`` without any."""
    given = list(scores.values())
    if not given:
        return None
    small = [s.small_sources for s in given if s.small_sources is not None]
    return Scores(
        macro=mean(s.macro for s in given),
        micro=mean(s.micro for s in given),
        small_sources=mean(small) if small else None,
        loss_by_source={
            name: mean(s.loss_by_source[name] for s in given) for name in given[0].loss_by_source
        },
    )


def is_whole_trial(trial: Trial, seconds: float) -> bool:
    """Return whether a run has trained for the whole time, and to a finite loss.

    Args:
        trial: The run.
        seconds: The time.
    """
    return (
        bool(trial.measured) and trial.measured[-1].seconds >= seconds and not _has_diverged(trial)
    )


def _has_diverged(trial: Trial) -> bool:
    return bool(trial.measured) and not math.isfinite(trial.measured[-1].scores.macro)


def _failure(trial: Trial) -> str:
    """What is wrong with a run; empty where nothing is."""
    return trial.failure or ("held-out loss is not finite" if _has_diverged(trial) else "")


def _seconds(measurement: Measurement) -> float:
    return measurement.seconds


def _step(measurement: Measurement) -> float:
    return measurement.step


def _best_rate(contest: Contest, arm: str) -> float | None:
    """The learning rate with the lowest loss on the examples that choose, over all seeds."""
    losses: dict[float, list[float]] = {}
    for trial in contest.trials:
        if trial.arm == arm and trial.learning_rate is not None:
            whole = is_whole_trial(trial, contest.seconds)
            choice = trial.measured[-1].choice if whole else math.inf
            # Where there is one rate only, there is nothing to choose by.
            loss = choice if choice is not None and not math.isnan(choice) else math.inf
            losses.setdefault(trial.learning_rate, []).append(loss)
    return min(losses, key=lambda rate: mean(losses[rate])) if losses else None


def _at(
    contest: Contest, trial: Trial, axis: Callable[[Measurement], float], place: float
) -> Scores:
    """The scores of a whole run at a place between its measurements."""
    points = [Measurement(0, 0.0, contest.before), *trial.measured]
    right = next(i for i, each in enumerate(points) if axis(each) >= place)
    if right == 0 or axis(points[right]) == place:
        return points[right].scores
    left = points[right - 1]
    share = (place - axis(left)) / (axis(points[right]) - axis(left))
    return _between(left.scores, points[right].scores, share)


def _between(left: Scores, right: Scores, share: float) -> Scores:
    """Scores on the line from one to another."""

    def of(before: float, after: float) -> float:
        return before + share * (after - before)

    small = None
    if left.small_sources is not None and right.small_sources is not None:
        small = of(left.small_sources, right.small_sources)
    return Scores(
        macro=of(left.macro, right.macro),
        micro=of(left.micro, right.micro),
        small_sources=small,
        loss_by_source={
            name: of(left.loss_by_source.get(name, loss), loss)
            for name, loss in right.loss_by_source.items()
        },
    )
