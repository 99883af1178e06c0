"""The picture of the front page: held-out loss in the same time, a panel for each kind of data.

A dot is a seed, so that whoever looks sees whether two ways differ by more than chance.
"""

import textwrap
from collections.abc import Sequence

from matplotlib.figure import Figure

from benchmarks.page.equal_time import ADAPTIVE, CONTROL, EVEN, LARGER, EqualTime
from benchmarks.page.result_files import GENERATED, Mixture
from benchmarks.page.result_plots import svg_of, svg_style
from colm.reports.plots import ARM_COLOURS, INK

#: What is shown of a mixture, from the top, under names that need no explanation.
NAMES = {
    CONTROL: "plain: as the data has them",
    LARGER: "plain, twice as many a step",
    "small sources, random": "small sources whole, a random rest",
    "CoLM, exact gradients": "CoLM: small sources, coresets",
    EVEN: "even draws",
    ADAPTIVE: "adaptive draws",
}
COLOURS = {"CoLM, exact gradients": ARM_COLOURS[1], EVEN: ARM_COLOURS[0], ADAPTIVE: ARM_COLOURS[2]}
TITLE_WIDTH = 19
PANEL_INCHES, SIDE_INCHES, HEIGHT_INCHES = 1.75, 2.0, 2.3


def shown_mixtures(mixtures: Sequence[Mixture]) -> list[Mixture]:
    """Return the small model's runs on the generated mixture, in the order of their names."""
    of = {mixture.label: mixture for mixture in mixtures}
    return [of[label] for label in GENERATED if label in of]


def plot_same_time(mixtures: Sequence[Mixture]) -> str:
    """Return the panels of these mixtures side by side, as SVG."""
    arms = [arm for arm in NAMES if any(arm in mixture.runs for mixture in mixtures)]
    size = (SIDE_INCHES + PANEL_INCHES * len(mixtures), HEIGHT_INCHES)
    with svg_style("same-time"):
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        panels = figure.subplots(1, len(mixtures), sharey=True, squeeze=False)[0]
        for axes, mixture in zip(panels, mixtures, strict=True):
            equal = EqualTime.of(mixture)
            for row, arm in enumerate(arms):
                losses = list(equal.losses(arm).values())
                colour = COLOURS.get(arm, INK)
                axes.scatter(
                    losses, [row] * len(losses), s=16, color=colour, alpha=0.8, linewidth=0
                )
            if CONTROL in mixture.runs:
                axes.axvline(equal.mean(CONTROL), color=INK, linewidth=0.8, linestyle=":")
            axes.set_title(textwrap.fill(GENERATED[mixture.label], TITLE_WIDTH), fontsize=9)
            axes.set_yticks(range(len(arms)), [NAMES[arm] for arm in arms])
            axes.set_ylim(len(arms) - 0.5, -0.5)
            axes.tick_params(length=0)
            axes.spines["left"].set_visible(False)
            axes.margins(x=0.12)
            axes.grid(axis="both")
            axes.set_axisbelow(True)
        figure.supxlabel(
            "held-out loss averaged over sources, in the same time: left is better", fontsize=9
        )
        return svg_of(figure)
