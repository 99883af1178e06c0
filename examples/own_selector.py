"""A selector of one's own, and whether it does better than a random choice in the same time.

``half_hardest`` spends half of its budget on the highest losses and draws the rest. Both ways train
for ``--seconds``, so a selector has to earn the time that its look takes. One seed says little: run
``python examples/own_selector.py --model FOLDER`` again with another ``--seed``.
"""

import argparse
import time
from pathlib import Path

import torch
from datasets import Dataset, load_dataset
from transformers import TrainerCallback

from colm import Candidates, CoLMConfig, CoLMSFTTrainer, register_selector

DATA = Path(__file__).parent / "data"


@register_selector("half_hardest", needs=("losses",))
def half_hardest(candidates: Candidates, budget: int, generator: torch.Generator) -> torch.Tensor:
    """Return the rows to keep: by loss for half of the budget, then at random."""
    by_loss = candidates.losses.argsort(descending=True)
    hardest, others = by_loss[: budget // 2], by_loss[budget // 2 :]
    drawn = torch.randperm(len(others), generator=generator)[: budget - len(hardest)]
    return torch.cat([hardest, others[drawn.to(others.device)]])


class StopAfter(TrainerCallback):
    """Ends training after so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Start the clock."""
        self.end = time.perf_counter() + self.seconds

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Look at the clock."""
        control.should_training_stop = time.perf_counter() >= self.end


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Train in both ways and return their losses on five held-out problems of each source."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or hub name")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, for each way")
    parser.add_argument("--output_dir", default="runs/own-selector")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    problems = load_dataset("json", data_files=str(DATA / "problems.jsonl"), split="train")
    questions, losses = held_out(), {}
    for selector in ("half_hardest", "random"):
        args = CoLMConfig(
            f"{options.output_dir}/{selector}", selector=selector, candidate_ratio=2.0,
            max_steps=100_000, lr_scheduler_type="constant", learning_rate=1e-4, seed=options.seed,
            save_strategy="no", logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = CoLMSFTTrainer(
            options.model, args, train_dataset=problems, callbacks=[StopAfter(options.seconds)]
        )
        trainer.train()
        losses[selector] = trainer.evaluate(questions)["eval_loss"]
        steps = trainer.state.global_step
        print(f"{selector}: {steps} steps, held-out loss {losses[selector]:.3f}")
    return losses


def held_out() -> Dataset:
    """Return the held-out questions as prompts with completions."""
    rows = load_dataset("json", data_files=str(DATA / "held-out.jsonl"), split="train")
    asked = [[{"role": "user", "content": question}] for question in rows["question"]]
    answers = [[{"role": "assistant", "content": answer}] for answer in rows["answer"]]
    return Dataset.from_dict({"prompt": asked, "completion": answers})


if __name__ == "__main__":
    main()
