"""One page that tells how a comparison went: no script, no network, nothing outside the file."""

import html
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from colm.reports import plots
from colm.reports.comparison import Arm, Comparison
from colm.reports.tables import loss_table, source_table, summary_table

#: Losses closer than this share of each other are called level.
LEVEL = 0.005


class Plot(NamedTuple):
    """A plot of the page: what draws it, what is said of it, and whether there is anything to."""

    draw: Callable[[Comparison], str]
    title: str
    caption: str
    has_data: Callable[[Comparison], bool]


def _has_logged(key: str) -> Callable[[Comparison], bool]:
    """Whether any arm logged something under a key."""
    return lambda comparison: any(arm.series(key)[0] for arm in comparison.arms)


#: In the order of the page, which balances its two columns.
PLOTS = (
    Plot(
        plots.plot_held_out,
        "Held-out loss by source",
        "Lower is better. The largest source comes first; those below the line are small.",
        lambda _: True,
    ),
    Plot(
        plots.plot_answers,
        "Accuracy by source",
        "What each source's own scorer says of the answers, partial credit included.",
        lambda comparison: bool(comparison.before.answers_by_source),
    ),
    Plot(
        plots.plot_small_share,
        "Small sources over time",
        "Share of small sources among the candidates and among what was kept; means of "
        f"{plots.SMOOTHED_STEPS} steps.",
        lambda comparison: bool(comparison.small_sources) and _has_logged("colm/kept")(comparison),
    ),
    Plot(
        plots.plot_share_kept,
        "Share of each source kept",
        "Of the candidates drawn from a source, the part that was trained on.",
        _has_logged("colm/kept"),
    ),
    Plot(
        plots.plot_training_loss,
        "Training loss",
        "Each arm on the examples it trained on, which differ: compare held-out losses instead. "
        f"Bold: mean of {plots.SMOOTHED_STEPS} steps.",
        _has_logged("loss"),
    ),
    Plot(
        plots.plot_matching_error,
        "Matching error",
        "How far the mean gradient feature of the examples chosen is from that of those they were "
        "chosen from. 1 is what a random choice gives on average.",
        _has_logged("colm/matching_error"),
    ),
    Plot(
        plots.plot_step_seconds,
        "Where the time of a step goes",
        "Mean wall-clock time of a step on this machine.",
        _has_logged("colm/training_seconds"),
    ),
)


def write_report(path: str | Path, comparison: Comparison) -> Path:
    """Write a comparison as one self-contained HTML page, and its data as JSON beside it.

    Args:
        path: The page's file; the JSON has the same name with another ending.
        comparison: What to report.

    Returns:
        The page's path.
    """
    path = Path(path)
    comparison.save(path.with_suffix(".json"))
    path.write_text(_page(comparison), "utf-8")
    return path


def headline(comparison: Comparison) -> str:
    """Return the outcome in one sentence, whichever way it went.

    Args:
        comparison: Its first arm is held against its second.

    Returns:
        A sentence without a full stop.
    """
    first, *others = comparison.arms
    after = f"after {_steps(first)} steps"
    if not others:
        return f"{first.name}: held-out loss {first.scores.macro:.3f} {after}"
    other = others[0]
    change = first.scores.macro / other.scores.macro - 1
    if abs(change) < LEVEL:
        return f"{first.name} and {other.name} are level in held-out loss {after}"
    way = f"{abs(change):.1%} {'lower' if change < 0 else 'higher'}"
    return f"{first.name} ends {way} in held-out loss than {other.name} {after}"


def _steps(arm: Arm) -> int:
    """How many optimiser steps an arm took."""
    return max(arm.series("loss")[0], default=0)


def _lead(comparison: Comparison) -> str:
    """What the headline's figure is made of, and what else must be known with it."""
    arms = comparison.arms
    macro, micro = (
        " and ".join(f"{getattr(arm.scores, name):.3f} with {arm.name}" for arm in arms)
        for name in ("macro", "micro")
    )
    times = [(arm.name, arm.whole_step_seconds()) for arm in arms]
    seconds = [f"{time:.1f} s with {name}" for name, time in times if time is not None]
    sentences = [
        f"Held-out loss, averaged over {len(comparison.before.loss_by_source)} sources, went from "
        f"{comparison.before.macro:.3f} to {macro}.",
        f"Averaged over the examples of the mixture, it went from {comparison.before.micro:.3f} to "
        f"{micro}.",
        f"A step took {' and '.join(seconds)}." if seconds else "",
    ]
    return " ".join(sentences).strip()


def _page(comparison: Comparison) -> str:
    """The whole document."""
    title = html.escape(headline(comparison))
    notes = "".join(f"<p class=soft>{html.escape(note)}</p>" for note in comparison.notes)
    style = Path(__file__).with_name("page.css").read_text("utf-8")
    figures = "\n".join(_figures(comparison))
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
<main>
<h1>{title}</h1>
<p class=lead>{html.escape(_lead(comparison))}</p>
{notes}
<div class="scroll summary">{summary_table(comparison).to_html()}</div>
<h2>Plots</h2>
<div class=plots>
{figures}
</div>
<h2>What was kept of each source</h2>
<div class=scroll>{source_table(comparison).to_html()}</div>
<h2>Each source in figures</h2>
<div class=scroll>{loss_table(comparison).to_html()}</div>
<h2>Settings</h2>
{_definitions(comparison.settings)}
<h2>Versions</h2>
{_definitions(comparison.versions)}
</main>
</html>
"""


def _figures(comparison: Comparison) -> Iterable[str]:
    """Every plot that there is data for, with its title above and its caption below."""
    for plot in PLOTS:
        if plot.has_data(comparison):
            svg = plot.draw(comparison)
            svg = svg.replace("<svg", f'<svg role="img" aria-label="{plot.title}"', 1)
            caption = f"<figcaption>{plot.caption}</figcaption>"
            yield f"<figure><h3>{plot.title}</h3>{svg}{caption}</figure>"


def _definitions(pairs: Mapping[str, str]) -> str:
    """Names and values as a list in columns."""
    rows = (
        f"<div><dt>{html.escape(str(name))}</dt><dd>{html.escape(str(value))}</dd></div>"
        for name, value in pairs.items()
    )
    return f"<dl>{''.join(rows)}</dl>"
