"""Many runs: one page with a row for each, and a page of its own for each beside it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from colm.durable import write_whole
from colm.reports.comparison import Comparison
from colm.reports.page import (
    document,
    show_figures,
    show_notes,
    show_seeds,
    show_settings,
    show_table,
    write_page,
)
from colm.reports.run_names import distinct
from colm.reports.runs import join_comparisons
from colm.reports.seeds import have_seeds, ways
from colm.reports.summaries import ABSENT, summary_table
from colm.reports.tables import Table
from colm.reports.wording import headline, lead

#: More runs than this are no longer read side by side.
MOST_ON_A_PAGE = 8
#: What tells a method beside its selector, where runs of one selector differ in it.
_METHOD = (
    "candidate_ratio",
    "candidate_sampling",
    "stored_losses",
    "optim",
    "subspace_rank",
    "side_block",
    "prune_vocabulary",
)
_MOST_CHARACTERS = 80


def pages_of(path: Path, names: Sequence[str]) -> dict[str, Path]:
    """Return the file of each run's page.

    Args:
        path: Of the index.
        names: Of the runs, no two the same.

    Returns:
        A file in the folder beside the index, by the run's name.
    """
    folder = path.with_name(f"{path.stem}_runs")
    plain = [re.sub(r"[^\w.+-]+", "_", name).strip("._")[:_MOST_CHARACTERS] for name in names]
    # Some file systems do not tell A from a.
    files = distinct([name.lower() or "run" for name in plain])
    return {
        name: folder / f"{file.replace(' ', '-')}.html"
        for name, file in zip(names, files, strict=True)
    }


def join_many(parts: Mapping[str, Comparison], notes: Sequence[str] = ()) -> Comparison:
    """Return all runs in one comparison, with the notes that are of all of them.

    Args:
        parts: What each path held, by its name.
        notes: What else is to be said.

    Returns:
        The runs in the order of their parts; what must be known of one stands on its own page.
    """
    joined = join_comparisons(list(parts.values()))
    of_one = {note for part in parts.values() for note in part.notes}
    return replace(joined, notes=[*notes, *(n for n in joined.notes if n not in of_one)])


def write_index(path: Path, parts: Mapping[str, Comparison], comparison: Comparison) -> None:
    """Write a page with a row for each run, and each run's own page.

    Args:
        path: The index; pages of runs go where ``pages_of`` says.
        parts: What each path held, by its name.
        comparison: The same from ``join_many``.

    Raises:
        OSError: A page cannot be written.
    """
    # matplotlib takes a second to load.
    from colm.reports.figures import figures_of_seeds

    pages = pages_of(path, list(parts))
    owners = [name for name, part in parts.items() for _ in part.arms]
    links = {
        arm.name: quote(pages[name].relative_to(path.parent).as_posix())
        for arm, name in zip(comparison.arms, owners, strict=True)
    }
    told = ways(comparison.arms)
    body = [
        show_notes(comparison.notes),
        show_seeds(told) if have_seeds(told) else "",
        f"<h2>Each run</h2>\n{show_table(index_table(comparison), 'Each run', links=links)}",
        show_figures(figures_of_seeds(comparison)),
        show_settings(comparison),
    ]
    page = document(headline(comparison), lead(comparison), "\n".join(body))
    for name, part in parts.items():
        pages[name].parent.mkdir(parents=True, exist_ok=True)
        write_page(pages[name], part, index=quote(f"../{path.name}"))
    write_whole(path, page.encode())


def index_table(comparison: Comparison) -> Table:
    """Return one row a run: its method, its seed, and the measures of ``summary_table``.

    Args:
        comparison: All runs.

    Returns:
        A table whose rows are shown as columns.
    """
    arms = comparison.arms
    whole = summary_table(comparison)
    kept = [place for place in range(len(whole.rows)) if place not in whole.indented]
    untouched = [ABSENT] * (len(whole.head) - 1 - len(arms))
    rows = [
        ["method", *untouched, *_methods(comparison)],
        ["seed", *untouched, *(arm.seed or ABSENT for arm in arms)],
        *(whole.rows[place] for place in kept),
    ]
    strong = [None, None, *(whole.strong[place] for place in kept)]
    return Table(whole.head, rows, strong, turned=True)


def _methods(comparison: Comparison) -> list[str]:
    """How each run was trained: its selector, and what others of that selector have otherwise."""
    settings = [{**comparison.settings, **arm.settings} for arm in comparison.arms]
    selectors = [
        each.get("selector", "plain" if "candidate_ratio" in each else ABSENT) for each in settings
    ]
    methods = []
    for selector, own in zip(selectors, settings, strict=True):
        alike = [s for name, s in zip(selectors, settings, strict=True) if name == selector]
        differing = [
            f"{name} {own[name]}"
            for name in _METHOD
            if name in own and len({each.get(name) for each in alike}) > 1
        ]
        methods.append(", ".join([selector, *differing]))
    return methods
