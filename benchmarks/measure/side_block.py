"""What does a side block cost beside LoRA, and how good is the model in the same time?

Each arm trains the same pretrained model on the same draws, on all n examples arranged by length
or on r of them that CoLM chooses:

- LoRA on n, with and without checkpoints of activations, and LoRA on r;
- a side block on n, and on r, with what the look put out of the frozen layers and without.

Three things of each, one after the other in one process:

- ``total_bytes``: the most that a step holds, see `benchmarks.step_window`;
- ``processor_seconds`` of a step, which other programs on the machine change less than its
  ``seconds``: arms take turns, a step each, so that a machine that slows down favours none, and
  ratios are of the time of all turns; on an accelerator they are of ``seconds``;
- ``macro`` and ``micro``: held-out losses after as many steps as take the time of ``--steps`` of
  LoRA on r, by that pace. The learning rate of each kind, of those given, is the best of its arm on
  n in that time, and the first where that is not run.

``--arms`` measures some again: pages take the later figures of each arm. LoRA on r goes with them,
for ratios.

``python -m benchmarks side_block`` runs on the generated mixture; ``--data FILE`` on one's own.

Symbols: n candidates, r kept.
"""

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.measure.pace import PacedTrainer
from benchmarks.measure.quality import PLAIN, Arm, QualityBench, add_setting, data_names
from benchmarks.record import machine, write_result
from benchmarks.step_window import StepWindow

#: The time that ratios are of.
CLOCK = "seconds" if torch.accelerator.is_available() else "processor_seconds"
COUNTED = (2, 3)  # steps; the first makes the states
COLM = {"selector": "colm", "gradient": "exact"}
BLOCK = {"side_block": 8}
REFERENCE, REFERENCE_ON_N = "LoRA, r by CoLM", "LoRA, n"
#: The arm on n that a kind's learning rate is chosen by -> the kind's arms.
KINDS: dict[str, dict[str, Arm]] = {
    REFERENCE_ON_N: {
        REFERENCE_ON_N: Arm(PLAIN, size=2),
        "LoRA, n, gradient checkpointing": Arm(PLAIN | {"gradient_checkpointing": True}, size=2),
        REFERENCE: Arm(COLM),
    },
    "side block, n": {
        "side block, n": Arm(PLAIN | BLOCK, size=2, adapters=False),
        "side block, r by CoLM": Arm(COLM | BLOCK, adapters=False),
        "side block, r by CoLM, no reuse": Arm(
            COLM | BLOCK | {"side_block_reuse": False}, adapters=False
        ),
    },
}
ARMS = {name: arm for arms in KINDS.values() for name, arm in arms.items()}


def main() -> None:
    """Measure, print the figures, and write the result as they come."""
    options = parse()
    bench = SideBlockBench(options)
    for name in bench.arms:
        bench.count(name)
    bench.take_turns()
    for chosen_by, arms in KINDS.items():
        rates = options.lora_rates if chosen_by == REFERENCE_ON_N else options.block_rates
        tried = rates if chosen_by in options.arms else []
        losses = {rate: bench.train(chosen_by, rate) for rate in tried}
        for name in arms:
            if name in options.arms and name != chosen_by:
                bench.train(name, min(losses, key=lambda rate: losses[rate], default=rates[0]))
    print(f"wrote {bench.path} on {machine()}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_setting(parser)
    parser.set_defaults(n=32, r=16, micro_batch=4, max_length=128)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--turns", type=int, default=3, help="steps of each arm that are timed")
    parser.add_argument("--steps", type=int, default=20, help=f"of {REFERENCE}")
    parser.add_argument("--lora_rates", type=float, nargs="+", default=[1e-3])
    parser.add_argument("--block_rates", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2])
    parser.add_argument("--held_out", type=int, default=10, help="examples of each source")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.n != 2 * options.r or options.r % options.micro_batch:
        parser.error(
            f"--n must be twice --r and --r a multiple of --micro_batch; got {options.n}, "
            f"{options.r} and {options.micro_batch}"
        )
    return options


class SideBlockBench:
    """What was measured so far, and the data and model that all arms share.

    Attributes:
        arms: that are timed and counted.
        path: of the result.
        repeats: all figures, in the order measured.
        turns: seconds of a step of each arm, of those.
        best: by arm, the run at the rate with the lowest loss.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.bench = QualityBench(options)
        self.arms = [name for name in ARMS if name in {REFERENCE, *options.arms}]
        self.path: Path | None = None
        self.repeats: list[dict[str, float]] = []
        self.turns: list[dict[str, float]] = []
        self.best: dict[str, dict[str, float]] = {}

    def count(self, name: str) -> None:
        """Count the most bytes that a step of an arm holds."""
        with TemporaryDirectory() as folder:
            trainer = self.bench.trainer(ARMS[name], self.options.seed, max(COUNTED), folder)
            window = StepWindow(trainer, COUNTED)
            trainer.add_callback(window)
            trainer.train()
        self.best[name] = window.found
        self.write(name, window.found)

    def take_turns(self) -> None:
        """Time the steps of all arms."""
        seed, turns = self.options.seed, self.options.turns
        with TemporaryDirectory() as folder:
            arms = {
                name: PacedTrainer(self.bench.trainer(ARMS[name], seed, turns, folder))
                for name in self.arms
            }
            for arm in arms.values():
                arm.step()  # warms up allocators, caches and the optimizer's state
            for turn in range(turns):
                names = list(arms) if turn % 2 else list(arms)[::-1]
                found = {name: timed(arms[name]) for name in names}
                row = {f"{name}/{key}": v for name in arms for key, v in found[name].items()}
                self.turns.append(row)
                self.write("", row)

    def train(self, name: str, rate: float) -> float:
        """Train an arm for its share of the time; return its macro loss, infinite if diverged."""
        steps = max(1, round(self.options.steps / paces(self.turns)[f"{name}/over_reference"]))
        arm = replace(ARMS[name], options=ARMS[name].options | {"learning_rate": rate})
        with TemporaryDirectory() as folder:
            trainer = self.bench.trainer(arm, self.options.seed, steps, folder, steps)
            started = time.process_time()
            trainer.train()
            seconds = time.process_time() - started
        losses = {k: v for k, v in self.bench.measure(trainer).items() if math.isfinite(v)}
        found = {
            "learning_rate": rate,
            "steps": float(steps),
            "trained_processor_seconds": seconds,
        } | losses
        macro = losses.get("macro", math.inf)
        if macro < self.best[name].get("macro", math.inf):
            self.best[name] |= found
        self.write(name, found)
        return macro

    def write(self, name: str, found: dict[str, float]) -> None:
        """Print figures, of an arm or by arm, and write the result with them."""
        self.repeats.append({f"{name}/{k}": v for k, v in found.items()} if name else found)
        print({key: round(value, 4) for key, value in self.repeats[-1].items()}, flush=True)
        settings = vars(self.options) | {"data": data_names(self.options)}
        summary = paces(self.turns) | {
            f"{arm}/{key}": value
            for arm, best in self.best.items()
            for key, value in best.items()
            if "/" not in key  # sources' losses are among the repeats
        }
        self.path = write_result("side_block", settings, self.repeats, summary, self.path)


def timed(arm: PacedTrainer) -> dict[str, float]:
    """Take a step; return its time on the wall and on the processor."""
    ran = time.process_time()
    seconds = arm.step()
    return {"seconds": seconds, "processor_seconds": time.process_time() - ran}


def paces(turns: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean times of a step of each arm, and their ratios to the reference's."""
    means = {name: statistics.fmean(turn[name] for turn in turns) for name in (turns or [{}])[0]}
    ratios = {
        name.replace(f"/{CLOCK}", "/over_reference"): mean / means[f"{REFERENCE}/{CLOCK}"]
        for name, mean in means.items()
        if name.endswith(f"/{CLOCK}")
    }
    return means | ratios
