"""Figures of `docs/memory.md`: a side block beside LoRA, in time, bytes and loss."""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.page.result_files import Result, results_of
from benchmarks.page.standings import ABSENT, table

REFERENCE, REFERENCE_ON_N = "LoRA, r by CoLM", "LoRA, n"
BLOCK = "side block, r by CoLM"
#: Ends the names of the ratios, of which each arm has one.
RATIO = "/over_reference"
MIB = 2**20
CLOCKS = {"seconds": "s", "processor_seconds": "s of processor time"}


def blocks(results: Path) -> dict[str, str]:
    """Return the table, what was run, and a sentence, by their place."""
    found = sorted(results_of(results, "side_block"), key=lambda one: one.date)
    if not found:
        return {}
    arms: dict[str, Result] = {}
    for result in found:
        # A run of some arms has the reference for their ratios alone.
        own = [name for name in arms_of(result) if name != REFERENCE or REFERENCE not in arms]
        arms |= dict.fromkeys(own, result)
    said = {"table": compared(arms), "setting": setting(arms), "standing": standing(arms)}
    return {f"side block {name}": text for name, text in said.items()}


def arms_of(result: Result) -> list[str]:
    """Return the arms of a result, in the order measured."""
    return [name.removesuffix(RATIO) for name in result.summary if name.endswith(RATIO)]


def clock_of(result: Result) -> str:
    """Return the time that ratios are of."""
    return "seconds" if "accelerator" in result.machine else "processor_seconds"


def compared(arms: Mapping[str, Result]) -> str:
    """Return the time, bytes and losses of each arm."""
    rows = []
    for arm, result in arms.items():
        clock = clock_of(result)
        said = {key: result.summary.get(f"{arm}/{key}") for key in ("steps", "macro", "micro")}
        turns = [
            turn[f"{arm}/{clock}"] / turn[f"{REFERENCE}/{clock}"]
            for turn in result.repeats
            if f"{REFERENCE}/{clock}" in turn
        ]
        rows.append(
            [
                arm,
                f"{result.summary[arm + RATIO]:.2f}",
                f"{min(turns):.2f} to {max(turns):.2f}",
                f"{result.summary[f'{arm}/total_bytes'] / MIB:,.0f}",
                ABSENT if said["steps"] is None else f"{said['steps']:.0f}",
                *(
                    ABSENT if said[key] is None else f"{said[key]:.3f}"
                    for key in ("macro", "micro")
                ),
            ]
        )
    return table(["Training", "Time of a step", "Turns", "Peak", "Steps", "Macro", "Micro"], rows)


def setting(arms: Mapping[str, Result]) -> str:
    """Return what was run, in sentences."""
    result = arms[REFERENCE]
    said, clock = result.settings, clock_of(result)
    rates = {
        kind: arms[arm].summary.get(f"{arm}/learning_rate", 0.0)
        for kind, arm in (("LoRA", REFERENCE), ("the block", BLOCK))
    }
    return (
        f"SmolLM2-135M-Instruct in {said['dtype']}, r = {said['r']} of n = {said['n']} examples of "
        f"{said['data'] or 'the generated mixture'}, at most {said['max_length']} tokens, in "
        f"micro-batches of {said['micro_batch']}; LoRA of rank 16 in all linear maps; learning "
        f"rate {' and '.join(f'{rate:g} of {kind}' for kind, rate in rates.items())}; measured on "
        f"{result.machine['processor']}. The time of a step is over that of *{REFERENCE}* "
        f"({result.summary[f'{REFERENCE}/{clock}']:.1f} {CLOCKS[clock]}), of all turns and from "
        "turn to turn; the peak is in MiB. Losses are held-out ones, a mean over sources and over "
        f"label tokens, after as many steps as take the time of {said['steps']} of *{REFERENCE}*: "
        "one seed."
    )


def standing(arms: Mapping[str, Result]) -> str:
    """Return in words how the block stands to LoRA, each at its best; empty without losses."""
    said = {name: value for arm in arms for name, value in of_arm(arms[arm], arm).items()}
    losses = {arm: said[f"{arm}/macro"] for arm in arms if f"{arm}/macro" in said}
    theirs = [loss for arm, loss in losses.items() if arm.startswith("LoRA")]
    ours = [loss for arm, loss in losses.items() if not arm.startswith("LoRA")]
    if not theirs or not ours:
        return ""
    word = "Worse" if min(ours) > min(theirs) else "Better"
    step, peak = said[BLOCK + RATIO], said[f"{BLOCK}/total_bytes"] / MIB
    return (
        f"{word} than LoRA in the same time, one seed: a held-out loss of {min(ours):.2f}, not "
        f"{min(theirs):.2f}. With CoLM a step takes {step:.2f} of the time of LoRA's on r, "
        f"{step / said[REFERENCE_ON_N + RATIO]:.2f} of that on n, and holds {peak:,.0f} MiB at "
        f"its peak, not {said[f'{REFERENCE}/total_bytes'] / MIB:,.0f}."
    )


def of_arm(result: Result, arm: str) -> dict[str, float]:
    """Return the figures of an arm."""
    found = result.summary.items()
    return {name: value for name, value in found if name.partition("/")[0] == arm}
