"""How well does an embedding model find answers, by how the batches of its training are made?

The first layers of SmolLM2-135M with a mean over tokens embed questions and answers of a mixture,
and are trained with in-batch negatives for equal steps:

- ``random``: batches without equal texts, as sentence-transformers makes them;
- ``clustered``: `colm.ClusteredBatches`.

Held out are pairs of every source. For each question its answer is looked for among the answers of
its source, as others are easy to rule out: ``accuracy`` is the share in which it is the nearest,
``mrr`` the mean of one over its rank. Both are means over sources. ``cpu_seconds`` is the processor
time of training, searches for clusters included.

``python -m benchmarks contrastive`` runs on the generated mixture; ``--data FILE`` on one's own.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.measure.quality import SPLIT_SEED, data_names, load_data
from benchmarks.record import machine, write_result
from colm import ClusteredBatches
from colm.data.sources import split_evenly
from colm.runs.pretrained import demo_model_folder

ARMS = ("random", "clustered")


def main() -> None:
    """Train each arm with each seed, and write what was found."""
    options = parse()
    train, held_out = read_pairs(options)
    repeats: list[dict[str, float]] = []
    path = None
    with TemporaryDirectory() as folder:
        encoder = save_first_layers(options.layers, folder)
        for seed in options.seeds:
            for arm in options.arms:
                found = run(arm, seed, train, held_out, encoder, options)
                repeats.append({f"{arm}/{name}": value for name, value in found.items()})
                repeats[-1]["seed"] = float(seed)
                print(arm, seed, {name: round(value, 4) for name, value in found.items()})
                settings = vars(options) | {"data": data_names(options)}
                summary = summarize(repeats)
                path = write_result("contrastive", settings, repeats, summary, path)
    for name, value in summarize(repeats).items():
        print(f"{name:32s} {value:.4f}")
    print(f"wrote {path} on {machine()}")


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", help="files; default: the generated mixture")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--layers", type=int, default=2, help="of the model that are kept")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32, help="pairs")
    parser.add_argument("--max_tokens", type=int, default=48, help="of a text")
    parser.add_argument("--held_out", type=int, default=20, help="pairs of each source")
    parser.add_argument("--cluster_sizes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--refresh_every", type=int, default=50, help="steps between searches")
    parser.add_argument("--examples", type=int, default=4000, help="pairs to train on at most")
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    return parser.parse_args()


def read_pairs(options: argparse.Namespace) -> tuple[Dataset, Dataset]:
    """Return pairs of question and answer to train on, and others of every source."""
    split = split_evenly(load_data(options.data), options.held_out, seed=SPLIT_SEED)
    train = split.train.shuffle(seed=SPLIT_SEED)
    return as_pairs(train.select(range(min(options.examples, len(train))))), as_pairs(
        split.held_out
    )


def as_pairs(records: Dataset) -> Dataset:
    """Return questions and answers as texts, with their source."""
    rows = [
        {
            "question": text_of(row["prompt"]),
            "answer": text_of(row["completion"]),
            "source": row["source"],
        }
        for row in records
    ]
    return Dataset.from_list(rows)


def text_of(messages: Any) -> str:
    """Return a text, or the last message of a conversation."""
    return messages if isinstance(messages, str) else str(messages[-1]["content"])


def save_first_layers(layers: int, folder: str) -> str:
    """Save the first layers of SmolLM2-135M in float32, with its tokenizer."""
    name = str(demo_model_folder())
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    model.model.layers = model.model.layers[:layers]
    model.config.num_hidden_layers = layers
    model.config.layer_types = None
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(name)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    return folder


def run(
    arm: str,
    seed: int,
    train: Dataset,
    held_out: Dataset,
    encoder: str,
    options: argparse.Namespace,
) -> dict[str, float]:
    """Train with one kind of batches, and return what it finds and what it took."""
    module = Transformer(encoder, max_seq_length=options.max_tokens)
    modules = [module, Pooling(module.get_embedding_dimension())]
    model = SentenceTransformer(modules=modules)
    before = measure(model, held_out)
    clustered = ClusteredBatches(
        model,
        train["question"],
        cluster_sizes=options.cluster_sizes,
        refresh_every=options.refresh_every,
    )
    with TemporaryDirectory() as folder:
        args = SentenceTransformerTrainingArguments(
            folder,
            per_device_train_batch_size=options.batch,
            max_steps=options.steps,
            learning_rate=options.learning_rate,
            warmup_steps=options.steps // 10,
            seed=seed,
            batch_sampler=clustered if arm == "clustered" else "no_duplicates",
            save_strategy="no",
            report_to="none",
            logging_steps=options.steps,
            disable_tqdm=True,
            use_cpu=not torch.accelerator.is_available(),
        )
        trainer = SentenceTransformerTrainer(
            model,
            args,
            train_dataset=train.select_columns(["question", "answer"]),
            loss=MultipleNegativesRankingLoss(model),
            callbacks=[clustered] if arm == "clustered" else [],
        )
        started = time.process_time()
        trainer.train()
    seconds = time.process_time() - started
    spent = {"cpu_seconds": seconds, "before/mrr": before["mrr"]}
    return measure(model, held_out) | spent


def measure(model: SentenceTransformer, pairs: Dataset) -> dict[str, float]:
    """Look for the answer of each question among those of its source."""
    ranks = []
    for source in sorted(set(pairs["source"])):
        own = [row for row in pairs if row["source"] == source]
        questions, answers = (
            model.encode(
                [row[part] for row in own],
                convert_to_tensor=True,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
            for part in ("question", "answer")
        )
        likeness = questions @ answers.T
        # Of answers that are equal, any is right.
        said = [row["answer"] for row in own]
        ranks.append([rank_of(likeness[place], place, said) for place in range(len(own))])
    return {
        "accuracy": statistics.fmean(statistics.fmean(r == 1 for r in own) for own in ranks),
        "mrr": statistics.fmean(statistics.fmean(1 / r for r in own) for own in ranks),
    }


def rank_of(likeness: torch.Tensor, place: int, said: Sequence[str]) -> int:
    """Return at which place the right answer is found; 1 is the first."""
    right = max(float(likeness[i]) for i, text in enumerate(said) if text == said[place])
    wrong = {text for i, text in enumerate(said) if float(likeness[i]) > right}
    return 1 + len(wrong)


def summarize(repeats: list[dict[str, float]]) -> dict[str, float]:
    """Average over seeds."""
    names = dict.fromkeys(name for row in repeats for name in row if name != "seed")
    return {name: statistics.fmean(row[name] for row in repeats if name in row) for name in names}


if __name__ == "__main__":
    main()
