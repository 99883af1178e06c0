"""Tables, as text for a terminal and as HTML for a page, and the two that every comparison has."""

import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from colm.reports.comparison import Comparison

ABSENT = "–"  # noqa: RUF001 - the dash that tables use for "no value"


@dataclass(frozen=True)
class Table:
    """A heading for each column, and rows of text; the first column names the row.

    Attributes:
        head: One text a column.
        rows: As many texts in each.
        strong: For each row the column that is best in it, to be set off; ``None`` for none.
        indented: Rows that detail the one above.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: Sequence[int | None] = ()
    indented: Sequence[int] = ()

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
        labels = [
            ("  " if row in self.indented else "") + cells[0] for row, cells in enumerate(self.rows)
        ]
        rows = [[label, *cells[1:]] for label, cells in zip(labels, self.rows, strict=True)]
        columns = zip(*[self.head, *rows], strict=True)
        widths = [max(map(len, column)) for column in columns]
        rule = ["-" * width for width in widths]
        return "\n".join(_text_line(cells, widths) for cells in [self.head, rule, *rows])

    def to_html(self) -> str:
        """Return the table as an HTML ``table`` element.

        Returns:
            HTML in which every text is escaped.
        """
        head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in self.head)
        strong = self.strong or [None] * len(self.rows)
        body = "".join(
            _html_row(cells, best, number in self.indented)
            for number, (cells, best) in enumerate(zip(self.rows, strong, strict=True))
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def summary_table(comparison: Comparison) -> Table:
    """Return one row a measure, one column a way of training.

    Args:
        comparison: What to put side by side.

    Returns:
        Held-out loss three ways, answers where they are scored, and seconds a step.
    """
    arms = comparison.arms
    scores = [comparison.before, *(arm.scores for arm in arms)]
    seconds = [arm.step_seconds() for arm in arms]
    losses: dict[str, list[float | None]] = {
        "held-out loss, macro": [s.macro for s in scores],
        "held-out loss, micro": [s.micro for s in scores],
        "held-out loss, small sources": [s.small_sources for s in scores],
    }
    rows = [[name, *(_number(v) for v in values)] for name, values in losses.items()]
    strong = [_best(values, min, _number) for values in losses.values()]
    answers = [s.answers for s in scores]
    if any(answer is not None for answer in answers):
        rows.append(["accuracy (sources' scorers)", *map(_percent, answers)])
        strong.append(_best(answers, max, _percent))
    rows += [
        ["seconds a step", ABSENT, *(_number(arm.whole_step_seconds(), 2) for arm in arms)],
        ["selecting", ABSENT, *(_number(select, 2) for select, _ in seconds)],
        ["training", ABSENT, *(_number(train, 2) for _, train in seconds)],
    ]
    strong += [None] * 3
    head = ["", "untouched", *(arm.name for arm in arms)]
    return Table(head, rows, strong, indented=[len(rows) - 2, len(rows) - 1])


def source_table(comparison: Comparison) -> Table:
    """Return one row a source: its size and the share of its candidates each arm trained on.

    Args:
        comparison: What to put side by side.

    Returns:
        The largest source first; a star marks small sources.
    """
    arms = comparison.arms
    shares = [arm.share_kept() for arm in arms]
    rows = [
        [
            source + "*" * (source in comparison.small_sources),
            f"{comparison.source_sizes[source]:,}",
            *(_percent(share.get(source)) for share in shares),
        ]
        for source in comparison.sources()
    ]
    return Table(["source (*small)", "examples", *(f"kept, {arm.name}" for arm in arms)], rows)


def loss_table(comparison: Comparison) -> Table:
    """Return one row a source: its held-out loss, and its score where answers are scored.

    Args:
        comparison: What to put side by side.

    Returns:
        The largest source first; a star marks small sources.
    """
    scores = [comparison.before, *(arm.scores for arm in comparison.arms)]
    names = ["untouched", *(arm.name for arm in comparison.arms)]
    scored = [s for s in scores if s.answers_by_source]
    rows, strong = [], []
    for source in comparison.sources():
        losses = [s.loss_by_source.get(source) for s in scores]
        answers = [s.answers_by_source.get(source) for s in scored]
        star = "*" * (source in comparison.small_sources)
        rows.append([source + star, *map(_number, losses), *map(_percent, answers)])
        strong.append(_best(losses, min, _number))
    head = [f"loss, {name}" for name in names]
    head += [f"accuracy, {name}" for name in names] if scored else []
    return Table(["source (*small)", *head], rows, strong)


def _text_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """One line: the first cell to the left, the others to the right."""
    first, *rest = (
        cell.rjust(width) if place else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()


def _html_row(cells: Sequence[str], best: int | None, indented: bool) -> str:
    """One row; the column ``best`` counts from the first after the row's name."""
    name, *values = map(html.escape, cells)
    columns = "".join(
        f"<td><b>{value}</b></td>" if place == best else f"<td>{value}</td>"
        for place, value in enumerate(values)
    )
    style = ' class="detail"' if indented else ""
    return f'<tr{style}><th scope="row">{name}</th>{columns}</tr>'


def _best(
    values: Sequence[float | None],
    choose: Callable[[Iterable[float]], float],
    show: Callable[[float | None], str],
) -> int | None:
    """The column of the best value, ``None`` where another looks the same."""
    known = [value for value in values if value is not None]
    best = choose(known) if known else None
    alike = [value for value in values if show(value) == show(best)]
    return values.index(best) if known and len(alike) == 1 else None


def _number(value: float | None, digits: int = 3) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return ABSENT if value is None else f"{100 * value:.0f} %"
