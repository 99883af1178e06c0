"""Tables and sentences about held-out losses: the main result, and parts of a method varied."""

from collections.abc import Callable, Iterable, Sequence

from benchmarks.page.result_files import BySeed, Mixture
from benchmarks.page.standings import ABSENT, Spread, Standing, join, table, than

OURS = "balanced sampling"
#: Trains on all candidates that balanced sampling draws: where a coreset without error would end.
CEILING = "UniMax, all n"
#: The arms that a full comparison has, in the order of tables.
ARMS = (
    OURS,
    "plain r",
    "plain n",
    "plain 2n",
    "weighted sampling, random",
    "small sources, random",
    "SSM",
    "CoLM",
    "CoLM, exact gradients",
    "mean matching",
    "mean matching, small sources",
    "highest loss",
    "longest",
    "UniMax, random",
    CEILING,
    "balanced sampling, uniform draws",
    "importance sampling",
    "gradient matching",
)
WEIGHTED = (
    "plain r",
    "weighted sampling, random",
    "SSM",
    "UniMax, random",
    CEILING,
    OURS,
    "balanced sampling, uniform draws",
    "importance sampling",
    "gradient matching",
)
#: What balanced sampling is to end below, and at equal what.
TARGETS = {
    "plain n": "steps",
    "plain 2n": "steps",
    "plain r": "time",
    "weighted sampling, random": "time",
    "small sources, random": "time",
}
SEEDS = 3
MEASURES = {"macro": "Macro", "micro": "Micro", "small": "Small sources"}

Values = Callable[[str, str], BySeed]


def arms_of(mixture: Mixture) -> list[str]:
    """Return the arms that were run, in the order of tables."""
    known = [arm for arm in ARMS if arm in mixture.runs]
    return known + sorted(arm for arm in mixture.runs if arm not in ARMS)


def describe(mixture: Mixture) -> str:
    """Return what all runs of a mixture share, as a paragraph."""
    settings = mixture.settings
    data = settings["data"] or "the generated mixture"
    model = (
        f"{settings['model'] or 'SmolLM2-135M-Instruct'} with LoRA ({settings['dtype']} weights)"
    )
    if settings.get("from_scratch"):
        model = "a small model of bytes from scratch, all its weights,"
    regime = settings.get("regime", "imbalanced")
    made = "," if regime == "imbalanced" else f", made {regime},"
    first = next(iter(mixture.runs.values()))[0].result
    small, sources = first.settings["small_sources"], first.settings["sources"]
    accelerator = first.machine.get("accelerator") or first.machine.get("processor", "unknown")
    examples, trained = sum(sources.values()), mixture.steps * settings["r"]
    early = ", the very beginning of a run" if trained < examples / 20 else ""
    return (
        f"`{mixture.label}`: {model} on {data}{made} "
        f"{examples:,} examples of {len(sources)} sources, {len(small)} of them small; "
        f"n = {settings['n']} candidates, "
        f"r = {settings['r']} kept, micro-batches of {settings['micro_batch']}, at most "
        f"{settings['max_length']} tokens, learning rate {settings['learning_rate']:g} (constant "
        f"after {settings['warmup_steps']} steps), held out {settings['held_out']} examples of "
        f"each source, on {accelerator}. {mixture.steps:g} steps on r train on {trained:,.0f} "
        f"examples, {100 * trained / examples:.1f} % of all{early}. "
        f"Runs: `benchmarks/results/quality/{mixture.label}`."
    )


def missing_runs(mixture: Mixture, asked: Iterable[str] = ARMS) -> list[str]:
    """Return a sentence on the arms that were not run, and on those of fewer seeds."""
    said = []
    if missing := [arm for arm in asked if arm not in mixture.runs]:
        said.append(f"`{mixture.label}`: not run yet: {'; '.join(missing)}.")
    few = {arm: len(mixture.runs[arm]) for arm in arms_of(mixture)}
    if few := {arm: seeds for arm, seeds in few.items() if seeds < SEEDS}:
        shown = "; ".join(f"{arm} ({seeds})" for arm, seeds in few.items())
        said.append(f"`{mixture.label}`: fewer than {SEEDS} seeds so far: {shown}.")
    return said


def what_is_open(mixture: Mixture) -> list[str]:
    """Return a sentence for each thing that is missing of a full comparison."""
    said = missing_runs(mixture)
    untimed = [arm for arm in arms_of(mixture) if mixture.steps_in_time(arm, OURS) is None]
    if untimed:
        said.append(
            f"`{mixture.label}`: without a measured pace, so open at equal time: "
            f"{'; '.join(untimed)}."
        )
    if not mixture.accuracy:
        said.append(f"`{mixture.label}`: accuracy on questions has not been measured.")
    return said


def target_table(mixture: Mixture) -> str:
    """Return what balanced sampling is to end below in macro loss, and whether it does."""
    rows = []
    for arm, equal in TARGETS.items():
        standing = target_standing(mixture, arm)
        ours, theirs = Spread(standing.ours), Spread(standing.theirs)
        rows.append([f"{arm}, equal {equal}", standing.word, ours.show(), theirs.show()])
    return table(["Against", "Balanced sampling is", "Balanced sampling", "The other"], rows)


def target_standing(mixture: Mixture, arm: str) -> Standing:
    """Return how balanced sampling stands to an arm of the target."""
    ours = mixture.at_steps(OURS, "macro")
    if TARGETS[arm] == "steps":
        return Standing.of(ours, mixture.at_steps(arm, "macro"))
    return Standing.of(ours, mixture.at_time(arm, "macro", OURS))


def target_sentence(mixture: Mixture) -> str:
    """Return whether the target is met."""
    words = {arm: target_standing(mixture, arm).word for arm in TARGETS}
    met = [arm for arm, word in words.items() if word == "lower"]
    undecided = [arm for arm, word in words.items() if word in ("open", "one seed")]
    if len(met) == len(words):
        return f"On `{mixture.label}` the target is met: all {len(words)} comparisons hold."
    said = f"On `{mixture.label}` {len(met)} of {len(words)} comparisons hold beyond the spread."
    if missed := [arm for arm in words if arm not in met and arm not in undecided]:
        stands = [f"{than(words[arm])} *{arm}*" for arm in missed]
        said += f" The target is not met: balanced sampling is {join(stands)}."
    if undecided:
        said += f" Open: {join([f'*{arm}*' for arm in undecided])}."
    return said


def ceiling_sentence(mixture: Mixture) -> str:
    """Return where a coreset without error would end, beside what the target asks at equal time."""
    ideal = mixture.at_steps(CEILING, "macro")
    timed = [arm for arm, equal in TARGETS.items() if equal == "time"]
    words = {arm: Standing.of(ideal, mixture.at_time(arm, "macro", OURS)).word for arm in timed}
    if not ideal or any(word == "open" for word in words.values()):
        return ""
    ours = Standing.of(mixture.at_steps(OURS, "macro"), ideal)
    said = (
        "How far could any selection get? Training on all n candidates that balanced sampling "
        "draws stands for a coreset without error: after as many steps, a macro held-out loss of "
        f"{Spread.of(ideal).show(line=', ')}. {ours.say('balanced sampling', 'such training')}"
    )
    if out := [f"*{arm}*" for arm, word in words.items() if word != "lower"]:
        said += (
            f" Not even such training would be lower than {join(out)} at equal time, beyond the "
            "spread: so early in a run, more steps are worth more than more exact ones."
        )
    return said


def steps_table(mixture: Mixture, arms: Iterable[str] | None = None) -> str:
    """Return held-out losses of arms after as many steps."""
    return _loss_table(mixture, arms or arms_of(mixture), mixture.at_steps)


def time_table(mixture: Mixture) -> str:
    """Return held-out losses after the time that balanced sampling's steps take.

    An arm that was not run for as long shows its last measurement, and after what share of the
    time that was.
    """
    timed = [arm for arm in arms_of(mixture) if mixture.steps_in_time(arm, OURS)]

    def values(arm: str, measure: str) -> BySeed:
        steps = mixture.steps_in_time(arm, OURS)
        assert steps is not None
        return mixture.at_steps(arm, measure, min(steps, shortest(mixture, arm)))

    names = {}
    for arm in timed:
        steps = mixture.steps_in_time(arm, OURS)
        assert steps is not None
        share = shortest(mixture, arm) / steps
        late = f", {100 * share:.0f} % of the time" if share < 1 else ""
        names[arm] = f"{arm} ({min(steps, shortest(mixture, arm)):.1f} steps{late})"
    return _loss_table(mixture, timed, values, names) if timed else ""


def shortest(mixture: Mixture, arm: str) -> float:
    """Return how many steps every run of an arm has."""
    return min(run.last_step for run in mixture.runs[arm])


def accuracy_table(mixture: Mixture) -> str:
    """Return the share of right answers of each arm to each set of questions, in per cent."""
    sets = sorted({name for scores in mixture.accuracy.values() for name in scores})
    arms = sorted(mixture.accuracy, key=lambda arm: [*ARMS, arm].index(arm))
    rows = []
    for arm in arms:
        scores = mixture.accuracy[arm]
        seeds = len({seed for values in scores.values() for seed in values})
        steps = f"{shortest(mixture, arm):g}" if arm in mixture.runs else ABSENT
        cells = (_percent(scores.get(name, {})) for name in sets)
        rows.append([arm, str(seeds), steps, *cells])
    return table(["Mini-batches", "Seeds", "Steps", *sets], rows)


def accuracy_standing(mixture: Mixture) -> Standing:
    """Return how CoLM stands to plain 2n in the mean over sets of questions."""
    means = []
    for arm in ("CoLM", "plain 2n"):
        sets = list(mixture.accuracy.get(arm, {}).values())
        seeds = set.intersection(*map(set, sets)) if sets else set()
        means.append({seed: sum(one[seed] for one in sets) / len(sets) for seed in seeds})
    return Standing.of(*means)


def main_sentences(mixture: Mixture) -> list[str]:
    """Return how CoLM as published stands to larger mini-batches here, and why."""

    def stands(ours: str, theirs: str, measure: str = "macro") -> Standing:
        return Standing.of(mixture.at_steps(ours, measure), mixture.at_steps(theirs, measure))

    large = stands("CoLM", "plain 2n")
    said = [large.say("CoLM as published", "plain training on 2n examples")]
    if large.word == "lower":
        said.append("That is what the paper reports of mini-batches four times as large.")
    elif large.word not in ("open", "one seed"):
        said.append(
            "The paper reports an advantage over mini-batches four times as large. What differs "
            f"here: a much smaller model, {mixture.steps:g} steps instead of a thousand, and loss "
            "instead of right answers."
        )
    if mixture.accuracy:
        said.append(
            accuracy_standing(mixture).say(
                "CoLM as published", "plain training on 2n examples", "mean share of right answers"
            )
        )
    control = stands("CoLM", "small sources, random")
    said.append(control.say("CoLM as published", "keeping small sources and filling up at random"))
    if control.word in ("level", "higher", "higher in every seed"):
        said.append(
            "So no gain from CoLM's medoids shows here beyond that from small sources being kept. "
            "The paper, too, finds small sources to be the largest part of the gain."
        )
    return said


def micro_sentence(mixture: Mixture) -> str:
    """Return what balanced sampling does to the loss in which large sources count most."""
    said = [
        Standing.of(mixture.at_steps(OURS, "micro"), mixture.at_steps(plain, "micro")).say(
            OURS, f"{plain} after as many steps", "micro held-out loss"
        )
        for plain in ("plain r", "plain n")
    ]
    return f"The target leaves out micro loss, where large sources count most. {' '.join(said)}"


def weighted_sentences(mixture: Mixture) -> list[str]:
    """Return what drawing small sources more often does, with random mini-batches and without."""
    pairs = [
        ("weighted sampling, random", "plain r"),
        ("SSM", "weighted sampling, random"),
        ("UniMax, random", "weighted sampling, random"),
        (OURS, "balanced sampling, uniform draws"),
        (OURS, "UniMax, random"),
        ("importance sampling", "UniMax, random"),
        ("importance sampling", OURS),
    ]
    said = []
    for ours, theirs in pairs:
        if ours not in mixture.runs or theirs not in mixture.runs:
            continue
        macro, micro = (
            Standing.of(mixture.at_steps(ours, measure), mixture.at_steps(theirs, measure))
            for measure in ("macro", "micro")
        )
        said.append(macro.say(ours, theirs))
        if macro.word.startswith("lower") and micro.word.startswith("higher"):
            said.append("In micro loss it is the other way round: large sources pay for it.")
    return said


def varied(mixture: Mixture, option: str) -> list[str]:
    """Return the arms that vary an option, after the methods that they vary."""
    arms = {arm: runs[0].options for arm, runs in mixture.runs.items()}
    rest = {
        arm: {name: value for name, value in options.items() if name != option}
        for arm, options in arms.items()
    }
    varying = [arm for arm in arms_of(mixture) if option in arms[arm]]
    methods = [rest[arm] for arm in varying]
    bases = [arm for arm in arms_of(mixture) if arm not in varying and rest[arm] in methods]
    return bases + varying


def varied_sentence(mixture: Mixture, arms: Sequence[str]) -> str:
    """Return whether what was varied makes a difference to the first arm."""
    first, *others = arms
    words = [
        Standing.of(mixture.at_steps(first, "macro"), mixture.at_steps(arm, "macro")).word
        for arm in others
    ]
    if any(word in ("lower", "higher") for word in words):
        return f"Some differ from {first} beyond the spread of the seeds."
    if all(word in ("open", "one seed") for word in words):
        return "With fewer than two seeds in common nothing can be told apart."
    return (
        f"None differs from {first} beyond the spread of the seeds. Along one direction the "
        "gradient of an example is a number times that direction, so which of its dimensions are "
        "kept, and how many, can hardly change which examples are close to each other."
    )


def shown_measures(mixture: Mixture) -> list[str]:
    """Return the losses that were measured: that of small sources only where there are any."""
    return [
        measure
        for measure in MEASURES
        if any(mixture.at_steps(arm, measure) for arm in mixture.runs)
    ]


def _loss_table(
    mixture: Mixture, arms: Iterable[str], values: Values, names: dict[str, str] | None = None
) -> str:
    """A row an arm, a column a measure; the small sources' only where there are any."""
    shown = {
        measure: head
        for measure, head in MEASURES.items()
        if any(values(arm, measure) for arm in mixture.runs if names is None or arm in names)
    }
    rows = []
    # Arms that were not run are listed once, where the page says what is open.
    for arm in (arm for arm in arms if arm in mixture.runs):
        cells = [Spread.of(values(arm, measure)).show() for measure in shown]
        rows.append([(names or {}).get(arm, arm), str(len(mixture.runs[arm])), *cells])
    return table(["Mini-batches", "Seeds", *shown.values()], rows)


def _percent(values: BySeed) -> str:
    return Spread.of(values).show(1, times=100)
