"""Time of a plain step arranged by length over TRL's own, beside TRL's remedies for padding.

Nothing is selected: each arm trains on all n examples of a step.

- ``trl``: TRL's ``SFTTrainer``, micro-batches of equal numbers in the order drawn;
- ``arranged``: ``CoLMSFTTrainer`` with ``candidate_ratio=1``, ``arrange="by_length"``;
- ``group_by_length``: TRL with ``train_sampling_strategy="group_by_length"``, which sorts 50 steps
  of examples and cuts them: those of a step are of like length, and the next step's of another;
- ``padding_free``: TRL with ``padding_free=True``; on accelerators with flash attention alone.

All but ``group_by_length`` train on the same random examples in the same turn; of the 50 steps
that it makes of the same pool, evenly spaced ones are taken, and its ratio is of time by real
token. Arms take turns, a step each, so that a machine that slows down favours none. Ratios are of
the time of all steps, and where arms share their steps the median and the largest of those within
a turn; ``processor`` is processor time, which other programs on the machine change less. Beside
time there are tokens, padding included, over real ones.

``python -m benchmarks arrange`` runs on the generated mixture; ``--data FILE`` on one's own.
"""

import argparse
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.utils import is_flash_attn_2_available
from trl import SFTConfig, SFTTrainer

from benchmarks.by_hand import prepare, synchronise, take_step
from benchmarks.measure.step import add_setting, make_trainer, parts_of, plain_arguments
from benchmarks.record import machine, write_result
from colm import CoLMConfig, CoLMSFTTrainer
from colm.training.example import Example, Pool

#: Steps that ``group_by_length`` sorts together.
SORTED_STEPS = 50
ARMS: dict[str, tuple[type[SFTTrainer], type[SFTConfig], dict[str, Any]]] = {
    "trl": (SFTTrainer, SFTConfig, {}),
    "arranged": (CoLMSFTTrainer, CoLMConfig, {"candidate_ratio": 1.0}),
    "group_by_length": (SFTTrainer, SFTConfig, {}),
    "padding_free": (SFTTrainer, SFTConfig, {"padding_free": True}),
}
#: The arm whose steps are not those of the others.
DRAWS_OTHERWISE = "group_by_length"
REFERENCE = "trl"


def main() -> None:
    """Measure, print the ratios, and write the result."""
    options = parse()
    torch.manual_seed(options.seed)
    names = [name for name in options.arms if name != "padding_free" or runs_padding_free()]
    if len(names) < len(options.arms):
        print("padding_free is not run: it needs an accelerator and flash-attn")
    with TemporaryDirectory() as folder:
        arms = {name: Arm(name, options, folder) for name in names}
        examples = list(arms[names[0]].trainer.train_dataset)
        steps = draw(examples, options)
        for arm in arms.values():
            # Warms up allocators, caches and the optimizer's state.
            arm.step(steps[0].drawn[: 2 * options.micro_batch])
        turns: list[dict[str, float]] = []
        path = None
        for turn, step in enumerate(steps):
            order = names if turn % 2 else names[::-1]
            found = {name: arms[name].step(step.of(name)) for name in order}
            turns.append({f"{name}/{k}": found[name][k] for name in names for k in found[name]})
            print({name: round(value, 2) for name, value in turns[-1].items()}, flush=True)
            # After every turn, so that a run cut short has lost nothing.
            path = write_result("arrange", vars(options), turns, summarize(turns, names), path)
    for name, value in summarize(turns, names).items():
        print(f"{name:48s} {value:.3f}")
    print(f"wrote {path} on {machine()}")


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_setting(parser)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--n", type=int, default=32, help="examples of a step")
    parser.add_argument("--micro_batch", type=int, default=4, help="examples in a micro-batch")
    parser.add_argument("--turns", type=int, default=5, help="steps of each arm, 50 at most")
    parser.add_argument("--max_length", type=int, default=512)
    return parser.parse_args()


def runs_padding_free() -> bool:
    """Tell whether examples in one row are kept apart here."""
    return torch.accelerator.is_available() and is_flash_attn_2_available()


class Step(NamedTuple):
    """The examples of a step.

    Attributes:
        drawn: in the order drawn.
        grouped: of the same turn, for the arm that draws examples of like length.
    """

    drawn: list[Example]
    grouped: list[Example]

    def of(self, arm: str) -> list[Example]:
        """Return those of an arm."""
        return self.grouped if arm == DRAWS_OTHERWISE else self.drawn


def draw(examples: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> list[Step]:
    """Return as many steps as there are turns, out of a pool of fifty."""
    taken = [name for name in ("input_ids", "labels", "source") if name in examples[0]]
    size = min(SORTED_STEPS, len(examples) // options.n) * options.n
    pool = [{name: each[name] for name in taken} for each in examples[:size]]
    lengths = [len(each["input_ids"]) for each in pool]
    seeded = torch.Generator().manual_seed(options.seed)
    by_length = get_length_grouped_indices(lengths, size, mega_batch_mult=1, generator=seeded)
    shuffled = random.Random(options.seed).sample(range(size), size)
    steps = []
    for turn in range(options.turns):
        # The middle of each of as many equal parts.
        place = int((turn + 0.5) * (size // options.n) / options.turns) * options.n
        drawn = shuffled[turn * options.n : (turn + 1) * options.n]
        grouped = by_length[place : place + options.n]
        steps.append(Step([pool[row] for row in drawn], [pool[row] for row in grouped]))
    return steps


class Arm:
    """A way of training on all examples of a step, made ready by hand."""

    def __init__(self, name: str, options: argparse.Namespace, folder: str) -> None:
        self.trainer = build_trainer(name, options, folder)
        self.size = options.micro_batch
        self.model, self.optimizer = prepare(self.trainer)

    def step(self, examples: list[Example]) -> dict[str, float]:
        """Take a step as training does; return what it took."""
        trainer = self.trainer
        synchronise()
        started, ran = time.perf_counter(), time.process_time()
        batches, items = self.micro_batches(examples)
        tokens = [batch["input_ids"].numel() for batch in batches]
        take_step(trainer, self.model, self.optimizer, batches, items)
        synchronise()
        return {
            "seconds": time.perf_counter() - started,
            "processor_seconds": time.process_time() - ran,
            "tokens": sum(tokens),
            "most_tokens": max(tokens),
            "real_tokens": sum(len(each["input_ids"]) for each in examples),
        }

    def micro_batches(self, examples: list[Example]) -> Any:
        """Return the micro-batches that the trainer's own loader and step would make."""
        trainer = self.trainer
        parts = [examples[at : at + self.size] for at in range(0, len(examples), self.size)]
        is_ours = isinstance(trainer, CoLMSFTTrainer)
        batches = [Pool(part) if is_ours else trainer.data_collator(part) for part in parts]
        return trainer.get_batch_samples(iter(batches), len(batches), trainer.args.device)


def build_trainer(name: str, options: argparse.Namespace, folder: str) -> SFTTrainer:
    """Return the trainer that a user would have."""
    kind, configuration, own = ARMS[name]
    wanted = argparse.Namespace(**vars(options) | {"repeats": SORTED_STEPS})
    steps = {"gradient_accumulation_steps": options.n // options.micro_batch, "bf16": False}
    unbounded = {"max_length": None} if own.get("padding_free") else {}
    args = configuration(**(plain_arguments(options, folder) | steps | unbounded | own))
    return make_trainer(kind, args, parts_of(wanted), full=options.full)


def summarize(turns: list[dict[str, float]], names: Sequence[str]) -> dict[str, float]:
    """Ratios of each arm to TRL's plain step, and the padding of each."""
    summary: dict[str, float] = {}
    totals = {key: sum(turn[key] for turn in turns) for key in turns[0]}
    for name in names:
        summary[f"{name}_tokens_over_real"] = (
            totals[f"{name}/tokens"] / totals[f"{name}/real_tokens"]
        )
        summary[f"{name}_most_tokens"] = max(turn[f"{name}/most_tokens"] for turn in turns)
    for name in names:
        if name == REFERENCE or REFERENCE not in names:
            continue
        # Of the same examples, except for the arm that draws others.
        fewer = totals[f"{REFERENCE}/real_tokens"] / totals[f"{name}/real_tokens"]
        for kind in ("seconds", "processor_seconds"):
            label = f"{name}_{kind.removesuffix('_seconds')}_over_{REFERENCE}"
            summary[label] = fewer * totals[f"{name}/{kind}"] / totals[f"{REFERENCE}/{kind}"]
            if name != DRAWS_OTHERWISE:
                paired = [turn[f"{name}/{kind}"] / turn[f"{REFERENCE}/{kind}"] for turn in turns]
                summary[f"{label}_median"] = statistics.median(paired)
                summary[f"{label}_most"] = max(paired)
    return summary
