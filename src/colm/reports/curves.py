"""Plots of what was logged on the way, against the step and, where it is known, the time."""

import math
from collections.abc import Callable, Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection

from colm.reports.arm import Arm
from colm.reports.comparison import Comparison
from colm.reports.plots import (
    INK,
    MOST_IN_A_PLOT,
    STEP,
    Drawn,
    add_legend,
    colour_and_dash,
    drawn_arms,
    finish_curves,
    make_figure,
    names_in_a_plot,
    style,
    svg_of,
)
from colm.reports.run_names import shorten

SMOOTHED_STEPS = 5
#: Long logs are smoothed over this part of them.
SMOOTHED_SHARE = 0.02
#: More points than this are drawn with nothing to see between them.
MOST_POINTS = 1000
#: Fewer points than this are marked and not smoothed.
FEW_POINTS = 20
#: Height of a panel alone, and of one of two.
PANEL_INCHES, HALF_PANEL_INCHES = 2.6, 2.1
#: More sources than these have no curve each.
MOST_SOURCES_IN_CURVES = 8
#: Columns of a map of sources over time.
MOST_PARTS = 30

Series = tuple[Drawn, Sequence[int], Sequence[float]]


def plot_training_loss(comparison: Comparison) -> str:
    """Return the loss of each arm on what it trained on, against the step and against the time.

    Args:
        comparison: Arms with ``loss`` in their logs.

    Returns:
        An ``svg`` element.
    """
    series = [(drawn, *drawn.arm.series("loss")) for drawn in drawn_arms(comparison)]
    return _step_and_time(series, "training loss", "training-loss", smoothed=True)


def plot_evaluations(comparison: Comparison, key: str, label: str) -> str:
    """Return losses of evaluations while training, against the step and against the time.

    Args:
        comparison: Arms of which some have ``key`` in their logs.
        key: For instance ``"eval_loss"``.
        label: What it is called.

    Returns:
        An ``svg`` element.
    """
    series = [
        (drawn, *drawn.arm.evaluations()[key])
        for drawn in drawn_arms(comparison)
        if key in drawn.arm.evaluations()
    ]
    return _step_and_time(series, label, f"evaluation-{key}".replace("_", "-"), smoothed=False)


def plot_source_losses(comparison: Comparison, place: int) -> str:
    """Return the training loss of each source of an arm, step by step.

    Args:
        comparison: Arms of which that one has ``colm/loss/<source>`` in its log.
        place: Of the arm in the comparison.

    Returns:
        An ``svg`` element.
    """
    arm = comparison.arms[place]
    sources = sources_with_curves(comparison, arm)
    names = names_in_a_plot(sources)
    with style():
        figure, (axes,) = make_figure(PANEL_INCHES)
        for number, (source, name) in enumerate(zip(sources, names, strict=True)):
            drawn = Drawn(arm, name, *colour_and_dash(number))
            draw_curve(axes, drawn, *arm.series(f"colm/loss/{source}"), smoothed=True)
        finish_curves(axes, STEP, "training loss")
        add_legend(figure, axes)
        return svg_of(figure, f"source-losses-{place}")


def sources_with_curves(comparison: Comparison, arm: Arm) -> list[str]:
    """Return the sources whose training losses are drawn.

    Args:
        comparison: Whose order of sources is kept.
        arm: Of it.

    Returns:
        All that the arm logged losses of, or of many those whose losses are highest at the end.
    """
    tails = {source: arm.tail(f"colm/loss/{source}") for source in comparison.sources()}
    known = {source: loss for source, loss in tails.items() if loss is not None}
    highest = sorted(known, key=lambda source: -known[source])[:MOST_SOURCES_IN_CURVES]
    return [source for source in known if source in highest]


def plot_small_share(comparison: Comparison) -> str:
    """Return the share of small sources in what was drawn and in what was kept, step by step.

    Args:
        comparison: Arms of which some have ``colm/kept/<source>`` in their logs.

    Returns:
        An ``svg`` element.
    """
    small = comparison.small_sources
    arms = [drawn for drawn in drawn_arms(comparison) if drawn.arm.series("colm/kept")[0]]
    lines = [
        (name, colour, 1.8, dash, arm.share_from(small), arm.series("colm/kept")[0])
        for arm, name, colour, dash in arms
    ]
    first = arms[0].arm
    drawn = first.share_from(small, "colm/candidates")
    lines.append(("candidates", INK, 1.0, "--", drawn, first.series("colm/candidates")[0]))
    with style():
        figure, (axes,) = make_figure(PANEL_INCHES)
        for name, colour, width, dash, shares, steps in lines:
            values = smooth([100 * share for share in shares])
            axes.plot(
                *thin(steps, values), color=colour, linewidth=width, linestyle=dash, label=name
            )
        finish_curves(axes, STEP, "from small sources, %", from_zero=True)
        add_legend(figure, axes)
        return svg_of(figure, "small-share")


def plot_error(comparison: Comparison, key: str, label: str) -> str:
    """Return how far kept examples are from all candidates, in what a random choice gives.

    Args:
        comparison: At least one arm with ``key`` in its log.
        key: ``"colm/matching_error"`` or ``"colm/match_error"``.
        label: What it is called.

    Returns:
        An ``svg`` element.
    """
    with style():
        figure, (axes,) = make_figure(PANEL_INCHES)
        for drawn in drawn_arms(comparison):
            steps, errors = drawn.arm.series(key)
            if steps:
                draw_curve(axes, drawn, steps, errors, smoothed=True)
        axes.axhline(1, color=INK, linewidth=1, linestyle="--", label="a random choice")
        finish_curves(axes, STEP, label, from_zero=True)
        add_legend(figure, axes)
        return svg_of(figure, key.removeprefix("colm/").replace("_", "-"))


def plot_sources_kept(comparison: Comparison, place: int) -> str:
    """Return a map of what was kept of each source from the beginning of a run to its end.

    Args:
        comparison: Arms of which that one has ``colm/kept/<source>`` in its log.
        place: Of the arm in the comparison.

    Returns:
        An ``svg`` element.
    """
    arm, _, colour, _ = drawn_arms(comparison)[place]
    sources, means = comparison.sources(), arm.share_kept()
    steps = arm.series("colm/kept")[0]
    with style():
        figure, (axes,) = make_figure(0.6 + 0.19 * len(sources))
        cells, colours = [], []
        for row, source in enumerate(sources):
            shares = arm.share_kept_over_time(source, MOST_PARTS)
            for column, share in enumerate(shares):
                left, right = (steps[-1] * end / len(shares) for end in (column, column + 1))
                if not math.isnan(share):
                    top, bottom = row - 0.45, row + 0.45
                    cells.append([(left, top), (right, top), (right, bottom), (left, bottom)])
                    colours.append((*_rgb(colour), 0.1 + 0.9 * min(1.0, max(0.0, share))))
        axes.add_collection(PolyCollection(cells, facecolors=colours, linewidths=0))
        axes.set_yticks(range(len(sources)), [shorten(s, MOST_IN_A_PLOT) for s in sources])
        axes.set_ylim(len(sources) - 0.5, -0.5)
        axes.set_xlim(0, max(1, steps[-1]))
        axes.set_xlabel(STEP)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        right_axis = axes.secondary_yaxis("right")
        right_axis.set_yticks(
            range(len(sources)), [f"{100 * means[s]:.0f} %" if s in means else "" for s in sources]
        )
        right_axis.tick_params(length=0)
        right_axis.spines["right"].set_visible(False)
        return svg_of(figure, f"sources-kept-{place}")


def smooth(values: Sequence[float]) -> list[float]:
    """Return the mean of each value and those before it, over a handful of them.

    Args:
        values: One each step; what is not finite is left out of means.

    Returns:
        As many; NaN where nothing in reach is finite.

    Example:
        >>> smooth([1.0, 3.0, float("nan"), 5.0])
        [1.0, 2.0, 2.0, 3.0]
    """
    reach = max(SMOOTHED_STEPS, round(SMOOTHED_SHARE * len(values)))
    means, known, total = [], 0, 0.0
    finite = [value if math.isfinite(value) else None for value in values]
    for end, value in enumerate(finite):
        gone = finite[end - reach] if end >= reach else None
        known += (value is not None) - (gone is not None)
        total += (value or 0.0) - (gone or 0.0)
        means.append(total / known if known else math.nan)
    return means


def thin(xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return points of a line, evenly left out where there are too many to be seen.

    Args:
        xs: Of the points.
        ys: Likewise.

    Returns:
        At most ``MOST_POINTS`` and the last.
    """
    stride = max(1, -(-len(xs) // MOST_POINTS))
    chosen = [*range(0, len(xs), stride)]
    if chosen and chosen[-1] != len(xs) - 1:
        chosen.append(len(xs) - 1)
    return [xs[i] for i in chosen], [ys[i] for i in chosen]


def unit_of_time(seconds: float) -> tuple[str, float]:
    """Return the unit in which people say a duration.

    Args:
        seconds: The longest that is shown.

    Returns:
        Its name, and seconds in it.

    Example:
        >>> unit_of_time(90), unit_of_time(1500), unit_of_time(20_000)
        (('s', 1.0), ('min', 60.0), ('h', 3600.0))
    """
    if seconds < 180:
        return "s", 1.0
    return ("min", 60.0) if seconds < 3 * 3600 else ("h", 3600.0)


def _step_and_time(series: Sequence[Series], label: str, name: str, smoothed: bool) -> str:
    """Curves against the step and, for the arms that logged it, against the time below."""
    timed = [(drawn, drawn.arm.seconds_at(steps), ys) for drawn, steps, ys in series]
    timed_known = [(drawn, xs, ys) for drawn, xs, ys in timed if xs]
    longest = max(_finite(x for _, xs, _ in timed_known for x in xs), default=0.0)

    def against_step(axes: Axes) -> None:
        for drawn, steps, ys in series:
            draw_curve(axes, drawn, steps, ys, smoothed)

    def against_time(axes: Axes, unit: float) -> None:
        for drawn, xs, ys in timed_known:
            draw_curve(axes, drawn, [x / unit for x in xs], ys, smoothed)

    return plot_step_and_time(against_step, against_time, longest, label, name)


def plot_step_and_time(
    against_step: Callable[[Axes], None],
    against_time: Callable[[Axes, float], None],
    longest: float,
    label: str,
    name: str,
) -> str:
    """Return a panel against the step and, where times are known, one against the time below.

    Args:
        against_step: Draws on the axes of the first.
        against_time: Draws on those of the second, in units of so many seconds.
        longest: The most seconds; 0 where no time is known.
        label: What is drawn.
        name: By which parts of the plot are told from those of another.

    Returns:
        An ``svg`` element.
    """
    panels = 2 if longest > 0 else 1
    with style():
        figure, axes = make_figure(PANEL_INCHES if panels == 1 else 2 * HALF_PANEL_INCHES, panels)
        against_step(axes[0])
        finish_curves(axes[0], STEP, label)
        if panels == 2:
            unit, length = unit_of_time(longest)
            against_time(axes[1], length)
            finish_curves(axes[1], f"time of selecting and training, {unit}", label)
        add_legend(figure, axes[0])
        return svg_of(figure, name)


def draw_curve(
    axes: Axes, drawn: Drawn, xs: Sequence[float], ys: Sequence[float], smoothed: bool
) -> None:
    """Draw one arm's curve: as logged and thin, its moving mean in front of it.

    Args:
        axes: To draw on.
        drawn: The arm.
        xs: Of its points.
        ys: Likewise; what is not finite is left out.
        smoothed: Whether many points get a moving mean.
    """
    finite = [y if math.isfinite(y) else math.nan for y in ys]
    few = len(xs) < FEW_POINTS
    if smoothed and not few:
        axes.plot(*thin(xs, finite), color=drawn.colour, alpha=0.3, linewidth=0.8)
    means = smooth(finite) if smoothed and not few else finite
    (line,) = axes.plot(*thin(xs, means), color=drawn.colour, linewidth=1.8, label=drawn.name)
    line.set(linestyle=drawn.dash)
    if few:
        # Not markers, which SVG would have once and refer to.
        dots = [[(x, y), (x, y)] for x, y in zip(xs, finite, strict=True) if math.isfinite(x + y)]
        axes.add_collection(
            LineCollection(dots, colors=drawn.colour, linewidths=4.5, capstyle="round")
        )


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
