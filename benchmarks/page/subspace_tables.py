"""Figures of `docs/memory.md`: training in random subspaces beside other ways of training.

Each way has the learning rate, of those tried, with the lowest loss of the first seed; other rates
are in the result files. ``±`` is the standard deviation over seeds.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from benchmarks.page.result_files import Result, read_result, results_of
from benchmarks.page.result_plots import svg
from benchmarks.page.standings import ABSENT, Spread, table
from colm.reports.plots import ARM_COLOURS, INK

REFERENCE = "AdamW"
#: What a task's table begins with, in this order; variants of RSO have one of their own.
MAIN = (REFERENCE, "RSO", "GaLore", "LoRA", "LoRA, A frozen")
DASHES = ("-", "-", "--", "-.", ":")
MIB = 2**20


@dataclass(frozen=True)
class Way:
    """Runs of one arm at one rank, and its learning rate.

    Attributes:
        runs: with that rate, by seed.
        rates: all that were tried.
    """

    arm: str
    rank: int
    rate: float
    runs: dict[int, Result]
    rates: list[float]

    def title(self, rank: int) -> str:
        """Its name where most ways have a rank."""
        return self.arm if self.rank == rank else f"{self.arm}, rank {self.rank}"

    @property
    def losses(self) -> dict[int, float]:
        """Held-out loss at the end, by seed."""
        return {seed: run.summary["loss"] for seed, run in self.runs.items()}

    def size(self, name: str) -> str:
        """Bytes, in MiB; they depend on no seed."""
        return f"{next(iter(self.runs.values())).summary[name] / MIB:,.1f}"

    @property
    def peak_bytes(self) -> float:
        """Most that a step holds."""
        return float(next(iter(self.runs.values())).summary["peak_bytes"])


def read_ways(folder: Path) -> list[Way]:
    """Read the runs of a task."""
    found: dict[tuple[str, int], dict[float, dict[int, Result]]] = {}
    for path in sorted(folder.glob("*.json")):
        result = read_result(path)
        said = result.settings
        by_rate = found.setdefault((said["arm"], said["rank"]), {})
        by_rate.setdefault(said["learning_rate"], {})[said["seed"]] = result
    ways = []
    for (arm, rank), by_rate in found.items():
        seed = min(seed for runs in by_rate.values() for seed in runs)
        tried = {rate: runs[seed].summary["loss"] for rate, runs in by_rate.items() if seed in runs}
        best = min(tried, key=lambda rate: tried[rate])
        ways.append(Way(arm, rank, best, by_rate[best], sorted(by_rate)))
    return ways


def blocks(results: Path) -> dict[str, str]:
    """Return the tables of what was run, by the name of their place in the page."""
    made = {}
    for name, ways in all_ways(results).items():
        first = next(iter(ways[0].runs.values()))
        made[name] = main_table(ways, read_pace(results, first))
        made[f"{name} setting"] = setting(first)
        made[f"{name} variants"] = variant_table(ways)
    said = [say for ways in all_ways(results).values() if (say := standing(ways))]
    return made | ({"verdict subspaces": " ".join(said)} if said else {})


def standing(ways: list[Way]) -> str:
    """Return how the loss of RSO stands to AdamW's, and GaLore's does; empty without all three."""
    compared = {way.arm: way.losses for way in main_ways(ways)}
    if not {REFERENCE, "RSO", "GaLore"} <= compared.keys():
        return ""
    task = next(iter(ways[0].runs.values())).settings["task"]
    ours, theirs = (over(compared[arm], compared[REFERENCE]) for arm in ("RSO", "GaLore"))
    side = "Worse" if float(ours) > 1 else "Better"
    said = (
        f"{side} than AdamW in the runs below that {task}: a loss of {ours} of AdamW's, where "
        f"GaLore's at equal rank is {theirs}"
    )
    higher = way_at_peak(ways)
    if higher is None:
        return f"{said}."
    ratio = over(higher.losses, compared[REFERENCE])
    seeds = f"{len(higher.runs)} seed{'s' if len(higher.runs) > 1 else ''}"
    return f"{said}; {ratio} at the rank that fits in GaLore's peak, {higher.rank}, with {seeds}."


def plots(results: Path) -> dict[str, str]:
    """Return the plots of what has ways to compare, by file name."""
    drawn = {}
    for name, ways in all_ways(results).items():
        if len(main_ways(ways)) == len(MAIN):
            pace = read_pace(results, next(iter(ways[0].runs.values())))
            drawn[f"subspace-{name}-steps.svg"] = plot_losses(ways, {}, name)
            if pace:
                drawn[f"subspace-{name}-time.svg"] = plot_losses(ways, pace, name)
    return drawn


def all_ways(results: Path) -> dict[str, list[Way]]:
    """Return the ways of each folder of runs, by its name."""
    folders = sorted(path for path in (results / "subspace").glob("*") if path.is_dir())
    return {folder.name: read_ways(folder) for folder in folders}


def read_pace(results: Path, run: Result) -> dict[str, float]:
    """Return the time of a step of each arm over the reference's, of the same work."""
    marker = f"/over {REFERENCE}"
    alike = ("task", "dtype", "rank", "batch", "tokens", "hidden", "layers", "inner_steps")
    return {
        name.removesuffix(marker): ratio
        for pace in results_of(results, "subspace_pace")
        if all(pace.settings[key] == run.settings[key] for key in alike)
        for name, ratio in pace.summary.items()
        if name.endswith(marker)
    }


def main_ways(ways: list[Way]) -> list[Way]:
    """The ways that are compared, at the rank that most of them have."""
    rank = usual_rank(ways)
    by_arm = {way.arm: way for way in ways if way.rank == rank}
    return [by_arm[arm] for arm in MAIN if arm in by_arm]


def usual_rank(ways: list[Way]) -> int:
    """The rank that most ways have."""
    return statistics.mode(way.rank for way in ways)


def way_at_peak(ways: list[Way]) -> Way | None:
    """RSO at the highest rank, above the usual, whose peak is GaLore's at most; if it was run."""
    galore = next((way for way in main_ways(ways) if way.arm == "GaLore"), None)
    if galore is None:
        return None
    fitting = [
        way
        for way in ways
        if way.arm == "RSO" and way.rank > galore.rank and way.peak_bytes <= galore.peak_bytes
    ]
    return max(fitting, key=lambda way: way.rank, default=None)


def main_table(ways: list[Way], pace: dict[str, float]) -> str:
    """Loss, time and bytes of each way."""
    rows = []
    compared, rank, higher = main_ways(ways), usual_rank(ways), way_at_peak(ways)
    reference = compared[0].losses
    place = next((at for at, way in enumerate(compared, 1) if way.arm == "RSO"), 0)
    for way in [*compared[:place], *([higher] if higher else []), *compared[place:]]:
        title = way.title(rank)
        rows.append(
            [
                title,
                f"{way.rate:g}",
                str(len(way.runs)),
                Spread.of(way.losses).show(3),
                over(way.losses, reference),
                f"{pace[title]:.2f}" if title in pace else ABSENT,
                *(way.size(name) for name in ("optimizer_bytes", "saved_bytes", "peak_bytes")),
            ]
        )
    head = ["Training", "Learning rate", "Seeds", "Loss", "Over AdamW's", "Time of a step"]
    return table([*head, "Optimizer", "Saved for backward", "Peak"], rows)


def variant_table(ways: list[Way]) -> str:
    """Losses of RSO with other options, of the seeds that each has in common with the default."""
    rank = usual_rank(ways)
    default = next((way for way in ways if way.arm == "RSO" and way.rank == rank), None)
    if default is None:
        return ""
    rows = [
        [
            way.title(rank),
            f"{way.rate:g}",
            str(len(way.runs)),
            Spread.of(way.losses).show(3),
            over(way.losses, default.losses),
        ]
        for way in sorted(ways, key=lambda way: (way is not default, way.arm))
        if way.arm.startswith("RSO")
    ]
    return table(["Training", "Learning rate", "Seeds", "Loss", "Over the default's"], rows)


def over(losses: dict[int, float], reference: dict[int, float]) -> str:
    """Mean ratio to a reference over the seeds that both have."""
    ratios = [losses[seed] / reference[seed] for seed in losses.keys() & reference.keys()]
    return f"{statistics.fmean(ratios):.3f}" if ratios else ABSENT


def setting(result: Result) -> str:
    """What was run, in a sentence."""
    said: Any = result.settings
    computed = "bfloat16 by autocast" if said["autocast"] else said["dtype"]
    model = "SmolLM2-135M-Instruct"
    if said["task"] == "pretrain":
        model = f"A Llama of {said['layers']} layers of {said['hidden']}, from scratch, on bytes"
    rate, text = said["others_rate"], said["data"] or "the generated mixture"
    return (
        f"{model}; {said['steps']:,} steps on {said['batch']} blocks of {said['tokens']} tokens "
        f"of {text}; weights in {said['dtype']}, computed in {computed}; rank {said['rank']}, "
        f"new directions every {said['inner_steps']} steps; learning rate of "
        f"norms, embeddings and head {rate:.0e} everywhere, all rates with warm-up and a cosine; "
        f"measured on {result.machine['processor']}. Bytes are in MiB."
    )


def plot_losses(ways: list[Way], pace: dict[str, float], name: str) -> str:
    """Held-out losses against steps or, where paces are given, time in steps of the reference."""

    def draw(axes: Axes) -> None:
        colours = (INK, *ARM_COLOURS)
        for way, colour, dashes in zip(main_ways(ways), colours, DASHES, strict=False):
            if pace and way.arm not in pace:
                continue
            runs = [run.repeats[1:] for run in way.runs.values()]
            x = [row["steps"] * pace.get(way.arm, 1.0) for row in runs[0]]
            y = [statistics.fmean(row["loss"] for row in rows) for rows in zip(*runs, strict=True)]
            axes.plot(x, y, color=colour, linestyle=dashes, label=way.arm)
        axes.set_xlabel(f"time, in steps of {REFERENCE}" if pace else "steps")
        axes.set_ylabel("held-out loss")
        axes.grid(axis="y")

    return svg(draw, 3.0, f"subspace-{name}-{'time' if pace else 'steps'}", legend=3)
