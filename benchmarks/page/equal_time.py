"""Runs that have the processor time of training, compared at equal time and at equal steps.

The time is a share of what the control takes for its whole run, seed by seed: all of it, or as much
as every run reached. A loss lies on a line between measurements. Where a pace was measured, step by
step in turns, the time of a run is that of its steps by it: what else the machine does changes what
processor time a step takes, and on an accelerator runs share the device.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmarks.page.quality_tables import CEILING, MEASURES, OURS, arms_of, shown_measures
from benchmarks.page.result_files import CLOCK, BySeed, Mixture
from benchmarks.page.standings import ABSENT, Spread, Standing, table, than

#: Ordinary training on all n, arranged by length: what everything is held against.
CONTROL = "plain n"
LARGER = "plain 2n"
EVEN, ADAPTIVE = CEILING, "adaptive, all n"
#: Arms that look at candidates, and the random choice with the same draws and the same small
#: sources kept. A random r of n drawn uniformly is plain r.
RANDOM_TWINS = {
    OURS: "UniMax, random",
    "importance sampling": "UniMax, random",
    "SSM": "weighted sampling, random",
    "CoLM": "small sources, random",
    "CoLM, exact gradients": "small sources, random",
    "mean matching, small sources": "small sources, random",
    "mean matching": "plain r",
    "highest loss": "plain r",
    "balanced sampling, uniform draws": "plain r",
    "gradient matching": "plain r",
}
#: What a comparison at equal time is to have.
ASKED = (
    CONTROL,
    "plain r",
    LARGER,
    EVEN,
    "temperature, all n",
    ADAPTIVE,
    "plain n, hard samples",
    "plain n, InfoBatch",
    "plain n, TailSFT",
    "plain n, root average",
    "UniMax, all n, root average",
    "adaptive, all n, root average",
    "small sources, random",
    "weighted sampling, random",
    "UniMax, random",
    "CoLM",
    "SSM",
    OURS,
    "importance sampling",
    "highest loss",
)
SAYING_NOTHING = ("open", "one seed")


@dataclass(frozen=True)
class EqualTime:
    """The runs of a mixture after the same processor time, seed by seed.

    Attributes:
        seconds: time at which the runs of a seed are read.
        share: of the control's whole run, the same for all seeds.
        ends_first: the arm whose run is the shortest, where that is not the control's.
        paces: seconds of a step, by arm, where they were measured.
    """

    mixture: Mixture
    seconds: BySeed
    share: float = 1.0
    ends_first: str | None = None
    paces: Mapping[str, float] | None = None

    @classmethod
    def of(cls, mixture: Mixture) -> "EqualTime":
        """Find the time: without a run of the control, or its pace, there is none."""
        # On an accelerator the processor only waits.
        without: dict[str, float] | None = {} if mixture.accelerator else None
        paces = mixture.pace.seconds if mixture.pace else without
        took = {
            arm: {
                run.seed: run.last_second if paces is None else run.last_step * paces[arm]
                for run in runs
            }
            for arm, runs in mixture.runs.items()
            if paces is None or arm in paces
        }
        whole = took.get(CONTROL, {})
        shares = {
            arm: min(seconds[seed] / whole[seed] for seed in seconds.keys() & whole.keys())
            for arm, seconds in took.items()
            if seconds.keys() & whole.keys()
        }
        first = min(shares, key=lambda arm: (shares[arm], arm != CONTROL), default=CONTROL)
        share = shares.get(first, 1.0)
        seconds = {seed: share * time for seed, time in whole.items()}
        return cls(mixture, seconds, share, None if first == CONTROL else first, paces)

    def losses(self, arm: str, measure: str = "macro") -> BySeed:
        """Return a measure of each seed's run after the time."""
        return self._read(arm, measure)

    def steps(self, arm: str) -> BySeed:
        """Return how many steps each seed's run has taken after the time."""
        return self._read(arm, "steps")

    def _read(self, arm: str, measure: str) -> BySeed:
        if self.paces is None:
            return self.mixture.read(arm, measure, self.seconds, CLOCK)
        if arm not in self.paces:
            return {}
        steps = {seed: seconds / self.paces[arm] for seed, seconds in self.seconds.items()}
        return self.mixture.read(arm, measure, steps)

    def ceiling(self) -> BySeed:
        """Return the macro loss of training on all n drawn, in as many steps as a look leaves."""
        return self.mixture.read(EVEN, "macro", self.steps(OURS))

    def ceiling_word(self) -> str:
        """Return how that loss stands to the best arm without a look."""
        rival = self.lowest(looking=False)
        return Standing.of(self.ceiling(), self.losses(rival) if rival else {}).word

    def standing(self, ours: str, theirs: str) -> Standing:
        """Return how the macro loss of an arm stands to another's."""
        return Standing.of(self.losses(ours), self.losses(theirs))

    def lowest(self, *, looking: bool | None = None) -> str | None:
        """Return the arm of the lowest mean macro loss, of those that have the control's seeds.

        Args:
            looking: of those alone that look at candidates, or that do not.
        """
        arms = [arm for arm in self.complete() if looking in (None, arm in RANDOM_TWINS)]
        return min(arms, key=self.mean, default=None)

    def complete(self) -> list[str]:
        """Return the arms that have every seed of the control."""
        seeds = self.losses(CONTROL).keys()
        return [arm for arm in arms_of(self.mixture) if seeds and seeds <= self.losses(arm).keys()]

    def mean(self, arm: str) -> float:
        """Return the mean macro loss over the control's seeds."""
        losses = self.losses(arm)
        return Spread(tuple(losses[seed] for seed in self.losses(CONTROL))).mean

    def below_plain(self, arm: str) -> bool | None:
        """Return whether an arm is below plain n and plain 2n in every seed; ``None`` if open."""
        return all_lower(self.standing(arm, plain) for plain in (CONTROL, LARGER))

    def best_look(self) -> tuple[str, Standing] | None:
        """Return the lowest look, and how it stands to the best arm without one; ``None`` if open.

        Nothing is said before even draws are there to be held against.
        """
        look, rival = self.lowest(looking=True), self.lowest(looking=False)
        if look is None or rival is None or EVEN not in self.complete():
            return None
        standing = self.standing(look, rival)
        return None if standing.word in SAYING_NOTHING else (look, standing)


def all_lower(standings: Iterable[Standing]) -> bool | None:
    """Return whether all are lower in every seed; ``None`` where one is open and none says no."""
    words = [standing.word for standing in standings]
    if any(not word.startswith("lower") and word not in SAYING_NOTHING for word in words):
        return False
    return None if any(word in SAYING_NOTHING for word in words) else True


def time_sentence(equal: EqualTime) -> str:
    """Return which time it is that losses are read at."""
    if not equal.seconds:
        return (
            f"Open at equal time: there is no run of *{CONTROL}*, or no measured pace of it, whose "
            "time would be the measure."
        )
    kind = "s of a processor" if equal.paces is None else "s by measured pace"
    spread = Spread.of(equal.seconds)
    least, most = (f"{end(spread.values):,.0f}" for end in (min, max))
    took = least if least == most else f"{least} to {most}"
    if equal.ends_first is None:
        return f"Equal time is that of the whole run of *{CONTROL}*: {took} {kind}."
    return (
        f"Equal time is {100 * equal.share:.0f} % of that of the whole run of *{CONTROL}*, {took} "
        f"{kind}: the most that every run reached; *{equal.ends_first}* ends first."
    )


def loss_table(equal: EqualTime) -> str:
    """Return each arm's losses at equal time and at equal steps, the lowest at equal time first."""
    mixture = equal.mixture
    measures = shown_measures(mixture)
    order = {
        arm: Spread.of(losses).mean if (losses := equal.losses(arm)) else float("inf")
        for arm in arms_of(mixture)
    }
    rows = []
    for arm in sorted(order, key=lambda arm: order[arm]):
        steps = equal.steps(arm)
        rows.append(
            [
                f"{arm} ({Spread.of(steps).mean:,.0f} steps)" if steps else arm,
                str(len(mixture.runs[arm])),
                *(Spread.of(equal.losses(arm, measure)).short() for measure in measures),
                _beside(equal, arm, CONTROL),
                _beside_twin(equal, arm),
                *(Spread.of(mixture.at_steps(arm, measure)).short() for measure in measures),
            ]
        )
    heads = [MEASURES[measure].lower() for measure in measures]
    return table(
        [
            "Mini-batches",
            "Seeds",
            *(f"Time: {head}" for head in heads),
            f"Time: macro against {CONTROL}",
            "Time: macro against its random twin",
            *(f"Steps: {head}" for head in heads),
        ],
        rows,
    )


def _beside(equal: EqualTime, arm: str, other: str) -> str:
    """The mean difference of macro losses over the seeds that both have, and the word for it."""
    standing = equal.standing(arm, other)
    if arm == other or standing.word == "open":
        return ABSENT
    return f"{standing.difference.mean:+.3f}, {standing.word}"


def _beside_twin(equal: EqualTime, arm: str) -> str:
    twin = RANDOM_TWINS.get(arm)
    if twin is None:
        return ABSENT
    cell = _beside(equal, arm, twin)
    return f"{cell if cell != ABSENT else 'open'} ({twin})"


def sentences(equal: EqualTime) -> list[str]:
    """Return what the figures of a mixture say at equal time."""
    pairs = [(arm, plain) for arm in (EVEN, ADAPTIVE) for plain in (CONTROL, LARGER)]
    said = [
        standing.say(f"*{ours}*", f"*{theirs}*", "macro held-out loss at equal time")
        for ours, theirs in [*pairs, (ADAPTIVE, EVEN)]
        # What was not run is listed once.
        if (standing := equal.standing(ours, theirs)).word != "open"
    ]
    return [*said, look_sentence(equal), ceiling_sentence(equal)]


def look_sentence(equal: EqualTime) -> str:
    """Return whether any look is below the best arm without one."""
    rival, best = equal.lowest(looking=False), equal.best_look()
    if rival is None or best is None:
        return "Whether a look pays is open."
    look, standing = best
    pays = "a look pays here" if standing.word.startswith("lower") else "no look pays here"
    return (
        f"Of the arms that look at candidates *{look}* is the lowest at equal time, "
        f"{equal.mean(look):.3f}, {than(standing.word)} *{rival}*, the lowest of those that do "
        f"not, {equal.mean(rival):.3f}: {pays}."
    )


def ceiling_sentence(equal: EqualTime) -> str:
    """Return where a selection without error would end at equal time, beside no look at all."""
    rival, ideal = equal.lowest(looking=False), equal.ceiling()
    if rival is None or not ideal:
        return ""
    word = equal.ceiling_word()
    said = (
        f"Were the selection of {OURS} without error, it would train as *{EVEN}* does, in as many "
        f"steps as it has in the time: a macro held-out loss of {Spread.of(ideal).short()}, "
        f"{than(word)} *{rival}*."
    )
    best = equal.best_look()
    pays = best is not None and best[1].word.startswith("lower")
    if pays or word in SAYING_NOTHING or word.startswith("lower"):
        return said
    return f"{said} So no look that costs as much can pay, by being exact alone."
