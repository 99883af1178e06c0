"""Fewer bytes beside the weights: three ways to train, and what each holds.

``adamw`` trains every weight and keeps two numbers for each. ``low_rank_adam`` trains every weight
as well, and keeps them of smaller images, of rank ``--rank``. ``side_block`` freezes the model and
trains a small block beside its layers. Run it as
``python examples/memory_method.py --model FOLDER``. What a step holds in all, activations included,
says ``colm plan --fit 24GB --model_name_or_path FOLDER``.
"""

import argparse
from pathlib import Path

from datasets import load_dataset

from colm import CoLMConfig, CoLMSFTTrainer

PROBLEMS = Path(__file__).parent / "data" / "problems.jsonl"
#: Options at a given rank, with a learning rate that suits the method.
METHODS = {
    "adamw": lambda rank: {"learning_rate": 1e-4},
    "low_rank_adam": lambda rank: {
        "optim": "low_rank_adam",
        "optim_args": f"subspace=random, rank={rank}, scale=0.25",
        "learning_rate": 4e-4,
    },
    "side_block": lambda rank: {"side_block": 8, "learning_rate": 1e-3},
}


def main(arguments: list[str] | None = None) -> dict[str, dict[str, int]]:
    """Train in each way and return the bytes of gradients and of the optimizer's state."""
    options = parse(arguments)
    problems = load_dataset("json", data_files=str(PROBLEMS), split="train")
    held = {}
    for method in options.methods:
        args = CoLMConfig(
            str(options.output_dir / method),
            per_device_train_batch_size=8,
            candidate_ratio=2.0,  # a method goes with selection, or without it: 1
            max_steps=options.steps,
            logging_strategy="no",
            save_strategy="no",
            seed=options.seed,
            **METHODS[method](options.rank),
        )
        trainer = CoLMSFTTrainer(options.model, args, train_dataset=problems)
        loss = trainer.train().training_loss
        held[method] = bytes_held(trainer)
        shown = ", ".join(
            f"{name} {number / 2**20:.2f} MiB" for name, number in held[method].items()
        )
        print(f"{method}: {shown}; mean loss of {options.steps} steps {loss:.3f}")
    return held


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or hub name")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--output_dir", type=Path, default=Path("runs/memory"))
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def bytes_held(trainer: CoLMSFTTrainer) -> dict[str, int]:
    """Count what a step holds beside the weights: a gradient of each that is trained, and state."""
    trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    states = [value for state in trainer.optimizer.state.values() for value in state.values()]
    return {
        "gradients": sum(weight.nbytes for weight in trained),
        "optimizer": sum(value.nbytes for value in states if hasattr(value, "nbytes")),
    }


if __name__ == "__main__":
    main()
