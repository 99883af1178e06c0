"""Time of a step that records the losses of its examples over that of one that does not.

A plain step of n examples, arranged by length as with ``candidate_ratio=1``:

- ``unrecorded``: nothing is read;
- ``recorded``: the loss of each example, as ``colm/loss/SOURCE`` needs it;
- ``stored``: the same, and stored by example, as ``stored_losses`` needs it.

All are steps of one trainer on the same examples, and take turns, so that a machine that slows down
favours none. Ratios are of the time of all steps; ``processor`` is processor time, which other
programs on the machine change less. ``share`` is the time inside what records, over that of its
step: on an accelerator, which computes meanwhile, it says little.

``python -m benchmarks record`` runs on the generated mixture; ``--data FILE`` on one's own.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.by_hand import prepare, synchronise, take_step
from benchmarks.measure.step import add_setting, make_trainer, parts_of, plain_arguments
from benchmarks.record import machine, write_result
from colm import CoLMConfig, CoLMSFTTrainer
from colm.training.example import ROW_KEY, Pool
from colm.training.step import weigh
from colm.training.step.stored_losses import StoredLosses

ARMS = ("unrecorded", "recorded", "stored")


def main() -> None:
    """Measure, print the ratios, and write the result."""
    options = parse()
    torch.manual_seed(options.seed)
    with TemporaryDirectory() as folder:
        bench = Bench(options, folder)
        steps = bench.draw()
        bench.step("stored", steps[0])  # warms up allocators, caches and the optimizer's state
        turns: list[dict[str, float]] = []
        path = None
        for turn, pools in enumerate(steps):
            order = [ARMS[(turn + place) % len(ARMS)] for place in range(len(ARMS))]
            found = {arm: bench.step(arm, pools) for arm in order}
            turns.append({f"{arm}/{key}": found[arm][key] for arm in ARMS for key in found[arm]})
            print({name: round(value, 4) for name, value in turns[-1].items()}, flush=True)
            # After every turn, so that a run cut short has lost nothing.
            path = write_result("record", vars(options), turns, summarize(turns), path)
    for name, value in summarize(turns).items():
        print(f"{name:48s} {value:.4f}")
    print(f"wrote {path} on {machine()}")


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_setting(parser)
    parser.add_argument("--n", type=int, default=16, help="examples of a step")
    parser.add_argument("--micro_batch", type=int, default=4, help="examples in a micro-batch")
    parser.add_argument("--turns", type=int, default=9, help="steps of each arm")
    parser.add_argument("--max_length", type=int, default=256)
    return parser.parse_args()


class SwitchedTrainer(CoLMSFTTrainer):
    """A trainer that reads the losses of examples when it is told to."""

    records = False
    recording_seconds = 0.0

    @property
    def reads_losses(self) -> bool:
        """Whether it does now."""
        return self.records and super().reads_losses

    def timed(self, record: Callable[..., Any]) -> Callable[..., Any]:
        """Return what records as something that adds its time to ``recording_seconds``."""

        def run(*arguments: Any) -> Any:
            started = time.perf_counter()
            found = record(*arguments)
            self.recording_seconds += time.perf_counter() - started
            return found

        return run


class Bench:
    """A trainer made ready by hand, whose steps record or do not."""

    def __init__(self, options: argparse.Namespace, folder: str) -> None:
        self.options = options
        self.trainer = trainer = build_trainer(options, folder)
        self.model, self.optimizer = prepare(trainer)
        self.number = len(trainer.train_dataset)
        losses = trainer._example_losses
        losses.note = trainer.timed(losses.note)  # type: ignore[method-assign]
        trainer._record_losses = trainer.timed(trainer._record_losses)  # type: ignore[method-assign]
        weigh.mark = trainer.timed(weigh.mark)  # type: ignore[attr-defined]

    def draw(self) -> list[list[Pool]]:
        """Return the pools of as many steps as there are turns."""
        taken = ("input_ids", "labels", "source")
        examples = [
            {name: each[name] for name in taken} | {ROW_KEY: row}
            for row, each in enumerate(self.trainer.train_dataset)
        ]
        pools = [
            Pool(examples[at : at + self.options.micro_batch])
            for at in range(0, self.options.n * self.options.turns, self.options.micro_batch)
        ]
        size = self.options.n // self.options.micro_batch
        return [pools[at : at + size] for at in range(0, len(pools), size)]

    def step(self, arm: str, pools: Sequence[Pool]) -> dict[str, float]:
        """Take a step as training does; return what it took."""
        trainer = self.trainer
        trainer.records = arm != "unrecorded"
        trainer._stored = StoredLosses(self.number) if arm == "stored" else None
        trainer.recording_seconds = 0.0
        synchronise()
        started, ran = time.perf_counter(), time.process_time()
        batches, items = trainer.get_batch_samples(iter(pools), len(pools), trainer.args.device)
        take_step(trainer, self.model, self.optimizer, batches, items)
        trainer.state.global_step += 1
        trainer._record_losses()
        synchronise()
        seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "processor_seconds": time.process_time() - ran,
            "recording_share": trainer.recording_seconds / seconds,
        }


def build_trainer(options: argparse.Namespace, folder: str) -> SwitchedTrainer:
    """Return the trainer that a user would have, but for the switch."""
    wanted = argparse.Namespace(**vars(options) | {"repeats": options.turns})
    own = {
        "candidate_ratio": 1.0,
        "gradient_accumulation_steps": options.n // options.micro_batch,
        "bf16": False,
    }
    args = CoLMConfig(**(plain_arguments(options, folder) | own))
    return make_trainer(SwitchedTrainer, args, parts_of(wanted), full=options.full)


def summarize(turns: list[dict[str, float]]) -> dict[str, float]:
    """Ratios of each arm to the step that records nothing, and the time inside what records."""
    summary: dict[str, float] = {}
    for arm in ARMS[1:]:
        for kind in ("seconds", "processor_seconds"):
            label = f"{arm}_{kind.removesuffix('_seconds')}_over_unrecorded"
            pairs = [(turn[f"{arm}/{kind}"], turn[f"unrecorded/{kind}"]) for turn in turns]
            summary[label] = sum(own for own, _ in pairs) / sum(base for _, base in pairs)
            summary[f"{label}_median"] = statistics.median(own / base for own, base in pairs)
        shares = [turn[f"{arm}/recording_share"] for turn in turns]
        summary[f"{arm}_recording_share_median"] = statistics.median(shares)
    return summary
