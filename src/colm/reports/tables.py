"""A table, as text for a terminal and as HTML for a page."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from colm.names import printable

#: A page is as wide as this many columns beside the first.
MOST_COLUMNS = 6


@dataclass(frozen=True)
class Table:
    """A heading for each column, and rows of text; the first column names the row.

    Attributes:
        head: One text a column.
        rows: As many texts in each.
        strong: For each row the column that is best in it, to be set off; ``None`` for none.
        indented: Rows that detail the one above.
        turned: Whether rows are shown as columns and columns as rows.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: Sequence[int | None] = ()
    indented: Sequence[int] = ()
    turned: bool = False

    def to_text(self) -> str:
        """Return the table with aligned columns, numbers to the right, no line longer than needed.

        Returns:
            Lines of text without a final line break.

        Example:
            >>> print(Table(["", "CoLM"], [["loss", "1.25"], ["seconds", "12.50"]]).to_text())
                      CoLM
            -------  -----
            loss      1.25
            seconds  12.50
        """
        details = () if self.turned else self.indented
        marked = [
            ["  " * (row in details) + cells[0], *cells[1:]] for row, cells in enumerate(self.rows)
        ]
        head, *rows = self._turn([list(self.head), *marked])
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        rule = ["-" * width for width in widths]
        return "\n".join(_text_line(cells, widths) for cells in [head, rule, *rows])

    def to_html(self, links: Mapping[str, str] | None = None) -> str:
        """Return the table as an HTML ``table`` element.

        Args:
            links: Addresses of rows, by the names that are shown before them.

        Returns:
            HTML in which every text is escaped.

        Example:
            >>> table = Table(["", "a"], [["loss", "1.25"]], turned=True)
            >>> table.to_html().partition("<tbody>")[2]
            '<tr><th scope="row">a</th><td>1.25</td></tr></tbody></table>'
        """
        strong = self.strong or [None] * len(self.rows)
        best = {(row, place + 1) for row, place in enumerate(strong, 1) if place is not None}
        grid = self._turn([list(self.head), *map(list, self.rows)])
        details = {row + 1 for row in self.indented}
        if self.turned:
            best, details = {(column, row) for row, column in best}, set()
        head = "".join(f'<th scope="col">{_breakable(text)}</th>' for text in grid[0])
        body = "".join(
            _html_row(
                cells,
                {column for r, column in best if r == row},
                row in details,
                (links or {}).get(cells[0]),
            )
            for row, cells in enumerate(grid[1:], 1)
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def fitted(self) -> "Table":
        """Return the table turned where it is too wide for a page and would be less so.

        Returns:
            An equal table, or this one.
        """
        columns = len(self.head) - 1
        return replace(self, turned=columns > MOST_COLUMNS and columns > len(self.rows))

    def _turn(self, grid: list[list[str]]) -> list[list[str]]:
        """Heading and rows as they are shown, each cell in one line."""
        grid = [[printable(cell) for cell in cells] for cells in grid]
        return [list(cells) for cells in zip(*grid, strict=True)] if self.turned else grid


def _text_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """One line: the first cell to the left, the others to the right."""
    first, *rest = (
        cell.rjust(width) if place else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()


def _breakable(text: str) -> str:
    """Escaped, and free to go on in the next line after an underscore."""
    return html.escape(text).replace("_", "_<wbr>")


def _html_row(cells: Sequence[str], best: set[int], indented: bool, link: str | None) -> str:
    """One row; ``best`` are the columns to be set off, that of the row's name being 0."""
    name, *values = map(_breakable, cells)
    columns = "".join(
        f"<td><b>{value}</b></td>" if place in best else f"<td>{value}</td>"
        for place, value in enumerate(values, 1)
    )
    if link is not None:
        name = f'<a href="{html.escape(link)}">{name}</a>'
    style = ' class="detail"' if indented else ""
    return f'<tr{style}><th scope="row">{name}</th>{columns}</tr>'
