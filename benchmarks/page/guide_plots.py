"""The pictures of the guides: how draws divide a mixture, and what of a step needs the memory.

The first is worked out by the functions that training draws by; the second is drawn from the newest
results of ``python -m benchmarks least_memory``.
"""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.page.result_files import results_of
from benchmarks.page.result_plots import svg, svg_of, svg_style
from benchmarks.page.stacking_tables import GIB, merged
from colm.coreset.mixture import bounded_draws
from colm.data.generated import SOURCES
from colm.reports.plots import ARM_COLOURS, BEFORE_COLOUR, WIDTH_INCHES
from colm.training.options.selection_arguments import SelectionArguments
from colm.training.step.shares import MOST_REPEATS, source_weights

#: What the picture of memory is of: a shape of the benchmark, with this in every way.
SHAPE, WITH = "phi-2", ", gradient checkpointing"
#: The ways to draw that are shown, each in its colour.
DRAWS = {"uniform": BEFORE_COLOUR, "temperature": ARM_COLOURS[1], "unimax": ARM_COLOURS[0]}


def plots(results: Path) -> dict[str, str]:
    """Return the pictures by the names of their files, those that there are results for."""
    made = {"guide-draws.svg": plot_draws({name: each.examples for name, each in SOURCES.items()})}
    counted = merged(results_of(results, "least_memory"))
    names = {key.split("/")[1] for key in counted if key.startswith(f"{SHAPE}/")}
    if shown := [name for name in names if name.endswith(WITH)]:
        made["guide-memory.svg"] = plot_memory(counted, shown)
    return made


def draws_of(sampling: str, sizes: Mapping[str, int]) -> dict[str, float]:
    """Return the draws of each source in a run of one epoch, by default options.

    Example:
        >>> draws_of("uniform", {"web": 900, "code": 100})
        {'web': 900.0, 'code': 100.0}
        >>> draws_of("unimax", {"web": 900, "code": 100})
        {'web': 600.0, 'code': 400.0}
    """
    if sampling == "uniform":
        return {name: float(size) for name, size in sizes.items()}
    exponent = SelectionArguments.sampling_exponent
    args = SimpleNamespace(candidate_sampling=sampling, sampling_exponent=exponent)
    limits = {name: MOST_REPEATS * size for name, size in sizes.items()}
    return bounded_draws(source_weights(args, sizes), sum(sizes.values()), limits, sizes)


def plot_draws(sizes: Mapping[str, int]) -> str:
    """Return each source's share of the draws and how often its examples come, side by side."""
    total, height = sum(sizes.values()), 0.8 / len(DRAWS)
    with svg_style("guide-draws"):
        size = (1.5 * WIDTH_INCHES, 0.9 + 0.3 * len(sizes))
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        share, often = figure.subplots(1, 2, sharey=True)
        for place, (sampling, colour) in enumerate(DRAWS.items()):
            draws = draws_of(sampling, sizes)
            rows = [row + height * (place - (len(DRAWS) - 1) / 2) for row in range(len(sizes))]
            of_all = [100 * draws[name] / total for name in sizes]
            each = [draws[name] / sizes[name] for name in sizes]
            share.barh(rows, of_all, height=0.9 * height, color=colour, label=sampling)
            often.barh(rows, each, height=0.9 * height, color=colour)
        share.set_yticks(
            range(len(sizes)),
            [f"{name.replace('_', ' ')}, {number:,}" for name, number in sizes.items()],
        )
        share.set_ylim(len(sizes) - 0.4, -0.6)
        share.set_xlabel("of the draws, %")
        often.set_xlabel("times each of its examples comes")
        for axes in (share, often):
            axes.spines["left"].set_visible(False)
            axes.tick_params(length=0)
            axes.grid(axis="x")
            axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", ncols=len(DRAWS), handlelength=1.2)
        return svg_of(figure)


def plot_memory(counted: Mapping[str, float], names: list[str]) -> str:
    """Return what a step holds at its peak in each way, the least on top, in its parts."""

    def gib(name: str, kind: str) -> float:
        return counted[f"{SHAPE}/{name}/{kind}_bytes"] / GIB

    order = sorted(names, key=lambda name: (gib(name, "total"), name))
    fixed = {name: gib(name, "weight") + gib(name, "optimizer") for name in order}
    parts = {
        "weights": ([gib(name, "weight") for name in order], BEFORE_COLOUR),
        "optimizer": ([gib(name, "optimizer") for name in order], ARM_COLOURS[1]),
        "what a pass holds": (
            [gib(name, "total") - fixed[name] for name in order],
            ARM_COLOURS[0],
        ),
    }

    def draw(axes: Axes) -> None:
        left = [0.0] * len(order)
        for label, (values, colour) in parts.items():
            axes.barh(range(len(order)), values, left=left, height=0.7, color=colour, label=label)
            left = [start + value for start, value in zip(left, values, strict=True)]
        axes.set_yticks(range(len(order)), [name.removesuffix(WITH) for name in order])
        axes.set_ylim(len(order) - 0.5, -0.5)
        axes.set_xlabel("GiB at the peak of a step")
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")

    return svg(draw, 0.8 + 0.25 * len(order), "guide-memory", legend=len(parts))
