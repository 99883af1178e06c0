"""Tables and sentences about what a step costs: its memory and its time."""

from benchmarks.page.papers import MEMORY_SAVED, SPEED
from benchmarks.page.quality_tables import OURS, TARGETS, arms_of, shortest
from benchmarks.page.result_files import Mixture, Pace, Result, measured_work
from benchmarks.page.standings import ABSENT, Spread, Standing, table

#: What the memory benchmark calls arms of `benchmarks quality`. It looks as balanced sampling does.
WAYS = {"plain r": "plain_r", "plain n": "plain_n", "plain 2n": "plain_2n", OURS: "colm"}
#: The same selector on the draws that plain training has.
UNIFORM = f"{OURS}, uniform draws"
#: Random choices of r of n. They look at nothing and train on r, as plain r does.
CONTROLS = ("weighted sampling, random", "small sources, random")
HELD = ("weight_bytes", "gradient_bytes", "optimizer_bytes")


def memory_figure(result: Result) -> str:
    """Return what is known of a step's memory: the allocator's peak where there is one."""
    return "peak_bytes" if "colm_peak_bytes" in result.summary else "alive_bytes"


def memory_over_plain_r(result: Result | None, arm: str) -> float | None:
    """Return the memory of a step's tensors over that of plain r; ``None`` where not measured."""
    if result is None or arm not in WAYS:
        return None
    figure = memory_figure(result)
    return result.summary[f"{WAYS[arm]}_{figure}"] / result.summary[f"plain_r_{figure}"]


def memory_saved(result: Result, arm: str, *, whole: bool) -> float:
    """Return the share of an arm's memory that balanced sampling does without.

    Args:
        result: of the memory benchmark.
        arm: the larger mini-batch.
        whole: with weights, gradients and the optimiser's state, which both hold.
    """
    figure = memory_figure(result)
    held = sum(result.summary[name] for name in HELD) if whole else 0.0
    ours = result.summary[f"colm_{figure}"] + held
    return 1 - ours / (result.summary[f"{WAYS[arm]}_{figure}"] + held)


def memory_table(results: list[Result]) -> str:
    """Return the memory that balanced sampling does without, of plain n and of plain 2n."""
    rows = []
    for result in results:
        cells = [
            f"{100 * memory_saved(result, arm, whole=whole):.0f} %"
            for arm in ("plain n", "plain 2n")
            for whole in (False, True)
        ]
        rows.append([f"[{measured_work(result)}](../benchmarks/results/{result.name})", *cells])
    head = ["A step of", "Plain n: its own", "plain n: all", "Plain 2n: its own", "plain 2n: all"]
    return table(head, rows)


def memory_sentences(results: list[Result]) -> list[str]:
    """Return how the memory saved stands to what the paper reports, and why."""
    said = []
    # The papers train with LoRA, so those of ours that do are put beside theirs.
    alike = [result for result in results if "LoRA" in measured_work(result)]
    of = " with LoRA" if alike else ""
    for arm, paper in MEMORY_SAVED.items():
        ours = [100 * memory_saved(result, arm, whole=True) for result in alike or results]
        spread = f"{min(ours):.0f}" + (f" to {max(ours):.0f}" if len(ours) > 1 else "")
        word = "on both sides of" if min(ours) < 100 * paper < max(ours) else "around"
        word = "more than" if min(ours) > 100 * paper else word
        word = "less than" if max(ours) < 100 * paper else word
        said.append(
            f"Of all that lies in memory with {arm}, balanced sampling saves {spread} %{of}: "
            f"{word} the paper's {100 * paper:.0f} %."
        )
    said.append(
        "That share depends on the model, its precision and the length of examples: what is held "
        "between steps is the same with any mini-batch, only a step's own tensors shrink. Gradient "
        "accumulation saves them as well, at the time of the large mini-batch."
    )
    return said


def memory_of_runs(results: list[Result]) -> Result | None:
    """Return the latest memory of steps like those of the runs: LoRA, nothing computed twice."""
    alike = [
        result
        for result in results
        if "LoRA" in measured_work(result)
        and "checkpointed" not in measured_work(result)
        and not result.settings.get("shape")
    ]
    return alike[-1] if alike else None


def cost_table(mixture: Mixture, memory: Result | None) -> str:
    """Return size, memory, time and loss of larger mini-batches and of what stands for them."""
    settings = mixture.settings
    kept = int(settings["r"])
    sizes = {"plain n": 2 * kept, "plain 2n": 4 * kept}
    ratios = mixture.pace.ratios if mixture.pace else {}
    rows = []
    for arm in [*WAYS, *CONTROLS, "CoLM"]:
        held, pace = memory_over_plain_r(memory, arm), ratios.get(arm)
        rows.append(
            [
                arm,
                str(sizes.get(arm, kept)),
                ABSENT if held is None else f"{held:.2f}",
                ABSENT if pace is None else f"{pace:.2f}",
                Spread.of(mixture.at_steps(arm, "macro")).show(),
            ]
        )
    return table(["Mini-batches", "Examples", "Memory", "Time", "Macro loss"], rows)


def pace_table(mixture: Mixture) -> str:
    """Return the time of a step of each arm over that of plain r."""
    assert mixture.pace is not None
    ratios, ranges = mixture.pace.ratios, mixture.pace.ranges()
    seconds = mixture.pace.result.summary
    rows = [
        [
            arm,
            f"{ratios[arm]:.2f}",
            f"{ranges[arm][0]:.2f} to {ranges[arm][1]:.2f}",
            f"{seconds[f'{arm}/seconds']:.2f}",
        ]
        for arm in arms_of(mixture)
        if arm in ratios
    ]
    return table(["Mini-batches", "Over plain r", "Range", "Seconds"], rows)


def pace_doubt(mixture: Mixture) -> str:
    """Return whether comparisons at equal time hold where the pace is off by two standard errors.

    The steps that fit in the time are those of a ratio of two means over turns, whose relative
    errors add up in squares.
    """
    if mixture.pace is None:
        return ""
    errors = mixture.pace.errors()
    ours, said = mixture.at_steps(OURS, "macro"), []
    for arm in (arm for arm, equal in TARGETS.items() if equal == "time"):
        steps = mixture.steps_in_time(arm, OURS)
        if steps is None or arm not in mixture.runs or arm not in errors:
            continue
        off = 2 * steps * (errors[arm] ** 2 + errors[OURS] ** 2) ** 0.5
        ends = [max(steps - off, 0.0), min(steps + off, shortest(mixture, arm))]
        words = [Standing.of(ours, mixture.at_steps(arm, "macro", end)).word for end in ends]
        stands = " to ".join(dict.fromkeys(words))
        said.append(f"{stands} against *{arm}*, {ends[0]:.1f} to {ends[1]:.1f} steps of it")
    if not said:
        return ""
    return (
        f"Times of a step differ from turn to turn, and {len(mixture.pace.result.repeats)} turns "
        "were timed. Within two standard errors of the pace, balanced sampling at equal time is "
        f"{'; '.join(said)}."
    )


def pace_sentences(pace: Pace) -> list[str]:
    """Return how fast two selectors are beside larger mini-batches, and the paper's word."""
    ratios, said = pace.ratios, []
    for arm in ("CoLM", OURS):
        for plain, paper in SPEED.items():
            if arm in ratios and plain in ratios:
                speed = ratios[plain] / ratios[arm]
                word = "more than" if speed > 1.05 * paper else "as much as"
                word = "less than" if speed < paper / 1.05 else word
                said.append(
                    f"{arm}: a step is {speed:.2f} times as fast as one of {plain}, {word} the "
                    f"paper's {paper:g}."
                )
    if said:
        said.append(
            "The paper's times are ideal ones; those here are of whole steps with all that a "
            "selection takes. Which examples are kept matters as well: long ones take longer."
        )
    return said or ["Open: larger mini-batches have not been timed beside these."]


def worth_table(mixture: Mixture, match: Result | None) -> str:
    """Return what steps are worth in plain examples, beside their time; empty where not measured.

    Errors that are random ones leave what is kept with the variance of a plain mini-batch of m
    examples, 1/m = 1/n + s^2 (1/r - 1/n), s being the match score.
    """
    kept = int(mixture.settings["r"])
    ratio = int(mixture.settings["n"]) / kept
    fitting = [r for r in match.settings["r"] if match.settings["n"] == r * ratio] if match else []
    if match is None or mixture.pace is None or not fitting:
        return ""
    squares = [
        row[name] ** 2
        for row in match.repeats
        if (name := f"{OURS}/{fitting[0]}/tokens_raw") in row
    ]
    worth = {"plain r": 1.0, "plain n": ratio, "plain 2n": 2 * ratio}
    if squares:
        share = 1 / ratio
        worth[UNIFORM] = 1 / (share + Spread(tuple(squares)).mean * (1 - share))
    rows = [
        [arm, f"{of:.2f}", f"{time:.2f}", f"{of / time:.2f}"]
        for arm, of in worth.items()
        if (time := mixture.pace.ratios.get(arm))
    ]
    return table(["Mini-batches", "Worth, in plain r", "Time, in plain r", "Worth of time"], rows)


def step_table(results: list[Result]) -> str:
    """Return the time of a step over the ideal and over plain steps, of each measurement."""
    rows = []
    for result in results:
        summary = result.summary
        names = ("colm_over_ideal", "colm_over_plain_r", "colm_over_plain_n")
        ratios = [f"{summary[name]:.2f}" if name in summary else ABSENT for name in names]
        rows.append([f"[{measured_work(result)}](../benchmarks/results/{result.name})", *ratios])
    return table(["A step of", "Over the ideal", "Over plain r", "Over plain n"], rows)
