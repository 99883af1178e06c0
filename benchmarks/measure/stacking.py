"""CoLM beside what else saves memory: bytes and time of a step of each combination.

Every row trains SmolLM2-135M for a few steps on the generated mixture, n candidates and r kept of
them in one micro-batch, with one adapter, optimiser or way of keeping activations, or several. Of a
step with its look, its backward and its update:

- ``weight_bytes``: parameters, buffers, directions of random subspaces, scales of packed weights;
- ``optimizer_bytes``: states, projections of GaLore and APOLLO among them;
- ``step_bytes``: most that tensors made in the step hold at one time, gradients included;
- ``total_bytes``: their sum;
- ``seconds``: of steps that are not counted, and over those of the reference, which runs again
  after every few rows.

``python -m benchmarks stacking``; ``--rows`` for some.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any

import torch
from bitsandbytes.optim.lamb import LAMB
from came_pytorch import CAME
from datasets import Dataset
from peft import AdaLoraConfig, EvaConfig, LoraConfig, initialize_lora_eva_weights
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    set_seed,
)

from benchmarks.measure.memory import blocks, generated_text
from benchmarks.record import machine, write_result
from benchmarks.step_window import StepWindow
from colm import CoLMConfig, CoLMSFTTrainer
from colm.runs.pretrained import demo_model_folder

COUNTED, TIMED = (2, 3), (4, 5, 6)  # steps; the first warms up
REFERENCE = "AdamW, all weights"
REFERENCE_EVERY = 5
STEPS = max(TIMED)


@dataclass(frozen=True)
class Row:
    """A combination: options of the configuration and of the trainer, and what else it takes."""

    options: dict[str, Any] = field(default_factory=dict)
    of_trainer: Callable[[int], dict[str, Any]] = lambda _: {}
    four_bits: bool = False
    eva: bool = False


def _lora(**options: Any) -> Callable[[int], dict[str, Any]]:
    def make(rank: int) -> dict[str, Any]:
        common = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
        return {"peft_config": LoraConfig(r=rank, lora_alpha=2 * rank, **common, **options)}

    return make


def _adalora(rank: int) -> dict[str, Any]:
    common = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    config = AdaLoraConfig(
        init_r=rank + rank // 2, target_r=rank, total_step=STEPS, tinit=1, tfinal=1, **common
    )
    return {"peft_config": config}


def _optimizer(kind: Any, **options: Any) -> Callable[[int], dict[str, Any]]:
    return lambda _: {"optimizer_cls_and_kwargs": (kind, options)}


# Of equal rank everywhere, and soon content with its directions: sizes are all that counts here.
_EVA = EvaConfig(rho=1.0, tau=0.0)
_PROJECTED = {"optim_target_modules": ["attn", "mlp"]}
ROWS = {
    REFERENCE: Row(),
    "no selection, plain r": Row({"candidate_ratio": 1.0, "selector": "none"}),
    "LoRA": Row(of_trainer=_lora()),
    "DoRA": Row(of_trainer=_lora(use_dora=True)),
    "rsLoRA": Row(of_trainer=_lora(use_rslora=True)),
    "EVA": Row(of_trainer=_lora(init_lora_weights="eva", eva_config=_EVA), eva=True),
    "AdaLoRA": Row(of_trainer=_adalora),
    "QLoRA": Row(of_trainer=_lora(), four_bits=True),
    "GaLore": Row({"optim": "galore_adamw", **_PROJECTED}),
    "APOLLO": Row({"optim": "apollo_adamw", **_PROJECTED}),
    "LOMO": Row({"optim": "lomo"}),
    "CAME": Row(
        of_trainer=_optimizer(CAME, lr=1e-4, eps=(1e-30, 1e-16), betas=(0.9, 0.999, 0.9999))
    ),
    "LAMB": Row(of_trainer=_optimizer(LAMB, lr=1e-4)),
    "Adafactor": Row({"optim": "adafactor"}),
    "8-bit Adam": Row({"optim": "adamw_bnb_8bit"}),
    "schedule-free": Row({"optim": "schedule_free_adamw", "lr_scheduler_type": "constant"}),
    "gradient checkpointing": Row({"gradient_checkpointing": True}),
    "padding-free": Row({"padding_free": True, "max_length": None}),
    "random subspaces": Row({"subspace_rank": 0}),
    "random subspaces, gradient checkpointing": Row(
        {"subspace_rank": 0, "gradient_checkpointing": True}
    ),
    "random subspaces, others frozen, gradient checkpointing": Row(
        {"subspace_rank": 0, "subspace_others": ["none"], "gradient_checkpointing": True}
    ),
    "LoRA, gradient checkpointing": Row({"gradient_checkpointing": True}, _lora()),
    "QLoRA, 8-bit Adam, gradient checkpointing": Row(
        {"gradient_checkpointing": True, "optim": "adamw_bnb_8bit"}, _lora(), four_bits=True
    ),
    "LOMO, gradient checkpointing": Row({"optim": "lomo", "gradient_checkpointing": True}),
}


def main() -> None:
    """Run the rows, and write the result after each."""
    options = parse()
    repeats: list[dict[str, float]] = []
    path = None
    for place, name in enumerate(options.rows):
        if place % REFERENCE_EVERY == 0 or not repeats:
            reference = measure(ROWS[REFERENCE], options)
            repeats.append({f"{REFERENCE}/{key}": value for key, value in reference.items()})
        row = reference if name == REFERENCE else measure(ROWS[name], options)
        row = row | {"over_reference": row["seconds"] / reference["seconds"]}
        repeats.append({f"{name}/{key}": value for key, value in row.items()})
        print(name, {key: round(value, 3) for key, value in row.items()}, flush=True)
        summary = {key: value for one in repeats for key, value in one.items()}
        path = write_result("stacking", vars(options), repeats, summary, path)
    print(f"wrote {path} on {machine()}")


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--rank", type=int, default=64, help="of adapters and projections")
    parser.add_argument("--n", type=int, default=8, help="candidates of a step")
    parser.add_argument("--r", type=int, default=4, help="kept, in one micro-batch")
    parser.add_argument("--tokens", type=int, default=128, help="of each example")
    parser.add_argument("--dtype", default="bfloat16", help="of the weights")
    parser.add_argument("--same_length", action="store_true", help="no padding")
    return parser.parse_args()


def measure(row: Row, options: argparse.Namespace) -> dict[str, float]:
    """Train a few steps; return bytes, and seconds of a step."""
    set_seed(0)
    with TemporaryDirectory() as folder:
        trainer = build(row, options, folder)
        if row.eva:
            look_for_directions(trainer)
        window = StepWindow(trainer, COUNTED, TIMED)
        trainer.add_callback(window)
        trainer.train()
    return window.found | {"seconds": statistics.median(window.seconds)}


def build(row: Row, options: argparse.Namespace, folder: str) -> CoLMSFTTrainer:
    """Return the trainer that a user would have."""
    path = str(demo_model_folder())
    tokenizer = AutoTokenizer.from_pretrained(path)
    loading: dict[str, Any] = {"dtype": getattr(torch, options.dtype)}
    if row.four_bits:
        loading["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_compute_dtype=getattr(torch, options.dtype)
        )
    given = dict(row.options)
    if "subspace_rank" in given:
        given |= {"subspace_rank": options.rank, "subspace_inner_steps": 2}
    if "optim_target_modules" in given:
        given["optim_args"] = f"rank={options.rank}, update_proj_gap=2, scale=0.25"
    defaults = {
        "output_dir": folder,
        "selector": "balanced_sampling",
        "per_device_train_batch_size": options.r,
        "candidate_ratio": options.n / options.r,
        "max_steps": STEPS,
        "max_length": options.tokens,
        "learning_rate": 1e-4,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": not torch.accelerator.is_available(),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return CoLMSFTTrainer(
        AutoModelForCausalLM.from_pretrained(path, **loading),
        args=CoLMConfig(**(defaults | given)),
        train_dataset=Dataset.from_list(list(blocks(generated_text(tokenizer), options, 200))),
        processing_class=tokenizer,
        **row.of_trainer(options.rank),
    )


def look_for_directions(trainer: CoLMSFTTrainer) -> None:
    """Let EVA see batches of the data."""
    examples = [dict(row) for row in trainer.train_dataset.select(range(8))]
    collated = [trainer.data_collator(part) for part in (examples[:4], examples[4:])]
    seen = [{"input_ids": batch["input_ids"]} for batch in collated]
    initialize_lora_eva_weights(trainer.model, seen, show_progress_bar=False)
