"""One page that tells how runs went: no script, no network, nothing outside the file."""

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from colm.durable import write_whole
from colm.reports.comparison import Comparison
from colm.reports.seeds import Way, have_seeds, seeds_table, ways
from colm.reports.source_tables import draw_table, kept_table, loss_table, training_table
from colm.reports.summaries import settings_table, summary_table
from colm.reports.tables import Table
from colm.reports.wording import headline, lead, remarks

if TYPE_CHECKING:
    from colm.reports.figures import Figure

#: By which a page is known as one of these, near its beginning.
MARK = '<meta name="generator" content="colm report">'
_MARKED_BYTES = 1000
SEEDS_TITLE = "Seeds together"
#: Longer tables may go on on the next sheet.
MOST_ROWS_TOGETHER = 24


def write_report(path: str | Path, comparison: Comparison) -> Path:
    """Write a comparison as one self-contained HTML page, and its data as JSON beside it.

    Args:
        path: The page's file; the JSON has the same name with another ending.
        comparison: What to report.

    Returns:
        The page's path.
    """
    path = write_page(path, comparison)
    comparison.save(path.with_suffix(".json"))
    return path


def write_page(path: str | Path, comparison: Comparison, index: str | None = None) -> Path:
    """Write a comparison as one self-contained HTML page.

    Args:
        path: The page's file.
        comparison: What to report.
        index: Address of a page of all runs, where this is of one of many.

    Returns:
        The same path.
    """
    path = Path(path)
    write_whole(path, _page(comparison, index).encode("utf-8"))
    return path


def is_report(path: str | Path) -> bool:
    """Return whether a file is a page that was written here.

    Args:
        path: Of any file.

    Returns:
        Whether it says so itself.
    """
    with Path(path).open("rb") as file:
        return MARK.encode() in file.read(_MARKED_BYTES)


def _page(comparison: Comparison, index: str | None = None) -> str:
    """The whole document of a comparison."""
    findings = comparison.findings
    sentences = " ".join(findings.sentences) if findings else lead(comparison)
    back = f'<p class=soft><a href="{html.escape(index)}">All runs</a></p>\n' if index else ""
    notes = show_notes([*comparison.notes, *remarks(comparison)])
    parts = [notes, _figures_of(comparison), "".join(_sections(comparison))]
    return document(headline(comparison), sentences, back + "\n".join(parts))


def document(title: str, lead_in: str, body: str) -> str:
    """Return a page.

    Args:
        title: Plain text.
        lead_in: Plain text below it; none where empty.
        body: HTML.

    Returns:
        HTML with its style.
    """
    title, lead_in = html.escape(title), html.escape(lead_in)
    style = Path(__file__).with_name("page.css").read_text("utf-8")
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{MARK}
<title>{title}</title>
<style>
{style}</style>
<main>
<h1>{title}</h1>
{f"<p class=lead>{lead_in}</p>" if lead_in else ""}
{body}
</main>
</html>
"""


def _figures_of(comparison: Comparison) -> str:
    """The tables that a reader looks at first."""
    if comparison.findings is None:
        told = ways(comparison.arms)
        each = _table(summary_table(comparison), "Comparison", "summary")
        if not have_seeds(told):
            return each
        return f"{show_seeds(told)}\n<h2>Each run</h2>\n{each}"
    return "".join(_section(title, each) for title, each in comparison.findings.tables.items())


def _sections(comparison: Comparison) -> Iterable[str]:
    """What follows the first table, as far as there is any of it."""
    # matplotlib takes a second to load, which tables on a terminal do without.
    from colm.reports.figures import make_figures

    yield show_figures(make_figures(comparison))
    arms = comparison.arms
    if len(comparison.sources()) > 1:
        has_draws = any(arm.by_source("colm/candidates") for arm in arms)
        title = "What was drawn of each source" if has_draws else "Sources of the data"
        yield _section(title, draw_table(comparison))
    if comparison.sources() and any(arm.series("colm/kept")[0] for arm in arms):
        yield _section("What was kept of each source", kept_table(comparison))
    if any(len(arm.by_source("colm/loss")) > 1 for arm in arms):
        yield _section("Training on each source", training_table(comparison))
    if comparison.held_out_sources() and any(arm.scores for arm in arms):
        yield _section("Held-out loss of each source", loss_table(comparison))
    yield show_settings(comparison)


def show_seeds(told: Sequence[Way]) -> str:
    """Return the table of seeds together, with its title."""
    table = _table(seeds_table(told), SEEDS_TITLE, "summary")
    return f"<h2>{SEEDS_TITLE}</h2>\n{table}"


def show_figures(figures: Sequence["Figure"]) -> str:
    """Return plots with their title; nothing without any."""
    shown = "\n".join(map(_figure, figures))
    return f"<h2>Plots</h2>\n<div class=plots>\n{shown}\n</div>\n" if figures else ""


def show_settings(comparison: Comparison) -> str:
    """Return what arms differ in, and what they share."""
    shown = ""
    if any(arm.settings for arm in comparison.arms):
        differ = "What the runs differ in"
        shown += f"<h2>{differ}</h2>\n{_table(settings_table(comparison), differ, 'words')}\n"
    for title, pairs in (("Settings", comparison.settings), ("Versions", comparison.versions)):
        if pairs:
            shown += f"<h2>{title}</h2>\n{_definitions(pairs)}\n"
    return shown


def _section(title: str, table: Table) -> str:
    return f"<h2>{title}</h2>\n{_table(table, title)}\n"


def _table(table: Table, title: str, kind: str = "") -> str:
    """A table as it fits the page."""
    return show_table(table.fitted(), title, kind)


def show_table(
    table: Table, title: str, kind: str = "", links: Mapping[str, str] | None = None
) -> str:
    """Return a table in a box that scrolls by itself, by keyboard as well.

    Args:
        table: As it is to be shown.
        title: What it is called where the page is read aloud.
        kind: A class of the page's style.
        links: Addresses of rows, by their names.
    """
    classes = ["scroll", kind] if kind and not (table.turned and kind == "summary") else ["scroll"]
    if max(len(table.rows), len(table.head) * table.turned) > MOST_ROWS_TOGETHER:
        classes.append("long")
    label = html.escape(title)
    box = f'<div class="{" ".join(classes)}" tabindex="0" role="region" aria-label="{label}">'
    return f"{box}{table.to_html(links)}</div>"


def show_notes(notes: Iterable[str]) -> str:
    """Return what a reader must know, a paragraph each."""
    return "".join(f"<p class=soft>{html.escape(note)}</p>" for note in notes)


def _figure(figure: "Figure") -> str:
    """A figure; the drawing is one image to who hears the page read."""
    title = html.escape(figure.title)
    label = html.escape(f"{figure.title}. {figure.alternative}")
    svg = figure.svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    caption = html.escape(figure.caption)
    return f"<figure><h3>{title}</h3>{svg}<figcaption>{caption}</figcaption></figure>"


def _definitions(pairs: Mapping[str, str]) -> str:
    """Names and values as a list in columns."""
    rows = (
        f"<div><dt>{html.escape(str(name))}</dt><dd>{html.escape(str(value))}</dd></div>"
        for name, value in pairs.items()
    )
    return f"<dl>{''.join(rows)}</dl>"
