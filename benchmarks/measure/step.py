"""Wall time of one optimiser step, beside the ideal and plain training, in one process.

For each pool of n candidates, one after the other on the same data and weights:

- ``colm``: selection, forward, backward and optimiser step of r examples, as training does it;
- ``ideal``: a forward without gradients of all n through the training loss, in micro-batches as
  drawn, then forward, backward and optimiser step of the r examples that colm kept, in colm's own
  micro-batches: what a selection that costs nothing but the forward would take;
- ``plain_r`` and ``plain_n``, with ``--plain``: plain steps on the first r and on all n;

``python -m benchmarks step`` runs on the generated mixture; ``--data FILE`` on one's own;
``--shape NAME`` on random weights of a real shape and random examples, with nothing downloaded.
Ratios are of times within a repeat. colm runs before and after the others, and its mean counts: a
machine that slows down or speeds up over a repeat favours neither side.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from benchmarks.by_hand import prepare, synchronise, take_step
from benchmarks.record import machine, write_result
from benchmarks.shapes import SHAPES, random_examples, random_model, word_tokenizer
from colm import CoLMConfig, CoLMSFTTrainer
from colm.coreset.mixture import small_sources
from colm.coreset.registry import get_selector
from colm.data import format_dataset, read_file, source_counts
from colm.data.generated import generate_mixture
from colm.runs.pretrained import demo_model_folder
from colm.training.example import Pool

TrainerKind = TypeVar("TrainerKind", bound=SFTTrainer)


def main() -> None:
    """Measure, print the ratios, and write the result."""
    options = parse()
    torch.manual_seed(options.seed)
    with TemporaryDirectory() as folder:
        bench = StepBench(build_trainer(options, folder), options)
        bench.colm(bench.draw())  # warms up allocators, caches and the optimiser's state
        repeats: list[dict[str, float]] = []
        path = None
        for _ in range(options.repeats):
            repeats.append(bench.run(bench.draw()))
            print({name: round(value, 3) for name, value in repeats[-1].items()}, flush=True)
            # After every repeat, so that a run cut short has lost nothing.
            path = write_result("step", vars(options), repeats, summarize(repeats), path)
    for name, value in summarize(repeats).items():
        print(f"{name:40s} {value:.3f}")
    print(f"wrote {path} on {machine()}")


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_setting(parser)
    parser.add_argument("--n", type=int, default=32, help="candidates")
    parser.add_argument("--r", type=int, default=16, help="kept")
    parser.add_argument("--micro_batch", type=int, default=8, help="examples in a micro-batch")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--max_length", type=int, default=512)
    parser.add_argument("--selector", default="colm")
    parser.add_argument("--plain", action="store_true", help="time plain steps on r and n, too")
    return parser.parse_args()


def add_setting(parser: argparse.ArgumentParser) -> None:
    """Add what a step is timed on, whatever is asked of it."""
    parser.add_argument("--data", help="JSONL, CSV or Parquet; default: the generated mixture")
    parser.add_argument("--model", help="folder or hub name; default: SmolLM2-135M-Instruct")
    parser.add_argument("--shape", choices=SHAPES, help="random weights and data, in place of both")
    parser.add_argument("--dtype", default="bfloat16", help="of the frozen weights")
    parser.add_argument("--full", action="store_true", help="fine-tune all weights, not LoRA")
    parser.add_argument("--seed", type=int, default=0)


def build_trainer(options: argparse.Namespace, folder: str) -> CoLMSFTTrainer:
    """Return the trainer that a user would have."""
    parts = parts_of(options)
    # Named sources are kept whole by any selector: leave that to those that mean to.
    keeps_small = get_selector(options.selector).defaults["small_sources"] == "auto"
    small: dict[str, Any] = {"small_sources": parts.small} if keeps_small else {}
    own = {
        "candidate_ratio": options.n / options.r,
        "gradient_accumulation_steps": options.r // options.micro_batch,
        "selector": options.selector,
    }
    args = CoLMConfig(**(plain_arguments(options, folder) | own | small))
    return make_trainer(CoLMSFTTrainer, args, parts, full=options.full)


def plain_arguments(options: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Return the fields of a configuration that all timed steps share."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": options.micro_batch,
        "max_length": options.max_length,
        "gradient_checkpointing": False,
        "use_cpu": not torch.accelerator.is_available(),
        "seed": options.seed,
        "report_to": "none",
    }


def make_trainer(
    kind: Callable[..., TrainerKind], args: SFTConfig, parts: "Parts", *, full: bool
) -> TrainerKind:
    """Return a trainer of these parts, with adapters but where all weights are tuned."""
    return kind(
        parts.model,
        args=args,
        train_dataset=parts.dataset,
        processing_class=parts.tokenizer,
        peft_config=None if full else parts.lora,
    )


class Parts(NamedTuple):
    """What a trainer is made of."""

    model: Any
    tokenizer: Any
    lora: LoraConfig
    dataset: Dataset
    small: list[str]


def parts_of(options: argparse.Namespace) -> Parts:
    """Load the model and the data, or make both up."""
    return random_parts(options) if options.shape else real_parts(options)


def real_parts(options: argparse.Namespace) -> Parts:
    """Load the model and the data."""
    name = options.model or str(demo_model_folder())
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, options.dtype))
    return Parts(model, AutoTokenizer.from_pretrained(name), lora, *load(options))


def random_parts(options: argparse.Namespace) -> Parts:
    """Make a model of the shape asked for, and random examples."""
    model = random_model(options.shape, getattr(torch, options.dtype))
    number = (options.repeats + 2) * options.n
    vocabulary = model.config.vocab_size
    dataset = random_examples(number, vocabulary, options.max_length, options.seed)
    small = sorted(small_sources(source_counts(dataset)))
    tokenizer = word_tokenizer(options.max_length)
    return Parts(model, tokenizer, SHAPES[options.shape].lora(), dataset, small)


def load(options: argparse.Namespace) -> tuple[Dataset, list[str]]:
    """Read as many examples as the repeats draw, and which sources of the whole are small."""
    if options.data is None:
        dataset = Dataset.from_list(generate_mixture(seed=options.seed).train)
    else:
        raw = read_file(Path(options.data))
        dataset = format_dataset(raw, conversational=True, kept_columns=["source"]).dataset
    small = small_sources(source_counts(dataset))
    # A few more, for examples without label tokens within the length are left out.
    drawn = min(len(dataset), (options.repeats + 2) * options.n)
    part = dataset.shuffle(seed=options.seed).select(range(drawn))
    return part, sorted(small.intersection(source_counts(part)))


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
        self.plain_too = options.plain
        self.model, self.optimizer = prepare(trainer)
        self.loader = iter(trainer.get_train_dataloader())
        self.chosen: list[dict[str, Any]] = []

    def draw(self) -> Draw:
        """Draw the candidates of one step."""
        return Draw([next(self.loader) for _ in range(self.kept // self.size)])

    def run(self, draw: Draw) -> dict[str, float]:
        """Time each kind of step on one draw."""
        kinds: dict[str, Callable[[Draw], None]] = {"ideal": self.ideal}
        if self.plain_too:
            kinds |= {"plain_r": self.plain_r, "plain_n": self.plain_n}
        before = timed(self.colm, draw)
        row = {f"{name}_seconds": timed(step, draw) for name, step in kinds.items()}
        after = timed(self.colm, draw)
        self.trainer.state.global_step += 1
        metrics = self.trainer._selection_metrics.drain()
        return row | {
            "colm_seconds": (before + after) / 2,
            "colm_before_seconds": before,
            "colm_after_seconds": after,
            "selection_seconds": metrics["colm/selection_seconds"],
            "label_token_share": metrics["colm/label_token_share"],
        }

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
        take_step(self.trainer, self.model, self.optimizer, batches, items)


def timed(step: Callable[[Draw], None], draw: Draw) -> float:
    """Seconds of one step, the accelerator's work included."""
    synchronise()
    started = time.perf_counter()
    step(draw)
    synchronise()
    return time.perf_counter() - started


def summarize(repeats: list[dict[str, float]]) -> dict[str, float]:
    """Medians over repeats of the ratios within each, and the range of that to the ideal."""

    def ratios(one: str, other: str) -> list[float]:
        return [row[f"{one}_seconds"] / row[f"{other}_seconds"] for row in repeats]

    summary = {}
    for other in ("ideal", "plain_r", "plain_n"):
        for one in timed_kinds(repeats[0]):
            if one.startswith("colm") and f"{other}_seconds" in repeats[0]:
                summary[f"{one}_over_{other}"] = statistics.median(ratios(one, other))
    shares = [row["selection_seconds"] / row["colm_seconds"] for row in repeats]
    return summary | {
        "colm_over_ideal_least": min(ratios("colm", "ideal")),
        "colm_over_ideal_most": max(ratios("colm", "ideal")),
        "selection_share": statistics.median(shares),
    }


def timed_kinds(row: dict[str, float]) -> list[str]:
    """Names of the steps that were timed."""
    names = [name.removesuffix("_seconds") for name in row if name.endswith("_seconds")]
    return [name for name in names if name not in ("colm_before", "colm_after", "selection")]
