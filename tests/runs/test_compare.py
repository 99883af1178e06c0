"""Turns, interruptions and failures of a comparison, with arms that only tell what arms tell."""

import json
import random
import re
from itertools import pairwise
from pathlib import Path

import pytest

from colm.reports.comparison import Comparison
from colm.reports.page import write_report
from colm.runs.compare import Comparing, ComparisonPlan, compare, turns_of
from colm.runs.compared import contest_of, report_comparison
from colm.runs.comparison_file import GIVEN_UP, TRAINED, read_state
from colm.runs.players import ArmError

RECIPE = ["--per_device_train_batch_size=4", "--seed=3"]
SECONDS_OF_A_STEP = {"colm": 1.5, "plain": 1.0, "plain_n": 2.0, "small_random": 1.1, "even": 1.0}


class Interrupted(BaseException):
    """The process that compares is killed."""


class Simulated:
    """An arm whose step takes always as long, and whose loss follows from steps and seed."""

    def __init__(self, world: "World", job: dict) -> None:
        self.world, self.job = world, job
        self.arm = Path(job["folder"]).name.partition("-seed")[0]
        self.step_seconds = SECONDS_OF_A_STEP[self.arm]
        self.step = round(job["seconds"] / self.step_seconds)

    def scores(self) -> dict:
        noise = random.Random(f"{self.arm}{self.job['seed']}").random() if self.step else 0
        loss = 2.0 / (1 + self.step / 10) + 0.1 * noise
        by_source = {"large": loss, "small": loss + 1}
        return {
            "scores": {
                "macro": loss + 0.5,
                "micro": loss + 0.1,
                "small_sources": loss + 1,
                "loss_by_source": by_source,
            },
            "choice": loss if self.job["halves"] else None,
        }

    def ask(self, message: dict | None = None) -> dict:
        self.world.note(self.arm, message)
        if message is None:
            sizes = {"large": 90, "small": 10}
            data = {"sizes": sizes, "small": ["small"], "digest": self.world.digest, "held": 8}
            return {"event": "ready", **data}
        if message["do"] == "finish":
            return {"event": "finished"}
        if message["do"] == "train":
            while self.step * self.step_seconds < message["until"]:
                self.step += 1
            folder = Path(self.job["folder"]) / f"checkpoint-{self.step}"
            folder.mkdir(exist_ok=True)
            log = {"log_history": [{"step": self.step, "loss": 1.0}]}
            (folder / "trainer_state.json").write_text(json.dumps(log))
        return {
            "event": "measured",
            "step": self.step,
            "seconds": self.step * self.step_seconds,
            "checkpoint": f"checkpoint-{self.step}",
            **self.scores(),
        }

    def close(self) -> None:
        self.world.closed += 1


class World:
    """What happens to arms: who fails when, and when all is interrupted."""

    def __init__(self, fails: tuple = (), interrupted_at: int | None = None) -> None:
        self.fails, self.interrupted_at = fails, interrupted_at
        self.asked: list[tuple[str, str]] = []
        self.started = self.closed = 0
        self.digest = "of the data"

    def start(self, job: dict, log: Path) -> Simulated:
        assert json.loads(json.dumps(job)) == job
        log.touch()
        self.started += 1
        return Simulated(self, job)

    def note(self, arm: str, message: dict | None) -> None:
        do = "load" if message is None else message["do"]
        self.asked.append((arm, do))
        if len(self.asked) - 1 == self.interrupted_at:
            raise Interrupted
        if (arm, do) in self.fails:
            raise ArmError(f"{arm} cannot {do}")


def plan_in(folder: Path, **options) -> ComparisonPlan:
    given = {"arms": ["colm", "even"], "minutes": 1.0, "seeds": 2, "turns": 3} | options
    return ComparisonPlan(recipe=RECIPE, folder=folder, **given)


def run(folder: Path, world: World, **options) -> Comparing:
    return compare(plan_in(folder, **options), lambda line, kept=True: None, world.start)


def test_arms_take_turns_and_each_round_begins_with_another(tmp_path: Path) -> None:
    world = World()
    comparing = run(tmp_path / "out", world, seeds=1)
    turns = [arm for arm, do in world.asked if do == "train"]
    rounds = [turns[place : place + 5] for place in range(0, len(turns), 5)]
    assert len(rounds) == 3
    assert all(set(each) == set(SECONDS_OF_A_STEP) for each in rounds)
    assert len({each[0] for each in rounds}) == 3
    assert world.started == world.closed == 5
    for each in comparing.state.runs:
        assert each.state == TRAINED
        assert [m["seconds"] >= 20 * t for t, m in enumerate(each.measured, 1)] == [True] * 3
        assert each.measured[-1]["seconds"] < 60 + 2
    assert not list((tmp_path / "out").rglob("checkpoint-*"))
    assert len(list((tmp_path / "out").rglob("trainer_state.json"))) == 5


def test_an_arm_sits_out_the_turns_whose_time_it_has_used(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(SECONDS_OF_A_STEP, "colm", 15.0)
    whole, options = World(), {"arms": ["colm"], "seeds": 1, "turns": 6}
    state = run(tmp_path / "whole", whole, **options).state
    measured = {each.arm: [m["seconds"] for m in each.measured] for each in state.runs}
    assert measured["colm"] == [15, 30, 45, 60]
    assert len(measured["plain"]) == 6
    with pytest.raises(Interrupted):
        run(tmp_path / "other", World(interrupted_at=len(whole.asked) // 2), **options)
    assert run(tmp_path / "other", World(), **options).state.runs == state.runs


@pytest.mark.parametrize(
    ("minutes", "turns"),
    [(0.1, 1), (1.0, 2), (4.9, 9), (5.0, 10), (600.0, 10), (float("nan"), 10), (-1.0, 1)],
)
def test_a_turn_is_half_a_minute_or_more_where_nobody_says(minutes: float, turns: int) -> None:
    assert turns_of(minutes) == turns


def test_what_is_held_loaded_and_measured_is_said(tmp_path: Path) -> None:
    for one, held in ((False, ["4 models in memory at once"]), (True, [])):
        said: list[str] = []
        plan = plan_in(tmp_path / str(one), arms=["colm"], seeds=1, one_at_a_time=one)
        compare(plan, lambda line, kept=True, said=said: said.append(line * kept), World().start)
        assert [line.partition(",")[0] for line in said if "in memory" in line] == held
        assert sum(line.startswith("loading ") for line in said) == 4
        assert any(re.search(r"macro held-out loss \d\S+   small sources \d", s) for s in said)


def test_one_at_a_time_ends_each_before_the_next_is_loaded(tmp_path: Path) -> None:
    world = World()
    run(tmp_path / "out", world, one_at_a_time=True, seeds=1)
    order = [arm for arm, _ in world.asked]
    changes = sum(one != other for one, other in pairwise(order))
    assert changes == len(SECONDS_OF_A_STEP) - 1


@pytest.mark.slow
def test_interrupted_at_any_moment_the_same_command_goes_on(tmp_path: Path) -> None:
    whole, options = World(), {"arms": ["even"], "turns": 2}
    expected = run(tmp_path / "whole", whole, **options).state
    for moment in range(len(whole.asked)):
        folder = tmp_path / f"at-{moment}"
        first = World(interrupted_at=moment)
        with pytest.raises(Interrupted):
            run(folder, first, **options)
        second = World()
        found = run(folder, second, **options).state
        assert found.runs == expected.runs
        assert found.before == expected.before
        assert first.started == first.closed
        # At most one turn is trained again.
        trained = [sum(do == "train" for _, do in w.asked) for w in (first, second)]
        assert sum(trained) <= sum(do == "train" for _, do in whole.asked) + 1
    again = World()
    assert run(tmp_path / "whole", again, **options).state.runs == expected.runs
    assert not again.asked


def test_an_arm_that_fails_takes_no_other_with_it_and_is_tried_again(tmp_path: Path) -> None:
    world = World(fails=(("colm", "train"), ("even", "load")))
    comparing = run(tmp_path / "out", world)
    states = {each.arm: each.state for each in comparing.state.runs}
    assert {arm for arm, state in states.items() if state == GIVEN_UP} == {"colm", "even"}
    assert {arm for arm, state in states.items() if state == TRAINED} >= {"plain", "small_random"}
    told = report_comparison(comparing, {}).findings
    assert any("colm cannot train" in sentence for sentence in told.sentences)
    again = World()
    found = run(tmp_path / "out", again).state
    assert {each.state for each in found.runs} == {TRAINED}
    assert {arm for arm, _ in again.asked} == {"colm", "even"}


def test_what_no_arm_can_do_without_is_one_error(tmp_path: Path) -> None:
    world = World(fails=(("plain", "load"),))
    with pytest.raises(ValueError, match="plain cannot load"):
        run(tmp_path / "out", world)
    assert world.asked == [("plain", "load")]


def test_data_that_change_meanwhile_are_seen(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path / "out", World(interrupted_at=20))
    other = World()
    other.digest = "of other data"
    found = run(tmp_path / "out", other).state
    assert all("data" in each.message for each in found.runs if each.state == GIVEN_UP)
    assert any(each.state == GIVEN_UP for each in found.runs)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"minutes": 2.0}, "minutes"),
        ({"turns": 4}, "turns"),
        ({"arms": ["colm"]}, "even"),
        ({"learning_rates": [1e-3, 1e-4]}, "learning_rates"),
        ({"held_out": 9}, "held_out"),
        ({"keep_models": True}, "keep_models"),
    ],
)
def test_other_settings_are_refused_in_a_folder_that_has_begun(
    tmp_path: Path, options: dict, word: str
) -> None:
    run(tmp_path / "out", World(), seeds=1)
    with pytest.raises(ValueError, match=word):
        run(tmp_path / "out", World(), **({"seeds": 1} | options))


def test_arms_may_go_on_one_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path / "out", World(interrupted_at=12), seeds=1)
    found = run(tmp_path / "out", World(), seeds=1, one_at_a_time=True).state
    assert {each.state for each in found.runs} == {TRAINED}


def test_another_recipe_is_refused_in_a_folder_that_has_begun(tmp_path: Path) -> None:
    run(tmp_path / "out", World(), seeds=1)
    other = ComparisonPlan([*RECIPE, "--weight_decay=0.5"], ["colm", "even"], tmp_path / "out")
    plan = plan_in(tmp_path / "out", seeds=1)
    with pytest.raises(ValueError, match=r"weight_decay.*0\.5"):
        Comparing(
            ComparisonPlan(other.recipe, plan.arms, plan.folder, plan.minutes, 1, turns=3),
            lambda line, kept=True: None,
        )


@pytest.mark.parametrize("name", ["minutes", "seeds", "turns", "held_out"])
def test_numbers_that_cannot_be_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"--{name}.*0"):
        run(tmp_path / "out", World(), **{name: 0})
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        run(tmp_path, World())
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]
    (tmp_path / "compare.json").write_text("[]")
    with pytest.raises(ValueError, match=r"compare\.json"):
        read_state(tmp_path)


def test_each_arm_has_its_own_best_learning_rate_chosen_on_one_half(tmp_path: Path) -> None:
    class Choosy(Simulated):
        def scores(self) -> dict:
            rate = next(w for w in self.job["words"] if w.startswith("--learning_rate="))
            best = {"colm": "0.1", "even": "0.2"}.get(self.arm, "0.1")
            found = super().scores()
            return found | {"choice": 1.0 if rate.endswith(best) else 2.0}

    world = World()
    world.start = lambda job, log: Choosy(world, job)
    comparing = run(tmp_path / "out", world, learning_rates=[0.1, 0.2])
    assert len(comparing.state.runs) == 5 * 2 * 2
    report = report_comparison(comparing, {})
    (title, table), *_ = report.findings.tables.items()
    assert "equal time" in title
    rates = dict(
        zip(table.head, next(r for r in table.rows if r[0] == "learning rate"), strict=True)
    )
    assert (rates["colm"], rates["even"]) == ("0.1", "0.2")
    assert any("half" in note for note in report.notes)


def test_the_report_holds_what_the_comparison_found(tmp_path: Path) -> None:
    comparing = run(tmp_path / "out", World())
    report = report_comparison(comparing, {"model": "tiny"})
    page = write_report(tmp_path / "out" / "report.html", report)
    text = page.read_text("utf-8")
    assert report.findings.headline in text.replace("&#x27;", "'")
    assert text.count("<table") >= 3
    loaded = Comparison.load(page.with_suffix(".json"))
    assert loaded.findings.tables.keys() == report.findings.tables.keys()
    assert [arm.name for arm in loaded.arms] == list(comparing.arms)
    assert all("selector" in arm.settings for arm in loaded.arms)
    assert all("distance" not in arm.settings for arm in loaded.arms)
    steps, losses = loaded.arms[0].evaluations()["eval_macro_loss"]
    assert steps[0] == 0
    assert losses[0] == pytest.approx(2.5)
    (other,) = loaded.arms[0].others
    assert (loaded.arms[0].seed, other.seed) == ("3", "4")
    assert other.evaluations()["eval_macro_loss"][1][1:] != losses[1:]
    assert "Held-out loss, macro, seeds together" in text
    contest = contest_of(comparing)
    assert contest.seconds == 60
    assert {trial.seed for trial in contest.trials} == {3, 4}
