"""A batch as the features need it: one example a row, and the positions that predict its labels.

Collators make padded batches (``input_ids [n, t]``) or padding-free ones (``[1, total]``, with
``position_ids`` that start again at 0 for each example). Only some models keep the examples of a
padding-free row apart without a special attention kernel, so such a row is taken apart first: a
feature then never depends on its neighbours. Symbols: n examples, t tokens a row, m label
positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

IGNORED_LABEL = -100
LABEL_KEYS = ("labels", "shift_labels")
TOKENS = (torch.int64, torch.int32)
MASKS = (*TOKENS, torch.bool, torch.float32, torch.float16, torch.bfloat16)
PACKED_KEYS = frozenset(
    {"position_ids", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"}
)


@dataclass(frozen=True)
class LabelPositions:
    """The positions whose next token is a label, in row order.

    Attributes:
        position: ``[m]`` int64 index into the flattened ``[n * t]`` tokens.
        target: ``[m]`` int64 token to be predicted there.
        example: ``[m]`` int64 row that it belongs to.
        counts: ``[n]`` int64 label tokens of each example.
    """

    position: Tensor
    target: Tensor
    example: Tensor
    counts: Tensor

    def within(self, vocabulary: Tensor) -> "LabelPositions":
        """Return the same positions with targets as places in ``vocabulary [v]``, ascending ids.

        Raises:
            ValueError: a target is not in it.
        """
        target = torch.searchsorted(vocabulary, self.target).clamp(max=len(vocabulary) - 1)
        if not torch.equal(vocabulary[target], self.target):
            raise ValueError("The vocabulary lacks tokens that are labels.")
        return replace(self, target=target)


def label_positions(labels: Tensor) -> LabelPositions:
    """Find the positions of ``labels [n, t]`` (ignored: -100) that predict one, shifted by one."""
    targets = labels[:, 1:]
    row, column = (targets != IGNORED_LABEL).nonzero(as_tuple=True)
    return LabelPositions(
        position=row * labels.shape[1] + column,
        target=targets[row, column],
        example=row,
        counts=torch.bincount(row, minlength=labels.shape[0]),
    )


def one_example_a_row(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``batch`` padded: as it is, or taken apart where it is padding-free.

    Args:
        batch: ``input_ids`` and ``labels``; ``cu_seq_lens_q``, or ``position_ids`` without
            ``attention_mask``, mark a single row as padding-free.

    Returns:
        ``input_ids [n, t]``, ``labels [n, t]``, ``attention_mask [n, t]`` and other inputs.

    Raises:
        ValueError: ``input_ids`` or ``labels`` is missing.
    """
    for key in ("input_ids", "labels"):
        if key not in batch:
            raise ValueError(f"A batch needs '{key}'; it has {', '.join(map(repr, batch))}.")
    _check_shapes(batch)
    starts = _packed_starts(batch)
    if starts is None:
        return dict(batch)
    total = batch["input_ids"].shape[1]
    lengths = [stop - start for start, stop in zip(starts, [*starts[1:], total], strict=True)]
    rows = {
        key: _rows(value, lengths, IGNORED_LABEL if key in LABEL_KEYS else 0)
        for key, value in batch.items()
        if key not in PACKED_KEYS and isinstance(value, Tensor) and value.shape[:2] == (1, total)
    }
    rows["attention_mask"] = _rows(torch.ones_like(batch["input_ids"]), lengths, 0)
    return rows


def is_packed(batch: Mapping[str, Any]) -> bool:
    """Whether a batch is padding-free: its examples stand in one row."""
    return "input_ids" in batch and _packed_starts(batch) is not None


def _check_shapes(batch: Mapping[str, Any]) -> None:
    """Refuse tokens, labels or a mask that cannot be those of a batch."""
    tokens = batch["input_ids"]
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.numel() == 0:
        shape = [*tokens.shape] if isinstance(tokens, Tensor) else type(tokens).__name__
        raise ValueError(f"input_ids must be a tensor [n, t] of one token or more; got {shape}.")
    for key in ("input_ids", "labels", "attention_mask"):
        value: Any = batch.get(key)
        # Masks of pairs of tokens are the model's affair.
        if key == "attention_mask" and (value is None or getattr(value, "ndim", 0) > 2):
            continue
        kinds = MASKS if key == "attention_mask" else TOKENS
        fits = isinstance(value, Tensor) and value.dtype in kinds and value.layout == torch.strided
        if not fits or value.shape != tokens.shape:
            shown = f"{value.dtype} {[*value.shape]}" if isinstance(value, Tensor) else type(value)
            raise ValueError(
                f"{key} must be whole numbers of shape {[*tokens.shape]}; got {shown}."
            )
        if value.is_meta != tokens.is_meta:
            raise ValueError(f"{key} must have values, as input_ids has; got one on no device.")


def drop_labels(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Copy ``batch`` without labels, so that a model computes no loss of its own."""
    return {key: value for key, value in batch.items() if key not in LABEL_KEYS}


def _rows(packed: Tensor, lengths: list[int], padding: int) -> Tensor:
    parts = list(packed[0].split(lengths))
    return pad_sequence(parts, batch_first=True, padding_value=float(padding))


def _packed_starts(batch: Mapping[str, Any]) -> list[int] | None:
    """Where the examples of a padding-free row begin; ``None`` for a padded batch."""
    tokens = batch["input_ids"]
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.shape[0] != 1:
        return None
    if "cu_seq_lens_q" in batch:
        return [int(start) for start in batch["cu_seq_lens_q"][:-1]]
    if "position_ids" in batch and batch.get("attention_mask") is None:
        return [int(start) for start in (batch["position_ids"][0] == 0).nonzero().flatten()]
    return None
