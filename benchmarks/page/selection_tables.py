"""Tables and sentences about what is selected: convergence, sources, lengths and gradients."""

import math
from collections.abc import Iterable
from itertools import pairwise

from benchmarks.page.quality_tables import OURS, arms_of
from benchmarks.page.result_files import BySeed, Mixture, Result
from benchmarks.page.standings import Spread, join, table

#: What the match benchmark calls the arms of `benchmarks quality`, in the order of tables.
MATCHED = (
    "random",
    "small sources whole, rest random",
    "SSM",
    "CoLM as published",
    "CoLM, small sources not kept",
    "CoLM, exact gradients",
    "mean matching",
    "highest loss",
    "longest",
    OURS,
    "importance sampling",
    "gradient matching",
    "all gradients known, gradient matching",
)
#: What its ablations vary, and how their names begin and end.
VARIED = "CoLM, exact gradients"
ABLATIONS = {
    "dimension_criterion": ("CoLM, exact, dimensions by ", ""),
    "kept_dimensions": ("CoLM, exact, ", " dimensions"),
}
#: How the names of arms begin that keep no small source here and do in `benchmarks quality`.
BARE = "CoLM, exact"
#: What the drift benchmark says of errors.
DRIFTS = {"raw": "gradient", "adam": "as Adam scales it"}
DRIFT = {"score": "A single batch", "drift": "The sum of all batches"}
KINDS = {"raw": "Mean over examples", "tokens_raw": "Mean over label tokens"}


def mean_curve(mixture: Mixture, arm: str, measure: str = "macro") -> list[tuple[float, Spread]]:
    """Return the measurements of an arm over its seeds, by step."""
    runs = mixture.runs[arm]
    steps = [row["steps"] for row in runs[0].result.repeats]
    curve = [(step, Spread.of(mixture.at_steps(arm, measure, step))) for step in steps]
    return [(step, spread) for step, spread in curve if spread.values]


def steps_to_reach(mixture: Mixture, arm: str, loss: float) -> float | None:
    """Return when the mean curve of an arm first is at a loss, linear between measurements."""
    curve = mean_curve(mixture, arm)
    if curve and curve[0][1].mean <= loss:
        return curve[0][0]
    for (left, before), (right, after) in pairwise(curve):
        if after.mean <= loss:
            share = (before.mean - loss) / (before.mean - after.mean)
            return left + share * (right - left)
    return None


def convergence_sentences(mixture: Mixture) -> list[str]:
    """Return after how many steps balanced sampling and CoLM are where plain training ends."""
    said = []
    for plain in ("plain r", "plain n"):
        end = mixture.at_steps(plain, "macro")
        loss, reached = Spread.of(end).mean if end else 0.0, []
        for arm in (OURS, "CoLM", "weighted sampling, random") if end else ():
            if arm in mixture.runs:
                steps = steps_to_reach(mixture, arm, loss)
                when = "nowhere in its run" if steps is None else f"after {steps:.1f}"
                reached.append(f"by *{arm}* {when}")
        if reached:
            said.append(
                f"The mean macro loss that {plain} has after {mixture.steps:g} steps ({loss:.3f}) "
                f"is reached {join(reached)}."
            )
    return said or ["Open: no plain runs to compare with."]


def small_share(mixture: Mixture, arm: str, key: str) -> BySeed:
    """Return the share of small sources in what was drawn or kept, by seed."""
    shares = {}
    for run in mixture.runs.get(arm, []):
        total = run.logged(f"colm/{key}")
        small = [run.logged(f"colm/{key}/{s}") for s in run.result.settings["small_sources"]]
        if total:
            shares[run.seed] = sum(value or 0.0 for value in small) / total
    return shares


def source_table(mixture: Mixture) -> str:
    """Return the share of small sources among the candidates and the kept, in per cent."""
    rows = [
        [
            arm,
            Spread.of(small_share(mixture, arm, "candidates")).show(1, times=100),
            Spread.of(small_share(mixture, arm, "kept")).show(1, times=100),
        ]
        for arm in arms_of(mixture)
        if small_share(mixture, arm, "kept")
    ]
    return table(["Mini-batches", "Of candidates, %", "Of kept, %"], rows) if rows else ""


def length_ratio(mixture: Mixture, arm: str) -> BySeed:
    """Return mean label tokens of a kept example over those of a candidate, by seed."""
    token_shares = mixture.logged(arm, "colm/label_token_share")
    kept = mixture.logged(arm, "colm/kept")
    candidates = mixture.logged(arm, "colm/candidates")
    return {
        seed: share * candidates[seed] / kept[seed]
        for seed, share in token_shares.items()
        if kept.get(seed) and candidates.get(seed)
    }


def length_table(mixture: Mixture) -> str:
    """Return how long the completions of kept examples are relative to those of candidates."""
    rows = [
        [arm, Spread.of(ratios).show(2)]
        for arm in arms_of(mixture)
        if (ratios := length_ratio(mixture, arm))
    ]
    return table(["Mini-batches", "Length over candidates'"], rows) if rows else ""


def length_sentence(mixture: Mixture) -> str:
    """Return whether CoLM and balanced sampling prefer long completions."""
    said = []
    for arm in ("CoLM", OURS):
        if ratios := length_ratio(mixture, arm):
            mean = Spread.of(ratios).mean
            word = "longer" if mean > 1.05 else "shorter" if mean < 0.95 else "about as long"
            than = "as" if word == "about as long" else "than"
            said.append(f"What {arm} keeps is {word} {than} what it is offered ({mean:.2f}).")
    return " ".join(said) or "Open: no run logs what was kept."


def shown(arm: str) -> str:
    """Return the name of an arm of the match benchmark, told apart from one of the same name."""
    return f"{arm}, small sources not kept" if arm.startswith(BARE) else arm


def variance(result: Result, arm: str, kept: int, kind: str) -> Spread:
    """Return squared match scores over batches: variance over that of random mini-batches."""
    name = f"{arm}/{kept}/{kind}"
    return Spread(tuple(row[name] ** 2 for row in result.repeats if name in row))


def variance_table(result: Result, kept: int, arms: Iterable[str] = MATCHED) -> str:
    """Return the variance of each selector over that of random mini-batches."""
    rows = [
        [shown(arm), *(variance(result, arm, kept, kind).show(2) for kind in KINDS)]
        for arm in arms
        if variance(result, arm, kept, "raw").values
    ]
    return table([f"Kept {kept} of {result.settings['n']}", *KINDS.values()], rows)


def arms_matched(result: Result) -> list[str]:
    """Return the selectors that the match benchmark measured, in its order."""
    return list(dict.fromkeys(key.split("/")[0] for key in result.repeats[-1] if "/" in key))


def ablated(result: Result, option: str) -> list[str]:
    """Return the selectors that vary an option, after the one that they vary; none without any."""
    begin, end = ABLATIONS[option]
    found = [name for name in arms_matched(result) if name.startswith(begin) and name.endswith(end)]
    return [VARIED, *found] if found else []


def ablation_sentence(result: Result, kept: int, arms: list[str]) -> str:
    """Return which of the selectors the first is told apart from, batch by batch."""
    first, *others = arms
    said: dict[str, list[str]] = {"less": [], "more": []}
    for arm in others:
        pairs = zip(
            variance(result, arm, kept, "tokens_raw").values,
            variance(result, first, kept, "tokens_raw").values,
            strict=True,
        )
        change = Spread(tuple(ours - theirs for ours, theirs in pairs))
        if abs(change.mean) > 2 * _standard_error(change) > 0:
            said["less" if change.mean < 0 else "more"].append(f"*{shown(arm)}*")
    told = [f"{word} than *{shown(first)}*: {join(names)}" for word, names in said.items() if names]
    return (
        f"By the mean over label tokens, beyond two standard errors of the difference, "
        f"{'; '.join(told)}."
        if told
        else f"None is told apart from *{shown(first)}* by the mean over label tokens."
    )


def drift_table(result: Result) -> str:
    """Return errors of selectors over those of random mini-batches, of one batch and summed up."""
    last = result.repeats[-1]
    kept = max(result.settings["r"])
    rows = [
        [
            shown(name),
            *(f"{last[f'{name}/{kept}/{kind}/{what}']:.2f}" for kind in DRIFTS for what in DRIFT),
        ]
        for name in arms_matched(result)
    ]
    heads = [f"{what}, {kind}" for kind in DRIFTS.values() for what in DRIFT.values()]
    return table([f"Kept {kept} of {result.settings['n']}", *heads], rows)


def variance_sentences(result: Result) -> list[str]:
    """Return whether CoLM and balanced sampling have less variance than random mini-batches."""
    said = []
    for arm in ("CoLM as published", OURS):
        found: dict[str, list[str]] = {}
        for kept in result.settings["r"]:
            for kind, head in KINDS.items():
                if (spread := variance(result, arm, kept, kind)).values:
                    case = f"{kept} of {result.settings['n']} by the {head.lower()}"
                    found.setdefault(_beside_random(spread), []).append(
                        f"{case} ({spread.mean:.2f})"
                    )
        said += [f"{arm} is {word} with {join(cases)}." for word, cases in found.items()]
        if not found:
            said.append(f"{arm} was not among them.")
    return said + _why_not_less(result, max(result.settings["r"]))


def _why_not_less(result: Result, kept: int) -> list[str]:
    """Why CoLM as published has not less variance than random, where that is so."""
    published = variance(result, "CoLM as published", kept, "raw")
    if not published.values or _beside_random(published) == "closer than random":
        return []
    said = [
        "The paper reports less variance for CoLM. Here all trained parameters count, and the "
        "gradient to match is that of the candidates drawn, not of the data.",
    ]
    bare = variance(result, "CoLM, small sources not kept", kept, "raw")
    if bare.values and bare.mean < published.mean:
        said.append(
            f"Keeping small sources whole moves the mean away from it: without that it is "
            f"{bare.mean:.2f} instead of {published.mean:.2f} with {kept} of "
            f"{result.settings['n']}, {_beside_random(bare)}."
        )
    return said


def _beside_random(spread: Spread) -> str:
    """Less or more than random where the mean is two standard errors from 1."""
    if len(spread.values) < 2 or abs(spread.mean - 1) <= 2 * _standard_error(spread):
        return "not told apart from random"
    return "closer than random" if spread.mean < 1 else "further off than random"


def _standard_error(spread: Spread) -> float:
    return (spread.deviation or 0.0) / math.sqrt(len(spread.values))
