"""Plots as SVG text to be put into a page, which lends them its own colours and type.

Drawn at the width of a telephone, so that they are readable there and larger elsewhere. No window
system and no global state of matplotlib is involved.
"""

import io
import re
from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from colm.reports.comparison import Arm, Comparison

WIDTH_INCHES = 5.0
SMOOTHED_STEPS = 5

#: Colours as drawn, and the page's variable that each becomes. Okabe and Ito's palette can be told
#: apart by colour-blind readers.
INK, GRID = "#102030", "#d0d4d9"
ARM_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
BEFORE_COLOUR = "#8a8f98"
_VARIABLES = {
    INK: "var(--ink)",
    GRID: "var(--grid)",
    BEFORE_COLOUR: "var(--before)",
    **{colour: f"var(--arm-{place})" for place, colour in enumerate(ARM_COLOURS)},
}
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def plot_training_loss(comparison: Comparison) -> str:
    """Return the loss of each arm on what it trained on, against the step.

    Args:
        comparison: Arms with ``loss`` in their logs.

    Returns:
        An ``svg`` element.
    """
    with rc_context(_STYLE):
        figure, axes = _figure(2.7)
        for arm, colour in _coloured(comparison):
            steps, losses = arm.series("loss")
            axes.plot(steps, losses, color=colour, alpha=0.3, linewidth=0.8)
            axes.plot(steps, _smooth(losses), color=colour, linewidth=1.8, label=arm.name)
        _finish_steps(axes, "training loss", from_zero=False)
        return _svg(figure, "training-loss")


def plot_small_share(comparison: Comparison) -> str:
    """Return the share of small sources in what was drawn and in what was kept, step by step.

    Args:
        comparison: Arms with ``colm/kept/<source>`` in their logs.

    Returns:
        An ``svg`` element.
    """
    small = comparison.small_sources
    lines = [
        (arm.name, colour, 1.8, "-", arm.share_from(small), arm.series("colm/kept")[0])
        for arm, colour in _coloured(comparison)
    ]
    first = comparison.arms[0]
    drawn = first.share_from(small, "colm/candidates")
    lines.append(("candidates", INK, 1.0, "--", drawn, first.series("colm/candidates")[0]))
    with rc_context(_STYLE):
        figure, axes = _figure(2.7)
        for name, colour, width, dashes, shares, steps in lines:
            values = _smooth(_percentages(shares))
            axes.plot(steps, values, color=colour, linewidth=width, linestyle=dashes, label=name)
        _finish_steps(axes, "from small sources, %")
        return _svg(figure, "small-share")


def plot_matching_error(comparison: Comparison) -> str:
    """Return how far the kept examples' mean feature is from that of the candidates, step by step.

    The unit is what a random choice gives on average.

    Args:
        comparison: At least one arm with ``colm/matching_error`` in its log.

    Returns:
        An ``svg`` element.
    """
    with rc_context(_STYLE):
        figure, axes = _figure(2.7)
        for arm, colour in _coloured(comparison):
            steps, errors = arm.series("colm/matching_error")
            if steps:
                axes.plot(steps, errors, color=colour, alpha=0.3, linewidth=0.8)
                axes.plot(steps, _smooth(errors), color=colour, linewidth=1.8, label=arm.name)
        axes.axhline(1, color=INK, linewidth=1, linestyle="--", label="a random choice")
        _finish_steps(axes, "matching error")
        return _svg(figure, "matching-error")


def plot_step_seconds(comparison: Comparison) -> str:
    """Return the mean seconds of a step, split into selecting and training.

    Args:
        comparison: Arms with ``colm/training_seconds`` in their logs.

    Returns:
        An ``svg`` element.
    """
    arms = comparison.arms
    with rc_context(_STYLE):
        figure, axes = _figure(0.9 + 0.42 * len(arms))
        for place, (arm, colour) in enumerate(_coloured(comparison)):
            select, train = (seconds or 0.0 for seconds in arm.step_seconds())
            axes.barh(place, train, color=colour, height=0.55)
            axes.barh(place, select, left=train, color=colour, height=0.55, alpha=0.4)
            axes.text(select + train, place, f" {select + train:.2f} s", va="center")
        axes.set_yticks(range(len(arms)), [arm.name for arm in arms])
        axes.set_xlabel("seconds a step: training (dark), selecting (light)")
        axes.margins(x=0.15)
        _finish_bars(axes)
        return _svg(figure, "step-seconds")


def plot_held_out(comparison: Comparison) -> str:
    """Return the held-out loss of each arm, source by source.

    Args:
        comparison: Arms with their scores.

    Returns:
        An ``svg`` element.
    """
    bars = [
        (arm.name, colour, [arm.scores.loss_by_source.get(s, 0.0) for s in comparison.sources()])
        for arm, colour in _coloured(comparison)
    ]
    return _source_bars(comparison, bars, "held-out loss", "held-out")


def plot_answers(comparison: Comparison) -> str:
    """Return the score of each arm's answers, source by source, and of the untouched model's.

    Args:
        comparison: Arms whose answers were scored.

    Returns:
        An ``svg`` element.
    """
    scored = [(a.name, colour, a.scores) for a, colour in _coloured(comparison)]
    bars = [
        (name, colour, [100 * scores.answers_by_source.get(s, 0.0) for s in comparison.sources()])
        for name, colour, scores in [*scored, ("untouched", BEFORE_COLOUR, comparison.before)]
    ]
    return _source_bars(comparison, bars, "accuracy, %", "answers")


def plot_share_kept(comparison: Comparison) -> str:
    """Return the share of each source's candidates that each arm trained on.

    Args:
        comparison: Arms with ``colm/kept/<source>`` in their logs.

    Returns:
        An ``svg`` element.
    """
    bars = [
        (
            arm.name,
            colour,
            _percentages([arm.share_kept().get(s, 0.0) for s in comparison.sources()]),
        )
        for arm, colour in _coloured(comparison)
    ]
    return _source_bars(comparison, bars, "of its candidates kept, %", "share-kept")


def _source_bars(
    comparison: Comparison,
    bars: Sequence[tuple[str, str, Sequence[float]]],
    label: str,
    name: str,
) -> str:
    """Grouped horizontal bars, the largest source on top and a line above the small ones."""
    sources = comparison.sources()
    height = 0.8 / len(bars)
    with rc_context(_STYLE):
        figure, axes = _figure(0.9 + len(sources) * (0.12 + 0.11 * len(bars)))
        for place, (arm, colour, values) in enumerate(bars):
            rows = [row + height * (place - (len(bars) - 1) / 2) for row in range(len(sources))]
            axes.barh(rows, values, height=height * 0.9, color=colour, label=arm)
        axes.set_yticks(range(len(sources)), sources)
        large = len(sources) - len(comparison.small_sources)
        if 0 < large < len(sources):
            axes.axhline(large - 0.5, color=INK, linewidth=0.6, linestyle=(0, (4, 3)))
        axes.set_xlabel(label)
        axes.set_ylim(len(sources) - 0.4, -0.6)
        _finish_bars(axes)
        _legend(axes)
        return _svg(figure, name)


def _coloured(comparison: Comparison) -> list[tuple[Arm, str]]:
    """Each arm with its colour; more arms than colours share them."""
    return [
        (arm, ARM_COLOURS[place % len(ARM_COLOURS)]) for place, arm in enumerate(comparison.arms)
    ]


def _figure(height_inches: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    return figure, figure.subplots()


def _finish_steps(axes: Axes, label: str, from_zero: bool = True) -> None:
    """Axes of a plot against the step."""
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    if from_zero:
        axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.grid(axis="y")
    axes.tick_params(length=0)
    _legend(axes)


def _finish_bars(axes: Axes) -> None:
    """Axes of a plot of horizontal bars."""
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    if not axes.yaxis_inverted():
        axes.invert_yaxis()


def _legend(axes: Axes) -> None:
    """Names above the plot, from the very left."""
    axes.figure.legend(
        loc="outside upper left",
        ncols=len(axes.get_legend_handles_labels()[0]),
        handlelength=1.2,
        columnspacing=1.2,
    )


def _smooth(values: Sequence[float]) -> list[float]:
    """Mean of each value and those before it, over a handful of steps."""
    windows = [values[max(0, end - SMOOTHED_STEPS) : end] for end in range(1, len(values) + 1)]
    return [sum(window) / len(window) for window in windows]


def _percentages(shares: Sequence[float]) -> list[float]:
    return [100 * share for share in shares]


def _svg(figure: Figure, name: str) -> str:
    """The figure as an ``svg`` element in the page's colours and type, the same at every run."""
    target = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(
            target,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    svg = target.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"(font: [^'\";]*?px) [^\";]*", r"\1 inherit", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg
