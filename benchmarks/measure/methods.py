"""What does each way of training in less memory cost, and what does it bring?

Each way of `benchmarks.ways` trains the same model on r examples a step, alone and with CoLM, which
chooses r of n. A file for each run in ``benchmarks/results/methods/LABEL``; what is there is not
run again. It has

- held-out loss by steps and by processor time of training, as in ``benchmarks quality``;
- ``weight_bytes``, ``gradient_bytes``, ``optimizer_bytes``, ``saved_bytes`` (for backward) and
  ``total_bytes``, the peak: tensors counted over steps of a short run before, see
  `benchmarks.step_window`;
- ``step_cpu_seconds``: the median over measurements.

``--steps 0`` takes a few steps of each way for bytes and times, and trains nothing.

Learning rates are searched for with the first seed, alone, in steps of a factor of 3 from where
`benchmarks.ways` begins, until the lowest loss has a higher one on both sides, in five runs at
most; a variant has the rate of what it is a variant of. The other seeds and CoLM go by the best
rate. The reference, AdamW on all weights, goes first:
runs whose steps are quicker go on until they have taken its time, but no longer than three times
its steps.

``python -m benchmarks methods`` fine-tunes SmolLM2-135M; ``--from_scratch`` trains the small model
of bytes of `benchmarks.small_model`. ``make results`` puts the figures into ``docs/memory.md``.

Symbols: n candidates, r kept.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

import torch
from peft import EvaConfig, LoraConfig, initialize_lora_eva_weights
from transformers import AutoTokenizer, TrainerCallback, set_seed
from trl import get_peft_config, get_quantization_config

from benchmarks.measure.quality import (
    SPLIT_SEED,
    check_same,
    data_names,
    label,
    load_data,
    slug,
)
from benchmarks.measuring import NOTHING_SPENT, MeasureEvery, Spent
from benchmarks.record import RESULTS, machine, write_result
from benchmarks.small_model import byte_tokenizer, small_model
from benchmarks.step_window import StepWindow
from benchmarks.ways import REFERENCE, WAYS, Way
from colm import CoLMSFTTrainer
from colm.coreset.mixture import small_sources
from colm.data import source_counts
from colm.data.sources import split_evenly
from colm.evaluation import held_out_loss
from colm.runs.arguments import SFTArguments, parse_arguments
from colm.runs.pretrained import demo_model_folder

FACTOR = 3.0
MOST_RATES = 5
COUNTED_STEPS, TIMED_STEPS = (2,), (3, 4)  # the first warms up, and makes the states
COUNTED_RATE = 1e-6  # of no consequence to the bytes
#: Steps over those of the reference, for what is quicker.
MOST_STEPS = 3
EVA_BATCHES = 4


def main() -> None:
    """Train what is missing, and say where results lie."""
    options = parse()
    bench = MethodsBench(options)
    for name in options.ways:
        rate = bench.rate_of(name)
        for seed in options.seeds:
            selects = WAYS[name].selects and not options.alone
            for selected in (False, True) if selects else (False,):
                bench.result(name, selected, rate, seed)
    print(f"results are in {label(options)} of methods, measured on {machine()}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    parser.add_argument("--alone", action="store_true", help="no run with CoLM")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--learning_rates", type=float, nargs="+", help="in place of a search")
    parser.add_argument("--data", nargs="+", help="default: the generated mixture")
    parser.add_argument("--label", help="of these runs; default: the name of the data")
    parser.add_argument("--model", help="folder or hub name; default: SmolLM2-135M-Instruct")
    parser.add_argument("--from_scratch", action="store_true", help="the small model of bytes")
    parser.add_argument("--n", type=int, default=8, help="candidates of a step")
    parser.add_argument("--r", type=int, default=4, help="trained on, in one micro-batch")
    parser.add_argument("--rank", type=int, default=64, help="of adapters and projections")
    parser.add_argument("--refresh", type=int, default=50, help="steps between new directions")
    parser.add_argument("--max_length", type=int, default=192, help="tokens")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--measure_every", type=int, default=20, help="steps")
    parser.add_argument("--warmup_steps", type=int, default=10)
    parser.add_argument("--held_out", type=int, default=10, help="examples of each source")
    parser.add_argument("--dtype", default="float32", help="of the weights")
    options = parser.parse_args(arguments)
    if options.steps % options.measure_every or options.steps < 0:
        parser.error(
            f"--steps must be a multiple of --measure_every; got {options.steps} and "
            f"{options.measure_every}"
        )
    if REFERENCE in options.ways:
        options.ways.sort(key=lambda name: name != REFERENCE)
    options.regime = "imbalanced"  # as `quality` names its data
    return options


def find_rate(begun: float, loss_of: Callable[[float], float]) -> float:
    """Return the learning rate of the lowest loss, of a search both ways from one.

    Args:
        begun: the first that is tried.
        loss_of: what a rate comes to.

    Example:
        >>> find_rate(1.0, lambda rate: abs(rate - 9))
        9.0
    """
    tried = {begun: loss_of(begun)}
    while True:
        best = min(tried, key=lambda rate: tried[rate])
        # Four digits: a rate is part of a file's name.
        beside = [float(f"{best * factor:.4g}") for factor in (FACTOR, 1 / FACTOR)]
        new = [
            one for one in beside if not any(math.isclose(one, it, rel_tol=0.01) for it in tried)
        ]
        if not new or len(tried) >= MOST_RATES:
            return best
        tried[new[0]] = loss_of(new[0])


class MethodsBench:
    """Data and models that all runs share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        dataset = load_data(options.data)
        split = split_evenly(dataset, options.held_out, seed=SPLIT_SEED)
        self.train, self.held_out = split.train, split.held_out
        self.sizes = source_counts(self.train)
        self.small = sorted(small_sources(self.sizes))
        self.rows: list[dict[str, Any]] = []
        self.rates: dict[str, float] = {}
        self.counted: dict[tuple[str, bool], dict[str, float]] = {}

    def rate_of(self, name: str) -> float:
        """Return the learning rate of a way: of those that were given or searched, the best."""
        if name not in self.rates:
            self.rates[name] = self._look_for_rate(name)
        return self.rates[name]

    def _look_for_rate(self, name: str) -> float:
        options, way, seed = self.options, WAYS[name], self.options.seeds[0]
        if way.rate_of is not None:
            return self.rate_of(way.rate_of)

        def loss_of(rate: float) -> float:
            summary = self.result(name, False, rate, seed)["summary"]
            return float(summary.get("macro", math.inf))

        if not options.steps:
            return COUNTED_RATE
        if options.learning_rates:
            best: float = min(options.learning_rates, key=loss_of)
            return best
        return find_rate(way.from_scratch if options.from_scratch else way.pretrained, loss_of)

    def result(self, name: str, selected: bool, rate: float, seed: int) -> dict[str, Any]:
        """Return the result of a run; what is not there is run.

        Args:
            name: of a way.
            selected: with CoLM, not alone.
            rate: learning rate.
            seed: of the run.
        """
        path = self.path(name, selected, rate, seed)
        settings = self.settings()
        if path.exists():
            check_same(path, settings)
            print(f"{path.stem}: done before", flush=True)
        else:
            end = None if name == REFERENCE and not selected else self.reference_seconds(seed)
            rows, found = self.run(name, selected, rate, seed, end)
            settings |= {"arm": name, "selected": selected, "learning_rate": rate, "seed": seed}
            settings |= {"options": WAYS[name].options(self.options.rank, self.options.refresh)}
            path.parent.mkdir(parents=True, exist_ok=True)
            at_steps = next((row for row in rows if row["steps"] == self.options.steps), rows[-1])
            summary = {key: value for key, value in at_steps.items() if "/" not in key} | found
            write_result("methods", settings, rows, summary, path)
            print(f"{path.stem}: {summary}", flush=True)
        read: dict[str, Any] = json.loads(path.read_text())
        return read

    def path(self, name: str, selected: bool, rate: float, seed: int) -> Path:
        """The file of a run."""
        arm = slug(f"{name}, CoLM" if selected else name)
        return RESULTS / "methods" / label(self.options) / f"{arm}-lr{rate:g}-seed{seed}.json"

    def settings(self) -> dict[str, Any]:
        """Options that runs of one folder have in common."""
        own = {"ways", "alone", "seeds", "label", "learning_rates", "regime"}
        said = {name: value for name, value in vars(self.options).items() if name not in own}
        return said | {"data": data_names(self.options)}

    def reference_seconds(self, seed: int) -> float | None:
        """Return the time of the reference's run with a seed, where there is one."""
        folder = RESULTS / "methods" / label(self.options)
        found = [
            json.loads(one.read_text())
            for one in folder.glob(f"{slug(REFERENCE)}-lr*-seed{seed}.json")
        ]
        best = min(found, key=lambda one: one["summary"].get("macro", math.inf), default=None)
        return None if best is None else float(best["summary"].get("cpu_seconds", 0.0))

    def run(
        self, name: str, selected: bool, rate: float, seed: int, end: float | None
    ) -> tuple[list[dict[str, float]], dict[str, float]]:
        """Train; return what was measured on the way, and the bytes and time of a step."""
        options, way = self.options, WAYS[name]
        with TemporaryDirectory() as folder:
            held = self.count(name, selected, folder)
            if not options.steps:
                return [{"steps": 0.0}], held
            steps = options.steps * (1 if end is None else MOST_STEPS)
            trainer = self.trainer(way, selected, rate, seed, steps, folder)
            rows = [{"steps": 0.0} | NOTHING_SPENT | self.measure(trainer)]

            def measure(step: int, spent: Spent) -> None:
                rows.append({"steps": float(step)} | spent | self.measure(trainer))

            trainer.add_callback(MeasureEvery(options.measure_every, measure, Event()))
            trainer.add_callback(EndAfter(options.steps, end, rows))
            trainer.train()
        paces = [
            (after["cpu_seconds"] - before["cpu_seconds"]) / (after["steps"] - before["steps"])
            for before, after in pairwise(rows)
        ]
        return rows, held | {"step_cpu_seconds": statistics.median(paces)}

    def count(self, name: str, selected: bool, folder: str) -> dict[str, float]:
        """Return the bytes of a step, of a run of its own; neither seed nor rate changes them."""
        key = name, selected
        if key not in self.counted:
            way, steps = WAYS[name], max(TIMED_STEPS)
            trainer = self.trainer(
                way, selected, COUNTED_RATE, self.options.seeds[0], steps, folder
            )
            window = StepWindow(trainer, COUNTED_STEPS, TIMED_STEPS)
            trainer.add_callback(window)
            trainer.train()
            seconds = statistics.median(window.cpu_seconds)
            self.counted[key] = window.found | {"step_cpu_seconds": seconds}
        return self.counted[key]

    def trainer(
        self, way: Way, selected: bool, rate: float, seed: int, steps: int, folder: str
    ) -> CoLMSFTTrainer:
        """Return the trainer that ``colm sft`` would have."""
        options = self.options
        path = small_model_folder(seed) if options.from_scratch else options.model
        path = path or str(demo_model_folder())
        selection = {"candidate_ratio": options.n / options.r if selected else 1.0}
        instead = common_options(options) | selection | way.options(options.rank, options.refresh)
        instead |= {"learning_rate": rate, "seed": seed, "max_steps": steps}
        arguments = parse_arguments(
            [f"--model_name_or_path={path}", f"--output_dir={folder}", "--report_to=none"], instead
        )
        arguments.training.model_init_kwargs = {"dtype": getattr(torch, options.dtype)}
        set_seed(seed)
        trainer = CoLMSFTTrainer(
            model=path,
            args=arguments.training,
            train_dataset=self.train,
            eval_dataset=self.held_out,
            processing_class=AutoTokenizer.from_pretrained(path),
            peft_config=adapters(way, arguments),
            quantization_config=get_quantization_config(arguments.model),
        )
        # Tokenized once, for all runs.
        self.train, self.held_out = trainer.train_dataset, trainer.eval_dataset
        if way.eva:
            look_for_directions(trainer, options.r)
        return trainer

    def measure(self, trainer: CoLMSFTTrainer) -> dict[str, float]:
        """Held-out losses of the model as it is; what is no number is left out."""
        self.rows = self.rows or list(
            self.held_out.select_columns(["input_ids", "labels", "source"])
        )
        loss = held_out_loss(
            trainer.model, self.rows, source_sizes=self.sizes, small_sources=self.small
        )
        means = {"macro": loss.macro, "micro": loss.micro}
        by_source = {f"loss/{source}": value for source, value in loss.by_source.items()}
        return {key: value for key, value in (means | by_source).items() if math.isfinite(value)}


class EndAfter(TrainerCallback):
    """Ends training at the first measurement after so many steps and so much processor time."""

    def __init__(self, steps: int, seconds: float | None, rows: list[dict[str, float]]) -> None:
        self.steps, self.seconds, self.rows = steps, seconds or 0.0, rows

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """End where it is time."""
        last = self.rows[-1]
        if state.global_step == last["steps"] >= self.steps and last["cpu_seconds"] >= self.seconds:
            control.should_training_stop = True


@cache
def small_model_folder(seed: int) -> str:
    """Return a folder with an untrained small model, drawn by a seed; it goes with the process."""
    folder = _kept_folder(seed)
    set_seed(seed)
    tokenizer = byte_tokenizer()
    small_model(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@cache
def _folders() -> list[TemporaryDirectory[str]]:
    return []


def _kept_folder(seed: int) -> str:
    _folders().append(TemporaryDirectory(prefix=f"small-model-{seed}-"))
    return _folders()[-1].name


def common_options(options: argparse.Namespace) -> dict[str, Any]:
    """What all runs are told."""
    return {
        "per_device_train_batch_size": options.r,
        "gradient_accumulation_steps": 1,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": options.warmup_steps,
        "max_length": options.max_length,
        "bf16": False,
        "use_cpu": not torch.accelerator.is_available(),
        "dataloader_pin_memory": torch.accelerator.is_available(),
        "save_strategy": "no",
        "logging_steps": 1_000_000,
        "disable_tqdm": True,
    }


def adapters(way: Way, arguments: SFTArguments) -> LoraConfig | None:
    """Return the adapters that the options name."""
    config: LoraConfig | None = get_peft_config(arguments.model)
    if config is not None and way.eva:
        config.init_lora_weights, config.eva_config = "eva", EvaConfig()
    return config


def look_for_directions(trainer: CoLMSFTTrainer, size: int) -> None:
    """Let EVA see some batches of the data."""
    rows = [dict(row) for row in trainer.train_dataset.select(range(EVA_BATCHES * size))]
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    collated = [trainer.data_collator(part) for part in parts]
    # Without labels: the inputs of all tokens count.
    seen = [{name: each[name] for name in ("input_ids", "attention_mask")} for each in collated]
    initialize_lora_eva_weights(trainer.model, seen, show_progress_bar=False)
