"""Which combination needs the least memory, at r of n: counted for a shape, not run.

``python -m benchmarks least_memory`` plans a step of each combination for SmolLM2 and for Phi-2's
shape, bfloat16 weights, r = 64 of n = 128 in one micro-batch, as ``colm plan --accelerator`` does:
the step's own forward, look and backward on tensors without values. Bytes are

- ``weight_bytes``, ``optimizer_bytes``: what lies there between steps;
- ``training_bytes``: most that is alive of forward and backward, gradients included;
- ``look_bytes``: most that is alive while candidates are looked at;
- ``total_bytes``: weights, states, and the larger of the two.

``benchmarks stacking`` measures the same on a real model, small enough to run.
"""

import argparse
from tempfile import TemporaryDirectory

from benchmarks.record import machine, write_result
from benchmarks.shapes import SHAPES, shape_config
from colm.planning.plan import Plan, make_plan
from colm.runs.arguments import parse_arguments

CHECKPOINTED = ["--gradient_checkpointing=true"]
WHOLE = ["--gradient_checkpointing=false"]
LORA = ["--use_peft=true", "--lora_target_modules=all-linear"]
EIGHT_BITS = ["--optim=adamw_bnb_8bit"]
ALONE = ["--subspace_others=none"]
COMBINATIONS = {
    "AdamW, all weights": WHOLE,
    "AdamW, all weights, gradient checkpointing": CHECKPOINTED,
    "8-bit Adam, gradient checkpointing": [*CHECKPOINTED, *EIGHT_BITS],
    "Adafactor, gradient checkpointing": [*CHECKPOINTED, "--optim=adafactor"],
    "LOMO, gradient checkpointing": [*CHECKPOINTED, "--optim=lomo"],
    "LoRA": [*WHOLE, *LORA],
    "LoRA, gradient checkpointing": [*CHECKPOINTED, *LORA],
    "QLoRA, gradient checkpointing": [*CHECKPOINTED, *LORA, "--load_in_4bit=true"],
    "QLoRA, 8-bit Adam, gradient checkpointing": [
        *CHECKPOINTED,
        *LORA,
        *EIGHT_BITS,
        "--load_in_4bit=true",
    ],
    "random subspaces": [*WHOLE, "--subspace_rank=RANK"],
    "random subspaces, gradient checkpointing": [*CHECKPOINTED, "--subspace_rank=RANK"],
    "random subspaces, others frozen": [*WHOLE, "--subspace_rank=RANK", *ALONE],
    "random subspaces, others frozen, gradient checkpointing": [
        *CHECKPOINTED,
        "--subspace_rank=RANK",
        *ALONE,
    ],
}
BYTES = ("weight_bytes", "optimizer_bytes", "training_bytes", "look_bytes", "total_bytes")


def main() -> None:
    """Plan each combination for each shape, and write the result after each."""
    options = parse()
    repeats: list[dict[str, float]] = []
    path = None
    for shape in options.shapes:
        with TemporaryDirectory() as folder:
            shape_config(shape).save_pretrained(folder)
            for name, given in COMBINATIONS.items():
                found = sizes(plan(folder, given, options))
                repeats.append({f"{shape}/{name}/{key}": size for key, size in found.items()})
                print(shape, name, {key: f"{size / 1e9:.2f} GB" for key, size in found.items()})
                summary = {key: size for one in repeats for key, size in one.items()}
                path = write_result("least_memory", vars(options), repeats, summary, path)
    print(f"wrote {path} on {machine()}")


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["smollm2", "phi-2"])
    parser.add_argument("--r", type=int, default=64, help="kept")
    parser.add_argument("--n", type=int, default=128, help="looked at")
    parser.add_argument("--tokens", type=int, default=256, help="of each example")
    parser.add_argument("--rank", type=int, default=64, help="of adapters and subspaces")
    parser.add_argument("--selector", default="balanced_sampling")
    return parser.parse_args()


def plan(folder: str, given: list[str], options: argparse.Namespace) -> Plan:
    """Return the plan of a run with the options of a combination."""
    common = {
        "model_name_or_path": folder,
        "output_dir": "not-written",
        "dtype": "bfloat16",
        "bf16": "false",
        "use_cpu": "true",
        "lora_r": options.rank,
        "per_device_train_batch_size": options.r,
        "candidate_ratio": options.n / options.r,
        "max_length": options.tokens,
        "selector": options.selector,
        "report_to": "none",
    }
    combination = [option.replace("RANK", str(options.rank)) for option in given]
    arguments = parse_arguments([*(f"--{k}={v}" for k, v in common.items()), *combination])
    return make_plan(arguments, accelerator=True)


def sizes(planned: Plan) -> dict[str, float]:
    """Return the bytes of a step with selection."""
    known = vars(planned) | vars(planned.ways["colm"])
    return {name: known[name] for name in BYTES}
