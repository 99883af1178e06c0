"""How the page begins: what makes a model better in the same time, as far as it is measured."""

from collections.abc import Callable, Iterable

from benchmarks.page.equal_time import (
    ADAPTIVE,
    ASKED,
    CONTROL,
    EVEN,
    LARGER,
    SAYING_NOTHING,
    EqualTime,
)
from benchmarks.page.quality_tables import OURS, missing_runs
from benchmarks.page.result_files import Mixture, Results
from benchmarks.page.standings import join

#: The answer has its place within the first ten lines after the title.
QUESTION = (
    "**What makes a model better in the same time?** Held-out loss, averaged over sources, after "
    "equal processor time, the lower the better. Everything is held against ordinary training on "
    f"all n examples drawn (*{CONTROL}*), arranged by length so that it is fast. Tables: [in the "
    "same time](#in-the-same-time)."
)


def opening(results: Results) -> str:
    """Return the question, and the answer that the figures give."""
    compared = [EqualTime.of(mixture) for mixture in results.clocked]
    lines = [
        f"- **The best way**: {_each(compared, best_words) or 'open, no run with its time yet'}.",
        f"- **Drawing all sources about equally often** (*{EVEN}*): {below_words(compared, EVEN)}.",
        "- **Drawing more where the training loss still falls** "
        f"(*{ADAPTIVE}*): {below_words(compared, ADAPTIVE)}{beyond_even_words(compared)}.",
        "- **Looking at candidates before training on some**: against the best way without a "
        f"look, {_each(compared, look_words) or 'open'}.",
    ]
    return "\n".join([QUESTION, "", *lines, *_caveats(results)])


def best_words(equal: EqualTime) -> str:
    """Return the arm of the lowest loss, beside the control's."""
    best, complete = equal.lowest(), equal.complete()
    if best is None or complete == [CONTROL]:
        return "open"
    control = f"{equal.mean(CONTROL):.3f}"
    if best == CONTROL:
        return f"*{CONTROL}* itself ({control}), of {len(complete)} ways"
    word = _STANDS.get(equal.standing(best, CONTROL).word, "lower in every seed")
    return f"*{best}* of {len(complete)} ways ({equal.mean(best):.3f}; {CONTROL} {control}; {word})"


_STANDS = {"level": "not in every seed", "one seed": "one seed tells nothing apart"}


def look_words(equal: EqualTime) -> str:
    """Return whether a look is below all that does without, and which comes nearest."""
    best = equal.best_look()
    if best is None:
        return "open"
    look, standing = best
    by = f"{abs(standing.difference.mean):.3f}"
    if standing.word.startswith("lower"):
        return f"*{look}* is {by} lower, in every seed"
    side = "below, but not in every seed" if standing.difference.mean < 0 else "above"
    said = f"none is lower in every seed (*{look}*, the nearest, is {by} {side})"
    word = equal.ceiling_word()
    if word in SAYING_NOTHING:
        return said
    would = "would be" if word.startswith("lower") else "would not be either"
    return f"{said}; {OURS} without error {would}"


def below_words(compared: Iterable[EqualTime], arm: str) -> str:
    """Return where an arm is below plain n and plain 2n in every seed, and where not."""
    return _sorted_by(compared, lambda equal: equal.below_plain(arm), f"{CONTROL} and {LARGER}")


def beyond_even_words(compared: list[EqualTime]) -> str:
    """Return where adaptive draws are below even ones beyond the spread; empty without runs."""
    lower = {equal.mixture.called: equal.standing(ADAPTIVE, EVEN).word for equal in compared}
    if all(word in SAYING_NOTHING for word in lower.values()):
        return ""
    where = [label for label, word in lower.items() if word == "lower"]
    return f"; below even draws beyond the spread {f'on {join(where)}' if where else 'nowhere'}"


def _sorted_by(
    compared: Iterable[EqualTime], holds: Callable[[EqualTime], bool | None], others: str
) -> str:
    found: dict[bool | None, list[str]] = {}
    for equal in compared:
        found.setdefault(holds(equal), []).append(equal.mixture.called)
    words = {
        True: f"below {others} in every seed on",
        False: f"not below {others} in every seed on",
        None: "open on",
    }
    said = [f"{word} {join(found[key])}" for key, word in words.items() if key in found]
    return "; ".join(said) or "open"


def _each(compared: Iterable[EqualTime], words: Callable[[EqualTime], str]) -> str:
    """What is said of each label, labels of which the same is said together."""
    found: dict[str, list[str]] = {}
    for equal in compared:
        found.setdefault(words(equal), []).append(equal.mixture.called)
    return "; ".join(f"on {join(labels)} {said}" for said, labels in found.items())


def _caveats(results: Results) -> list[str]:
    """What is missing, and what was measured otherwise."""
    said = []
    if unfinished := [one.called for one in results.clocked if missing_runs(one, ASKED)]:
        said.append(
            f"- Arms that are missing, or have fewer seeds, on {join(unfinished)} are named below "
            "the tables."
        )
    if results.mixtures:
        said.append(f"- {_older(results.mixtures)}")
    return said


def _older(mixtures: Iterable[Mixture]) -> str:
    labels = [mixture.called for mixture in mixtures]
    were = "were" if len(labels) > 1 else "was"
    return (
        f"{join(labels)} {were} measured before, with *{CONTROL}* in micro-batches as drawn; what "
        "that says is under [The target](#the-target)."
    )
