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
from typing import Any

from benchmarks.record import machine, write_result
from benchmarks.shapes import SHAPES, shape_config
from benchmarks.ways import WAYS
from colm.planning.methods import CHECKPOINTED, MEMORY_METHODS
from colm.planning.run_counter import RunCounter
from colm.runs.arguments import parse_arguments

#: Steps between new directions, of no consequence to the bytes.
REFRESH = 200
#: Ways of `benchmarks.ways`: those that `colm plan --fit` knows, and what else a plan counts.
COUNTED = (*(method.name for method in MEMORY_METHODS), "LOMO", "GaLore", "APOLLO")
BYTES = ("weight_bytes", "optimizer_bytes", "training_bytes", "look_bytes", "total_bytes")


def main() -> None:
    """Plan each combination for each shape, and write the result after each."""
    options = parse()
    repeats: list[dict[str, float]] = []
    path = None
    for shape in options.shapes:
        with TemporaryDirectory() as folder:
            shape_config(shape).save_pretrained(folder)
            for name, given in combinations(options.rank).items():
                found = sizes(folder, given, options)
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


def combinations(rank: int) -> dict[str, dict[str, Any]]:
    """Return the options of each way, with checkpoints of activations and without, by name."""
    found = {}
    for name in COUNTED:
        way = WAYS[name]
        found[name] = way.options(rank, REFRESH)
        if way.method.has_activations:
            found[f"{name}, gradient checkpointing"] = found[name] | CHECKPOINTED
    return found


def sizes(folder: str, given: dict[str, Any], options: argparse.Namespace) -> dict[str, float]:
    """Return the bytes of a step of a run with the options of a combination."""
    common = {
        "model_name_or_path": folder,
        "output_dir": "not-written",
        "dtype": "bfloat16",
        "bf16": "false",
        "use_cpu": "true",
        "per_device_train_batch_size": options.r,
        "max_length": options.tokens,
        "selector": options.selector,
        "report_to": "none",
    }
    selection = {"candidate_ratio": options.n / options.r}
    arguments = parse_arguments([f"--{k}={v}" for k, v in common.items()], selection | given)
    run = RunCounter(arguments, options.tokens, accelerator=True)
    held = run.held()
    look_bytes = run.look(options.r, options.n, 1).alive_bytes
    training_bytes = run.step(options.r, 1, after_look=True).alive_bytes
    assert held.optimizer_bytes is not None
    total_bytes = held.weight_bytes + held.optimizer_bytes + max(training_bytes, look_bytes)
    found = held.weight_bytes, held.optimizer_bytes, training_bytes, look_bytes, total_bytes
    return dict(zip(BYTES, found, strict=True))
