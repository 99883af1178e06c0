"""Chats of several sources: what they need to look like, and what a run kept of each.

A record holds ``messages``, as any chat data set does, and one more column that says where it comes
from. Without ``--data`` the chats are made of ``examples/data/problems.jsonl``. Run it as
``python examples/chat_with_sources.py --model FOLDER``; FOLDER may be a name on the hub.
"""

import argparse
from pathlib import Path

from datasets import Dataset, load_dataset

from colm import CoLMConfig, CoLMSFTTrainer

PROBLEMS = Path(__file__).parent / "data" / "problems.jsonl"
TEACHER = {"role": "system", "content": "You answer in as few words as you can."}


def main(arguments: list[str] | None = None) -> dict[str, tuple[float, float]]:
    """Train, and return for each source how many examples of it were drawn and kept."""
    options = parse(arguments)
    chats = read_chats(options.data)
    args = CoLMConfig(
        output_dir=options.output_dir,
        max_steps=options.steps,
        per_device_train_batch_size=8,  # trained on at each step
        candidate_ratio=2.0,  # 16 are drawn for them
        source_column="topic",
        learning_rate=1e-4,
        logging_steps=1,
        save_strategy="no",
        seed=options.seed,
    )
    trainer = CoLMSFTTrainer(options.model, args=args, train_dataset=chats)
    trainer.train()
    seen = {
        topic: counts(trainer.state.log_history, topic) for topic in sorted(chats.unique("topic"))
    }
    for topic, (drawn, kept) in seen.items():
        chats_of_it = chats["topic"].count(topic)
        print(f"{topic:15} {chats_of_it:4} chats, {drawn:4.0f} drawn, {kept:4.0f} kept")
    return seen


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or hub name")
    parser.add_argument("--data", type=Path, help="JSON Lines with `messages` and a `topic`")
    parser.add_argument("--output_dir", default="runs/chats")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def read_chats(data: Path | None) -> Dataset:
    """Return the chats of a file, or those made of the problems."""
    if data is not None:
        return load_dataset("json", data_files=str(data), split="train")
    problems = load_dataset("json", data_files=str(PROBLEMS), split="train")
    return problems.map(
        lambda problem: {
            "messages": [TEACHER, *problem["prompt"], *problem["completion"]],
            "topic": problem["source"],
        },
        remove_columns=problems.column_names,
    )


def counts(log: list[dict], topic: str) -> tuple[float, float]:
    """Sum up what each step's entry of the log says of a source: drawn, kept."""
    drawn = sum(entry.get(f"colm/candidates/{topic}", 0) for entry in log)
    return drawn, sum(entry.get(f"colm/kept/{topic}", 0) for entry in log)


if __name__ == "__main__":
    main()
