"""Coresets in a plain PyTorch loop: no trainer, no configuration, five calls.

At each step: draw n candidates, let ``CoresetSelector`` split off those that it keeps without a
look, look at the others with ``ValueGradients``, let it choose r in all, and train on those. Run it
as ``python examples/plain_loop.py --model FOLDER``.
"""

import argparse
import json
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from colm import CoresetSelector
from colm.gradients.value_gradients import ValueGradients

PROBLEMS = Path(__file__).parent / "data" / "problems.jsonl"


def main(arguments: list[str] | None = None) -> list[float]:
    """Train for a few steps and return their losses."""
    options = parse(arguments)
    torch.manual_seed(options.seed)
    model = AutoModelForCausalLM.from_pretrained(options.model).train()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    records = [json.loads(line) for line in options.data.read_text(encoding="utf-8").splitlines()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)
    gradients = ValueGradients(model)
    selector = CoresetSelector(source_sizes=sizes(records), seed=options.seed)

    losses = []
    for step in range(options.steps):
        candidates = [records[i] for i in torch.randint(len(records), (options.n,)).tolist()]
        batch = collate(candidates, tokenizer)
        sources = [candidate["source"] for candidate in candidates]
        contested = selector.split(options.r, sources=sources)
        looked_at = {key: values[contested.rows] for key, values in batch.items()}
        features = gradients(looked_at).features if len(contested.rows) else None
        selection = selector.choose(contested, features)
        kept = selection.indices
        loss = model(**{key: values[kept] for key, values in batch.items()}).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        print(
            f"step {step}: loss {losses[-1]:.3f}, kept {len(kept)} of {options.n}, "
            f"{selection.kept_whole} of small sources, error {selection.matching_error:.2f} "
            "of a random choice's"
        )
    return losses


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or hub name")
    parser.add_argument(
        "--data", type=Path, default=PROBLEMS, help="JSON Lines of conversations with a source"
    )
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--n", type=int, default=16, help="candidates a step")
    parser.add_argument("--r", type=int, default=8, help="kept of them")
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def sizes(records: list[dict]) -> dict[str, int]:
    """Count the records of each source: small sources are kept whole."""
    counts: dict[str, int] = {}
    for record in records:
        counts[record["source"]] = counts.get(record["source"], 0) + 1
    return counts


def collate(records: list[dict], tokenizer) -> dict[str, torch.Tensor]:
    """Tokenise and pad; only the completion carries labels."""
    ids, labels = [], []
    for record in records:
        prompt = tokenizer.apply_chat_template(
            record["prompt"], add_generation_prompt=True, return_dict=False
        )
        full = tokenizer.apply_chat_template(
            record["prompt"] + record["completion"], return_dict=False
        )
        ids.append(torch.tensor(full))
        labels.append(torch.tensor([-100] * len(prompt) + full[len(prompt) :]))
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
        "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
    }


if __name__ == "__main__":
    main()
