"""The order that candidates are looked at in, which is theirs and not the batch's.

Whatever is random, tied, or summed up then comes out the same however the batch was shuffled.
Symbols: n candidates, d feature size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from colm.coreset.candidates import Candidates
from colm.coreset.randomness import keyed_generator

_COLUMNS_AT_ONCE = 8192


def order_by_key(keys: Sequence[Any] | Tensor, sources: Sequence[str]) -> Tensor:
    """Return the ``[n]`` rows in order of their keys, then of their sources, then as given.

    Args:
        keys: ``[n]`` strings or numbers, one a candidate.
        sources: ``[n]`` source of each.

    Raises:
        ValueError: there are not as many keys as sources, or they cannot be sorted.

    Example:
        >>> order_by_key(["c", "a", "b"], ["one", "one", "two"])
        tensor([1, 2, 0])
    """
    keys = keys.tolist() if isinstance(keys, Tensor) else keys
    if isinstance(keys, str | bytes) or not isinstance(keys, Sequence):
        raise ValueError(f"keys must be a list, one a candidate; got {type(keys).__name__}.")
    if len(keys) != len(sources):
        raise ValueError(f"{len(keys)} keys were passed for {len(sources)} candidates.")
    try:
        rows = sorted(range(len(keys)), key=lambda row: (keys[row], sources[row]))
    except (TypeError, ValueError, RuntimeError):
        kinds = ", ".join(sorted({type(key).__name__ for key in keys}))
        raise ValueError(f"keys must be all strings or all numbers; got {kinds}.") from None
    return torch.tensor(rows, dtype=torch.int64)


def order_by_content(candidates: Candidates) -> Tensor:
    """Return the ``[n]`` rows ordered by what is known of them; rows that are all alike as given.

    By source, then by label tokens, which are whole numbers; then by the place of the observed
    values along a fixed random direction, which a small relative error of theirs hardly moves.

    Args:
        candidates: as given.

    Example:
        >>> from colm.coreset.candidates import SelectionOptions
        >>> sources, label_tokens = torch.tensor([1, 0, 0]), torch.tensor([5, 9, 2])
        >>> order_by_content(Candidates(sources, SelectionOptions(), label_tokens=label_tokens))
        tensor([2, 1, 0])
    """
    criteria = [_place(part.reshape(len(part), -1)) for part in candidates.observed.values()]
    if candidates.label_tokens is not None:
        criteria.insert(0, candidates.label_tokens)
    order = torch.arange(len(candidates))
    for criterion in reversed([candidates.sources, *criteria]):
        order = order[criterion.cpu()[order].argsort(stable=True)]
    return order


def _place(values: Tensor) -> Tensor:
    """Return where each row lies along a fixed direction, ``[n]``, each computed by itself."""
    # Apple's accelerator has no float64.
    device = "cpu" if values.device.type == "mps" else values.device
    generator = keyed_generator("canonical order")
    place = torch.zeros(len(values), dtype=torch.float64, device=device)
    for columns in values.split(_COLUMNS_AT_ONCE, dim=1):
        direction = torch.randn(columns.shape[1], generator=generator, dtype=torch.float64)
        columns = columns.to(device, torch.float64).nan_to_num()
        place += (columns * direction.to(device)).sum(1)
    return place
