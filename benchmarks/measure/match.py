"""How well the examples that a selector keeps match the gradient of the large mini-batch.

For batches of n candidates at several states of a model in training, the gradient of every example
in every trained parameter is computed by plain autograd. A selector sees what it would see in
training, and its choice of r is scored by

    ||g_S - g|| / sqrt(E ||g_random - g||^2),

with g the mean gradient of the batch, g_S the (weighted) mean of the kept and g_random that of a
random subset of r: 1 is as good as random. Four scores each: ``raw`` and ``adam`` (gradients as the
optimiser's second moments scale them), for the mean over examples; ``tokens_raw`` and
``tokens_adam`` for the mean over label tokens, which is what the training loss averages, and where
a selector that matches may be told so.

Where the papers take finite differences along a random direction, arms take the derivative along
it, which those estimate (`benchmarks fidelity` says how well).

The cost of a look is its time over that of a forward without gradients of the same examples:
through the training loss in micro-batches as drawn (``cost``, what `benchmarks step` calls ideal),
of the model in the look's own chunks of like length (``cost_sorted``), and of the same with logits
at label positions alone (``cost_lean``).

``--ablations`` adds
other dimensions kept for CoLM's distances (SSM v1, Tables 3 and 4).

``python -m benchmarks match`` runs on the generated mixture; ``--data FILE`` on one's own.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.record import machine, write_result
from colm import CoLMConfig, CoLMSFTTrainer, CoresetSelector
from colm.coreset.candidates import EXAMPLE_WEIGHTS, Observed
from colm.coreset.features import CRITERIA
from colm.coreset.gradient_matching import gradient_matching
from colm.coreset.mean_matching import mean_matching
from colm.data import format_dataset, read_file, source_counts
from colm.data.generated import generate_mixture
from colm.gradients.example_observer import ExampleObserver
from colm.gradients.per_example import example_gradients, trained_parameters
from colm.runs.pretrained import demo_model_folder
from colm.training.example import label_token_count
from colm.training.step.chunks import length_sorted_chunks
from colm.training.step.match import adam_scale

Example = dict[str, Any]
V = "V of the last layer"
BLOCKS = "two blocks, 0.45 deep"
SHALLOW = "two blocks, 0.17 deep"


@dataclass(frozen=True)
class Arm:
    """A selector as it is scored: its options, and which look at the candidates it gets."""

    name: str
    look: str | None
    options: dict[str, Any] = field(default_factory=dict)
    directions: int = 0


BALANCED = {"selector": "balanced_sampling", "normalization": "rms"}
IMPORTANCE = {"selector": "importance_sampling", "normalization": "rms"}
MATCHING = {"selector": "gradient_matching", "normalization": "rms"}
ARMS = (
    Arm("random", None, {"selector": "random"}),
    Arm("small sources whole, rest random", None, {"selector": "small_random"}),
    Arm("CoLM as published", V, {"selector": "colm"}, 1),
    Arm("CoLM, small sources not kept", V, {"selector": "colm", "small": "none"}, 1),
    Arm("CoLM, exact gradients", V, {"selector": "colm", "small": "none"}),
    Arm("CoLM, exact, by cluster size", V, {"selector": "colm", "small": "none", "weighted": True}),
    Arm("SSM", V, {"selector": "ssm", "normalization": "none"}, 1),
    Arm("mean matching, 16 directions", V, {"selector": "mean_matching", "small": "none"}, 16),
    Arm("mean matching", V, {"selector": "mean_matching", "small": "none"}),
    Arm("mean matching, small sources kept", V, {"selector": "mean_matching"}),
    Arm("facility location, hidden states", V, {"selector": "hidden_facility_location"}),
    Arm("largest gradient", V, {"selector": "gradient_norm"}),
    Arm("highest loss", V, {"selector": "top_loss"}),
    Arm("selective back-propagation", V, {"selector": "selective_backprop"}),
    Arm("middle perplexity", V, {"selector": "middle_perplexity"}),
    Arm("longest", None, {"selector": "longest"}),
    Arm("balanced sampling, 0.45 deep", BLOCKS, BALANCED),
    Arm("balanced sampling", SHALLOW, BALANCED),
    Arm("importance sampling", SHALLOW, IMPORTANCE),
    Arm("gradient matching, V", V, MATCHING),
    Arm("gradient matching, 0.17 deep", SHALLOW, MATCHING),
    Arm("gradient matching", BLOCKS, MATCHING),
)
# With --ablations: which dimensions CoLM's distances are over, and how many.
EXACT = {"selector": "colm", "small": "none"}
ABLATIONS = (
    *(
        Arm(f"CoLM, exact, dimensions by {name}", V, EXACT | {"criterion": name})
        for name in CRITERIA
        if name != "gradient"
    ),
    *(Arm(f"CoLM, exact, {h} dimensions", V, EXACT | {"kept": h}) for h in (16, 64, 256, 1024)),
)
KNOWN = ("all gradients known, mean matching", "all gradients known, gradient matching")


def main() -> None:
    """Measure, print the table, and write the result."""
    options = parse()
    torch.manual_seed(options.seed)
    repeats: list[dict[str, float]] = []
    path = None
    with TemporaryDirectory() as folder:
        bench = MatchBench(options, folder)
        for steps in options.states:
            bench.train_until(steps)
            for _ in range(options.batches):
                started = time.perf_counter()
                repeats.append({"training_steps": float(steps)} | bench.measure())
                print(f"step {steps}: a batch in {time.perf_counter() - started:.0f} s", flush=True)
                # After every batch, so that a run cut short has lost nothing.
                path = write_result("match", vars(options), repeats, summarize(repeats), path)
    print_table(summarize(repeats), options)
    print(f"wrote {path} on {machine()}")


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--timed_batches", type=int, default=2, help="of those, with looks timed")
    parser.add_argument("--timed_examples", type=int, default=16, help="of a timed batch")
    parser.add_argument("--ablations", action="store_true", help="other dimensions for CoLM, too")
    return parser.parse_args()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which batches are scored, at which states of which model."""
    parser.add_argument("--data", help="JSONL, CSV or Parquet; default: the generated mixture")
    parser.add_argument("--model", help="folder or hub name; default: SmolLM2-135M-Instruct")
    parser.add_argument("--n", type=int, default=64, help="candidates")
    parser.add_argument("--r", type=int, nargs="+", default=[32, 16], help="kept")
    parser.add_argument("--states", type=int, nargs="+", default=[20, 40, 80], help="after steps")
    parser.add_argument("--batches", type=int, default=8, help="batches at each state")
    parser.add_argument("--train_batch", type=int, default=8, help="examples in a training step")
    parser.add_argument("--learning_rate", type=float, default=4e-4)
    parser.add_argument("--max_length", type=int, default=512)
    parser.add_argument("--chunk_tokens", type=int, default=4096, help="tokens looked at together")
    parser.add_argument("--dtype", default="bfloat16", help="of the frozen weights")
    parser.add_argument("--seed", type=int, default=0)


def all_arms(options: argparse.Namespace) -> tuple[Arm, ...]:
    """The selectors that this run scores."""
    arms = ARMS
    return arms + ABLATIONS if options.ablations else arms


class MatchBench:
    """A model in training, the looks at its candidates, and the selectors with their state."""

    def __init__(self, options: argparse.Namespace, folder: str) -> None:
        self.options = options
        self.sizes, self.trainer = build_trainer(options, folder)
        self.examples: Iterator[Example] = iter(self.trainer.train_dataset)
        self.trainer.create_optimizer()
        self.optimizer: Any = self.trainer.optimizer
        self.model: Any = self.trainer.model
        self.steps = 0
        self.batches = 0
        look: dict[str, Any] = {"needs": ("gradients", "losses", "hidden")}
        self.arms = all_arms(options)
        spread: dict[str, Any] = {"layers": "spread", "vocabulary": "batch", "depth": 0.45}
        self.observers = {
            V: ExampleObserver(self.model, **look),
            BLOCKS: ExampleObserver(self.model, **spread),
            SHALLOW: ExampleObserver(self.model, **spread | {"depth": 0.17}),
        }
        self.selectors = {
            (arm.name, r, weights): self._selector(arm.options, weights)
            for arm in self.arms
            for r in options.r
            for weights in EXAMPLE_WEIGHTS
        }

    def _selector(self, options: dict[str, Any], example_weights: str) -> CoresetSelector:
        """A selector that keeps its moments from batch to batch, as in training."""
        return CoresetSelector(
            options["selector"],
            normalization=options.get("normalization"),
            small_sources=options.get("small"),
            kept_dimensions=options.get("kept", self.model.config.hidden_size),
            dimension_criterion=options.get("criterion", "gradient"),
            example_weights=example_weights,
            source_sizes=self.sizes,
            seed=self.options.seed,
        )

    def train_until(self, steps: int) -> None:
        """Train on random batches, as a plain run would."""
        size = self.options.train_batch
        while self.steps < steps:
            for _ in range(size):
                (gradient,) = example_gradients(self.model, [self._batch([next(self.examples)])])
                for parameter, part in zip(trained_parameters(self.model), gradient, strict=True):
                    share = part / size
                    parameter.grad = share if parameter.grad is None else parameter.grad + share
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.steps += 1

    def measure(self) -> dict[str, float]:
        """Draw a batch and score every selector on it."""
        examples = [next(self.examples) for _ in range(self.options.n)]
        truth = Truth(self._gradients(examples), self._scales(), self._tokens(examples))
        figures, looks = self._looks(examples)
        for arm in self.arms:
            for r in self.options.r:
                for example_weights in EXAMPLE_WEIGHTS:
                    chosen = self._select(arm, r, looks, examples, example_weights)
                    figures |= truth.scores(f"{arm.name}/{r}", *chosen, example_weights)
        for r in self.options.r:
            figures |= truth.bounds(r)
        self.batches += 1
        return figures

    def _select(
        self,
        arm: Arm,
        r: int,
        looks: dict[str, Observed],
        examples: list[Example],
        example_weights: str,
    ) -> tuple[Tensor, Tensor]:
        """Rows kept, and what each counts for relative to what it counts for in the batch."""
        selector = self.selectors[arm.name, r, example_weights]
        observed = Observed() if arm.look is None else looks[arm.look]
        if arm.directions:
            observed = along_directions(observed, arm.directions, self.batches)
        selection = selector.select(
            observed,
            r,
            sources=[str(example["source"]) for example in examples],
            label_tokens=self._tokens(examples),
            weight=self.observers[V].weight() if arm.options.get("criterion") else None,
            keys=list(range(len(examples))),
            step=self.batches,
        )
        weighs = arm.options.get("weighted", selector.selector.defaults["weighted"])
        weights = selection.weights if weighs else torch.ones(len(selection.indices))
        return selection.indices, weights

    def _looks(self, examples: list[Example]) -> tuple[dict[str, float], dict[str, Observed]]:
        """Look at the batch in every way, and time it."""
        vocabulary = torch.tensor(sorted({i for each in examples for i in each["input_ids"]}))
        lookers = {
            name: lambda batch, look=observer: look(batch, vocabulary=vocabulary)
            for name, observer in self.observers.items()
        }
        looks = {name: joined(self._chunked(examples, look)[1]) for name, look in lookers.items()}
        figures: dict[str, float] = {}
        if self.batches % self.options.batches < self.options.timed_batches:
            part = examples[: self.options.timed_examples]
            drawn = self._drawn_forward(part)
            plain, _ = self._chunked(part, self._plain_forward)
            lean, _ = self._chunked(part, ExampleObserver(self.model, ("losses",)))
            for name, look in lookers.items():
                seconds, _ = self._chunked(part, look)
                costs = {"cost": drawn, "cost_sorted": plain, "cost_lean": lean}
                figures |= {f"{name}/{cost}": seconds / other for cost, other in costs.items()}
        return figures, looks

    def _drawn_forward(self, examples: list[Example]) -> float:
        """Seconds of the training loss in micro-batches as drawn, without gradients."""
        size = self.options.train_batch
        starts = range(0, len(examples), size)
        batches = [self._batch(examples[start : start + size]) for start in starts]
        started = time.perf_counter()
        with torch.no_grad():
            for batch in batches:
                self.trainer.compute_loss(self.model, batch)
        return time.perf_counter() - started

    def _plain_forward(self, batch: dict[str, Any]) -> None:
        with torch.no_grad():
            self.model(**{name: part for name, part in batch.items() if name != "labels"})

    def _chunked(
        self, examples: list[Example], look: Callable[[dict[str, Any]], Any]
    ) -> tuple[float, list[tuple[list[int], Any]]]:
        """Seconds to look at all chunks, and what each showed."""
        lengths = [len(example["input_ids"]) for example in examples]
        chunks = length_sorted_chunks(lengths, self.options.chunk_tokens)
        batches = [self._batch([examples[row] for row in chunk]) for chunk in chunks]
        started = time.perf_counter()
        with self.trainer.accelerator.autocast():
            seen = [look(batch) for batch in batches]
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        return time.perf_counter() - started, list(zip(chunks, seen, strict=True))

    def _gradients(self, examples: list[Example]) -> list[Tensor]:
        """Gradients of all examples, ``[n, size]`` for each parameter."""
        rows = []
        for example in examples:
            with self.trainer.accelerator.autocast():
                (gradient,) = example_gradients(self.model, [self._batch([example])])
            rows.append([part.flatten().cpu() for part in gradient])
        return [torch.stack(parts) for parts in zip(*rows, strict=True)]

    def _scales(self) -> list[Tensor]:
        """What Adam multiplies the gradient of each parameter by."""
        scale = adam_scale(self.optimizer)
        assert scale is not None
        factors = [scale(parameter) for parameter in trained_parameters(self.model)]
        return [factor.flatten().cpu() for factor in factors if isinstance(factor, Tensor)]

    def _batch(self, examples: list[Example]) -> dict[str, Any]:
        bare = [{name: each[name] for name in ("input_ids", "labels")} for each in examples]
        return dict(self.trainer._prepare_inputs(self.trainer.data_collator(bare)))

    @staticmethod
    def _tokens(examples: list[Example]) -> Tensor:
        return torch.tensor([label_token_count(example) for example in examples])


class Truth:
    """The real gradients of a batch, as inner products, and what a choice is worth by them.

    Args:
        gradients: ``[n, size]`` for each parameter.
        scales: ``[size]`` Adam's for each parameter.
        tokens: ``[n]`` label tokens.
    """

    def __init__(self, gradients: list[Tensor], scales: list[Tensor], tokens: Tensor) -> None:
        raw = sum(((part @ part.T).double() for part in gradients), torch.tensor(0.0))
        scaled = [part * scale for part, scale in zip(gradients, scales, strict=True)]
        adam = sum(((part @ part.T).double() for part in scaled), torch.tensor(0.0))
        equal = torch.full((len(tokens),), 1 / len(tokens), dtype=torch.float64)
        self.shares = {"equal": equal, "label_tokens": tokens.double() / tokens.sum()}
        self.grams = {
            (kind, weights): centered(gram, shares)
            for kind, gram in (("raw", raw), ("adam", adam))
            for weights, shares in self.shares.items()
        }

    def scores(
        self, name: str, rows: Tensor, weights: Tensor, example_weights: str
    ) -> dict[str, float]:
        """Score a choice by the gradient that averages over examples, or over label tokens."""
        shares = self.shares[example_weights][rows] * weights.double()
        shares = shares / shares.sum()
        prefix = "" if example_weights == "equal" else "tokens_"
        scores = {}
        for kind in ("raw", "adam"):
            gram = self.grams[kind, example_weights]
            error = (shares @ gram[rows][:, rows] @ shares).clamp(min=0)
            expected = expected_square(gram, self.shares[example_weights], len(rows))
            scores[f"{name}/{prefix}{kind}"] = float((error / expected).sqrt())
        return scores

    def bounds(self, r: int) -> dict[str, float]:
        """Score the matching selectors when they are given all there is to know."""
        figures: dict[str, float] = {}
        for weights, shares in self.shares.items():
            features = factor(self.grams["adam", weights])
            rows = mean_matching(features, r).indices
            figures |= self.scores(f"{KNOWN[0]}/{r}", rows, torch.ones(r), weights)
            chosen = gradient_matching(features, r, target=shares, noise=0.0)
            figures |= self.scores(f"{KNOWN[1]}/{r}", chosen.indices, chosen.weights, weights)
        return figures


def expected_square(gram: Tensor, shares: Tensor, r: int) -> Tensor:
    """E ||g_random - g||^2 of r of n rows, to first order where they do not all count the same."""
    n = len(gram)
    deviations = (n * shares).square() * gram.diagonal()
    return (1 / r - 1 / n) * deviations.sum() / (n - 1)


def centered(gram: Tensor, shares: Tensor) -> Tensor:
    """Inner products ``[n, n]`` of the rows less their mean by ``shares [n]``."""
    products = gram @ shares
    return gram - products[:, None] - products[None] + shares @ products


def factor(gram: Tensor) -> Tensor:
    """Rows ``[n, n]`` with these inner products."""
    values, vectors = torch.linalg.eigh(gram)
    scaled: Tensor = vectors * values.clamp(min=0).sqrt()
    return scaled


def along_directions(observed: Observed, count: int, seed: int) -> Observed:
    """Replace gradients by the mean of what they are along random directions (SSM v1, Eq. 8)."""
    assert observed.gradients is not None
    size = observed.gradients.shape[1]
    z = torch.randn(count, size, generator=torch.Generator().manual_seed(seed))
    z = z.to(observed.gradients)
    return Observed(gradients=(observed.gradients @ z.T) @ z / count, losses=observed.losses)


def joined(parts: list[tuple[list[int], Observed]]) -> Observed:
    """Put what chunks showed in the order of the examples."""
    place = torch.tensor([row for chunk, _ in parts for row in chunk]).argsort()
    fields: dict[str, Tensor] = {}
    for name in ("gradients", "losses", "hidden"):
        rows = [getattr(seen, name) for _, seen in parts]
        if rows[0] is not None:
            fields[name] = torch.cat(rows)[place.to(rows[0].device)]
    return Observed(**fields)


def build_trainer(
    options: argparse.Namespace, folder: str
) -> tuple[dict[str, int], CoLMSFTTrainer]:
    """Return the sizes of all sources, and a trainer with as many examples as will be used."""
    if options.data is None:
        dataset = Dataset.from_list(generate_mixture(seed=options.seed).train)
    else:
        raw = read_file(Path(options.data))
        dataset = format_dataset(raw, conversational=True, kept_columns=["source"]).dataset
    used = options.states[-1] * options.train_batch
    used += len(options.states) * options.batches * options.n
    if used > len(dataset):
        raise SystemExit(f"{used} examples are needed, and the data has {len(dataset)}.")
    # A few more, for examples without label tokens within the length are left out.
    part = dataset.shuffle(seed=options.seed).select(range(min(len(dataset), used + used // 20)))
    model_name = options.model or str(demo_model_folder())
    trainer = CoLMSFTTrainer(
        AutoModelForCausalLM.from_pretrained(model_name, dtype=getattr(torch, options.dtype)),
        args=CoLMConfig(
            output_dir=folder,
            max_length=options.max_length,
            learning_rate=options.learning_rate,
            gradient_checkpointing=False,
            use_cpu=not torch.accelerator.is_available(),
            seed=options.seed,
            report_to="none",
        ),
        train_dataset=part,
        processing_class=AutoTokenizer.from_pretrained(model_name),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
    )
    return source_counts(dataset), trainer


def summarize(repeats: list[dict[str, float]]) -> dict[str, float]:
    """Average every figure over the batches that have it."""
    names = dict.fromkeys(name for row in repeats for name in row if name != "training_steps")
    return {name: fmean(row[name] for row in repeats if name in row) for name in names}


def print_table(summary: dict[str, float], options: argparse.Namespace) -> None:
    """Print a line for each selector."""
    kinds = [f"{prefix}{kind}" for prefix in ("", "tokens_") for kind in ("raw", "adam")]
    columns = [f"{r}/{kind}" for r in options.r for kind in kinds]
    costs = ("cost", "cost_sorted", "cost_lean")
    print(f"{'':48s}" + " ".join(f"{column:>14s}" for column in columns), *costs)
    arms = [(arm.name, arm.look) for arm in all_arms(options)]
    for name, look in arms + [(name, None) for name in KNOWN]:
        scores = " ".join(f"{summary[f'{name}/{column}']:14.3f}" for column in columns)
        cost = " ".join(f"{summary.get(f'{look}/{kind}', 0.0):8.2f}" for kind in costs)
        print(f"{name:48s}{scores} {cost}")
