"""Ways of training held against each other on one's own model and data, for equal time.

Each arm trains in a process of its own, so that none disturbs another's random numbers and one
that fails takes no other with it. They take turns on the machine, so that whatever else it does
falls on all alike; who begins a round changes from round to round. After each turn the arm saves a
checkpoint and measures its held-out loss, neither of which counts as time, and the comparison is
written down: whatever interrupts it, the same command goes on where it was.
"""

import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from colm.checks import check_number
from colm.runs.arguments import parse_arguments
from colm.runs.arms import PLAIN_ARMS, PLAIN_R, arm_in_words, make_arms, option_words
from colm.runs.comparison_file import (
    GIVEN_UP,
    TRAINED,
    WAITING,
    ArmRun,
    ComparisonState,
    check_same,
    read_state,
)
from colm.runs.players import ArmError, ArmProcess, Player, Start, Told
from colm.runs.saying import Say, duration_in_words
from colm.training.checkpoints.folder_lock import holding
from colm.training.checkpoints.manifest import TRAINER_STATE
from colm.training.checkpoints.run_options import describe_options

LOG_FILE = "log.txt"
_MOST_TURNS, _SECONDS_OF_A_TURN = 10, 30


def turns_of(minutes: float) -> int:
    """Return into how many turns a time is cut where nobody says: each of half a minute or more.

    Args:
        minutes: Of training.

    Returns:
        10 at most.

    Example:
        >>> turns_of(0.2), turns_of(1), turns_of(60)
        (1, 2, 10)
    """
    return int(max(1, min(_MOST_TURNS, 60 * minutes // _SECONDS_OF_A_TURN)))


@dataclass(frozen=True)
class ComparisonPlan:
    """What is compared, and for how long.

    Attributes:
        recipe: Words of ``colm sft``, which all arms share.
        arms: Names of `colm.runs.arms`.
        folder: That everything is written to.
        minutes: Of training, for each arm and seed.
        seeds: How many, from the recipe's on.
        learning_rates: Each tried by every arm; the recipe's where there are none.
        held_out: Examples of each source to measure on, where the recipe names no test split.
        turns: Into how many the time of a run is cut; it is measured after each.
        one_at_a_time: Whether each arm runs to its end before the next is loaded.
        keep_models: Whether each run's model is saved at its end.
        plain: The plain arms that are always among them.
        beside: Names in the folder that are not the comparison's, such as its recipe.
    """

    recipe: Sequence[str]
    arms: Sequence[str]
    folder: Path
    minutes: float = 60.0
    seeds: int = 3
    learning_rates: Sequence[float] = ()
    held_out: int = 32
    turns: int = 10
    one_at_a_time: bool = False
    keep_models: bool = False
    plain: Sequence[str] = PLAIN_ARMS
    beside: Collection[str] = ()

    def check(self) -> None:
        """Refuse numbers that cannot be.

        Raises:
            ValueError: One line that names the option.
        """
        check_number("--minutes", self.minutes, above=0)
        for name in ("seeds", "held_out", "turns"):
            check_number(f"--{name}", getattr(self, name), least=1, whole=True)
        for rate in self.learning_rates:
            check_number("--learning_rates", rate, above=0)
        if len(set(self.learning_rates)) < len(self.learning_rates):
            raise ValueError(f"--learning_rates must differ; got {list(self.learning_rates)}")
        if self.learning_rates and self.held_out < 2:
            raise ValueError(
                "--learning_rates are chosen on half of the held-out examples: set --held_out to 2 "
                "or more"
            )


class Comparing:
    """A comparison as it goes on.

    Args:
        plan: What is compared.
        say: Takes a line for who watches.
        start: Begins an arm, of a job and a file for what it says.
        clock: Returns seconds.

    Raises:
        ValueError: An option cannot be, or the folder holds something else.
        FileNotFoundError: A recipe is not there.
    """

    def __init__(
        self,
        plan: ComparisonPlan,
        say: Say,
        start: Start = ArmProcess,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        plan.check()
        self.plan, self._say, self._start, self._clock = plan, say, start, clock
        self.arms = {arm.name: arm for arm in make_arms(plan.arms, plan.recipe, plan.plain)}
        training = parse_arguments(plan.recipe).training
        self._seed: int = training.seed
        settings = self._settings(training)
        found = read_state(plan.folder, plan.beside)
        if found is not None:
            check_same(found.settings, settings, plan.folder)
        self.state = found or ComparisonState(settings, self._runs())
        self._trained_seconds = self._waited = 0.0
        self._loads: list[float] = []

    def run(self) -> ComparisonState:
        """Train all arms for their time, and measure them.

        Returns:
            What came of each; it lies in the folder, too.

        Raises:
            ValueError: No arm can be trained.
            OSError: The folder cannot be written to.
        """
        with holding(self.plan.folder):
            for run in list(self.state.runs):
                if run.state == GIVEN_UP:  # it may have been the machine's
                    self.state.change(run, state=WAITING, message="")
                elif run.state == TRAINED:
                    self._clear(run)
            self.state.save(self.plan.folder)
            for group in self._groups():
                self._take_turns(group)
        if not any(run.measured for run in self.state.runs):
            raise ValueError(f"no arm could be trained: {self.state.runs[0].message}")
        return self.state

    def _settings(self, training: Any) -> dict[str, Any]:
        """What decides the comparison, as JSON has it."""
        plan, parsed = self.plan, parse_arguments(self.plan.recipe)
        options = describe_options(training) | {"num_train_epochs": training.num_train_epochs}
        options |= {"max_steps": training.max_steps} | vars(parsed.model) | vars(parsed.script)
        return {
            "minutes": plan.minutes,
            "turns": plan.turns,
            "seeds": plan.seeds,
            "learning_rates": list(plan.learning_rates),
            "held_out": plan.held_out,
            "keep_models": plan.keep_models,
            "arms": {name: option_words(arm.options) for name, arm in self.arms.items()},
            "recipe": {name: str(value) for name, value in options.items()}
            | {"datasets": str(parsed.mixture.datasets)},
        }

    def _runs(self) -> list[ArmRun]:
        """All runs, those of one seed and learning rate together."""
        seeds = range(self._seed, self._seed + self.plan.seeds)
        rates: Sequence[float | None] = self.plan.learning_rates or [None]
        # What no comparison can do without is loaded first: where it cannot be, nothing can.
        arms = sorted(self.arms, key=lambda name: name != PLAIN_R)
        return [ArmRun(arm, s, rate) for s, rate, arm in product(seeds, rates, arms)]

    def _groups(self) -> Iterator[list[ArmRun]]:
        """Runs that take turns: of one seed and learning rate, or each by itself."""
        size = 1 if self.plan.one_at_a_time else len(self.arms)
        for begin in range(0, len(self.state.runs), size):
            yield self.state.runs[begin : begin + size]

    def models_at_once(self) -> int:
        """Return how many models are in memory at once, at most, where all go on to their end."""
        return max(sum(run.state != TRAINED for run in group) for group in self._groups())

    def _take_turns(self, group: Sequence[ArmRun]) -> None:
        """Let the runs of a group train to their end, in turns."""
        for run in group:
            if run.state == WAITING and self._is_over(run) and not self.plan.keep_models:
                self._end(run)  # it was interrupted between its last turn and this
        waiting = [run for run in self._now(group) if run.state == WAITING]
        with ExitStack() as stack:
            players: dict[str, Player] = {}
            for run in waiting:
                if (player := self._begin(run)) is not None:
                    stack.callback(player.close)
                    players[run.folder] = player
            names = list(players)
            for turn in range(1, self.plan.turns + 1):
                begin = turn % max(1, len(names))
                for name in names[begin:] + names[:begin]:
                    run = self._run_of(name)
                    # Of an arm with long steps, one step may be longer than several turns.
                    if run.state == WAITING and run.seconds < self._until(turn):
                        self._take_turn(run, players[name], turn)
            for name in names:
                self._finish(self._run_of(name), players[name])

    def _run_of(self, folder: str) -> ArmRun:
        return next(run for run in self.state.runs if run.folder == folder)

    def _begin(self, run: ArmRun) -> Player | None:
        """Load an arm; ``None`` where it cannot be."""
        self._say(f"loading {self._title(run)}")
        folder = self.plan.folder / run.folder
        folder.mkdir(parents=True, exist_ok=True)
        began = self._clock()
        player = self._start(self._job(run), folder / LOG_FILE)
        try:
            self._check_data(player.ask())
            if self.state.before is None:
                self.state.before = player.ask({"do": "measure"})["scores"]
                self.state.save(self.plan.folder)
        except ArmError as error:
            player.close()
            if self.state.before is None and run.arm == PLAIN_R:
                raise ValueError(str(error)) from None
            self._fail(run, str(error))
            return None
        except BaseException:
            player.close()
            raise
        self._loads.append(self._clock() - began)
        return player

    def _job(self, run: ArmRun) -> dict[str, Any]:
        """What the process of an arm is told."""
        last = run.measured[-1] if run.measured else {"checkpoint": None, "seconds": 0.0}
        own = {"learning_rate": run.learning_rate}
        return {
            "words": [
                *self.plan.recipe,
                *option_words(self.arms[run.arm].options),
                *option_words(own),
            ],
            "folder": str(self.plan.folder / run.folder),
            "seed": run.seed,
            "held_out": self.plan.held_out,
            "split": self._seed,
            "halves": len(self.plan.learning_rates) > 1,
            "checkpoint": last["checkpoint"],
            "seconds": last["seconds"],
        }

    def _check_data(self, ready: Told) -> None:
        """Hold what an arm loaded against what those before it did."""
        data = {key: ready[key] for key in ("sizes", "small", "digest", "held")}
        if not self.state.data:
            self.state.data = data
        if self.state.data != data:
            raise ArmError(
                "its data are not those that others were trained and measured on: a file has "
                "changed meanwhile, or its tokens are others"
            )

    def _take_turn(self, run: ArmRun, player: Player, turn: int) -> None:
        """Let an arm train until its turn ends, and note what it measured."""
        began = self._clock()
        try:
            answer = player.ask({"do": "train", "until": self._until(turn)})
        except ArmError as error:
            self._fail(run, str(error))
            return
        before = run.seconds
        told = {k: v for k, v in answer.items() if k != "event"}
        run = self.state.change(run, measured=[*run.measured, told])
        self.state.save(self.plan.folder)
        self._trained_seconds += answer["seconds"] - before
        self._waited += self._clock() - began
        pace, scores = answer["seconds"] / max(1, answer["step"]), answer["scores"]
        small = scores["small_sources"]
        of_small = "" if small is None else f"   small sources {small:.3f}"
        self._say(
            f"{self._title(run)}   turn {turn}/{self.plan.turns}   step {answer['step']}   "
            f"{pace:.2f} s a step   macro held-out loss {scores['macro']:.3f}{of_small}   "
            f"{duration_in_words(self._seconds_left())} left"
        )

    def _finish(self, run: ArmRun, player: Player) -> None:
        """Note that a run is at its end, and let its process go."""
        if run.state == WAITING:
            try:
                player.ask({"do": "finish", "keep": self.plan.keep_models})
                self._end(run)
            except ArmError as error:
                self._fail(run, str(error))

    def _end(self, run: ArmRun) -> None:
        """Note that a run has had all its turns; its log stays when its checkpoints go."""
        folder = self.plan.folder / run.folder
        with suppress(OSError):
            shutil.copy(
                folder / run.measured[-1]["checkpoint"] / TRAINER_STATE, folder / TRAINER_STATE
            )
        run = self.state.change(run, state=TRAINED)
        self.state.save(self.plan.folder)
        self._clear(run)

    def _is_over(self, run: ArmRun) -> bool:
        return run.seconds >= self._until(self.plan.turns)

    def _until(self, turn: int) -> float:
        """Seconds of training at which a turn ends."""
        return 60 * self.plan.minutes * (turn / self.plan.turns)

    def _now(self, runs: Sequence[ArmRun]) -> list[ArmRun]:
        """Runs as they stand now."""
        return [self._run_of(run.folder) for run in runs]

    def _fail(self, run: ArmRun, message: str) -> None:
        """Note what ended a run; the others go on."""
        self.state.change(run, state=GIVEN_UP, message=message)
        self.state.save(self.plan.folder)
        self._say(f"{self._title(run)}   failed: {message}")

    def _clear(self, run: ArmRun) -> None:
        """Delete the checkpoints of a run at its end, which nothing goes on from."""
        for checkpoint in (self.plan.folder / run.folder).glob("checkpoint-*"):
            shutil.rmtree(checkpoint, ignore_errors=True)

    def _title(self, run: ArmRun) -> str:
        rate = "" if run.learning_rate is None else f", learning rate {run.learning_rate:g}"
        seed = f", seed {run.seed}" if self.plan.seeds > 1 else ""
        return f"{run.arm}{seed}{rate}"

    def _seconds_left(self) -> float:
        """How long the rest will take, by how long the turns of this process took so far."""
        waiting = [run for run in self.state.runs if run.state == WAITING]
        left = sum(max(0.0, 60 * self.plan.minutes - run.seconds) for run in waiting)
        if self._trained_seconds:
            left *= self._waited / self._trained_seconds
        to_load = sum(not run.measured for run in waiting)
        return left + sum(self._loads) / max(1, len(self._loads)) * to_load


def compare(plan: ComparisonPlan, say: Say, start: Start = ArmProcess) -> "Comparing":
    """Run a comparison to its end, or go on with one that was interrupted.

    Args:
        plan: What is compared, and for how long.
        say: Takes a line for who watches.
        start: Begins an arm; in a process of its own by default.

    Returns:
        The comparison, its ``state`` and its ``arms``.

    Raises:
        ValueError: An option cannot be, the folder holds something else, or no arm can be trained.
        FileNotFoundError: A file is not there.
        OSError: The folder cannot be written to.
    """
    comparing = Comparing(replace(plan, folder=Path(plan.folder)), say, start)
    runs = comparing.state.runs
    left = sum(run.state != TRAINED for run in runs)
    each = duration_in_words(60 * plan.minutes)
    for arm in comparing.arms.values():
        say(f"arm {arm_in_words(arm)}")
    say(
        f"{left} of {len(runs)} runs to train, {each} each: "
        f"{duration_in_words(60 * plan.minutes * left)} of training at most, beside loading and "
        "measuring"
    )
    if (together := comparing.models_at_once()) > 1:
        say(
            f"{together} models in memory at once, each in a process of its own; colm compare "
            "--one_at_a_time holds one"
        )
    comparing.run()
    return comparing
