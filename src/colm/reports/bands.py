"""Curves of seeds together: their mean, in a band from the least of them to the most."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from colm.reports.arm import Arm
from colm.reports.comparison import Comparison
from colm.reports.curves import FEW_POINTS, draw_curve, plot_step_and_time, smooth, thin
from colm.reports.plots import Drawn, drawn_arms
from colm.reports.seeds import Way

Curve = tuple[Sequence[float], Sequence[float]]


class Band(NamedTuple):
    """What curves have together at each x: the least, the mean and the most."""

    xs: Sequence[float]
    least: Sequence[float]
    mean: Sequence[float]
    most: Sequence[float]


def band_of(curves: Sequence[Curve]) -> Band:
    """Return the band that curves lie in, where all of them are.

    Between two of its points a curve is taken to change evenly.

    Args:
        curves: x, growing, and y of each; points that are not finite are left out.

    Returns:
        As many points as the curves have different x; none without a curve, or where they have no
        x together.

    Example:
        >>> band_of([([0, 2, 4], [1.0, 3.0, 5.0]), ([1, 3], [4.0, 4.0])])
        Band(xs=[1.0, 2.0, 3.0], least=[2.0, 3.0, 4.0], mean=[3.0, 3.5, 4.0], most=[4.0, 4.0, 4.0])
    """
    points = [
        [(x, y) for x, y in zip(*each, strict=True) if math.isfinite(x + y)] for each in curves
    ]
    if not points or not all(points):
        return Band([], [], [], [])
    begin, end = max(each[0][0] for each in points), min(each[-1][0] for each in points)
    xs = sorted({float(x) for each in points for x, _ in each if begin <= x <= end})
    ys = np.array([np.interp(xs, [x for x, _ in each], [y for _, y in each]) for each in points])
    least, mean, most = (part.tolist() for part in (ys.min(0), ys.mean(0), ys.max(0)))
    return Band(xs, least, mean, most)


def plot_seeds(
    comparison: Comparison, told: Sequence[Way], log: Callable[[Arm], Curve | None], label: str
) -> str:
    """Return what was logged of each way, against the step and, where it is known, the time below.

    Args:
        comparison: Of the ways.
        told: Its ways.
        log: Returns the steps and the values of a run.
        label: What the values are called.

    Returns:
        An ``svg`` element.
    """
    shown = [replace(way.arms[0], name=way.name) for way in told]
    drawn = drawn_arms(replace(comparison, arms=shown))
    logged = [[(arm, curve) for arm in way.runs if (curve := log(arm))] for way in told]
    by_step = [band_of([curve for _, curve in each]) for each in logged]
    by_time = [
        band_of([(arm.seconds_at(list(map(int, xs))) or [], ys) for arm, (xs, ys) in each])
        if all(arm.seconds_at([]) is not None for arm, _ in each)
        else Band([], [], [], [])
        for each in logged
    ]
    longest = max((band.xs[-1] for band in by_time if band.xs), default=0.0)
    return plot_step_and_time(
        lambda axes: _draw(axes, drawn, by_step),
        lambda axes, unit: _draw(axes, drawn, by_time, unit),
        longest,
        label,
        f"seeds-{label}".replace(" ", "-").replace(",", ""),
    )


def _draw(axes: Axes, drawn: Sequence[Drawn], bands: Sequence[Band], unit: float = 1.0) -> None:
    """Each band with its mean in front of it."""
    for each, band in zip(drawn, bands, strict=True):
        if band.xs:
            scaled = [x / unit for x in band.xs]
            xs, least = thin(scaled, band.least)
            _, most = thin(scaled, band.most)
            axes.fill_between(xs, least, most, color=each.colour, alpha=0.2, linewidth=0)
            draw_curve(axes, each, scaled, band.mean, smoothed=False)


def smoothed_loss(arm: Arm) -> Curve | None:
    """Return a run's training losses, smoothed where they are many.

    Args:
        arm: Any.

    Returns:
        Steps and losses; ``None`` where none was logged.
    """
    steps, losses = arm.series("loss")
    return (steps, losses if len(steps) < FEW_POINTS else smooth(losses)) if steps else None
