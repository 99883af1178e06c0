"""Plots of horizontal bars: what each model came to, source by source, and what a step costs."""

import math
from collections.abc import Mapping, Sequence

from colm.reports.comparison import Comparison
from colm.reports.plots import (
    BEFORE_COLOUR,
    INK,
    MOST_IN_A_PLOT,
    add_legend,
    drawn_arms,
    finish_bars,
    make_figure,
    name_bars,
    style,
    svg_of,
)
from colm.reports.run_names import shorten

Bars = tuple[str, str, Sequence[float]]


def plot_held_out(comparison: Comparison) -> str:
    """Return the held-out loss of each arm, source by source.

    Args:
        comparison: Arms of which some have scores.

    Returns:
        An ``svg`` element.
    """
    sources = comparison.held_out_sources()
    bars = [
        (name, colour, _of_sources(sources, arm.scores.loss_by_source))
        for arm, name, colour, _ in drawn_arms(comparison)
        if arm.scores
    ]
    return _source_bars(comparison, sources, bars, "held-out loss", "held-out")


def plot_answers(comparison: Comparison) -> str:
    """Return the score of each arm's answers, source by source, and of the untouched model's.

    Args:
        comparison: Arms whose answers were scored.

    Returns:
        An ``svg`` element.
    """
    sources = comparison.sources()
    scored = [(name, colour, arm.scores) for arm, name, colour, _ in drawn_arms(comparison)]
    bars = [
        (name, colour, _of_sources(sources, scores.answers_by_source, 100))
        for name, colour, scores in [*scored, ("untouched", BEFORE_COLOUR, comparison.before)]
        if scores and scores.answers_by_source
    ]
    return _source_bars(comparison, sources, bars, "accuracy, %", "answers")


def plot_draws(comparison: Comparison) -> str:
    """Return the share that each source has of what each arm drew, and of the data.

    Args:
        comparison: Arms of which some have ``colm/candidates/<source>`` in their logs.

    Returns:
        An ``svg`` element.
    """
    sources, sizes = comparison.sources(), comparison.source_sizes
    shares = [
        (name, colour, arm.share_by_source("colm/candidates"))
        for arm, name, colour, _ in drawn_arms(comparison)
    ]
    if total := sum(sizes.values()):
        of_data = {source: size / total for source, size in sizes.items()}
        shares.append(("the data", BEFORE_COLOUR, of_data))
    bars = [
        (name, colour, _of_sources(sources, share, 100)) for name, colour, share in shares if share
    ]
    return _source_bars(comparison, sources, bars, "of what was drawn, %", "draws")


def plot_share_kept(comparison: Comparison) -> str:
    """Return the share of each source's candidates that each arm trained on.

    Args:
        comparison: Arms of which some have ``colm/kept/<source>`` in their logs.

    Returns:
        An ``svg`` element.
    """
    sources = comparison.sources()
    bars = [
        (name, colour, _of_sources(sources, arm.share_kept(), 100))
        for arm, name, colour, _ in drawn_arms(comparison)
        if arm.series("colm/kept")[0]
    ]
    return _source_bars(comparison, sources, bars, "of its candidates kept, %", "share-kept")


def plot_step_seconds(comparison: Comparison) -> str:
    """Return the mean seconds of a step, split into selecting and training.

    Args:
        comparison: Arms of which some have ``colm/training_seconds`` in their logs.

    Returns:
        An ``svg`` element.
    """
    timed = [drawn for drawn in drawn_arms(comparison) if drawn.arm.whole_step_seconds()]
    with style():
        figure, (axes,) = make_figure(0.7 + 0.32 * len(timed))
        for place, (arm, _, colour, _) in enumerate(timed):
            select, train = (seconds or 0.0 for seconds in arm.step_seconds())
            axes.barh(place, train, color=colour, height=0.6)
            axes.barh(place, select, left=train, color=colour, height=0.6, alpha=0.4)
        ends = [drawn.arm.whole_step_seconds() or 0.0 for drawn in timed]
        name_bars(axes, [drawn.name for drawn in timed], ends, "s")
        axes.set_xlabel("seconds a step: training (dark), selecting (light)")
        finish_bars(axes)
        return svg_of(figure, "step-seconds")


def plot_memory(comparison: Comparison) -> str:
    """Return the most memory that training took.

    Args:
        comparison: Arms of which some logged memory.

    Returns:
        An ``svg`` element.
    """
    found = [(d.name, d.colour, d.arm.peak_bytes()) for d in drawn_arms(comparison)]
    measured = [(name, colour, peak[1] / 1e9) for name, colour, peak in found if peak]
    with style():
        figure, (axes,) = make_figure(0.7 + 0.32 * len(measured))
        for place, (_, colour, gigabytes) in enumerate(measured):
            axes.barh(place, gigabytes, color=colour, height=0.6)
        ends = [gigabytes for _, _, gigabytes in measured]
        name_bars(axes, [name for name, _, _ in measured], ends, "GB")
        axes.set_xlabel("added by training at its peak, GB")
        finish_bars(axes)
        return svg_of(figure, "memory")


def rows_above_small(comparison: Comparison, sources: Sequence[str]) -> int:
    """Return how many sources stand above the small ones.

    Args:
        comparison: That knows which are small.
        sources: As they are shown, from the top.

    Returns:
        0 where small sources are not all of those at the bottom, or none is above them.
    """
    small = set(comparison.small_sources)
    first = next((row for row, source in enumerate(sources) if source in small), 0)
    return first if small.issuperset(sources[first:]) else 0


def _of_sources(
    sources: Sequence[str], values: Mapping[str, float], unit: float = 1.0
) -> list[float]:
    """A value for each source, 0 where there is none that a bar can be as long as."""
    found = [unit * values.get(source, 0.0) for source in sources]
    return [value if math.isfinite(value) else 0.0 for value in found]


def _source_bars(
    comparison: Comparison, sources: Sequence[str], bars: Sequence[Bars], label: str, name: str
) -> str:
    """Grouped horizontal bars, the largest source on top and a line above the small ones."""
    height = 0.8 / len(bars)
    with style():
        figure, (axes,) = make_figure(0.9 + len(sources) * (0.12 + 0.11 * len(bars)))
        for place, (arm, colour, values) in enumerate(bars):
            rows = [row + height * (place - (len(bars) - 1) / 2) for row in range(len(sources))]
            axes.barh(rows, values, height=height * 0.9, color=colour, label=arm)
        shown = [shorten(source, MOST_IN_A_PLOT) for source in sources]
        axes.set_yticks(range(len(sources)), shown)
        if large := rows_above_small(comparison, sources):
            axes.axhline(large - 0.5, color=INK, linewidth=0.6, linestyle=(0, (4, 3)))
        axes.set_xlabel(label)
        axes.set_ylim(len(sources) - 0.4, -0.6)
        finish_bars(axes)
        add_legend(figure, axes)
        return svg_of(figure, name)
