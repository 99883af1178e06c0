"""The figures of a page: which there is data for, and what is said of each."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from colm.reports import bands, bars, curves
from colm.reports.arm import Arm
from colm.reports.comparison import Comparison
from colm.reports.run_names import shorten
from colm.reports.seeds import have_seeds, ways
from colm.reports.summaries import evaluation_name, number

#: More arms than this have no bars by source, which the tables tell better.
MOST_ARMS_IN_BARS = 6
#: More ways than this have no bands, which would hide each other.
MOST_WAYS_IN_BANDS = 8
_MOST_IN_A_TITLE = 48


class Figure(NamedTuple):
    """A plot with its title above and its caption below.

    Attributes:
        title: A few words.
        svg: What was drawn.
        caption: What to know to read it.
        alternative: What it shows, for who cannot see it.
    """

    title: str
    svg: str
    caption: str
    alternative: str


def make_figures(comparison: Comparison) -> list[Figure]:
    """Return every figure that there is data for, in the order of the page.

    Args:
        comparison: What to show.

    Returns:
        Figures with titles of their own.
    """
    few = len(comparison.arms) <= MOST_ARMS_IN_BARS
    parts = [
        iter(figures_of_seeds(comparison)),
        _of_scores(comparison) if few else iter(()),
        _of_losses(comparison),
        _of_draws(comparison) if few else iter(()),
        _of_kept(comparison, few),
        _of_errors(comparison),
        _of_costs(comparison),
    ]
    return [figure for part in parts for figure in part]


def figures_of_seeds(comparison: Comparison) -> list[Figure]:
    """Return the losses of ways that were run with several seeds, their seeds together.

    Args:
        comparison: What to show.

    Returns:
        None where every way has one seed, or where they are too many to be told apart.
    """
    told = ways(comparison.arms)
    if not have_seeds(told) or len(told) > MOST_WAYS_IN_BANDS:
        return []
    caption = (
        "Lines are means over seeds; a band goes from the least of them to the most. "
        + _time_caption(comparison)
    )
    runs = [run for way in told for run in way.runs]
    logs: list[tuple[str, Callable[[Arm], bands.Curve | None]]] = [
        (evaluation_name(key), partial(_evaluation, key))
        for key in dict.fromkeys(key for run in runs for key in run.evaluations())
    ]
    logs.append(("training loss", bands.smoothed_loss))
    found = []
    for name, log in logs:
        if any(log(run) for way in told if len(way.runs) > 1 for run in way.runs):
            svg = bands.plot_seeds(comparison, told, log, shorten(name, _MOST_IN_A_TITLE))
            title = f"{name[0].upper()}{name[1:]}, seeds together"
            where = "Curves against the step; the first tables have means and spreads."
            found.append(Figure(title, svg, caption, where))
    return found


def _evaluation(key: str, arm: Arm) -> bands.Curve | None:
    return arm.evaluations().get(key)


def _of_scores(comparison: Comparison) -> Iterator[Figure]:
    """How good each model is, source by source."""
    has_line = bars.rows_above_small(comparison, comparison.held_out_sources()) > 0
    order = f"The largest source comes first{'; those below the line are small' * has_line}."
    where = "Bars by source; the table 'Held-out loss of each source' has them all."
    if any(arm.scores and arm.scores.loss_by_source for arm in comparison.arms):
        yield Figure(
            "Held-out loss by source",
            bars.plot_held_out(comparison),
            f"Lower is better. {order}",
            where,
        )
    if any(arm.scores and arm.scores.answers_by_source for arm in comparison.arms):
        yield Figure(
            "Accuracy by source",
            bars.plot_answers(comparison),
            "What each source's own scorer says of the answers, partial credit included.",
            where,
        )


def _of_losses(comparison: Comparison) -> Iterator[Figure]:
    """Losses against the step and the time."""
    arms = comparison.arms
    for key in dict.fromkeys(key for arm in arms for key in arm.evaluations()):
        name, losses = evaluation_name(key), [arm.evaluations().get(key) for arm in arms]
        yield Figure(
            f"{name[0].upper()}{name[1:]} while training",
            curves.plot_evaluations(comparison, key, shorten(name, _MOST_IN_A_TITLE)),
            "Lower is better. " + _time_caption(comparison),
            _curves_in_words(arms, losses),
        )
    if _has_logged(comparison, "loss"):
        differ = "which differ: compare losses on held-out examples instead. "
        yield Figure(
            "Training loss",
            curves.plot_training_loss(comparison),
            f"On the examples trained on{', ' + differ if len(arms) > 1 else '. '}"
            f"Bold: moving mean of {curves.SMOOTHED_STEPS} logged values, of more in long runs. "
            + _time_caption(comparison),
            _curves_in_words(arms, [arm.series("loss") for arm in arms]),
        )


def _of_draws(comparison: Comparison) -> Iterator[Figure]:
    """What was drawn of each source, and its training loss from beginning to end."""
    if any(len(arm.by_source("colm/candidates")) > 1 for arm in comparison.arms):
        yield Figure(
            "Draws by source",
            bars.plot_draws(comparison),
            "What part of all that was drawn is from a source, beside its part of the data.",
            "Bars by source; the table 'What was drawn of each source' has them all.",
        )
    # Seeds of one way differ little: its first stands for them.
    firsts = [way.arms[0] for way in ways(comparison.arms)]
    for place, arm in enumerate(comparison.arms):
        sources = curves.sources_with_curves(comparison, arm)
        if len(sources) > 1 and any(arm is first for first in firsts):
            some = len(sources) < len(arm.by_source("colm/loss"))
            yield Figure(
                _titled("Training loss by source", comparison, arm),
                curves.plot_source_losses(comparison, place),
                f"The {len(sources)} sources whose loss is highest at the end." * some
                or "Mean over the label tokens of each source that were trained on.",
                "Curves against the step; the table 'Training on each source' has their ends.",
            )


def _of_kept(comparison: Comparison, few: bool) -> Iterator[Figure]:
    """What was kept of each source, in all and from beginning to end."""
    if not (_has_logged(comparison, "colm/kept") and comparison.sources()):
        return
    where = "The table 'What was kept of each source' has the means."
    if comparison.small_sources:
        yield Figure(
            "Small sources over time",
            curves.plot_small_share(comparison),
            "Share of small sources among the candidates and among what was kept; means of "
            f"{curves.SMOOTHED_STEPS} logged values, of more in long runs.",
            f"Curves against the step. {where}",
        )
    if few:
        yield Figure(
            "Share of each source kept",
            bars.plot_share_kept(comparison),
            "Of the candidates drawn from a source, the part that was trained on.",
            f"Bars by source. {where}",
        )
    for place, arm in enumerate(comparison.arms):
        if arm.by_source("colm/candidates") and arm.series("colm/kept")[0]:
            yield Figure(
                _titled("Sources kept over time", comparison, arm),
                curves.plot_sources_kept(comparison, place),
                "The stronger the colour, the larger the part of a source's candidates trained on; "
                "blank where none were drawn. On the right, the mean.",
                f"A map of sources by step. {where}",
            )


def _of_errors(comparison: Comparison) -> Iterator[Figure]:
    """How well what was kept stands for all candidates."""
    errors = (
        (
            "colm/match_error",
            "Match of gradients",
            "gradient match error",
            "How far the gradient of what was kept is from that of all candidates, in all trained "
            "parameters, measured every few steps. 1 is what a random choice gives on average, 0 "
            "is perfect.",
        ),
        (
            "colm/matching_error",
            "Matching error",
            "matching error",
            "How far the mean gradient feature of the examples chosen is from that of those they "
            "were chosen from. 1 is what a random choice gives on average.",
        ),
    )
    for key, title, label, caption in errors:
        if _has_logged(comparison, key):
            svg = curves.plot_error(comparison, key, label)
            arms = comparison.arms
            words = _curves_in_words(arms, [arm.series(key) for arm in arms])
            yield Figure(title, svg, caption, words)


def _of_costs(comparison: Comparison) -> Iterator[Figure]:
    """Time and memory."""
    if any(arm.whole_step_seconds() for arm in comparison.arms):
        yield Figure(
            "Where the time of a step goes",
            bars.plot_step_seconds(comparison),
            "Mean wall-clock time of a step on the machine that trained.",
            "Bars; the first table has them in figures.",
        )
    if any(arm.peak_bytes() for arm in comparison.arms):
        yield Figure(
            "Memory",
            bars.plot_memory(comparison),
            "The most that training held beyond what lay there when it began, as transformers "
            "measured it.",
            "Bars; the first table has them in figures.",
        )


def _titled(title: str, comparison: Comparison, arm: Arm) -> str:
    """The title of a figure of one arm, with its name where there are others."""
    alone = len(comparison.arms) == 1
    return title if alone else f"{title}: {shorten(arm.name, _MOST_IN_A_TITLE)}"


def _has_logged(comparison: Comparison, key: str) -> bool:
    return any(arm.series(key)[0] for arm in comparison.arms)


def _time_caption(comparison: Comparison) -> str:
    """What the lower panel is, where there is one."""
    if all(arm.seconds_at([]) is None for arm in comparison.arms):
        return ""
    return "Below, against the time of selecting and training, all else left out."


def _curves_in_words(
    arms: Sequence[Arm], curves_of_arms: Sequence[tuple[Sequence[int], Sequence[float]] | None]
) -> str:
    """Where each curve begins and ends."""
    ends = [
        f"{arm.name} from {number(curve[1][0])} at step {curve[0][0]} to "
        f"{number(curve[1][-1])} at step {curve[0][-1]}"
        for arm, curve in zip(arms, curves_of_arms, strict=True)
        if curve and curve[0]
    ]
    return f"Curves against the step: {'; '.join(ends)}."
