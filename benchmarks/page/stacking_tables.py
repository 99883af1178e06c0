"""Figures of `docs/memory.md`: what each combination holds and how long its step takes."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.page.result_files import Result, results_of
from benchmarks.page.standings import table

REFERENCE = "AdamW, all weights"
GIB, MIB = 2**30, 2**20


def cells(results: Path) -> dict[str, list[str]]:
    """Return, for each row, its bytes beside those of the reference, and its time."""
    measured = merged(results_of(results, "stacking"))
    names = {key.partition("/")[0] for key in measured}
    whole = measured.get(f"{REFERENCE}/total_bytes", 0.0)
    return {
        name: [
            f"{measured[f'{name}/total_bytes'] / MIB:,.0f} "
            f"({measured[f'{name}/total_bytes'] / whole:.2f})",
            f"{measured[f'{name}/over_reference']:.2f}",
        ]
        for name in names
        if f"{name}/over_reference" in measured
    }


def merged(found: Sequence[Result]) -> dict[str, float]:
    """Put results together, later over earlier."""
    return {key: value for result in found for key, value in result.summary.items()}


def blocks(results: Path) -> dict[str, str]:
    """Return the tables of what needs the least memory, by shape."""
    found = results_of(results, "least_memory")
    counted = merged(found)
    made = {}
    for shape in sorted({key.partition("/")[0] for key in counted}):
        names = {key.split("/")[1]: 0.0 for key in counted if key.startswith(f"{shape}/")}
        totals = {name: counted[f"{shape}/{name}/total_bytes"] for name in names}
        rows = [
            [
                name,
                *(
                    f"{counted[f'{shape}/{name}/{kind}_bytes'] / GIB:.2f}"
                    for kind in ("weight", "optimizer", "training", "look", "total")
                ),
            ]
            for name in sorted(totals, key=lambda name: totals[name])
        ]
        head = ["Combination", "Weights", "Optimizer", "Training", "Look", "In all"]
        made[f"least memory {shape}"] = table(head, rows)
    return made
