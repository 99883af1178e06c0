"""Reading what the benchmarks wrote: training runs, paces, match scores, memory and steps.

Of measurements of the same thing the latest counts; what is not there is absent, never made up.
"""

import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

REFERENCE = "plain r"
#: Processor time of training until a measurement.
CLOCK = "cpu_seconds"

#: The small model's runs on the generated mixture, by their label, in words.
GENERATED = {
    "generated-from-scratch": "unbalanced sources",
    "generated-wrong-from-scratch": "40 % wrong answers",
    "generated-redundant-from-scratch": "large sources five times over",
    "generated-repeated-from-scratch": "few examples again and again",
}

BySeed = dict[int, float]


@dataclass(frozen=True)
class Result:
    """A file that `benchmarks.record` wrote; its name is that of its folder and its own."""

    name: str
    date: str
    settings: Mapping[str, Any]
    summary: Mapping[str, float]
    repeats: list[dict[str, float]]
    machine: Mapping[str, Any]
    commit: str = "unknown"


@dataclass(frozen=True)
class Run:
    """A model trained with one kind of mini-batch and one seed, and what was measured of it."""

    result: Result

    @property
    def arm(self) -> str:
        """The kind of mini-batch."""
        return str(self.result.settings["arm"])

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.result.settings["seed"])

    @property
    def options(self) -> dict[str, Any]:
        """Options of ``CoLMConfig`` that make the arm."""
        return dict(self.result.settings.get("options") or {})

    @property
    def log(self) -> list[dict[str, Any]]:
        """What the trainer logged, an entry a step."""
        return list(self.result.settings.get("log") or [])

    @property
    def last_step(self) -> float:
        """Steps after which was measured last."""
        return self.result.repeats[-1]["steps"]

    @property
    def last_second(self) -> float:
        """Processor time of the whole training."""
        return self.result.repeats[-1][CLOCK]

    @property
    def clocked(self) -> bool:
        """True where every measurement has its processor time."""
        return all(CLOCK in row for row in self.result.repeats)

    def at(self, place: float, measure: str, along: str = "steps") -> float | None:
        """Return a measure after some steps, linear between measurements; ``None`` beyond them.

        Args:
            place: how many.
            measure: the figure of a measurement.
            along: what is counted, steps or ``cpu_seconds``.
        """
        points = [(row[along], row[measure]) for row in self.result.repeats if measure in row]
        if points and math.isclose(place, points[-1][0]):
            # Worked out from a ratio, the end of a run may come out a hair behind it.
            return points[-1][1]
        for (left, before), (right, after) in pairwise(points):
            if left <= place <= right:
                return before + (after - before) * (place - left) / (right - left)
        return None

    def logged(self, key: str) -> float | None:
        """Return the mean over steps of what was logged under a key; absent from a step is 0."""
        if not any(key in entry for entry in self.log):
            return None
        return sum(float(entry.get(key, 0.0)) for entry in self.log) / len(self.log)


@dataclass(frozen=True)
class Pace:
    """How long a step of each arm takes, in steps of plain r."""

    result: Result

    @property
    def ratios(self) -> dict[str, float]:
        """Time of a step over that of plain r, by arm: of all turns."""
        end = "_over_plain_r"
        found = self.result.summary.items()
        return {name.removesuffix(end): ratio for name, ratio in found if name.endswith(end)}

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of a step, by arm: of all turns."""
        end = "/seconds"
        found = self.result.summary.items()
        return {name.removesuffix(end): value for name, value in found if name.endswith(end)}

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Least and most over turns of the ratio, by arm."""
        turns = self.result.repeats
        return {
            arm: (min(ratios), max(ratios))
            for arm in self.ratios
            for ratios in [[t[f"{arm}/seconds"] / t[f"{REFERENCE}/seconds"] for t in turns]]
        }

    def errors(self) -> dict[str, float]:
        """Standard error of the mean seconds of a step over that mean, by arm."""
        turns = self.result.repeats
        seconds = {arm: [turn[f"{arm}/seconds"] for turn in turns] for arm in self.ratios}
        if len(turns) < 2:
            return {}
        return {
            arm: statistics.stdev(of) / statistics.fmean(of) / len(of) ** 0.5
            for arm, of in seconds.items()
        }


@dataclass(frozen=True)
class Mixture:
    """All runs on one mixture of sources, and what goes with them.

    Attributes:
        label: of the runs' folder.
        runs: by arm, in the order of seeds.
        pace: measured with the same settings; ``None`` where there is none.
        accuracy: by arm, set and number of its questions, and seed, 0 to 1.
    """

    label: str
    runs: dict[str, list[Run]]
    pace: Pace | None = None
    accuracy: dict[str, dict[str, BySeed]] = field(default_factory=dict)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What all runs share."""
        return next(iter(self.runs.values()))[0].result.settings

    @property
    def clocked(self) -> bool:
        """True where all runs have processor times, as those have whose steps are arranged."""
        return all(run.clocked for runs in self.runs.values() for run in runs)

    @property
    def called(self) -> str:
        """Return what the data are called where a newcomer reads: words, with a link to them."""
        words = GENERATED.get(self.label)
        return f"[{words}](#{self.label})" if words else f"`{self.label}`"

    @property
    def accelerator(self) -> str | None:
        """The device that runs trained on, where that is no processor."""
        found = next(iter(self.runs.values()))[0].result.machine.get("accelerator")
        return str(found) if found else None

    @property
    def steps(self) -> float:
        """Steps at which runs of different arms are compared: what all of them came to."""
        last = min(run.last_step for runs in self.runs.values() for run in runs)
        return min(float(self.settings["steps"]), last)

    def at_steps(self, arm: str, measure: str, steps: float | None = None) -> BySeed:
        """Return a measure of each seed's run after some steps, by default those of all arms."""
        steps = self.steps if steps is None else steps
        return self.read(arm, measure, {run.seed: steps for run in self.runs.get(arm, [])})

    def read(self, arm: str, measure: str, places: BySeed, along: str = "steps") -> BySeed:
        """Return a measure of each seed's run at a place of its own, in steps or on the clock."""
        runs = [run for run in self.runs.get(arm, []) if run.seed in places]
        values = {run.seed: run.at(places[run.seed], measure, along) for run in runs}
        return {seed: value for seed, value in values.items() if value is not None}

    def steps_in_time(self, arm: str, of: str) -> float | None:
        """Return how many steps of an arm take the time of another's; ``None`` where not timed."""
        ratios = self.pace.ratios if self.pace else {}
        if arm not in ratios or of not in ratios:
            return None
        return self.steps * ratios[of] / ratios[arm]

    def at_time(self, arm: str, measure: str, of: str) -> BySeed:
        """Return a measure of each seed's run after the time that another arm's steps take."""
        steps = self.steps_in_time(arm, of)
        return {} if steps is None else self.at_steps(arm, measure, steps)

    def logged(self, arm: str, key: str) -> BySeed:
        """Return the mean over steps of what each seed's run logged under a key."""
        values = {run.seed: run.logged(key) for run in self.runs.get(arm, [])}
        return {seed: value for seed, value in values.items() if value is not None}


@dataclass(frozen=True)
class Results:
    """Everything that is at hand.

    Attributes:
        mixtures: of the papers' experiment, whose time is by a pace measured apart.
        clocked: of the runs with processor times.
    """

    mixtures: list[Mixture]
    clocked: list[Mixture]
    match: Result | None
    ablations: Result | None
    drift: Result | None
    memory: list[Result]
    steps: list[Result]


def read_results(folder: Path) -> Results:
    """Read the results in a folder; whatever is missing is empty."""
    accuracy = folder / "accuracy"
    paces = [Pace(result) for result in results_of(folder, "pace")]
    labels = [path for path in sorted((folder / "quality").glob("*")) if path.is_dir()]
    mixtures = [read_mixture(path, paces, accuracy / path.name) for path in labels]
    matches = results_of(folder, "match")
    mixtures = sorted(
        (mixture for mixture in mixtures if mixture.runs),
        key=lambda mixture: (-sum(map(len, mixture.runs.values())), mixture.label),
    )
    return Results(
        mixtures=[mixture for mixture in mixtures if not mixture.clocked],
        clocked=[mixture for mixture in mixtures if mixture.clocked],
        match=max(matches, key=lambda one: (len(one.repeats), one.date), default=None),
        ablations=max(
            (one for one in matches if one.settings.get("ablations")),
            key=lambda one: one.date,
            default=None,
        ),
        drift=max(results_of(folder, "drift"), key=lambda one: one.date, default=None),
        memory=latest(results_of(folder, "memory"), measured_work),
        steps=latest(results_of(folder, "step"), measured_work),
    )


def read_mixture(folder: Path, paces: Iterable[Pace], accuracy: Path) -> Mixture:
    """Read the runs in a folder, with the latest pace and the accuracies that belong to them."""
    runs: dict[str, list[Run]] = {}
    found = [Run(read_result(path)) for path in sorted(folder.glob("*.json"))]
    for run in sorted(found, key=lambda run: run.seed):
        runs.setdefault(run.arm, []).append(run)
    mixture = Mixture(folder.name, runs)
    if not runs:
        return mixture
    fitting = [
        pace
        for pace in paces
        if _same_work(pace.result.settings, mixture.settings)
        and pace.result.machine.get("accelerator") == mixture.accelerator
    ]
    # Single turns scatter: the measurement with most of them counts, of equals the latest.
    pace = max(fitting, key=lambda pace: (len(pace.result.repeats), pace.result.date), default=None)
    return Mixture(folder.name, runs, pace, read_accuracy(accuracy, runs))


def read_accuracy(folder: Path, arms: Iterable[str]) -> dict[str, dict[str, BySeed]]:
    """Read the share of right answers, by arm, set and number of its questions, and seed."""
    names = {slug(arm): arm for arm in arms}
    found: dict[str, dict[str, BySeed]] = {}
    for path in sorted(folder.glob("*-seed*.json")):
        name, _, seed = path.stem.rpartition("-seed")
        for title, scores in json.loads(path.read_text())["sets"].items():
            by_set = found.setdefault(names.get(name, name), {})
            questions = f"{title} ({scores['questions']})"
            by_set.setdefault(questions, {})[int(seed)] = float(scores["accuracy"])
    return found


def read_result(path: Path) -> Result:
    """Read one file."""
    data = json.loads(path.read_text())
    names = ("date", "settings", "summary", "repeats", "machine", "commit")
    name = f"{path.parent.name}/{path.name}"
    return Result(name, **{key: data[key] for key in names if key in data})


def slug(arm: str) -> str:
    """The name of an arm as part of a file's name, as `benchmarks quality` writes it."""
    return "-".join(arm.lower().replace(",", "").split())


def latest(results: Iterable[Result], kind: Callable[[Result], str]) -> list[Result]:
    """Return the latest of each kind, in the order of dates."""
    found = {kind(result): result for result in sorted(results, key=lambda one: one.date)}
    return sorted(found.values(), key=lambda one: one.date)


def measured_work(result: Result) -> str:
    """Return in words which step was measured, by the memory or the step benchmark, and on what."""
    settings = result.settings
    options = [str(option) for option in settings.get("options") or []]
    given = dict(pairwise(options))
    model = given.get("--model_name_or_path", "SmolLM2-135M-Instruct")
    model = re.sub(
        r"-\d+(\.\d+)+$", "", _bare(settings.get("shape") or settings.get("model") or model)
    )
    full = settings.get("full") or given.get("--use_peft") == "false"
    checkpointed = given.get("--gradient_checkpointing") == "true"
    parts = [
        model,
        "all weights trained" if full else "LoRA",
        str(settings.get("dtype") or given.get("--dtype", "")),
        f"{settings['tokens']} tokens" if "tokens" in settings else "",
        f"`{settings['selector']}`" if "selector" in settings else "",
        f"{settings['r']} of {settings['n']}" if "n" in settings else "",
        "checkpointed" if checkpointed else "",
        str(result.machine.get("accelerator") or "CPU"),
    ]
    return ", ".join(part for part in parts if part)


def results_of(folder: Path, benchmark: str) -> list[Result]:
    """Return the results of a benchmark, in the order of their names, which is that of dates."""
    return [read_result(path) for path in sorted((folder / benchmark).glob("*.json"))]


def _same_work(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True where a step is the same work: the same data, model and sizes."""
    names = ("data", "model", "n", "r", "micro_batch", "max_length", "dtype")
    alike = all(_bare(one.get(name)) == _bare(other.get(name)) for name in names)
    # What results from before there was an option ran with.
    since = {"from_scratch": False, "regime": "imbalanced"}
    return alike and all(
        one.get(name, default) == other.get(name, default) for name, default in since.items()
    )


def _bare(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) else value
