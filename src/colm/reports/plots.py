"""What every plot is drawn on: SVG text to be put into a page, which lends it its colours and type.

Drawn at the width of a telephone, so that they are readable there and larger elsewhere. No window
system and no global state of matplotlib is involved.
"""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from colm.reports.arm import Arm
from colm.reports.comparison import Comparison
from colm.reports.run_names import short_names

WIDTH_INCHES = 5.0
LEGEND_ROW_INCHES = 0.19
#: From here on the length of a bar is written with its power of ten.
LARGE = 1e6
#: Below this its length is written with as many decimals as tell two digits.
SMALL = 0.1
#: What matplotlib draws SVG with, whatever a figure was made for.
SVG_DPI = 72
#: What x is where it is no time.
STEP = "step"
#: Of the names in a plot; tables have them whole.
MOST_IN_A_PLOT = 26
#: What fits beside each other in a legend, and what an entry takes beyond its name.
_LEGEND_CHARACTERS, _ENTRY_CHARACTERS = 72, 7

#: Colours as drawn, and the page's variable that each becomes. Okabe and Ito's palette can be told
#: apart by colour-blind readers.
INK, GRID = "#102030", "#d0d4d9"
ARM_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
BEFORE_COLOUR = "#8a8f98"
#: More arms than colours are told apart by these.
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)))
_VARIABLES = {
    INK: "var(--ink)",
    GRID: "var(--grid)",
    BEFORE_COLOUR: "var(--before)",
    **{colour: f"var(--arm-{place})" for place, colour in enumerate(ARM_COLOURS)},
}
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.parse_math": False,
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


class Drawn(NamedTuple):
    """An arm as plots show it."""

    arm: Arm
    name: str
    colour: str
    dash: str | tuple[float, Sequence[float]]


def drawn_arms(comparison: Comparison) -> list[Drawn]:
    """Return each arm with its short name, colour and dash.

    Args:
        comparison: Arms.

    Returns:
        One each, in their order.
    """
    names = names_in_a_plot([arm.name for arm in comparison.arms])
    return [
        Drawn(arm, name, *colour_and_dash(place))
        for place, (arm, name) in enumerate(zip(comparison.arms, names, strict=True))
    ]


def names_in_a_plot(names: Sequence[str]) -> list[str]:
    """Return names as a legend takes them.

    Args:
        names: All that must be told apart.

    Returns:
        One each, in their order.
    """
    # An artist whose name begins with an underscore has no place in matplotlib's legends.
    short = short_names(names, MOST_IN_A_PLOT)
    return [f" {name}" if name.startswith("_") else name for name in short]


def colour_and_dash(place: int) -> tuple[str, str | tuple[float, Sequence[float]]]:
    """Return what tells a curve from others.

    Args:
        place: Of the curve among them.

    Returns:
        Its colour, and its dashes as matplotlib takes them.
    """
    dash = DASHES[place // len(ARM_COLOURS) % len(DASHES)]
    return ARM_COLOURS[place % len(ARM_COLOURS)], dash


@contextmanager
def style() -> Iterator[None]:
    """Draw as all plots are, whatever characters names have.

    Yields:
        Nothing.
    """
    with rc_context(_STYLE), warnings.catch_warnings():
        # The text stays text, and the reader's browser has a font for it.
        warnings.filterwarnings("ignore", ".*[Gg]lyph.*")
        yield


def make_figure(height_inches: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure as wide as all, with panels below each other.

    Args:
        height_inches: Of the whole figure.
        panels: How many.

    Returns:
        The figure and its panels from top to bottom.
    """
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), dpi=SVG_DPI, layout="constrained")
    return figure, list(figure.subplots(panels, squeeze=False)[:, 0])


def finish_curves(axes: Axes, across: str, label: str, from_zero: bool = False) -> None:
    """Give a panel of curves its labels and grid.

    Args:
        axes: The panel.
        across: Label of x.
        label: Label of y.
        from_zero: Whether y begins at 0.
    """
    axes.set_xlabel(across)
    axes.set_ylabel(label)
    if from_zero:
        axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=across == STEP))
    axes.grid(axis="y")
    axes.tick_params(length=0)


def finish_bars(axes: Axes) -> None:
    """Give a panel of horizontal bars its grid, the first bar on top.

    Args:
        axes: The panel.
    """
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    if not axes.yaxis_inverted():
        axes.invert_yaxis()


def name_bars(axes: Axes, names: Sequence[str], ends: Sequence[float], unit: str) -> None:
    """Write the name before each bar of a panel and its value behind it.

    Args:
        axes: The panel.
        names: Of the bars.
        ends: Where they end.
        unit: Of the ends, for instance ``"s"``.
    """
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.margins(x=0.18)
    for place, end in enumerate(ends):
        digits = ".2g" if end < SMALL else ".2f" if end < LARGE else ".3g"
        text = f"{end:{digits}} {unit}"
        axes.annotate(text, (end, place), (4, 0), textcoords="offset points", va="center")


def add_legend(figure: Figure, axes: Axes) -> None:
    """Put names above the plots, from the very left, as many beside each other as fit.

    Args:
        figure: Grows with the rows of names.
        axes: A panel whose artists have labels.
    """
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    taken = [len(label) + _ENTRY_CHARACTERS for label in labels]
    fits = sum(taken) <= _LEGEND_CHARACTERS
    columns = len(labels) if fits else max(1, _LEGEND_CHARACTERS // max(taken))
    rows = -(-len(labels) // columns)
    figure.set_figheight(figure.get_figheight() + (rows - 1) * LEGEND_ROW_INCHES)
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=columns,
        handlelength=2.0 if len(labels) > len(ARM_COLOURS) else 1.2,
        columnspacing=1.2,
    )


def svg_of(figure: Figure, name: str) -> str:
    """Return a figure in the page's colours and type, the same at every run.

    Args:
        figure: What was drawn.
        name: Unlike that of every other plot of the page.

    Returns:
        An ``svg`` element.
    """
    target = io.StringIO()
    # Ticks depend on the room they have, which depends on the ticks: twice, and both are settled.
    if layout := figure.get_layout_engine():
        layout.execute(figure)
        layout.execute(figure)
    figure.set_layout_engine("none")
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
    # matplotlib numbers its groups anew in each figure, and an id may be in a page but once.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg
