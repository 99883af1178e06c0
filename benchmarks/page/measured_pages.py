"""Puts measured figures into a page written by hand, ``docs/memory.md``, and draws the guides'.

``python -m benchmarks measured_pages`` measures nothing. What stands between ``<!-- measured: NAME
-->`` and ``<!-- end -->`` becomes the table or sentence of that name, and a row of ways beside
other libraries that was measured gets its cells. The same result files give the same bytes.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.page import (
    guide_plots,
    method_tables,
    side_block_tables,
    stacking_tables,
    subspace_tables,
)
from benchmarks.record import RESULTS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = "memory.md"
BLOCK = re.compile(r"(<!-- measured: ([^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Fill the page and draw the plots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to read")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder to write to")
    options = parser.parse_args()
    for name, text in filled(options.results, options.docs).items():
        (options.docs / name).write_text(text, encoding="utf-8")
        print(f"wrote {name}")


def filled(results: Path, docs: Path) -> dict[str, str]:
    """Return the page and its plots as the results make them, by their place in the folder."""
    parts = subspace_tables, stacking_tables, method_tables, side_block_tables
    blocks = {name: text for part in parts for name, text in part.blocks(results).items()}
    text = (docs / PAGE).read_text(encoding="utf-8")
    made = {PAGE: fill(text, blocks, stacking_tables.cells(results))}
    drawn = subspace_tables.plots(results) | guide_plots.plots(results)
    return made | {f"images/{name}": svg for name, svg in drawn.items()}


def fill(text: str, blocks: Mapping[str, str], cells: Mapping[str, Sequence[str]]) -> str:
    r"""Put tables into their places, and cells into the rows they belong to.

    Args:
        text: of a page.
        blocks: tables, by name.
        cells: by the first cell of a row: its third cell and those that follow, but for its last.

    Example:
        >>> page = "| a | yes | ? | why |\n<!-- measured: t -->\nold\n<!-- end -->"
        >>> print(fill(page, {"t": "new"}, {"a": ["1"]}))
        | a | yes | 1 | why |
        <!-- measured: t -->
        new
        <!-- end -->
    """
    parts, end = [], 0
    for found in BLOCK.finditer(text):
        table = f"{found[1]}{blocks[found[2]]}\n{found[3]}" if found[2] in blocks else found[0]
        parts += [with_cells(text[end : found.start()], cells), table]
        end = found.end()
    return "".join([*parts, with_cells(text[end:], cells)])


def with_cells(text: str, cells: Mapping[str, Sequence[str]]) -> str:
    """Put cells into the rows that they belong to."""
    lines = text.split("\n")
    for place, line in enumerate(lines):
        row = line.strip("| ").split(" | ")
        # A table of another width is another table, whatever its rows are called.
        if row[0] in cells and line.startswith("| ") and len(row) == len(cells[row[0]]) + 3:
            row[2 : 2 + len(cells[row[0]])] = cells[row[0]]
            lines[place] = f"| {' | '.join(row)} |"
    return "\n".join(lines)
