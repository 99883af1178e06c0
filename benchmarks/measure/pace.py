"""Seconds of an optimiser step of each arm of `benchmarks quality`, in one process.

All arms train the same model on the same data. They take turns, a step each, so that a machine that
slows down or speeds up favours none. A ratio is of the time of all turns, since batches differ in
length; it says how many steps of one arm take the time of how many of another.

``python -m benchmarks pace`` runs on the generated mixture; ``--data FILE`` on one's own.
"""

import argparse
import statistics
import time
from itertools import cycle
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.by_hand import prepare, synchronise, take_step
from benchmarks.measure.quality import ARMS, QualityBench, add_setting, data_names
from benchmarks.record import machine, write_result
from colm import CoLMSFTTrainer

REFERENCE = "plain r"


def main() -> None:
    """Measure, print the ratios, and write the result."""
    options = parse()
    bench = QualityBench(options)
    with TemporaryDirectory() as folder:
        arms = {
            name: PacedTrainer(bench.trainer(ARMS[name], options.seed, options.turns, folder))
            for name in options.arms
        }
        for arm in arms.values():
            arm.step()  # warms up allocators, caches and the optimiser's state
        settings = vars(options) | {"data": data_names(options)}
        turns: list[dict[str, float]] = []
        path = None
        for turn in range(options.turns):
            names = list(arms) if turn % 2 else list(arms)[::-1]
            seconds = {name: arms[name].step() for name in names}
            turns.append({f"{name}/seconds": seconds[name] for name in arms})
            print({name: round(value, 2) for name, value in turns[-1].items()}, flush=True)
            # After every turn, so that a run cut short has lost nothing.
            path = write_result("pace", settings, turns, summarize(turns), path)
    for name, value in summarize(turns).items():
        print(f"{name:56s} {value:.3f}")
    print(f"wrote {path} on {machine()}")


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_setting(parser)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--held_out", type=int, default=10, help="examples of each source")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class PacedTrainer:
    """A trainer made ready by hand, that takes a step when asked."""

    def __init__(self, trainer: CoLMSFTTrainer) -> None:
        self.trainer = trainer
        self.model, self.optimizer = prepare(trainer)
        self.loader = cycle_batches(trainer)

    def step(self) -> float:
        """Take a step as training does; return its seconds."""
        trainer = self.trainer
        micro_batches = trainer.args.gradient_accumulation_steps
        synchronise()
        started = time.perf_counter()
        batches, items = trainer.get_batch_samples(self.loader, micro_batches, trainer.args.device)
        take_step(trainer, self.model, self.optimizer, batches, items)
        synchronise()
        trainer.state.global_step += 1
        return time.perf_counter() - started


def cycle_batches(trainer: CoLMSFTTrainer) -> Any:
    """What the trainer's loader yields, over and over."""
    return (batch for loader in cycle([trainer.get_train_dataloader()]) for batch in loader)


def summarize(turns: list[dict[str, float]]) -> dict[str, float]:
    """Mean seconds over turns, and their ratios to the reference's."""
    summary = {name: statistics.fmean(turn[name] for turn in turns) for name in turns[0]}
    reference = summary.get(f"{REFERENCE}/seconds")
    if not reference:
        return summary
    for name, seconds in list(summary.items()):
        summary[f"{name.removesuffix('/seconds')}_over_plain_r"] = seconds / reference
    return summary
