"""What a contest of arms says: tables at equal time and at equal steps, and whether a look paid."""

from collections.abc import Mapping, Sequence

from colm.reports.arm import Scores
from colm.reports.run_names import join_in_words
from colm.reports.standings import (
    Contest,
    Standing,
    differences,
    fairest_control,
    mean_of,
    mean_scores,
    spread_of,
    standings,
)
from colm.reports.summaries import ABSENT, Values, best_place, number, plus_minus
from colm.reports.tables import Table
from colm.reports.wording import LEVEL

_PAID_NOT = "the look did not pay"


def contest_tables(contest: Contest) -> list[tuple[str, Table]]:
    """Return the tables of a contest with their titles, one column an arm.

    Args:
        contest: Of any arms.

    Returns:
        At equal time, which is what counts, and at equal steps.
    """
    found, steps = standings(contest)
    head = ["", *(each.name for each in found)]
    time = _in_words(contest.seconds)
    rows, best = _at_time(found)
    rows += _against(found, contest)
    # What follows the losses has no best.
    best += [None] * (len(rows) - len(best))
    tables = [(f"After equal time, {time} of training each", Table(head, rows, best))]
    if any(each.at_steps for each in found):
        losses = _losses([each.at_steps for each in found])
        tables.append((f"After equally many steps, {steps} each", Table(head, *losses)))
    return tables


def verdict(contest: Contest) -> list[str]:
    """Return what came of a contest: the outcome first, then what must be known with it.

    Args:
        contest: Of any arms.

    Returns:
        Sentences with their full stops.
    """
    found, _ = standings(contest)
    known = [each for each in found if each.at_time]
    looks = [_of_look(each, found) for each in known if each.entrant.looks]
    # What controls are is said once, of however many arms they are controls.
    sentences = list(dict.fromkeys(sentence for told in looks for sentence in told))
    sentences += _of_the_rest(known, contest)
    for each in found:
        for failure in each.failures:
            sentences.append(f"{each.name} failed with {failure}.")
    seeds = max((len(each.at_time) for each in found), default=0)
    if seeds == 1:
        sentences.append(
            "One seed: a small difference may be chance, and another seed may turn it round."
        )
    return sentences or ["No arm was trained to its end."]


def _at_time(found: Sequence[Standing]) -> tuple[list[list[str]], list[int | None]]:
    """Rows of losses and costs at equal time, and the best of each."""
    rows, best = _losses([each.at_time for each in found])
    rates = [each.learning_rate for each in found]
    if any(rate is not None for rate in rates):
        rows.append(["learning rate", *(ABSENT if r is None else f"{r:g}" for r in rates)])
    rows.append(["steps", *(_shown(each.steps, ",.0f") for each in found)])
    rows.append(["seconds a step", *(_shown(each.step_seconds, ".3g") for each in found)])
    return rows, best


def _losses(
    of_arms: Sequence[Mapping[int, Scores]],
) -> tuple[list[list[str]], list[int | None]]:
    """Rows of the three losses, and the best of each."""
    means = [mean_scores(scores) for scores in of_arms]
    values: list[tuple[str, Values]] = [
        ("held-out loss, macro", [None if m is None else m.macro for m in means]),
        ("held-out loss, micro", [None if m is None else m.micro for m in means]),
        ("held-out loss, small sources", [None if m is None else m.small_sources for m in means]),
    ]
    rows = [[name, *map(number, row)] for name, row in values]
    best = [best_place(row, min, number) for _, row in values]
    if any(len(scores) > 1 for scores in of_arms):
        rows.insert(1, ["spread over seeds", *(_spread(scores) for scores in of_arms)])
        best.insert(1, None)
    return rows, best


def _spread(scores: Mapping[int, Scores]) -> str:
    return plus_minus(spread_of(scores))


def _against(found: Sequence[Standing], contest: Contest) -> list[list[str]]:
    """Rows that hold each arm against its fairest control."""
    by_name = {each.name: each for each in found}
    names, means, seeds = ["held against"], ["above it by"], ["below it"]
    for each in found:
        control = fairest_control(each, found, contest)
        gaps = differences(each, by_name[control]) if control else []
        names.append(control or ABSENT)
        means.append(f"{sum(gaps) / len(gaps):+.3f}" if gaps else ABSENT)
        seeds.append(_seeds_below(gaps))
    return [names, means, seeds]


def _seeds_below(gaps: Sequence[float]) -> str:
    """In which seeds an arm is below another."""
    if not gaps:
        return ABSENT
    below = sum(gap < 0 for gap in gaps)
    return ("no", "yes")[below] if len(gaps) == 1 else f"{below} of {len(gaps)} seeds"


def _of_look(arm: Standing, found: Sequence[Standing]) -> list[str]:
    """Whether an arm's look paid: against all but the look, and against the best without one."""
    control = next((each for each in found if each.name == arm.entrant.control), None)
    gaps = differences(arm, control) if control is not None else []
    if control is None or not gaps:
        return [f"{arm.name}: its control {arm.entrant.control} was not trained to its end."]
    way, paid = _way(gaps, control)
    sentences = [
        f"{arm.name} is {way} {control.name} at equal time: {paid}.",
        f"{control.name} draws alike, keeps the same small sources, and chooses at random.",
    ]
    best = min(_without_look(found), key=Standing.macro, default=None)
    if best is not None and best.name != control.name:
        against, beaten = _way(differences(arm, best), best)
        link = "" if (paid == _PAID_NOT) == (beaten == _PAID_NOT) else "But "
        sentences.append(
            f"{link}{arm.name} is {against} {best.name}, which is the best arm without a look."
        )
    return sentences


def _way(gaps: Sequence[float], other: Standing) -> tuple[str, str]:
    """How an arm stands to another, and whether what sets it apart paid."""
    gap, seeds = sum(gaps) / len(gaps), len(gaps)
    below = sum(each < 0 for each in gaps)
    in_seeds = f" (lower in {below} of {seeds} seeds)" if seeds > 1 else ""
    if abs(gap) < LEVEL * abs(other.macro()):
        return f"level with{in_seeds}", _PAID_NOT
    much = f"{abs(gap):.3f} {'below' if gap < 0 else 'above'}{in_seeds}"
    if gap > 0:
        return much, _PAID_NOT
    if seeds == 1:
        return much, "the look paid, as far as one seed can tell"
    return much, "the look paid" if below == seeds else "whether the look paid is open"


def _of_the_rest(known: Sequence[Standing], contest: Contest) -> list[str]:
    """The best arm without a look, and what it is better than."""
    rest = sorted(_without_look(known), key=Standing.macro)
    if not rest:
        return []
    best = rest[0]
    named = "Without a look" if any(each.entrant.looks for each in known) else "Of all arms"
    loss = number(mean_of(best.at_time, lambda scores: scores.macro))
    sentence = f"{named}, {best.name} is best, with a held-out loss of {loss}"
    level = [s.name for s in rest[1:] if s.macro() <= best.macro() * (1 + LEVEL)]
    if level:
        sentence += f"; {join_in_words(level)} {'is' if len(level) == 1 else 'are'} level with it"
    plain = [s for s in rest if s.name in contest.plain]  # the better one first
    if plain and plain[0].name not in (best.name, *level):
        way, _ = _way(differences(best, plain[0]), plain[0])
        sentence += f"; that is {way} {plain[0].name}"
        if len(plain) > 1:
            sentence += ", the better of the plain ones"
    return [f"{sentence}."]


def _without_look(found: Sequence[Standing]) -> list[Standing]:
    return [each for each in found if each.at_time and not each.entrant.looks]


def _shown(value: float | None, form: str) -> str:
    return ABSENT if value is None else f"{value:{form}}"


def _in_words(seconds: float) -> str:
    """A time of training."""
    return f"{seconds:.3g} s" if seconds < 60 else f"{seconds / 60:.3g} min"
