"""SSM's four tables, and what was measured here beside them.

Accuracy in per cent, mean ± deviation of three runs, as in arXiv 2407.19580 v1, Tables 1 to 4. What
the copy at hand lost is a dash; what was worked out from other cells is in italics.
"""

from collections.abc import Iterable, Mapping

from benchmarks.page.quality_tables import OURS
from benchmarks.page.result_files import Mixture, Result
from benchmarks.page.standings import ABSENT, Spread, table

Row = tuple[str, ...]

#: When `ssm` got one pool for all candidates, as in SSM; until then it chose source by source.
POOLED_SINCE = "2026-12-01T00:20"
SETS = ("GSM8K", "MATH", "NumGLUE", "in-domain", "SVAMP", "Mathematics", "SimulEq", "out-of-domain")
BARE = "SSM, uniform draws"
_HEAD_1 = ("Mini-batches", "Steps", *SETS, "all")
# fmt: off
TABLE_1: tuple[Row, ...] = (
    ("untrained", "0", "52.9", "16.4", "35.0", "34.8", "67.9", "31.9", "28.8", "42.9", "38.8"),
    ("64", "1K", "66.5 ± 0.8", "28.4 ± 0.3", "50.2 ± 0.9", "*48.4*",
     "79.2 ± 0.4", "52.4 ± 0.8", "24.1 ± 1.5", "*51.9*", "50.1 ± 0.2"),
    ("128", "1K", "67.4 ± 0.5", "28.8 ± 0.3", "53.2 ± 1.2", "*49.8*",
     "80.4 ± 1.3", "55.6 ± 0.4", "29.9 ± 2.4", "*55.3*", "52.6 ± 0.6"),
    ("SSM", "1K", "67.0 ± 0.7", "29.9 ± 0.1", "55.0 ± 0.4", "50.6 ± 0.3",
     "81.0 ± 0.3", "57.8 ± 1.2", "33.6 ± 2.3", "57.5 ± 0.3", "54.0 ± 0.2"),
    ("64", "2K", "67.9 ± 0.4", "29.3 ± 0.7", "57.6 ± 0.6", "51.6 ± 0.2",
     "80.1 ± 0.4", "57.9 ± 0.9", "42.2 ± 1.4", "60.1 ± 0.5", "55.9 ± 0.2"),
    ("128", "2K", "67.7 ± 0.8", "30.3 ± 0.4", "58.4 ± 0.8", "52.1 ± 0.3",
     "79.5 ± 0.4", "57.9 ± 0.9", "45.5 ± 0.7", "60.9 ± 0.4", "56.5 ± 0.3"),
    ("SSM", "2K", "68.1 ± 0.7", "30.8 ± 0.4", "59.6 ± 0.7", "52.4 ± 0.3",
     "80.1 ± 0.6", "58.7 ± 1.2", "46.4 ± 2.4", "61.8 ± 1.3", "57.1 ± 0.8"),
)
#: Table 2: its first row is SSM's of Table 1.
TABLE_2: tuple[Row, ...] = (
    TABLE_1[3],
    (BARE, "1K", "66.9 ± 0.2", "28.2 ± 0.5", "50.8 ± 1.0", "48.6 ± 0.3",
     "80.9 ± 0.7", "54.7 ± 1.2", ABSENT, "*54.4* ± 0.8", "51.5 ± 0.5"),
)
# fmt: on
_HEAD_3 = ("in-domain", "out-of-domain", "all")
TABLE_3: tuple[Row, ...] = (
    ("`weight`", "50.6 ± 0.4", "57.2 ± 1.0", "53.9 ± 0.7"),
    ("`weight_gradient`", "50.4 ± 0.1", "56.3 ± 1.3", "53.3 ± 0.6"),
    ("`gradient`", "50.6 ± 0.3", "57.5 ± 0.3", "54.0 ± 0.2"),
)
TABLE_4: tuple[Row, ...] = (
    ("1,280", "50.2 ± 0.2", "56.1 ± 1.3", "53.2 ± 0.7"),
    ("2,560", "50.6 ± 0.3", "57.5 ± 0.3", "54.0 ± 0.2"),
    ("5,120", "50.2 ± 0.1", "55.9 ± 0.9", "53.1 ± 0.5"),
)

MAIN = table(_HEAD_1, TABLE_1)
WEIGHTED = table(_HEAD_1, TABLE_2)
CRITERION = table(("Dimensions kept by", *_HEAD_3), TABLE_3)
SPARSITY = table(("Dimensions kept", *_HEAD_3), TABLE_4)

#: What the paper calls mini-batches that stand here under other names.
_THEIRS = {"plain r": "64", "plain n": "128", "SSM": "SSM", BARE: BARE}
#: Choices by gradients, and random ones from the same draws.
_DRAWS_ALONE = {"SSM": "weighted sampling, random", OURS: "UniMax, random"}


def accuracy(cell: str) -> float:
    """Return the mean that a cell holds.

    Example:
        >>> accuracy("54.0 ± 0.2"), accuracy("*48.4*")
        (54.0, 48.4)
    """
    return float(cell.partition(" ± ")[0].strip("*"))


def over_all(steps: str) -> dict[str, str]:
    """Return the cells of Tables 1 and 2 over all six sets, by mini-batches."""
    return {row[0]: row[-1] for row in (*TABLE_1, *TABLE_2) if row[1] == steps}


def gain(ours: str, theirs: str, steps: str = "1K", base_steps: str | None = None) -> float:
    """Return by how many points one is above another over all six sets.

    Example:
        >>> gain("SSM", "64"), gain("SSM", "SSM, uniform draws"), gain("SSM", "64", "2K")
        (3.9, 2.5, 1.2)
    """
    base = over_all(base_steps or steps)[theirs]
    return round(accuracy(over_all(steps)[ours]) - accuracy(base), 1)


def alike() -> tuple[float, float]:
    """Return the least and the most over all sets of Tables 3 and 4."""
    means = [accuracy(row[-1]) for row in (*TABLE_3, *TABLE_4)]
    return min(means), max(means)


def differences_table(mixtures: Iterable[Mixture]) -> str:
    """Return what SSM trained and measured, beside what was here."""
    rows = {
        "Model": ["Phi-2, 2.7 billion weights"],
        "Trained": ["LoRA of rank 128 on QKV and the two fully connected layers"],
        "Data": ["MathInstruct: 260,000 examples, 13 sources"],
        "Kept of drawn": ["64 of 128"],
        "Steps": ["1K, 2K"],
        "Tokens at most": ["512"],
        "Learning rate": ["2e-5, cosine, 3 % of the steps as warm-up"],
        "Measured": [
            "right answers to six sets of questions, by program and, failing that, in words; no "
            "examples shown, 2,048 tokens at most"
        ],
        "Runs of each": ["3"],
        "Machine": ["4 A40 GPUs"],
    }
    head = ["", "SSM"]
    for mixture in mixtures:
        head.append(f"`{mixture.label}`")
        for name, cell in _setting(mixture).items():
            rows[name].append(cell)
    return table(head, [[name, *cells] for name, cells in rows.items()], rule="---")


def _setting(mixture: Mixture) -> Mapping[str, str]:
    """What a mixture's runs have where SSM has something else."""
    settings, first = mixture.settings, next(iter(mixture.runs.values()))[0].result
    sources, seeds = first.settings["sources"], {len(runs) for runs in mixture.runs.values()}
    machine = first.machine.get("accelerator") or first.machine.get("processor", "unknown")
    asked = ", and answers to a few questions" if mixture.accuracy else ""
    return {
        "Model": settings["model"] or "SmolLM2-135M-Instruct, 0.135 billion weights",
        "Trained": "LoRA of rank 16 on all linear layers",
        "Data": f"{sum(sources.values()):,} examples, {len(sources)} sources",
        "Kept of drawn": f"{settings['r']} of {settings['n']}",
        "Steps": f"{mixture.steps:g}",
        "Tokens at most": str(settings["max_length"]),
        "Learning rate": f"{settings['learning_rate']:g}, constant after "
        f"{settings['warmup_steps']} steps",
        "Measured": f"held-out loss by source{asked}",
        "Runs of each": " to ".join(str(count) for count in sorted({min(seeds), max(seeds)})),
        "Machine": str(machine),
    }


def beside_table(mixture: Mixture) -> str:
    """Return SSM's accuracies and the losses here, each with its gain over small mini-batches."""
    theirs, rows = over_all("1K"), []
    plain = mixture.at_steps("plain r", "macro")
    for arm in dict.fromkeys([*_THEIRS, *_DRAWS_ALONE.values(), *_DRAWS_ALONE]):
        if arm not in _THEIRS and arm not in mixture.runs:
            continue
        cell = theirs.get(_THEIRS.get(arm, ""), ABSENT)
        points = ABSENT if cell in (ABSENT, theirs["64"]) else f"{gain(_THEIRS[arm], '64'):+.1f}"
        losses = mixture.at_steps(arm, "macro")
        known = losses and plain and arm != "plain r"
        less = f"{Spread.of(plain).mean - Spread.of(losses).mean:+.3f}" if known else ABSENT
        rows.append([arm, cell, points, Spread.of(losses).show(), less])
    steps = f"{mixture.steps:g} steps"
    head = ["SSM: accuracy, 1K steps", "points gained", f"Here: macro loss, {steps}", "loss gained"]
    return table(["Mini-batches", *head], rows)


def draws_sentences(mixture: Mixture) -> list[str]:
    """Return how much of what a choice by gradients gains a random one from the same draws does."""
    said = []
    for chosen, drawn in _DRAWS_ALONE.items():
        losses = [mixture.at_steps(arm, "macro") for arm in ("plain r", chosen, drawn)]
        seeds = set.intersection(*(set(one) for one in losses))
        if not seeds:
            continue
        base, ours, alone = (Spread(tuple(one[seed] for seed in seeds)).mean for one in losses)
        if ours >= base:
            continue
        share = (base - alone) / (base - ours)
        part = "all" if share >= 1 else "most" if share > 0.5 else "less than half"
        said.append(
            f"In macro loss {chosen} gains {base - ours:.3f} over plain r, and a random choice "
            f"from its draws {base - alone:.3f}: {part} of the gain is that of the draws."
        )
    return said


def pool_sentence(results: Iterable[Result]) -> str:
    """Say so where one is from before SSM's arm had SSM's pool; empty otherwise."""
    if all(result.date >= POOLED_SINCE for result in results):
        return ""
    return (
        "SSM was measured with medoids source by source, each source in proportion to its "
        "candidates; the paper, and `ssm` since, has all candidates in one pool."
    )
