"""A small comparison whose figures can be checked by eye."""

import dataclasses

import pytest

from colm.reports import Arm, Comparison, Scores


def log(kept_sums: list[int], kept_dates: list[int], selection_seconds: float) -> list[dict]:
    """Six steps that draw 10 sums and 2 dates each (the second no dates), then the end."""
    steps = [
        {
            "step": step,
            "loss": 3.0 - 0.3 * step,
            "colm/candidates": 10 + 2 * (step != 2),
            "colm/candidates/sums": 10,
            "colm/kept": kept_sums[step % 2] + kept_dates[step % 2] * (step != 2),
            "colm/kept/sums": kept_sums[step % 2],
            "colm/selection_seconds": selection_seconds,
            "colm/training_seconds": 2.0,
        }
        for step in range(1, 7)
    ]
    for entry in steps:
        if entry["step"] != 2:
            entry["colm/candidates/dates"] = 2
            entry["colm/kept/dates"] = kept_dates[entry["step"] % 2]
    return [*steps, {"step": 6, "train_runtime": 18.0, "train_loss": 1.9}]


@pytest.fixture
def comparison() -> Comparison:
    colm = Arm(
        "CoLM",
        Scores(1.25, 1.2, 1.3, {"sums": 1.2, "dates": 1.3}, 0.4, {"sums": 0.3, "dates": 0.5}),
        [e | {"colm/matching_error": 0.5} if "loss" in e else e for e in log([4, 4], [2, 2], 1.0)],
    )
    random = Arm(
        "random",
        Scores(1.5, 1.1, 1.6, {"sums": 1.4, "dates": 1.6}, 0.3, {"sums": 0.4, "dates": 0.2}),
        log([5, 5], [1, 1], 0.0),
    )
    return Comparison(
        arms=[colm, random],
        before=Scores(3.0, 2.9, 3.1, {"sums": 2.9, "dates": 3.1}, 0.1, {"sums": 0.2, "dates": 0.0}),
        source_sizes={"dates": 100, "sums": 900},
        small_sources=["dates"],
        settings={"model": "tiny <model>", "seed": "3"},
        versions={"torch": "2.13.0"},
        notes=["One run & one seed."],
    )


@pytest.fixture
def unscored(comparison: Comparison) -> Comparison:
    """The same where nothing scores answers."""

    def without(scores: Scores) -> Scores:
        return dataclasses.replace(scores, answers=None, answers_by_source={})

    return dataclasses.replace(
        comparison,
        arms=[dataclasses.replace(a, scores=without(a.scores)) for a in comparison.arms],
        before=without(comparison.before),
    )
