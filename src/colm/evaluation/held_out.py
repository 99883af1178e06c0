"""Held-out loss by source: the mean over label tokens of each example, then over examples.

Three means are taken, as one hides what another shows: macro, every source alike; micro, every
example of the mixture alike; and over the small sources alone.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from colm.data import source_of
from colm.gradients.batch import IGNORED_LABEL
from colm.gradients.patching import evaluation_mode


@dataclass(frozen=True)
class HeldOutLoss:
    """Mean losses of a model on held-out examples.

    Attributes:
        by_source: Mean over the examples of each source.
        macro: Mean over sources.
        micro: Mean over examples, each source weighted by its size in the mixture.
        small_sources: Mean over the small sources, ``None`` where there are none.
        skipped: Examples left out because nothing in them is a label.
    """

    by_source: dict[str, float]
    macro: float
    micro: float
    small_sources: float | None
    skipped: int = 0


def held_out_loss(
    model: nn.Module,
    examples: Sequence[Mapping[str, Any]],
    *,
    source_sizes: Mapping[str, int] | None = None,
    small_sources: Collection[str] = (),
    batch_tokens: int = 2048,
) -> HeldOutLoss:
    """Return the loss of a causal language model on held-out examples, by source and in all.

    One forward pass an example, batched with others of its length; logits are kept at label
    positions only.

    Args:
        model: Takes ``input_ids`` and ``attention_mask``, returns ``.logits``.
        examples: ``input_ids``, ``labels`` (-100 where not a label) and ``source`` of each.
        source_sizes: Examples of each source in the mixture that micro stands for. Default: the
            held-out examples are such a mixture themselves.
        small_sources: Names of the sources that count as small.
        batch_tokens: Most tokens in one forward pass, padding included, where examples allow it.

    Returns:
        The means. Training mode is as it was before.

    Raises:
        ValueError: No example has a label.
    """
    labelled = [example for example in examples if _has_label(example)]
    if not labelled:
        raise ValueError(f"none of the {len(examples)} held-out examples has a label token.")
    losses: dict[str, list[float]] = defaultdict(list)
    with evaluation_mode(model), torch.no_grad():
        for batch in _batches(labelled, batch_tokens):
            for example, loss in zip(batch, _example_losses(model, batch), strict=True):
                losses[source_of(example["source"], "source")].append(loss)
    by_source = {source: sum(v) / len(v) for source, v in sorted(losses.items())}
    sizes = {source_of(name, "source"): size for name, size in (source_sizes or {}).items()}
    sizes = sizes or {source: len(values) for source, values in losses.items()}
    small = {source_of(name, "source") for name in small_sources}
    return HeldOutLoss(
        by_source=by_source,
        macro=sum(by_source.values()) / len(by_source),
        micro=_weighted_mean(by_source, sizes),
        small_sources=_mean_over(by_source, small),
        skipped=len(examples) - len(labelled),
    )


def _has_label(example: Mapping[str, Any]) -> bool:
    """Whether any token but the first, which nothing predicts, is a label."""
    return any(label != IGNORED_LABEL for label in example["labels"][1:])


def _batches(
    examples: Sequence[Mapping[str, Any]], batch_tokens: int
) -> Iterator[list[Mapping[str, Any]]]:
    """Examples of like length together, the shortest first."""
    batch: list[Mapping[str, Any]] = []
    for example in sorted(examples, key=lambda example: len(example["input_ids"])):
        if batch and (len(batch) + 1) * len(example["input_ids"]) > batch_tokens:
            yield batch
            batch = []
        batch.append(example)
    yield batch


def _example_losses(model: nn.Module, batch: Sequence[Mapping[str, Any]]) -> Iterator[float]:
    """The mean loss over label tokens of each example of a batch."""
    device = next(model.parameters()).device
    lengths = torch.tensor([len(example["input_ids"]) for example in batch], device=device)
    input_ids = _pad([example["input_ids"] for example in batch], 0, device)
    labels = _pad([example["labels"] for example in batch], IGNORED_LABEL, device)[:, 1:]
    attention_mask = (torch.arange(input_ids.shape[1], device=device) < lengths[:, None]).long()
    logits = model(input_ids=input_ids, attention_mask=attention_mask).logits[:, :-1]
    is_label = labels != IGNORED_LABEL
    token_losses = functional.cross_entropy(
        logits[is_label].float(), labels[is_label], reduction="none"
    )
    for part in token_losses.split(is_label.sum(1).tolist()):
        yield part.mean().item()


def _pad(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> Tensor:
    """Rows of different lengths as one ``[rows, longest]`` tensor, filled on the right."""
    tensors = [torch.as_tensor(row, dtype=torch.long) for row in rows]
    padded = nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
    return padded.to(device)


def _weighted_mean(by_source: Mapping[str, float], sizes: Mapping[str, int]) -> float:
    """Mean of the sources' losses, weighted by their sizes."""
    total = sum(sizes[source] for source in by_source)
    return sum(loss * sizes[source] for source, loss in by_source.items()) / total


def _mean_over(by_source: Mapping[str, float], names: Collection[str]) -> float | None:
    """Mean over those sources that are named, ``None`` without any."""
    losses = [loss for source, loss in by_source.items() if source in names]
    return sum(losses) / len(losses) if losses else None
