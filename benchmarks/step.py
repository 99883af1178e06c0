"""Wall time of one optimiser step, beside the ideal and plain training, in one process.

For each pool of n candidates, one after the other on the same data and weights:

- ``colm``: selection, forward, backward and optimiser step of r examples, as training does it;
- ``ideal``: a forward without gradients of all n through the training loss, in micro-batches as
  drawn, then forward, backward and optimiser step of the r examples that colm kept, in colm's own
  micro-batches: what a selection that costs nothing but the forward would take;
- ``plain_r`` and ``plain_n``: plain steps on the first r and on all n.

``python -m benchmarks.step`` runs on the generated mixture; ``--data FILE`` on one's own. Ratios
are of times within a repeat; the order of the four turns from repeat to repeat.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.record import machine, write_result
from colm import CoLMConfig, CoLMSFTTrainer
from colm.data import format_dataset, read_file
from colm.data.generated import generate_mixture
from colm.training.pool import Pool
from colm.training.pretrained import demo_model_folder

ARMS = ("colm", "ideal", "plain_r", "plain_n")


def main() -> None:
    """Measure, print the ratios, and write the result."""
    options = parse()
    torch.manual_seed(options.seed)
    with TemporaryDirectory() as folder:
        bench = StepBench(build_trainer(options, folder), options)
        bench.run(bench.draw())  # warms up allocators, caches and the optimiser's state
        repeats = []
        for turn in range(options.repeats):
            repeats.append(bench.run(bench.draw(), turn))
            print({name: round(value, 3) for name, value in repeats[-1].items()}, flush=True)
    summary = summarise(repeats)
    for name, value in summary.items():
        print(f"{name:40s} {value:.3f}")
    print(f"wrote {write_result('step', vars(options), repeats, summary)} on {machine()}")


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="JSONL, CSV or Parquet; default: the generated mixture")
    parser.add_argument("--model", help="folder or hub name; default: SmolLM2-135M-Instruct")
    parser.add_argument("--n", type=int, default=32, help="candidates")
    parser.add_argument("--r", type=int, default=16, help="kept")
    parser.add_argument("--micro-batch", type=int, default=8, help="examples in a micro-batch")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--dtype", default="bfloat16", help="of the frozen weights")
    parser.add_argument("--selector", default="colm")
    parser.add_argument("--full", action="store_true", help="fine-tune all weights, not LoRA")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def build_trainer(options: argparse.Namespace, folder: str) -> CoLMSFTTrainer:
    """Return the trainer that a user would have."""
    model_name = options.model or str(demo_model_folder())
    model = AutoModelForCausalLM.from_pretrained(model_name, dtype=getattr(torch, options.dtype))
    args = CoLMConfig(
        output_dir=folder,
        per_device_train_batch_size=options.micro_batch,
        gradient_accumulation_steps=options.r // options.micro_batch,
        candidate_ratio=options.n / options.r,
        selector=options.selector,
        max_length=options.max_length,
        gradient_checkpointing=False,
        use_cpu=not torch.accelerator.is_available(),
        seed=options.seed,
        report_to="none",
    )
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return CoLMSFTTrainer(
        model,
        args=args,
        train_dataset=load(options),
        processing_class=AutoTokenizer.from_pretrained(model_name),
        peft_config=None if options.full else lora,
    )


def load(options: argparse.Namespace) -> Dataset:
    """Read as many examples as the repeats draw."""
    if options.data is None:
        dataset = Dataset.from_list(generate_mixture(seed=options.seed).train)
    else:
        raw = read_file(Path(options.data))
        dataset = format_dataset(raw, conversational=True, kept_columns=["source"]).dataset
    return dataset.shuffle(seed=options.seed)


@dataclass(frozen=True)
class Draw:
    """The pools of one step."""

    pools: list[Pool]

    @property
    def examples(self) -> list[dict[str, Any]]:
        """Candidates in the order drawn, without what the model does not take."""
        return [
            {key: example[key] for key in ("input_ids", "labels")}
            for pool in self.pools
            for example in pool
        ]


class StepBench:
    """A trainer made ready by hand, and the four kinds of step."""

    def __init__(self, trainer: CoLMSFTTrainer, options: argparse.Namespace) -> None:
        self.trainer = trainer
        self.size = options.micro_batch
        self.kept = options.r
        trainer.create_optimizer()
        self.model, self.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
        trainer.model_wrapped = self.model
        self.loader = iter(trainer.get_train_dataloader())
        self.chosen: list[dict[str, Any]] = []

    def draw(self) -> Draw:
        """Draw the candidates of one step."""
        return Draw([next(self.loader) for _ in range(self.kept // self.size)])

    def run(self, draw: Draw, turn: int = 0) -> dict[str, float]:
        """Time each kind of step once; colm's first, so that the ideal knows what was kept."""
        kinds: dict[str, Callable[[Draw], None]] = {
            "ideal": self.ideal,
            "plain_r": self.plain_r,
            "plain_n": self.plain_n,
        }
        names = list(kinds)
        names = names[turn % 3 :] + names[: turn % 3]
        seconds = {"colm": timed(self.colm, draw)}
        seconds |= {name: timed(kinds[name], draw) for name in names}
        again = timed(self.colm, draw)
        # colm runs first and last: its mean is free of a drift over the repeat.
        times = {"colm": (seconds["colm"] + again) / 2} | {k: seconds[k] for k in kinds}
        self.trainer.state.global_step += 1
        metrics = self.trainer._selection.metrics.drain()
        row = {f"{name}_seconds": value for name, value in times.items()}
        row["selection_seconds"] = metrics["colm/selection_seconds"]
        row["label_token_share"] = metrics["colm/label_token_share"]
        return row

    def colm(self, draw: Draw) -> None:
        """A step as training does it."""
        batches, items = self.trainer.get_batch_samples(
            iter(draw.pools), len(draw.pools), self.trainer.args.device
        )
        self.chosen = [dict(batch) for batch in batches]
        self.train(batches, items)

    def ideal(self, draw: Draw) -> None:
        """Forward of n without gradients, then a step on what colm kept."""
        with torch.no_grad():
            for batch in self.collated(draw.examples):
                inputs = self.trainer._prepare_inputs(batch)
                self.trainer.compute_loss(self.model, inputs)
        self.plain(self.chosen)

    def plain_r(self, draw: Draw) -> None:
        """A plain step on the first r candidates."""
        self.plain(self.collated(draw.examples[: self.kept]))

    def plain_n(self, draw: Draw) -> None:
        """A plain step on all n candidates."""
        self.plain(self.collated(draw.examples))

    def collated(self, examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Collate in the order drawn."""
        starts = range(0, len(examples), self.size)
        return [self.trainer.data_collator(examples[at : at + self.size]) for at in starts]

    def plain(self, batches: list[dict[str, Any]]) -> None:
        """Train on micro-batches as the plain trainer does."""
        copies = [dict(batch) for batch in batches]
        items = self.trainer._get_num_items_in_batch(copies, self.trainer.args.device)
        self.train(copies, items)

    def train(self, batches: list[dict[str, Any]], items: Any) -> None:
        """Forward, backward and optimiser step."""
        self.trainer.current_gradient_accumulation_steps = len(batches)
        for batch in batches:
            self.trainer.training_step(self.model, batch, items)
        self.optimizer.step()
        self.optimizer.zero_grad()


def timed(step: Callable[[Draw], None], draw: Draw) -> float:
    """Seconds of one step, the accelerator's work included."""
    synchronise()
    started = time.perf_counter()
    step(draw)
    synchronise()
    return time.perf_counter() - started


def synchronise() -> None:
    """Wait for the accelerator, where there is one."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def summarise(repeats: list[dict[str, float]]) -> dict[str, float]:
    """Median over repeats of the ratio within each, and its quartiles for the ideal."""

    def ratios(name: str) -> list[float]:
        return [row["colm_seconds"] / row[f"{name}_seconds"] for row in repeats]

    low, median, high = statistics.quantiles(ratios("ideal"), n=4)
    return {
        "colm_over_ideal_median": median,
        "colm_over_ideal_first_quartile": low,
        "colm_over_ideal_third_quartile": high,
        "colm_over_plain_r_median": statistics.median(ratios("plain_r")),
        "colm_over_plain_n_median": statistics.median(ratios("plain_n")),
        "selection_share_median": statistics.median(
            row["selection_seconds"] / row["colm_seconds"] for row in repeats
        ),
    }


if __name__ == "__main__":
    main()
