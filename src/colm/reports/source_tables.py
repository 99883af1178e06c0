"""The tables of sources: what was drawn and kept of each, and how well it was learned."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from colm.reports.arm import Arm
from colm.reports.comparison import Comparison
from colm.reports.summaries import Show, best_place, count, number, percent, times
from colm.reports.tables import Table

#: What heads it, a value for each source that has one, and how that is shown.
Column = tuple[str, Mapping[str, float], Show]


def draw_table(comparison: Comparison) -> Table:
    """Return one row a source: its size, and what each arm drew of it.

    Args:
        comparison: What to put side by side.

    Returns:
        Examples and their share of the data, where sizes are known; of each arm that logged its
        draws the source's share of them, and how often each of its examples was drawn on average.
    """
    sizes, total = comparison.source_sizes, sum(comparison.source_sizes.values())
    columns: list[Column] = []
    if total:
        shares = {source: size / total for source, size in sizes.items()}
        columns = [("examples", sizes, count), ("of the data", shares, percent)]
    arms = comparison.arms
    columns += _of_arms("drawn", arms, lambda arm: arm.share_by_source("colm/candidates"), percent)
    columns += _of_arms("times each", arms, lambda arm: _passes(arm, sizes), times)
    return _table(comparison, columns)


def kept_table(comparison: Comparison) -> Table:
    """Return one row a source: its size and the share of its candidates each arm trained on.

    Args:
        comparison: What to put side by side.

    Returns:
        The largest source first; a star marks small sources.
    """
    arms = [arm for arm in comparison.arms if arm.series("colm/kept")[0]]
    columns: list[Column] = [("examples", comparison.source_sizes, count)]
    columns += [(arm.name, arm.share_kept(), percent) for arm in arms]
    return _table(comparison, columns)


def training_table(comparison: Comparison) -> Table:
    """Return one row a source: its training loss at the end, and its share of the label tokens.

    Args:
        comparison: What to put side by side.

    Returns:
        Columns of the arms that logged them. None is the best: what they trained on differs.
    """
    sources = comparison.sources()
    columns = _of_arms("loss", comparison.arms, lambda arm: _tails(arm, sources), number)
    columns += _of_arms(
        "label tokens",
        comparison.arms,
        lambda arm: arm.share_by_source("colm/label_tokens"),
        percent,
    )
    return _table(comparison, columns)


def loss_table(comparison: Comparison) -> Table:
    """Return one row a source: its held-out loss, and its score where answers are scored.

    Args:
        comparison: What to put side by side.

    Returns:
        The largest source first, those that nothing was trained on last.
    """
    named = [("untouched", comparison.before)]
    named += [(arm.name, arm.scores) for arm in comparison.arms]
    known = [(name, scores) for name, scores in named if scores]
    columns: list[Column] = [
        (f"loss, {name}", scores.loss_by_source, number) for name, scores in known
    ]
    columns += [
        (f"accuracy, {name}", scores.answers_by_source, percent)
        for name, scores in known
        if scores.answers_by_source
    ]
    sources = comparison.held_out_sources()
    strong = [
        best_place([scores.loss_by_source.get(source) for _, scores in known], min, number)
        for source in sources
    ]
    return _table(comparison, columns, sources, strong)


def _of_arms(
    measure: str,
    arms: Sequence[Arm],
    values: Callable[[Arm], Mapping[str, float]],
    show: Show,
) -> list[Column]:
    """A column for each arm that has values, with its name where there are several arms."""
    found = [
        (f"{measure}, {arm.name}" if len(arms) > 1 else measure, values(arm), show) for arm in arms
    ]
    return [column for column in found if column[1]]


def _passes(arm: Arm, sizes: Mapping[str, int]) -> dict[str, float]:
    """How often an arm drew each example of a source, on average."""
    steps, drawn = arm.steps_taken(), arm.by_source("colm/candidates")
    return {source: steps * drawn[source] / sizes[source] for source in drawn if sizes.get(source)}


def _tails(arm: Arm, sources: Iterable[str]) -> dict[str, float]:
    """The training loss of each source at the end."""
    tails = {source: arm.tail(f"colm/loss/{source}") for source in sources}
    return {source: loss for source, loss in tails.items() if loss is not None}


def _table(
    comparison: Comparison,
    columns: Sequence[Column],
    sources: Sequence[str] | None = None,
    strong: Sequence[int | None] = (),
) -> Table:
    """One row a source, those of the training data by default."""
    small = set(comparison.small_sources)
    rows = [
        [
            source + "*" * (source in small),
            *(show(values.get(source)) for _, values, show in columns),
        ]
        for source in (comparison.sources() if sources is None else sources)
    ]
    head = "source (*small)" if small else "source"
    return Table([head, *(name for name, _, _ in columns)], rows, strong)
