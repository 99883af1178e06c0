"""Memory and time of one optimiser step, measured, beside what ``colm plan`` says of it.

What must fit in memory is a micro-batch. So r examples of colm, chosen from n, in one micro-batch
are put beside plain micro-batches of r, n and 2n examples: with colm, a batch of n costs the memory
of r. (That accumulation of n / r plain micro-batches fits in the memory of r as well, goes without
saying; it takes the time of n.) All tokens are labels.

For each way of training, of a step on real tensors:

- ``saved_bytes``: most that autograd saves for backward at one time, weights left out, each storage
  once; of colm with the partial backward of its look;
- ``alive_bytes``: most that tensors made in forward, backward and selection hold at one time;
- ``peak_bytes``: on an accelerator, the most its allocator gave out, less what was there before;
- ``seconds``: of an uninstrumented step.

``python -m benchmarks memory --config recipes/quickstart.yaml --tokens 128`` takes every option of
``colm sft``; data are blocks of the generated mixture. With ``--shape NAME`` in place of a model,
weights have random values and the usual LoRA (``--full``: none), and examples are random tokens:
nothing is downloaded.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer
from trl import get_peft_config, get_quantization_config

from benchmarks.by_hand import prepare
from benchmarks.record import machine, write_result
from benchmarks.shapes import (
    SHAPES,
    random_examples,
    random_model,
    shape_config,
    word_tokenizer,
)
from colm import CoLMSFTTrainer
from colm.data.generated import generate_mixture
from colm.planning.held import count_weights, trained_weights, weight_tensors
from colm.planning.plan import WAYS, make_plan
from colm.planning.tally import SavedBytes, Tally, storage_bytes
from colm.runs.arguments import SFTArguments, parse_arguments
from colm.runs.pretrained import demo_model_folder
from colm.training.optimizers import ZEROTH_ORDER, optimizer_name

Batches = list[list[dict[str, Any]]]
#: Measures forward and backward, given first, and maybe the optimiser's step that follows.
Measure = Callable[[Callable[[], None], Callable[[], None]], dict[str, float]]


def main() -> None:
    """Plan, measure, print the ratios, and write the result."""
    options, rest = parse()
    with TemporaryDirectory() as folder:
        model = model_options(options, rest, folder)
        arguments = parse_arguments([*model, *rest, f"--output_dir={folder}", "--report_to=none"])
        plan = make_plan(arguments, options.tokens)
        planned = plan.to_dict()
        trainer = build_trainer(arguments, options)
        bench = MemoryBench(trainer)
        bench.run_all(timed)  # warms up allocators, caches and the optimiser's state
        held = bench.held_bytes()
        repeats = [bench.repeat() for _ in range(options.repeats)]
    summary = held | summarize(repeats) | compare(planned, held, repeats)
    for name, value in summary.items():
        print(f"{name:44s} {value:,.3f}")
    settings = vars(options) | {"options": rest, "plan": planned | {"model": "as in options"}}
    print(f"wrote {write_result('memory', settings, repeats, summary)} on {machine()}")


def parse() -> tuple[argparse.Namespace, list[str]]:
    """Read the options; what is left is for ``colm sft``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--tokens", type=int, default=128, help="of each example")
    parser.add_argument("--same_length", action="store_true", help="no padding, and no mask for it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shape", choices=SHAPES, help="random weights and data, nothing else")
    parser.add_argument("--full", action="store_true", help="of a shape: all weights, not LoRA")
    return parser.parse_known_args()


def model_options(options: argparse.Namespace, rest: list[str], folder: str) -> list[str]:
    """Return the options that name the model: that of the shape, or unless named the demo's."""
    if options.shape is None:
        is_named = any(option.startswith("--model_name_or_path") for option in rest)
        return [] if is_named else [f"--model_name_or_path={demo_model_folder()}"]
    shape, path = SHAPES[options.shape], Path(folder) / options.shape
    # The plan reads no more than a configuration; the trainer gets weights of its own.
    shape_config(options.shape).save_pretrained(path)
    word_tokenizer(options.tokens).save_pretrained(path)
    named = [f"--model_name_or_path={path}"]
    if options.full:
        return named
    lora = shape.lora()
    targets = lora.target_modules
    modules = [targets] if isinstance(targets, str) else sorted(targets or [])
    named += ["--use_peft", f"--lora_r={lora.r}", f"--lora_alpha={lora.lora_alpha}"]
    return [*named, "--lora_target_modules", *modules]


def build_trainer(arguments: SFTArguments, options: argparse.Namespace) -> CoLMSFTTrainer:
    """Return the trainer that ``colm sft`` would have, on blocks of text or of random tokens."""
    _, training, model, _ = arguments
    path = str(model.model_name_or_path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    training.max_length = options.tokens
    training.model_init_kwargs = {
        "dtype": model.dtype,
        "attn_implementation": model.attn_implementation,
        **(training.model_init_kwargs or {}),
    }
    drawn = round(training.per_device_train_batch_size * training.candidate_ratio)
    steps = (options.repeats + 1) * (len(WAYS) + 1) * training.gradient_accumulation_steps
    weights: Any = path
    if options.shape:
        training.model_init_kwargs = None
        weights = random_model(options.shape, getattr(torch, model.dtype or "float32"))
    said = random_text(options) if options.shape else generated_text(tokenizer)
    return CoLMSFTTrainer(
        model=weights,
        args=training,
        train_dataset=blocks(said, options, steps * drawn),
        processing_class=tokenizer,
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
    )


def generated_text(tokenizer: Any) -> dict[str, list[int]]:
    """Return the texts of the generated mixture as tokens, one after the other, by source."""
    said: dict[str, list[int]] = {}
    for record in generate_mixture(seed=0).train:
        text = " ".join(part["content"] for part in [*record["prompt"], *record["completion"]])
        said.setdefault(record["source"], []).extend(tokenizer(f"{text}\n")["input_ids"])
    return said


def random_text(options: argparse.Namespace) -> dict[str, list[int]]:
    """Return random tokens, by source, of some hundred examples."""
    said: dict[str, list[int]] = {}
    vocabulary = SHAPES[options.shape].config().vocab_size
    for example in random_examples(256, vocabulary, options.tokens, seed=0):
        said.setdefault(example["source"], []).extend(example["input_ids"])
    return said


def blocks(said: dict[str, list[int]], options: argparse.Namespace, number: int) -> Dataset:
    """Cut the tokens of each source into blocks of ``tokens`` each.

    Where lengths may differ, three of four are a few tokens shorter.
    """
    tokens = options.tokens
    rows = [
        {"input_ids": ids[start : start + tokens], "source": source}
        for source, ids in said.items()
        for start in range(0, len(ids) - tokens + 1, tokens)
    ]
    random.Random(0).shuffle(rows)
    if not options.same_length:
        for place, row in enumerate(rows):
            row["input_ids"] = row["input_ids"][: tokens - place % 4]
    return Dataset.from_list((rows * (number // len(rows) + 1))[:number])


class MemoryBench:
    """A trainer made ready by hand, and the four ways of taking a step."""

    def __init__(self, trainer: CoLMSFTTrainer) -> None:
        self.trainer = trainer
        self.model, self.optimizer = prepare(trainer)
        self.kept = trainer.args.per_device_train_batch_size
        self.micro_batches = trainer.args.gradient_accumulation_steps
        self.loader = iter(trainer.get_train_dataloader())

    def repeat(self) -> dict[str, float]:
        """Measure every way once, the instrumented runs apart from the timed ones."""
        row: dict[str, float] = {}
        measures = {"": counted_on(self.model), "timed": timed}
        for measure in measures.values():
            row |= self.run_all(measure)
        self.trainer.state.global_step += 1
        return row

    def run_all(self, measure: Measure) -> dict[str, float]:
        """Measure each way on the same candidates."""
        pools = list(islice(self.loader, 2 * self.micro_batches))
        first = pools[: self.micro_batches]
        steps = {"colm": partial(self.colm, first)}
        # Training by losses alone has no way but its own.
        if optimizer_name(self.trainer.args) != ZEROTH_ORDER:
            plain = {
                "plain_r": [list(islice(pool, self.kept)) for pool in first],
                "plain_n": [list(pool) for pool in first],
                "plain_2n": [
                    [*one, *other] for one, other in zip(pools[::2], pools[1::2], strict=True)
                ],
            }
            steps |= {way: partial(self.plain, examples) for way, examples in plain.items()}
        row: dict[str, float] = {}
        for way, step in steps.items():
            row |= {f"{way}_{name}": value for name, value in measure(step, self.finish).items()}
        return row

    def finish(self) -> None:
        """Step the optimiser and let go of the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def colm(self, pools: list[Any]) -> None:
        """Selection, forward and backward as training does them."""
        batches, items = self.trainer.get_batch_samples(
            iter(pools), len(pools), self.trainer.args.device
        )
        self.train([dict(batch) for batch in batches], items)

    def plain(self, examples: Batches) -> None:
        """Forward and backward of plain training."""
        batches = [
            self.trainer.data_collator(
                [{"input_ids": each["input_ids"], "labels": each["labels"]} for each in part]
            )
            for part in examples
        ]
        items = self.trainer._get_num_items_in_batch(batches, self.trainer.args.device)
        self.train(batches, items)

    def train(self, batches: Iterable[dict[str, Any]], items: Any) -> None:
        """Forward and backward of micro-batches."""
        self.trainer.current_gradient_accumulation_steps = self.micro_batches
        for batch in batches:
            self.trainer.training_step(self.model, batch, items)

    def held_bytes(self) -> dict[str, float]:
        """Bytes that lie there between steps."""
        states = chain.from_iterable(state.values() for state in self.optimizer.state.values())
        trained = trained_weights(self.model)
        return {
            "parameters": count_weights(self.model),
            "trained_parameters": sum(weight.numel() for weight in trained),
            "weight_bytes": storage_bytes(weight_tensors(self.model)),
            "gradient_bytes": storage_bytes(trained),
            "optimizer_bytes": storage_bytes(s for s in states if isinstance(s, torch.Tensor)),
        }


def counted_on(model: Any) -> Measure:
    """Return a measure of what a step saves and what is alive in it."""

    def counted(step: Callable[[], None], finish: Callable[[], None]) -> dict[str, float]:
        weights = weight_tensors(model)
        with Tally(weights) as tally, SavedBytes(weights) as saved:
            step()
        finish()
        return {"saved_bytes": saved.peak_bytes, "alive_bytes": tally.peak_bytes}

    return counted


def timed(step: Callable[[], None], finish: Callable[[], None]) -> dict[str, float]:
    """Return the seconds of a step and, on an accelerator, the most memory it took."""
    accelerated = torch.accelerator.is_available()
    if accelerated:
        torch.accelerator.synchronize()
        torch.accelerator.reset_peak_memory_stats()
        before = torch.accelerator.memory_allocated()
    started = time.perf_counter()
    step()
    finish()
    if not accelerated:
        return {"seconds": time.perf_counter() - started}
    torch.accelerator.synchronize()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_bytes": torch.accelerator.max_memory_allocated() - before}


def summarize(repeats: list[dict[str, float]]) -> dict[str, float]:
    """Medians over repeats, of each figure and of plain ones over colm's."""
    medians = {name: statistics.median(row[name] for row in repeats) for name in repeats[0]}
    for figure in ("saved_bytes", "alive_bytes", "peak_bytes", "seconds"):
        for way in WAYS[1:]:
            if f"{way}_{figure}" in repeats[0]:
                ratios = [row[f"{way}_{figure}"] / row[f"colm_{figure}"] for row in repeats]
                medians[f"{way}_over_colm_{figure}"] = statistics.median(ratios)
    return medians


def compare(
    planned: dict[str, Any], held: dict[str, float], repeats: list[dict[str, float]]
) -> dict[str, float]:
    """Planned over measured, of each figure that is planned."""
    measured = summarize(repeats)
    ratios = {
        f"planned_over_measured_{name}": planned[name] / value
        for name, value in held.items()
        if value and planned[name] is not None
    }
    for way, plan in planned["ways"].items():
        alive = max(plan["training_bytes"], plan["look_bytes"])
        figures = {"saved_bytes": plan["saved_bytes"], "alive_bytes": alive, "peak_bytes": alive}
        for figure, value in figures.items():
            if measured.get(f"{way}_{figure}"):  # nothing is saved where there is no backward
                name = f"planned_over_measured_{way}_{figure}"
                ratios[name] = value / measured[f"{way}_{figure}"]
        time_ratio = measured.get(f"{way}_over_colm_seconds")
        if time_ratio is not None:
            ratios[f"planned_over_measured_{way}_over_colm"] = plan["time_ratio"] / time_ratio
    return ratios
