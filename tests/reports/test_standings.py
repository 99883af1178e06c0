"""Where arms stand at equal time and at equal steps, and what is said of it."""

from dataclasses import replace

import pytest

from colm.reports.arm import Scores
from colm.reports.standings import (
    Contest,
    Entrant,
    Measurement,
    Trial,
    fairest_control,
    standings,
)
from colm.reports.verdict import contest_tables, verdict

ENTRANTS = (
    Entrant("colm", "CoLM", looks=True, control="small_random"),
    Entrant("even", "even draws"),
    Entrant("plain", "r"),
    Entrant("plain_n", "n"),
    Entrant("small_random", "random"),
)


def scores(loss: float) -> Scores:
    return Scores(loss, loss / 2, 2 * loss, {"a": loss - 0.1, "b": loss + 0.1})


def trial(arm: str, final: float, seed: int = 0, pace: float = 1.0, **options) -> Trial:
    """From 3.0 to a loss in 10 seconds, measured at 4 seconds and a step after the end."""
    points = [(4, 3 - (3 - final) * 0.4), (10 + pace, 3 - (3 - final) * (10 + pace) / 10)]
    measured = [Measurement(round(s / pace), s, scores(loss)) for s, loss in points]
    given = {"learning_rate": None, "failure": ""} | options
    return Trial(arm=arm, seed=seed, measured=measured, **given)


def contest(finals: dict[str, list[float]], paces: dict[str, float] | None = None) -> Contest:
    trials = [
        trial(arm, final, seed, (paces or {}).get(arm, 1.0))
        for arm, values in finals.items()
        for seed, final in enumerate(values)
    ]
    known = [each for each in ENTRANTS if each.name in finals]
    return Contest(known, trials, scores(3.0), 10.0, ["plain", "plain_n"])


EVEN_BEST = {"colm": [2.1, 2.2], "even": [1.0, 1.1], "plain": [2.5, 2.6], "small_random": [2.0] * 2}


def test_losses_are_taken_at_equal_time_and_at_equal_steps_between_measurements() -> None:
    found, steps = standings(contest({"plain": [2.0], "even": [1.0]}, {"plain": 2.0, "even": 0.5}))
    even, plain = found
    assert steps == 6  # of plain: 12 seconds at 2 seconds a step
    assert even.at_time[0].macro == pytest.approx(1.0)
    assert plain.at_time[0].macro == pytest.approx(2.0)
    # Six steps of even take 3 seconds: before its first measurement, from the untouched model on.
    assert even.at_steps[0].macro == pytest.approx(3 - 2 * 0.3)
    assert even.at_steps[0].loss_by_source["a"] == pytest.approx(3 - 2 * 0.3 - 0.1)
    assert plain.at_steps[0].macro == pytest.approx(3 - 12 / 10)
    assert (even.step_seconds, even.steps) == pytest.approx((0.5, 20))


def test_a_look_is_held_against_its_control_and_others_against_the_better_plain_one() -> None:
    whole = contest(EVEN_BEST | {"plain_n": [2.4, 2.4]})
    found, _ = standings(whole)
    named = {each.name: fairest_control(each, found, whole) for each in found}
    assert named["colm"] == "small_random"
    assert named["even"] == named["small_random"] == named["plain"] == "plain_n"
    assert named["plain_n"] == "plain"


def test_a_look_that_does_not_pay_is_said_to() -> None:
    first, control, best, rest, *_ = verdict(contest(EVEN_BEST))
    assert first.startswith("colm is 0.150 above (lower in 0 of 2 seeds) small_random")
    assert "did not pay" in first
    assert control.startswith("small_random")
    assert best.startswith("colm is 1.100 above")
    assert "even" in best
    assert "even is best" in rest


@pytest.mark.parametrize(
    ("losses", "said", "unsaid"),
    [
        ([1.5, 1.6], "the look paid", "open"),
        ([1.5, 2.1], "open", "did not"),
        ([2.001, 1.999], "did not pay", "open"),
        ([1.5], "one seed can tell", "did not"),
    ],
)
def test_a_look_pays_where_it_is_lower_in_every_seed(
    losses: list[float], said: str, unsaid: str
) -> None:
    finals = {"colm": losses, "plain": [2.5, 2.5], "small_random": [2.0, 2.0]}
    sentence = verdict(contest(finals))[0]
    assert said in sentence
    assert unsaid not in sentence


def test_a_look_that_pays_but_is_beaten_without_one_says_but() -> None:
    first, _, second, *_ = verdict(contest(EVEN_BEST | {"colm": [1.8, 1.8]}))
    assert "the look paid" in first
    assert second.startswith("But colm is")
    assert "even" in second


def test_one_seed_is_said_to_be_one() -> None:
    finals = {name: values[:1] for name, values in EVEN_BEST.items()}
    assert any("One seed" in sentence for sentence in verdict(contest(finals)))
    assert not any("One seed" in sentence for sentence in verdict(contest(EVEN_BEST)))


def test_a_run_that_did_not_last_is_left_out_and_named() -> None:
    whole = contest({"plain": [2.0], "even": [1.0]})
    short = Trial("even", 1, None, whole.trials[0].measured[:1], "out of memory")
    found, _ = standings(Contest(whole.entrants, [*whole.trials, short], whole.before, 10.0))
    even = next(each for each in found if each.name == "even")
    assert set(even.at_time) == {0}
    assert even.failures == ["seed 1: out of memory"]


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_no_result_and_is_named(loss: float) -> None:
    seeds = contest(EVEN_BEST | {"colm": [loss, 2.2], "even": [loss, loss]})
    found, _ = standings(seeds)
    colm, even, *_ = found
    assert set(colm.at_time) == {1}
    assert not even.at_time
    assert colm.failures == ["seed 0: held-out loss is not finite"]
    assert len(even.failures) == 2
    told = " ".join(verdict(seeds))
    assert "the look paid" not in told
    assert "small_random is best" in told
    assert "even failed with seed 1: held-out loss is not finite" in told
    for _, table in contest_tables(seeds):
        assert table.head[table.strong[0] + 1] == "small_random"
    alone = contest(EVEN_BEST | {"colm": [loss, loss]})
    assert not any("the look" in sentence for sentence in verdict(alone))


def test_a_learning_rate_that_diverges_is_not_chosen() -> None:
    trials = [trial("plain", float("nan"), learning_rate=0.1), trial("plain", 2.0)]
    trials[1] = Trial("plain", 0, 0.01, trials[1].measured)
    for each in trials:
        each.measured[-1] = replace(
            each.measured[-1], choice=2.0 if each.learning_rate < 0.1 else 1
        )
    found, _ = standings(Contest([Entrant("plain", "r")], trials, scores(3.0), 10.0))
    assert found[0].learning_rate == 0.01


def test_the_better_of_the_plain_ones_is_one_of_several() -> None:
    assert "the better of the plain" not in " ".join(verdict(contest(EVEN_BEST)))
    told = " ".join(verdict(contest(EVEN_BEST | {"plain_n": [2.4, 2.4]})))
    assert "below (lower in 2 of 2 seeds) plain_n, the better of the plain" in told


def test_nothing_trained_is_said_and_no_error() -> None:
    nothing = Contest(ENTRANTS, [], scores(3.0), 10.0, ["plain"])
    assert verdict(nothing) == ["No arm was trained to its end."]
    assert len(contest_tables(nothing)) == 1


def test_tables_set_off_the_best_and_show_the_spread() -> None:
    (_, time), (title, steps) = contest_tables(contest(EVEN_BEST))
    rows = {row[0]: row[1:] for row in time.rows}
    assert rows["spread over seeds"][1] == "±0.071"
    assert rows["below it"][0] == "0 of 2 seeds"
    assert time.head[time.strong[0] + 1] == "even"
    assert "11" in title
    assert steps.rows[0][0] == time.rows[0][0]
