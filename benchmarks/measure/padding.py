"""Padded tokens of a step over its real ones, by how examples share micro-batches and chunks.

Lengths are all that counts here, so the kept examples are drawn at random and no model runs:

- ``drawn``: micro-batches of equal numbers in the order drawn, as the plain trainer has them;
- ``equal_numbers``: of equal numbers, sorted by length;
- ``by_tokens``: as training splits them; ``most_*`` are the tokens of the largest micro-batch;
- ``look_filled``: chunks of the look at all n, each filled up to ``selection_tokens``;
- ``look``: as selection chunks them where a forward call costs ``--call_tokens``.

``python -m benchmarks padding --data FILE``; without it, on the generated mixture.
"""

import argparse
import random
import statistics
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from transformers import AutoTokenizer

from benchmarks.record import write_result
from colm.data import format_dataset, read_file
from colm.data.generated import generate_mixture
from colm.runs.pretrained import demo_model_folder
from colm.training.step.arrange import even_parts, split_kept
from colm.training.step.chunks import length_sorted_chunks


def main() -> None:
    """Count, print the means, and write the result."""
    options = parse()
    lengths = load(options)
    draws = random.Random(options.seed)
    repeats = [count(draws.sample(lengths, options.n), options) for _ in range(options.repeats)]
    means = {name: statistics.fmean(each[name] for each in repeats) for name in repeats[0]}
    for name, value in means.items():
        print(f"{name:24s} {value:.3f}")
    print(f"wrote {write_result('padding', vars(options), repeats, means)}")


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="JSONL, CSV or Parquet; default: the generated mixture")
    parser.add_argument("--model", help="folder or hub name of the tokenizer")
    parser.add_argument("--examples", type=int, default=8000, help="read so many at most")
    parser.add_argument("--n", type=int, default=64, help="candidates")
    parser.add_argument("--r", type=int, default=32, help="kept")
    parser.add_argument("--micro_batch", type=int, default=8, help="examples in a micro-batch")
    parser.add_argument("--max_length", type=int, default=512)
    parser.add_argument("--selection_tokens", type=int, default=8192)
    parser.add_argument("--call_tokens", type=int, help="default: as this machine has it")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def load(options: argparse.Namespace) -> list[int]:
    """Return the tokens of each example, cut to the longest allowed."""
    tokenizer = AutoTokenizer.from_pretrained(options.model or str(demo_model_folder()))
    if options.data is None:
        dataset = Dataset.from_list(generate_mixture(seed=options.seed).train)
    else:
        dataset = format_dataset(read_file(Path(options.data)), conversational=True).dataset
    dataset = dataset.shuffle(seed=options.seed)
    texts = [
        tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], tokenize=False)
        for row in dataset.select(range(min(options.examples, len(dataset))))
    ]
    tokens = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [min(len(each), options.max_length) for each in tokens]


def count(drawn: list[int], options: argparse.Namespace) -> dict[str, float]:
    """Count the tokens of a step whose candidates have the lengths ``drawn``."""
    kept = [{"input_ids": range(length)} for length in drawn[: options.r]]
    parts = options.r // options.micro_batch
    ways = {
        "drawn": even_parts(kept, parts),
        "equal_numbers": split_kept(kept, parts, by_tokens=False),
        "by_tokens": split_kept(kept, parts),
    }
    figures: dict[str, float] = {}
    for name, split in ways.items():
        tokens = [padded([len(each["input_ids"]) for each in part]) for part in split]
        figures[name] = sum(tokens) / sum(drawn[: options.r])
        figures[f"most_{name}"] = max(tokens)
    chunks = {
        "look_filled": filled(drawn, options.selection_tokens),
        "look": length_sorted_chunks(drawn, options.selection_tokens, options.call_tokens),
    }
    for name, split_look in chunks.items():
        tokens = [padded([drawn[index] for index in chunk]) for chunk in split_look]
        figures[name] = sum(tokens) / sum(drawn)
        figures[f"{name}_calls"] = len(tokens)
    return figures


def padded(lengths: Sequence[int]) -> int:
    """Return rows x longest row."""
    return len(lengths) * max(lengths)


def filled(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Fill one chunk after the other, longest first."""
    chunks: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if chunks and (len(chunks[-1]) + 1) * lengths[chunks[-1][0]] <= most_tokens:
            chunks[-1].append(index)
        else:
            chunks.append([index])
    return chunks
