"""How well estimates of a slope agree with the derivative that they stand for.

A slope p_i is how fast example i's loss rises along a random direction z in the last V (its LoRA B
factor here). The truth is the derivative of autograd in float32. Against it stand, over examples
and directions, the correlation and the relative error ||p - truth|| / ||truth|| of

- ``exact`` features times z, ``directional`` derivatives, and ``zeroth_order`` differences at
  several steps eps, whose replayed part is in float32;
- ``naive`` differences, all of whose losses are in the precision of training: what it takes no more
  than a plain implementation of the paper to get,

with weights and forward in ``float32``; in ``autocast``, with bfloat16 frozen weights and float32
LoRA, as most people train; and in pure ``bfloat16``. The weights are the same numbers throughout,
those that bfloat16 can hold, so all that differs is how they are computed with.

``python -m benchmarks fidelity`` runs on the generated mixture; ``--data FILE`` on one's own.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.record import machine, write_result
from colm import CoLMConfig, CoLMSFTTrainer
from colm.data import format_dataset, read_file
from colm.data.generated import generate_mixture
from colm.gradients import zeroth_order
from colm.gradients.value_gradients import ValueGradients
from colm.runs.pretrained import demo_model_folder
from colm.training.step.chunks import length_sorted_chunks

# How frozen weights and LoRA are kept, and whether the forward runs under autocast.
PRECISIONS = {
    "float32": (torch.float32, torch.float32, False),
    "autocast": (torch.bfloat16, torch.float32, True),
    "bfloat16": (torch.bfloat16, torch.bfloat16, False),
}


def main() -> None:
    """Measure, print the table, and write the result."""
    options = parse()
    torch.manual_seed(options.seed)
    with TemporaryDirectory() as folder:
        bench = FidelityBench(build_trainer(options, folder), options)
        repeats = []
        for repeat in range(options.repeats):
            repeats.append(bench.measure(options.seed + repeat))
            print(f"{repeat + 1} of {options.repeats} draws of directions done", flush=True)
    names = [name for name in repeats[0] if name != "seed"]
    summary = {name: fmean(row[name] for row in repeats) for name in names}
    print_table(summary)
    print(f"wrote {write_result('fidelity', vars(options), repeats, summary)} on {machine()}")


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="JSONL, CSV or Parquet; default: the generated mixture")
    parser.add_argument("--model", help="folder or hub name; default: SmolLM2-135M-Instruct")
    parser.add_argument("--n", type=int, default=32, help="examples")
    parser.add_argument("--repeats", type=int, default=3, help="draws of directions")
    parser.add_argument("--directions", type=int, default=2, help="in each draw")
    parser.add_argument("--eps", type=float, nargs="+", default=[1e-2, 1e-3, 1e-4])
    parser.add_argument("--rank", type=int, default=16, help="of LoRA")
    parser.add_argument("--max_length", type=int, default=512)
    parser.add_argument("--chunk_tokens", type=int, default=4096, help="tokens looked at together")
    parser.add_argument("--seed", type=int, default=0, help="of the first draw")
    return parser.parse_args()


def build_trainer(options: argparse.Namespace, folder: str) -> CoLMSFTTrainer:
    """Return a trainer for its model, its tokenised examples and its collator."""
    if options.data is None:
        dataset = Dataset.from_list(generate_mixture(seed=options.seed).train)
    else:
        raw = read_file(Path(options.data))
        dataset = format_dataset(raw, conversational=True, kept_columns=["source"]).dataset
    # A few more, for examples without label tokens within the length are left out.
    part = dataset.shuffle(seed=options.seed).select(range(min(len(dataset), 2 * options.n)))
    model_name = options.model or str(demo_model_folder())
    return CoLMSFTTrainer(
        AutoModelForCausalLM.from_pretrained(model_name, dtype=torch.bfloat16),
        args=CoLMConfig(
            output_dir=folder,
            max_length=options.max_length,
            gradient_checkpointing=False,
            use_cpu=not torch.accelerator.is_available(),
            seed=options.seed,
            report_to="none",
        ),
        train_dataset=part,
        processing_class=AutoTokenizer.from_pretrained(model_name),
        peft_config=LoraConfig(
            r=options.rank, lora_alpha=2 * options.rank, target_modules="all-linear"
        ),
    )


class FidelityBench:
    """A model whose precision changes, and the examples whose slopes are estimated in each."""

    def __init__(self, trainer: CoLMSFTTrainer, options: argparse.Namespace) -> None:
        self.model: Any = trainer.model
        self.options = options
        for parameter in self.model.parameters():
            parameter.data = parameter.data.bfloat16()
        rows = [trainer.train_dataset[i] for i in range(options.n)]
        rows = [{name: row[name] for name in ("input_ids", "labels")} for row in rows]
        lengths = [len(row["input_ids"]) for row in rows]
        self.batches = [
            dict(trainer._prepare_inputs(trainer.data_collator([rows[i] for i in chunk])))
            for chunk in length_sorted_chunks(lengths, options.chunk_tokens)
        ]
        self.device = self.batches[0]["input_ids"].device.type

    def measure(self, seed: int) -> dict[str, float]:
        """Draw directions and compare every estimate along them with the truth."""
        look = self._look("directional")
        directions = look.draw_directions(torch.Generator().manual_seed(seed))
        self._set_weights("float32")
        truth = self._slopes(look, directions)
        figures = {"seed": float(seed)}
        for precision in PRECISIONS:
            self._set_weights(precision)
            for name, estimate in self._estimates(precision):
                found = estimate(directions)
                error = (found - truth).norm() / truth.norm()
                pair = torch.stack([found.flatten(), truth.flatten()])
                figures[f"{precision}/{name}/correlation"] = float(torch.corrcoef(pair)[0, 1])
                figures[f"{precision}/{name}/relative_error"] = float(error)
        return figures

    def _estimates(self, precision: str) -> Iterator[tuple[str, Callable[[list[Tensor]], Tensor]]]:
        """What is compared in one precision: a name, and slopes from directions."""
        is_autocast = PRECISIONS[precision][2]
        yield "exact", lambda z: self._products(z, is_autocast)
        yield "directional", lambda z: self._slopes(self._look("directional"), z, is_autocast)
        for eps in self.options.eps:
            look = self._look("zeroth_order", eps)
            yield f"zeroth_order {eps:g}", partial(self._slopes, look, is_autocast=is_autocast)
        for eps in self.options.eps if precision != "float32" else ():
            look = self._look("zeroth_order", eps)
            yield f"naive {eps:g}", partial(self._naive_slopes, look, is_autocast=is_autocast)

    def _look(self, estimator: str, eps: float = 1e-3) -> ValueGradients:
        return ValueGradients(
            self.model,
            estimator,
            num_directions=self.options.directions,
            perturbation_scale=eps,
        )

    def _set_weights(self, precision: str) -> None:
        """Keep frozen and trained weights in other types; buffers stay as they are."""
        frozen, trained, _ = PRECISIONS[precision]
        for parameter in self.model.parameters():
            parameter.data = parameter.data.to(trained if parameter.requires_grad else frozen)

    def _slopes(
        self, look: ValueGradients, directions: list[Tensor], is_autocast: bool = False
    ) -> Tensor:
        """Slopes of all examples along all directions, ``[k, n]``."""
        moved = [direction.to(self.device) for direction in directions]
        with self._autocast(is_autocast):
            parts = [look.slopes(batch, moved)[0] for batch in self.batches]
        return torch.cat(parts, dim=1).double().cpu()

    def _products(self, directions: list[Tensor], is_autocast: bool) -> Tensor:
        """Exact features times z, ``[k, n]``."""
        look = self._look("exact")
        with self._autocast(is_autocast):
            features = torch.cat([look(batch).features for batch in self.batches])
        z = torch.cat([direction.flatten(1) for direction in directions], dim=1)
        return z.double() @ features.double().cpu().T

    def _naive_slopes(
        self, look: ValueGradients, directions: list[Tensor], is_autocast: bool
    ) -> Tensor:
        """Differences of losses in the precision of training, on weights as they are."""
        with (
            patch.object(zeroth_order, "_replay_in_full_precision", replay_as_things_are),
            patch.object(zeroth_order, "_warn_of_noise"),
        ):
            return self._slopes(look, directions, is_autocast)

    @contextmanager
    def _autocast(self, enabled: bool) -> Iterator[None]:
        with torch.autocast(self.device, torch.bfloat16) if enabled else nullcontext():
            yield


def replay_as_things_are(stack: Any, replay: Any, _device: torch.device) -> None:
    """Skip the earlier layers in replays and change nothing else."""
    stack.enter_context(replay.replaying())


def print_table(summary: dict[str, float]) -> None:
    """Print a line for each estimate: correlation and relative error in each precision."""
    print(f"{'':24s}" + "".join(f"{precision:>20s}" for precision in PRECISIONS))
    for name in dict.fromkeys(key.split("/")[1] for key in summary):
        cells = [
            f"{summary[f'{precision}/{name}/correlation']:.4f} "
            f"({summary[f'{precision}/{name}/relative_error']:.2g})"
            if f"{precision}/{name}/correlation" in summary
            else ""
            for precision in PRECISIONS
        ]
        print(f"{name:24s}" + "".join(f"{cell:>20s}" for cell in cells))
