"""What came of a comparison, in the form that reports are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from colm.json_text import read_json
from colm.names import shown_name
from colm.reports.arm import Arm, Scores, clean_log
from colm.reports.comparison import Comparison, Findings
from colm.reports.run_names import clean
from colm.reports.standings import (
    Contest,
    Entrant,
    Measurement,
    Standing,
    Trial,
    mean_scores,
    standings,
)
from colm.reports.verdict import contest_tables, verdict
from colm.runs.compare import Comparing
from colm.runs.comparison_file import ArmRun, ComparisonState
from colm.training.checkpoints.manifest import TRAINER_STATE
from colm.versions import library_versions

#: What the curves of further seeds are drawn from.
_OF_CURVES = {
    "step",
    "loss",
    "eval_macro_loss",
    "colm/selection_seconds",
    "colm/training_seconds",
}
_NOTE = (
    "The learning rate is constant after the recipe's warm-up, so that what is measured at any "
    "time stands for a run of that length. Loading, checkpoints and measuring do not count as time."
)
_RATES_NOTE = (
    "Each arm has the learning rate, of {}, that is best on one half of the held-out examples; the "
    "losses here are of the other half."
)


def report_comparison(comparing: Comparing, settings: Mapping[str, str]) -> Comparison:
    """Return everything that a report tells of a comparison.

    Args:
        comparing: One that has come to its end.
        settings: What else describes it, as it is to be read.

    Returns:
        The arms, with the log of their first seed, and what was found of all seeds.
    """
    contest = contest_of(comparing)
    found, _ = standings(contest)
    sentences = verdict(contest)
    state, rates = comparing.state, comparing.plan.learning_rates
    headline, rest = sentences[0].rstrip("."), sentences[1:]
    return Comparison(
        arms=[_arm(each, contest, comparing) for each in found],
        before=contest.before,
        source_sizes={clean(shown_name(k)): v for k, v in state.data["sizes"].items()},
        small_sources=[clean(shown_name(name)) for name in state.data["small"]],
        settings={"held-out examples": f"{state.data['held']:,}", **settings},
        versions=library_versions(),
        notes=[
            _NOTE,
            *([_RATES_NOTE.format(", ".join(f"{r:g}" for r in rates))] if len(rates) > 1 else []),
        ],
        findings=Findings(headline, rest, dict(contest_tables(contest))),
    )


def contest_of(comparing: Comparing) -> Contest:
    """Return arms and measurements of a comparison.

    Args:
        comparing: One that has begun to measure.
    """
    arms, state = comparing.arms.values(), comparing.state
    assert state.before is not None
    return Contest(
        entrants=[Entrant(arm.name, arm.meaning, arm.looks, arm.control) for arm in arms],
        trials=_trials(state),
        before=_scores(state.before),
        seconds=60 * comparing.plan.minutes,
        plain=comparing.plan.plain,
    )


def _trials(state: ComparisonState) -> list[Trial]:
    return [
        Trial(
            run.arm,
            run.seed,
            run.learning_rate,
            [
                Measurement(m["step"], m["seconds"], _scores(m["scores"]), m["choice"])
                for m in run.measured
            ],
            run.message,
        )
        for run in state.runs
    ]


def _scores(data: Mapping[str, Any]) -> Scores:
    by_source = {clean(shown_name(k)): v for k, v in data["loss_by_source"].items()}
    return Scores(**{**data, "loss_by_source": by_source})


def _arm(standing: Standing, contest: Contest, comparing: Comparing) -> Arm:
    """An arm with its scores over seeds and the log of its first seed."""
    own = [
        (run, trial)
        for run, trial in zip(comparing.state.runs, contest.trials, strict=True)
        if run.arm == standing.name and run.learning_rate == standing.learning_rate
    ]
    first, *others = [_run(run, trial, contest, comparing.plan.folder) for run, trial in own]
    options = _differing(comparing)[standing.name]
    return replace(
        first,
        name=standing.name,
        scores=mean_scores(standing.at_time),
        settings={"what it is": standing.entrant.meaning}
        | {name: _in_words(value) for name, value in options.items()},
        others=tuple(_curves_of(other) for other in others if other.steps),
    )


def _run(run: ArmRun, trial: Trial, contest: Contest, folder: Path) -> Arm:
    """One run of an arm, with its log and what was measured on the way."""
    log = _log(folder / run.folder / TRAINER_STATE)
    points = [Measurement(0, 0.0, contest.before), *trial.measured]
    measured = [{"step": m.step, "eval_macro_loss": m.scores.macro} for m in points]
    return Arm(
        name=run.folder,
        scores=None,
        log_history=sorted([*log, *measured], key=lambda entry: entry["step"]),
        steps=trial.measured[-1].step if trial.measured else 0,
        seed=str(run.seed),
    )


def _curves_of(arm: Arm) -> Arm:
    """A run with no more of its log than its curves are drawn from."""
    kept = [{k: v for k, v in entry.items() if k in _OF_CURVES} for entry in arm.log_history]
    return replace(arm, log_history=kept)


def _differing(comparing: Comparing) -> dict[str, dict[str, Any]]:
    """The options of each arm that another lacks or has otherwise."""
    options = {name: dict(arm.options) for name, arm in comparing.arms.items()}
    first = next(iter(options.values()))
    shared = {
        option
        for option, value in first.items()
        if all(option in own and own[option] == value for own in options.values())
    }
    return {
        name: {option: value for option, value in own.items() if option not in shared}
        for name, own in options.items()
    }


def _log(path: Path) -> Sequence[Mapping[str, Any]]:
    """What the trainer of a run logged; nothing where that cannot be read."""
    try:
        return clean_log(read_json(path)["log_history"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _in_words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
