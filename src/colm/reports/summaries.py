"""The first table of a comparison, what each way of training came to; and how numbers are shown."""

import math
from collections.abc import Callable, Iterable, Sequence

from colm.reports.arm import TAIL, Arm
from colm.reports.comparison import Comparison
from colm.reports.tables import Table

ABSENT = "–"  # noqa: RUF001 - the dash that tables use for "no value"
NOT_FINITE = "not finite"
#: From here on a number is written with its power of ten.
_VERY_LARGE = 1e15

Values = Sequence[float | None]
Show = Callable[[float | None], str]
Pick = Callable[[Iterable[float]], float]

TRAINING_TAIL = f"training loss, last {TAIL} logged"
#: Losses of evaluations that have names of their own; others have that of their set.
EVALUATIONS = {"eval_loss": "evaluation loss", "eval_macro_loss": "held-out loss, macro"}


class _Rows:
    """Rows as they are gathered."""

    def __init__(self) -> None:
        self.cells: list[list[str]] = []
        self.strong: list[int | None] = []
        self.indented: list[int] = []

    def add(
        self,
        name: str,
        values: Values,
        show: Show,
        best: Pick | None = None,
        detail: bool = False,
    ) -> None:
        """Add a measure; the best of its values is set off."""
        if detail:
            self.indented.append(len(self.cells))
        self.cells.append([name, *map(show, values)])
        self.strong.append(best_place(values, best, show) if best else None)

    def add_known(self, name: str, values: Values, show: Show, best: Pick | None = None) -> None:
        """Add a measure that some arm has."""
        if any(value is not None for value in values):
            self.add(name, values, show, best)


def summary_table(comparison: Comparison) -> Table:
    """Return one row a measure, one column a way of training.

    Args:
        comparison: What to put side by side.

    Returns:
        Losses, answers where they are scored, how well what was kept matches, what a step costs.
    """
    arms = comparison.arms
    rows = _Rows()
    if any(arm.planned_steps for arm in arms):
        rows.add("steps", [None, *(arm.steps_taken() for arm in arms)], count)
    if any(arm.scores for arm in arms):
        _add_scores(rows, comparison)
    _add_evaluations(rows, arms)
    _add_training(rows, arms)
    seconds = [arm.step_seconds() for arm in arms]
    if any(train is not None for _, train in seconds):
        rows.add("seconds a step", [None, *(arm.whole_step_seconds() for arm in arms)], _seconds)
        rows.add("selecting", [None, *(select for select, _ in seconds)], _seconds, detail=True)
        rows.add("training", [None, *(train for _, train in seconds)], _seconds, detail=True)
    runtimes = [arm.last_logged("train_runtime") for arm in arms]
    if any(arm.planned_steps for arm in arms):
        rows.add_known(
            "minutes of the whole run", [None, *(_over(t, 60) for t in runtimes)], _minutes
        )
    _add_memory(rows, arms)
    return _without_empty_column(comparison, rows)


def _add_scores(rows: _Rows, comparison: Comparison) -> None:
    """Held-out loss three ways, and the score of answers."""
    scores = [comparison.before, *(arm.scores for arm in comparison.arms)]
    rows.add("held-out loss, macro", [s.macro if s else None for s in scores], number, min)
    rows.add("held-out loss, micro", [s.micro if s else None for s in scores], number, min)
    small = [s.small_sources if s else None for s in scores]
    rows.add_known("held-out loss, small sources", small, number, min)
    answers = [s.answers if s else None for s in scores]
    rows.add_known("accuracy (sources' scorers)", answers, percent, max)


def _add_evaluations(rows: _Rows, arms: Sequence[Arm]) -> None:
    """Losses of evaluations while training, and accuracies measured afterwards."""
    logged = [arm.evaluations() for arm in arms]
    scored = any(arm.scores for arm in arms)
    for key in dict.fromkeys(key for found in logged for key in found):
        if key == "eval_macro_loss" and scored:
            continue
        series = [found.get(key, ([], [])) for found in logged]
        last = [losses[-1] if losses else None for _, losses in series]
        rows.add(evaluation_name(key), [None, *last], number, min)
        if any(len(losses) > 1 for _, losses in series):
            lowest = [min(_finite(losses), default=None) for _, losses in series]
            rows.add("lowest", [None, *lowest], number, min, detail=True)
            steps = [
                None if low is None else steps[losses.index(low)]
                for (steps, losses), low in zip(series, lowest, strict=True)
            ]
            rows.add("at step", [None, *steps], count, detail=True)
    for name in dict.fromkeys(name for arm in arms for name in arm.accuracies):
        accuracies = [arm.accuracies.get(name) for arm in arms]
        rows.add(f"accuracy, {name}", [None, *accuracies], _tenths_of_percent, max)


def _add_training(rows: _Rows, arms: Sequence[Arm]) -> None:
    """What the trainer logged of what it trained on; examples differ, so none is the best."""
    if not all(arm.scores for arm in arms):
        rows.add_known(TRAINING_TAIL, [None, *(arm.tail("loss") for arm in arms)], number)
        kept = [_ratio(arm.mean("colm/kept"), arm.mean("colm/candidates")) for arm in arms]
        rows.add_known("kept of what was drawn", [None, *kept], percent)
    errors = [arm.mean("colm/match_error") for arm in arms]
    rows.add_known("gradient match error (1: as random)", [None, *errors], number, min)


def _add_memory(rows: _Rows, arms: Sequence[Arm]) -> None:
    peaks = [arm.peak_bytes() for arm in arms]
    for place in dict.fromkeys(peak[0] for peak in peaks if peak):
        gigabytes = [peak[1] / 1e9 if peak and peak[0] == place else None for peak in peaks]
        rows.add(f"memory added at the peak, {place}, GB", [None, *gigabytes], _seconds)


def _without_empty_column(comparison: Comparison, rows: _Rows) -> Table:
    """The table, without the column of the untouched model where nothing is known of it."""
    names = [arm.name for arm in comparison.arms]
    if comparison.before is not None:
        return Table(["", "untouched", *names], rows.cells, rows.strong, rows.indented)
    cells = [[row[0], *row[2:]] for row in rows.cells]
    strong = [None if best is None else best - 1 for best in rows.strong]
    return Table(["", *names], cells, strong, rows.indented)


def settings_table(comparison: Comparison) -> Table:
    """Return one row a setting that arms differ in, one column an arm.

    Args:
        comparison: What to put side by side.

    Returns:
        Without rows where arms do not differ.
    """
    arms = comparison.arms
    names = dict.fromkeys(name for arm in arms for name in arm.settings)
    rows = [[name, *(arm.settings.get(name, ABSENT) for arm in arms)] for name in names]
    return Table(["", *(arm.name for arm in arms)], rows)


def evaluation_name(key: str) -> str:
    """Return what the loss of an evaluation is called.

    Args:
        key: That it was logged under.

    Returns:
        A few words.

    Example:
        >>> evaluation_name("eval_loss"), evaluation_name("eval_math_loss")
        ('evaluation loss', 'evaluation loss, math')
    """
    set_name = key.removeprefix("eval_").removesuffix("loss").rstrip("_")
    return EVALUATIONS.get(key, f"evaluation loss, {set_name}")


def number(value: float | None) -> str:
    """Return a loss or a score with the digits that can be told apart.

    Args:
        value: ``None`` for one that is not known.

    Returns:
        Three decimals, none from a thousand on, a power of ten for what is very large, or a dash.

    Example:
        >>> number(1.25), number(43210.9), number(float("nan"))
        ('1.250', '43,211', 'not finite')
    """
    return _finite_or(value, lambda v: f"{v:.3f}" if abs(v) < 1000 else f"{v:,.0f}")


def plus_minus(value: float | None) -> str:
    """Return a spread around a mean.

    Args:
        value: 0 or more; ``None`` for one that is not known.

    Example:
        >>> plus_minus(0.0126)
        '±0.013'
    """
    return ABSENT if value is None else f"±{number(value)}"


def times(value: float | None) -> str:
    """Return how many times something was done, on average.

    Args:
        value: 0 or more; ``None`` for one that is not known.

    Example:
        >>> times(0.034), times(2.5), times(1250.4)
        ('0.03', '2.5', '1,250')
    """
    return _finite_or(value, lambda v: f"{v:.2f}" if v < 1 else f"{v:,.{1 if v < 100 else 0}f}")


def percent(value: float | None) -> str:
    """Return a share in whole percent.

    Args:
        value: 0 to 1; ``None`` for one that is not known.

    Returns:
        A number and its unit, or a dash.
    """
    return _finite_or(value, lambda share: f"{100 * share:.0f} %")


def _tenths_of_percent(value: float | None) -> str:
    return _finite_or(value, lambda share: f"{100 * share:.1f} %")


def _seconds(value: float | None) -> str:
    return _finite_or(value, lambda v: f"{v:.1g}" if 0 < v < 0.01 else f"{v:.2f}")


def _minutes(value: float | None) -> str:
    return _finite_or(value, lambda minutes: f"{minutes:,.1f}")


def count(value: float | None) -> str:
    """Return a number of things.

    Args:
        value: ``None`` for one that is not known.

    Returns:
        A whole number with commas between its thousands, or a dash.
    """
    return _finite_or(value, lambda count: f"{count:,.0f}")


def _finite_or(value: float | None, show: Callable[[float], str]) -> str:
    if value is None:
        return ABSENT
    if not math.isfinite(value):
        return NOT_FINITE
    return show(value) if abs(value) < _VERY_LARGE else f"{value:.3g}"


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _over(value: float | None, divisor: float) -> float | None:
    return None if value is None else value / divisor


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def best_place(values: Values, choose: Pick, show: Show) -> int | None:
    """Return the place of the best value.

    Args:
        values: Of which some may not be known.
        choose: ``min`` or ``max``.
        show: How a value is shown.

    Returns:
        ``None`` where it is alone, or another looks the same.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    if len(known) < 2:
        return None
    best = choose(known)
    alike = [value for value in values if show(value) == show(best)]
    return values.index(best) if len(alike) == 1 else None
