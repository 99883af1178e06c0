"""How good the trained model is, by how its mini-batches come about: the papers' experiment.

Each run trains the same model from the same adapters with one kind of mini-batch and one seed, and
measures the loss on held-out examples, by source, after some numbers of steps. The learning rate is
constant after its warm-up, so that every measurement stands for a run of its length, and what costs
less a step can go on for as many steps as take the same time.

``python -m benchmarks quality`` runs on the generated mixture; ``--data FILE ...`` on one's own,
records with ``candidates`` and the ``label`` of the right one included. ``--regime`` makes other
training data of it, see `benchmarks.regimes`; ``--from_scratch`` trains the small model of bytes of
`benchmarks.small_model`, all its weights, in the place of a pretrained one's adapters. Each
measurement has the processor time of training until then, so that arms can be read at equal time
whatever else the machine did, and its time on the wall, for an accelerator.
Every run is a file of its own in ``benchmarks/results/quality/LABEL``: what is there is not run
again, so a benchmark that was cut short goes on where it was. A run that is killed leaves what it
had measured in a file that ends in ``.part``; one that is asked to end, by SIGTERM, measures once
more and is kept as far as it came. `benchmarks side_by_side` trains many at once. ``--adapters``
keeps the trained adapters, for ``colm evaluate``. `benchmarks pace` says what a step of each kind
costs, ``make results`` draws tables and plots from both.

Symbols: n candidates, r kept.
"""

import argparse
import json
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from benchmarks.measuring import NOTHING_SPENT, MeasureEvery, Spent, noting_sigterm
from benchmarks.record import RESULTS, machine, without_folder, write_result
from benchmarks.regimes import REGIMES, in_regime
from benchmarks.small_model import byte_tokenizer, small_model
from colm import CoLMConfig, CoLMSFTTrainer
from colm.coreset.mixture import small_sources
from colm.data import format_dataset, read_file, source_counts
from colm.data.generated import generate_mixture
from colm.data.sources import split_evenly
from colm.evaluation import held_out_loss
from colm.runs.pretrained import demo_model_folder

FORMER_SETTINGS: dict[str, Any] = {
    "from_scratch": False,
    "regime": "imbalanced",
    "log_every": 1,
}
SPLIT_SEED = 0  # The same examples are held out whatever the seed of a run.


@dataclass(frozen=True)
class Arm:
    """A kind of mini-batch.

    Attributes:
        options: of ``CoLMConfig``, beside what all arms share.
        size: examples in a training batch over r.
        steps: of the run over those of colm, rounded to whole measurements: at least what takes the
            same time.
        adapters: whether a pretrained model is trained by LoRA.
    """

    options: dict[str, Any] = field(default_factory=dict)
    size: int = 1
    steps: float = 1.0
    adapters: bool = True


PLAIN = {"candidate_ratio": 1.0, "selector": "none"}
ROOT = {"loss_average": "root"}
NO_SMALL = {"small_sources": ["none"]}
ARMS = {
    "balanced sampling": Arm({"selector": "balanced_sampling"}),
    "plain r": Arm(PLAIN, steps=2),
    "plain n": Arm(PLAIN, size=2),
    "plain 2n": Arm(PLAIN, size=4, steps=0.5),
    "weighted sampling, random": Arm(
        {"selector": "random", "candidate_sampling": "inverse_source_size"} | NO_SMALL, steps=2
    ),
    "small sources, random": Arm({"selector": "small_random"}, steps=2),
    "CoLM": Arm({"selector": "colm", "gradient": "zeroth_order"}),
    "SSM": Arm({"selector": "ssm", "gradient": "zeroth_order"}),
    "CoLM, exact gradients": Arm({"selector": "colm", "gradient": "exact"}),
    "mean matching": Arm({"selector": "mean_matching"} | NO_SMALL),
    "mean matching, small sources": Arm({"selector": "mean_matching"}),
    "highest loss": Arm({"selector": "top_loss"}),
    "longest": Arm({"selector": "longest"}, steps=1.5),
    # What the draws of balanced sampling do by themselves, and its selector.
    "UniMax, random": Arm({"selector": "random", "candidate_sampling": "unimax"}, steps=2),
    # A coreset stands for all candidates; these keep all of them, which no coreset can better.
    "UniMax, all n": Arm(PLAIN | {"candidate_sampling": "unimax"}, size=2),
    "temperature, all n": Arm(PLAIN | {"candidate_sampling": "temperature"}, size=2),
    "adaptive, all n": Arm(PLAIN | {"candidate_sampling": "adaptive"}, size=2),
    "plain n, hard samples": Arm(PLAIN | {"stored_losses": "hard"}, size=2),
    "plain n, InfoBatch": Arm(PLAIN | {"stored_losses": "infobatch"}, size=2),
    "plain n, TailSFT": Arm(PLAIN | {"stored_losses": "tailsft"}, size=2),
    "plain n, root average": Arm(PLAIN | ROOT, size=2),
    "UniMax, all n, root average": Arm(PLAIN | ROOT | {"candidate_sampling": "unimax"}, size=2),
    "adaptive, all n, root average": Arm(PLAIN | ROOT | {"candidate_sampling": "adaptive"}, size=2),
    "balanced sampling, uniform draws": Arm(
        {"selector": "balanced_sampling", "candidate_sampling": "uniform"}
    ),
    "importance sampling": Arm({"selector": "importance_sampling"}),
    "gradient matching": Arm({"selector": "gradient_matching"}),
}


def main() -> None:
    """Train what is missing, and say where results lie."""
    options = parse()
    settings = shared_settings(options)
    bench: QualityBench | None = None
    for seed in options.seeds:
        for name in options.arms:
            path = result_path(options, name, seed)
            if path.exists():
                check_same(path, settings)
                print(f"{name}, seed {seed}: done before", flush=True)
                continue
            bench = bench or QualityBench(options)
            started = time.perf_counter()
            summary, ends = bench.run(name, seed, path)
            seconds = time.perf_counter() - started
            print(f"{name}, seed {seed}: {summary}, in {seconds:.0f} s", flush=True)
            if ends:
                raise SystemExit(128 + signal.SIGTERM)
    print(f"results are in {label(options)} of quality, measured on {machine()}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_setting(parser)
    parser.add_argument("--label", help="of these runs; default: the name of the data")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--measure_every", type=int, default=20, help="steps between measurements")
    parser.add_argument("--held_out", type=int, default=10, help="examples of each source")
    parser.add_argument("--log_every", type=int, default=1, help="steps between entries of the log")
    parser.add_argument("--adapters", help="folder to keep trained adapters in")
    options = parser.parse_args(arguments)
    if options.n % options.r or options.r % options.micro_batch:
        parser.error(
            f"--n must be a multiple of --r and --r of --micro_batch; got {options.n}, {options.r} "
            f"and {options.micro_batch}"
        )
    if options.steps % options.measure_every:
        parser.error(
            f"--steps must be a multiple of --measure_every; got {options.steps} and "
            f"{options.measure_every}"
        )
    return options


def add_setting(parser: argparse.ArgumentParser) -> None:
    """Add what runs share, whatever is measured of them."""
    parser.add_argument(
        "--data", nargs="+", help="JSONL, CSV or Parquet files; default: the generated mixture"
    )
    parser.add_argument("--model", help="folder or hub name; default: SmolLM2-135M-Instruct")
    parser.add_argument("--from_scratch", action="store_true", help="the small model of bytes")
    parser.add_argument("--regime", choices=REGIMES, default="imbalanced", help="of training data")
    parser.add_argument("--n", type=int, default=16, help="candidates of a step")
    parser.add_argument("--r", type=int, default=8, help="kept")
    parser.add_argument("--micro_batch", type=int, default=2, help="examples")
    parser.add_argument("--max_length", type=int, default=512, help="tokens")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--warmup_steps", type=int, default=4)
    parser.add_argument("--dtype", default="bfloat16", help="of activations and frozen weights")


def label(options: argparse.Namespace) -> str:
    """The name of these runs' folder."""
    if options.label:
        return str(options.label)
    data = "generated" if options.data is None else Path(options.data[0]).name
    parts = [data.partition(".")[0]]
    if options.regime != "imbalanced":
        parts.append(options.regime)
    if options.from_scratch:
        parts.append("from-scratch")
    return "-".join(parts)


def result_path(options: argparse.Namespace, name: str, seed: int) -> Path:
    """The file of a run."""
    return RESULTS / "quality" / label(options) / f"{slug(name)}-seed{seed}.json"


def slug(name: str) -> str:
    """The name of an arm as part of a file's name."""
    return "-".join(name.lower().replace(",", "").split())


def shared_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Options that runs of one folder have in common."""
    left_out = {"arms", "seeds", "label", "adapters"}
    settings = {name: value for name, value in vars(options).items() if name not in left_out}
    return settings | {"data": data_names(options)}


def data_names(options: argparse.Namespace) -> str | None:
    """The data files by their names."""
    return ", ".join(Path(path).name for path in options.data) if options.data else None


def check_same(path: Path, settings: dict[str, Any]) -> None:
    """Refuse to mix runs of different settings in one folder."""
    there = json.loads(path.read_text())["settings"]
    for name, value in settings.items():
        shown = without_folder(value)
        # Results from before there was an option ran as its default says.
        before = there.get(name, FORMER_SETTINGS.get(name))
        if before != shown:
            raise SystemExit(
                f"{path.name} was run with {name}={before}, not {shown}: give these runs "
                "another --label"
            )


class QualityBench:
    """Data and model that all runs share.

    Attributes:
        benchmark: whose name stands in results.
    """

    benchmark = "quality"

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.model = None if options.from_scratch else options.model or str(demo_model_folder())
        self.tokenizer: Any = (
            byte_tokenizer() if self.model is None else AutoTokenizer.from_pretrained(self.model)
        )
        dataset = load_data(options.data)
        split = split_evenly(dataset, options.held_out, seed=SPLIT_SEED)
        self.train = in_regime(split.train, options.regime, SPLIT_SEED)
        self.held_out = split.held_out
        self.sizes = source_counts(self.train)
        self.small = sorted(small_sources(self.sizes))
        self.untouched: dict[int, dict[str, float]] = {}

    def run(self, name: str, seed: int, path: Path) -> tuple[dict[str, float], bool]:
        """Train with one kind of mini-batch, and write what is measured into a file.

        Args:
            name: of the arm.
            seed: of the run.
            path: of the file; until the run has ended, its name has ``.part`` at the end.

        Returns:
            The last measurement without the losses of sources, and whether it was asked to end.
        """
        arm = ARMS[name]
        every = self.options.measure_every
        steps = every * max(1, round(arm.steps * self.options.steps / every))
        part = path.with_name(f"{path.name}.part")
        with TemporaryDirectory() as folder, noting_sigterm() as asked:
            trainer = self.trainer(arm, seed, steps, folder, self.options.log_every)
            measured = [{"steps": 0.0} | NOTHING_SPENT | self.before_training(trainer, seed)]

            def measure(step: int, spent: Spent) -> None:
                measured.append({"steps": float(step)} | spent | self.measure(trainer))
                self.write(name, seed, trainer, measured, part)

            trainer.add_callback(MeasureEvery(every, measure, asked))
            trainer.train()
        if self.options.adapters:
            kept = Path(self.options.adapters) / label(self.options)
            trainer.save_model(str(kept / f"{slug(name)}-seed{seed}"))
        summary = self.write(name, seed, trainer, measured, part)
        part.replace(path)
        return summary, asked.is_set()

    def write(
        self,
        name: str,
        seed: int,
        trainer: CoLMSFTTrainer,
        measured: list[dict[str, float]],
        path: Path,
    ) -> dict[str, float]:
        """Write a run as far as it has come; return its last measurement without the sources'."""
        details = {
            "arm": name,
            "seed": seed,
            "options": ARMS[name].options,
            "sources": self.sizes,
            "small_sources": self.small,
            "log": [entry for entry in trainer.state.log_history if "loss" in entry],
        }
        summary = {key: value for key, value in measured[-1].items() if "/" not in key}
        settings = shared_settings(self.options) | details
        write_result(self.benchmark, settings, measured, summary, path)
        return summary

    def before_training(self, trainer: CoLMSFTTrainer, seed: int) -> dict[str, float]:
        """Return the losses of the untrained model, measured once where runs share it."""
        # Adapters start as nothing, and a small model is drawn by the seed.
        drawn_by = 0 if self.model else seed
        if drawn_by not in self.untouched:
            self.untouched[drawn_by] = self.measure(trainer)
        return self.untouched[drawn_by]

    def trainer(
        self, arm: Arm, seed: int, steps: int, folder: str, log_every: int = 1
    ) -> CoLMSFTTrainer:
        """Return the trainer that a user would have."""
        args = CoLMConfig(
            **(training_options(self.options, arm) | {"max_steps": steps, "seed": seed}),
            output_dir=folder,
            logging_steps=log_every,
        )
        set_seed(seed)
        model = self.untrained()
        trainer = CoLMSFTTrainer(
            model=model,
            args=args,
            train_dataset=self.train,
            eval_dataset=self.held_out,
            processing_class=self.tokenizer,
            peft_config=lora() if self.model and arm.adapters else None,
        )
        # Tokenised once, for all runs.
        self.train, self.held_out = trainer.train_dataset, trainer.eval_dataset
        return trainer

    def untrained(self) -> Any:
        """Return the model as training starts from it."""
        if self.model is None:
            return small_model(len(self.tokenizer))
        return AutoModelForCausalLM.from_pretrained(
            self.model, dtype=getattr(torch, self.options.dtype)
        )

    def measure(self, trainer: CoLMSFTTrainer) -> dict[str, float]:
        """Held-out losses of the model as it is, by source and in all."""
        columns = ["input_ids", "labels", "source"]
        rows = list(self.held_out.select_columns(columns))
        loss = held_out_loss(
            trainer.model,
            rows,
            source_sizes=self.sizes,
            small_sources=self.small,
            # What keeps a core busy is little for an accelerator.
            batch_tokens=8192 if torch.accelerator.is_available() else 2048,
        )
        means = {"macro": loss.macro, "micro": loss.micro}
        if loss.small_sources is not None:
            means["small"] = loss.small_sources
        return means | {f"loss/{source}": value for source, value in loss.by_source.items()}


def load_data(paths: list[str] | None) -> Dataset:
    """Read examples as prompts and completions with their sources."""
    if paths is None:
        return Dataset.from_list(generate_mixture(seed=SPLIT_SEED).train)
    raw = [with_source(read_file(Path(path)), path) for path in paths]
    parts = [format_dataset(one, conversational=True, kept_columns=["source"]) for one in raw]
    return concatenate_datasets([part.dataset for part in parts])


def with_source(raw: Dataset, path: str) -> Dataset:
    """Name the source of a file's records after it, and take the right one of candidates."""
    if "candidates" in raw.column_names:
        raw = Dataset.from_list(
            [
                {"instruction": row["prompt"], "output": row["candidates"][row["label"]]}
                for row in raw
            ]
        )
    if "source" in raw.column_names:
        return raw
    return raw.add_column("source", [Path(path).name.partition(".")[0]] * len(raw))


def lora() -> LoraConfig:
    """The adapters of all runs."""
    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def training_options(options: argparse.Namespace, arm: Arm) -> dict[str, Any]:
    """Fields of ``CoLMConfig`` for an arm."""
    return {
        "per_device_train_batch_size": options.micro_batch,
        "gradient_accumulation_steps": arm.size * options.r // options.micro_batch,
        "candidate_ratio": options.n / options.r,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": options.warmup_steps,
        "max_length": options.max_length,
        "gradient_checkpointing": False,
        "bf16": options.dtype == "bfloat16",
        "use_cpu": not torch.accelerator.is_available(),
        "dataloader_pin_memory": torch.accelerator.is_available(),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **arm.options,
    }
