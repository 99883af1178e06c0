"""Plots of results as SVG files, the same bytes for the same results.

Drawn at the width of a telephone, on white, in colours that colour-blind readers can tell apart; no
line is told by its colour alone.
"""

import io
import re
import textwrap
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.page.cost_tables import WAYS, memory_over_plain_r
from benchmarks.page.quality_tables import OURS, arms_of
from benchmarks.page.result_files import Mixture, Result
from benchmarks.page.selection_tables import (
    KINDS,
    MATCHED,
    length_ratio,
    mean_curve,
    shown,
    small_share,
    variance,
)
from benchmarks.page.standings import Spread
from colm.reports.plots import ARM_COLOURS, GRID, INK, WIDTH_INCHES

#: Arms in line plots, with a colour and a dash each.
LINES = {
    OURS: (ARM_COLOURS[0], "-"),
    "CoLM": (ARM_COLOURS[1], "-"),
    "small sources, random": (ARM_COLOURS[2], "-."),
    "weighted sampling, random": (ARM_COLOURS[5], (0, (1, 1))),
    "plain r": (INK, ":"),
    "plain n": (ARM_COLOURS[3], "--"),
    "plain 2n": (ARM_COLOURS[4], (0, (6, 2))),
}
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def plot_loss(mixture: Mixture, *, in_time: bool) -> str:
    """Return the macro held-out loss against steps, or against time in steps of plain r.

    Lines are means over seeds, bands reach from the least to the most.
    """
    ratios = mixture.pace.ratios if mixture.pace else {}

    def draw(axes: Axes) -> None:
        for arm, (colour, dashes) in LINES.items():
            if arm not in mixture.runs or (in_time and arm not in ratios):
                continue
            curve = [point for point in mean_curve(mixture, arm) if point[0] > 0]
            x = [step * (ratios[arm] if in_time else 1.0) for step, _ in curve]
            means = [spread.mean for _, spread in curve]
            least, most = ([end(spread.values) for _, spread in curve] for end in (min, max))
            axes.fill_between(x, least, most, color=colour, alpha=0.15, linewidth=0)
            marker = "o" if len(x) < 12 else None
            axes.plot(x, means, color=colour, linestyle=dashes, label=arm, marker=marker, ms=3)
        axes.set_xlabel("time, in steps of plain r" if in_time else "steps")
        axes.set_ylabel("macro held-out loss")
        axes.grid(axis="y")

    return svg(draw, 3.2, f"{mixture.label}-loss-{'time' if in_time else 'steps'}", legend=2)


def plot_cost(mixture: Mixture, memory: Result) -> str:
    """Return the macro held-out loss against the memory of a step."""

    def draw(axes: Axes) -> None:
        for arm in WAYS:
            x = memory_over_plain_r(memory, arm)
            spread = Spread.of(mixture.at_steps(arm, "macro")).values
            if spread and x is not None:
                mean = Spread(spread).mean
                reach = [[mean - min(spread)], [max(spread) - mean]]
                colour = LINES[arm][0]
                axes.errorbar([x], [mean], yerr=reach, fmt="o", color=colour, capsize=3)
                axes.annotate(arm, (x, mean), xytext=(6, 4), textcoords="offset points")
        axes.set_xlabel("memory of a step over that of plain r")
        axes.set_ylabel("macro held-out loss")
        axes.margins(x=0.25, y=0.2)
        axes.grid()

    return svg(draw, 2.6, f"{mixture.label}-loss-memory")


def plot_pace(mixture: Mixture) -> str:
    """Return the time of a step of each arm over that of plain r."""
    pace = mixture.pace
    assert pace is not None
    arms = [arm for arm in arms_of(mixture) if arm in pace.ratios]
    spreads = [pace.ranges()[arm] for arm in arms]
    values = [pace.ratios[arm] for arm in arms]
    bars = [(values, spreads, ARM_COLOURS[0], "")]
    return _bars(arms, bars, "time of a step over plain r", f"{mixture.label}-pace", line=1)


def plot_sources(mixture: Mixture) -> str:
    """Return the share of small sources in candidates and kept, by arm."""
    arms = [arm for arm in arms_of(mixture) if small_share(mixture, arm, "kept")]
    bars = [
        _bar([Spread.of(small_share(mixture, arm, key)) for arm in arms], colour, name, 100)
        for key, colour, name in (
            ("candidates", GRID, "candidates"),
            ("kept", ARM_COLOURS[0], "kept"),
        )
    ]
    return _bars(arms, bars, "from small sources, %", f"{mixture.label}-sources")


def plot_length(mixture: Mixture) -> str:
    """Return how long the completions of kept examples are relative to those of candidates."""
    arms = [arm for arm in arms_of(mixture) if length_ratio(mixture, arm)]
    spreads = [Spread.of(length_ratio(mixture, arm)) for arm in arms]
    bars = [_bar(spreads, ARM_COLOURS[0], "")]
    label = "label tokens, kept over candidates"
    return _bars(arms, bars, label, f"{mixture.label}-length", line=1)


def plot_variance(result: Result) -> str:
    """Return the variance of each selector over that of random mini-batches, at the most kept."""
    kept = max(result.settings["r"])
    arms = [arm for arm in MATCHED if variance(result, arm, kept, "raw").values]
    bars = [
        _bar([variance(result, arm, kept, kind) for arm in arms], colour, head.lower())
        for (kind, head), colour in zip(KINDS.items(), ARM_COLOURS, strict=False)
    ]
    label = f"variance over random, {kept} of {result.settings['n']}"
    return _bars([shown(arm) for arm in arms], bars, label, "variance", 1)


Bar = tuple[list[float], list[tuple[float, float]], str, str]


def _bar(spreads: Sequence[Spread], colour: str, name: str, times: float = 1.0) -> Bar:
    """Means, ranges, colour and name of a series of bars."""
    means = [times * spread.mean for spread in spreads]
    ranges = [(times * min(s.values), times * max(s.values)) for s in spreads]
    return means, ranges, colour, name


def _bars(
    names: Sequence[str], bars: Sequence[Bar], label: str, salt: str, line: float | None = None
) -> str:
    """Horizontal bars with whiskers from the least to the most, the first on top."""
    height = 0.8 / len(bars)

    def draw(axes: Axes) -> None:
        for place, (means, ranges, colour, name) in enumerate(bars):
            rows = [row + height * (place - (len(bars) - 1) / 2) for row in range(len(names))]
            axes.barh(rows, means, height=0.9 * height, color=colour, label=name or None)
            for row, (least, most) in zip(rows, ranges, strict=True):
                axes.plot([least, most], [row, row], color=INK, linewidth=0.8)
        if line is not None:
            axes.axvline(line, color=INK, linewidth=0.8, linestyle="--")
        axes.set_yticks(range(len(names)), [textwrap.fill(name, 22) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel(label)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")

    tall = 0.8 + len(names) * (0.16 + 0.1 * len(bars))
    return svg(draw, tall, salt, legend=len(bars) if len(bars) > 1 else 0)


def svg(draw: Callable[[Axes], None], height: float, salt: str, legend: int = 0) -> str:
    """Draw one plot on white."""
    with svg_style(salt):
        figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained", facecolor="white")
        axes = figure.subplots()
        draw(axes)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        if legend:
            figure.legend(loc="outside upper left", ncols=legend, handlelength=2.4)
        return svg_of(figure)


def svg_style(salt: str) -> AbstractContextManager[None]:
    """Draw as all plots of the pages are, with names of parts that depend on the salt alone."""
    return rc_context(STYLE | {"svg.hashsalt": salt})


def svg_of(figure: Figure) -> str:
    """Return a figure without a date, so that the same results give the same bytes."""
    target = io.StringIO()
    none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(target, format="svg", metadata=none)
    drawn = re.sub(r"\s*<metadata>.*?</metadata>", "", target.getvalue(), flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in drawn.splitlines()) + "\n"
