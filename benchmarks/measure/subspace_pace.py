"""Seconds of a step of each arm of `benchmarks subspace`, side by side in one process.

A turn takes each arm through one inner loop, in which it merges and draws, or projects anew, once.
Arms take turns, so that a machine that slows down or speeds up favours none; a ratio is to AdamW in
the same turn.

``python -m benchmarks subspace_pace`` takes the options of ``benchmarks subspace``.
"""

import statistics
import time

from benchmarks.measure.quality import data_names
from benchmarks.measure.subspace import ARMS, SubspaceBench, parser
from benchmarks.record import machine, write_result

REFERENCE = "AdamW"
PACED = [REFERENCE, "RSO", "GaLore", "LoRA", "LoRA, A frozen"]
RATE = 1e-4  # of no consequence to the time


def main() -> None:
    """Measure, and write the result after every turn."""
    given = parser()
    given.add_argument("--turns", type=int, default=3)
    given.set_defaults(arms=PACED, steps=10_000)
    options = given.parse_args()
    bench = SubspaceBench(options)
    turns: list[dict[str, float]] = []
    path = None
    for turn in range(options.turns):
        names = options.arms if turn % 2 == 0 else options.arms[::-1]
        turns.append({f"{name}/seconds": pace(bench, name) for name in names})
        print({name: round(value, 4) for name, value in turns[-1].items()}, flush=True)
        settings = vars(options) | {"data": data_names(options)}
        path = write_result("subspace_pace", settings, turns, summarize(turns), path)
    print(f"wrote {path} on {machine()}")


def pace(bench: SubspaceBench, name: str) -> float:
    """Return the seconds of a step, the mean over an inner loop."""
    options = bench.options
    model, optimizer = bench.build(ARMS[name], RATE, options.inner_steps)
    batches = bench.train[: options.batch * 8].split(options.batch)
    bench.step(model, optimizer, batches[0])
    bench.synchronise()
    started = time.perf_counter()
    for step in range(options.inner_steps):
        bench.step(model, optimizer, batches[step % len(batches)])
    bench.synchronise()
    return (time.perf_counter() - started) / float(options.inner_steps)


def summarize(turns: list[dict[str, float]]) -> dict[str, float]:
    """Medians over turns of seconds, and of ratios to the reference in the same turn."""
    summary = {}
    for name in turns[0]:
        arm = name.removesuffix("/seconds")
        ratios = [turn[name] / turn[f"{REFERENCE}/seconds"] for turn in turns]
        summary[name] = statistics.median(turn[name] for turn in turns)
        summary[f"{arm}/over {REFERENCE}"] = statistics.median(ratios)
    return summary
