"""What one look shows of candidates, what a selector chooses from, and what it returns.

Candidates are looked at in an order that is theirs and not the batch's: whatever is random, tied or
summed up then comes out the same however the batch was shuffled. Symbols: n candidates, d feature
size, e hidden size, k kept.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from colm.checks import (
    check_choice,
    check_flags,
    check_matrix,
    check_tensor,
    check_vector,
    check_whole,
)
from colm.coreset.features import CRITERIA
from colm.coreset.mixture import ALLOCATIONS
from colm.coreset.similarity import METRICS
from colm.randomness import keyed_generator

OBSERVATIONS = ("gradients", "losses", "hidden", "prompt")
EXAMPLE_WEIGHTS = ("equal", "label_tokens")
# Relative error of float32 features computed anew, in other micro-batches, with room to spare. Adam
# makes the small elements of a gradient as large as the others, and their errors with them.
TIE_TOLERANCES = {"none": 1e-5, "rms": 1e-5, "adam": 1e-4}


@dataclass(frozen=True)
class SelectionOptions:
    """Switches that a selector may follow; ``docs/configuration.md`` has each beside the paper.

    Attributes:
        distance: ``l1``, ``l2`` or ``cosine``.
        allocation: how sources share the budget.
        kept_dimensions: dimensions kept per source, all where ``None``.
        dimension_criterion: which those are.
        prompt_features: whether the prompt's hidden state is part of the features.
        example_weights: what an example counts for in the loss: ``equal`` or ``label_tokens``.
        tie_tolerance: relative error of what was observed that ties are to be seen through; the
            first of those tied is picked. ``None`` for the behaviour of the published code: exact
            ties alone, and medoids go to the last of them.
    """

    distance: str = "l1"
    allocation: str = "proportional"
    kept_dimensions: int | None = None
    dimension_criterion: str = "gradient"
    prompt_features: bool = False
    example_weights: str = "equal"
    tie_tolerance: float | None = TIE_TOLERANCES["none"]

    def __post_init__(self) -> None:
        """Refuse what an option cannot be.

        Raises:
            ValueError: one line that names it.
        """
        check_choice("distance", self.distance, METRICS)
        check_choice("allocation", self.allocation, ALLOCATIONS)
        check_choice("dimension_criterion", self.dimension_criterion, CRITERIA)
        check_choice("example_weights", self.example_weights, EXAMPLE_WEIGHTS)
        check_flags(prompt_features=self.prompt_features)
        if self.kept_dimensions is not None:
            check_whole("kept_dimensions", self.kept_dimensions, least=1)


@dataclass(frozen=True)
class Observed:
    """What one look shows: a row an example, of what was asked for; the rest is ``None``.

    Attributes:
        gradients: ``[n, d]`` gradient features, float32 or wider.
        losses: ``[n]`` loss of each example, mean or sum over its label tokens.
        hidden: ``[n, e]`` mean of the last hidden state over an example's tokens.
        prompt: ``[n, e]`` last hidden state at the position that predicts the first label.
    """

    gradients: Tensor | None = None
    losses: Tensor | None = None
    hidden: Tensor | None = None
    prompt: Tensor | None = None


def as_observed(values: Tensor | Observed | None) -> Observed:
    """Return ``values`` as they are; a bare tensor as gradients, ``None`` as nothing observed.

    Raises:
        ValueError: they are none of these, or a part is not ``[n, d]``, or losses not ``[n]``.
    """
    if callable(values):
        raise ValueError(
            "observed must be tensors, one row a candidate; got a function: to look only at what "
            "must be chosen among, call split, observe the rows it returns, and call choose."
        )
    observed = values if isinstance(values, Observed) else Observed(gradients=values)
    for name, part in _parts(observed).items():
        option = f"observed {name}"
        if name == "losses":
            check_tensor(option, part, "a vector")
            check_vector(option, part, part.numel())
        else:
            check_matrix(option, part)
    return observed


def number_of_rows(observed: Observed) -> int | None:
    """Return n, or ``None`` where nothing was observed.

    Raises:
        ValueError: the parts have unequal numbers of rows.
    """
    lengths = {name: len(values) for name, values in _parts(observed).items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{length} of {name}" for name, length in lengths.items())
        raise ValueError(f"observed must have one row a candidate in each part; got {told}.")
    return next(iter(lengths.values()), None)


def take_rows(observed: Observed, rows: Tensor) -> Observed:
    """Return what was observed of ``rows [k]``, in that order."""
    return Observed(
        **{name: values[rows.to(values.device)] for name, values in _parts(observed).items()}
    )


def _parts(observed: Observed) -> dict[str, Tensor]:
    """What is there, by name."""
    parts = {field.name: getattr(observed, field.name) for field in fields(observed)}
    return {name: values for name, values in parts.items() if values is not None}


@dataclass(frozen=True)
class Candidates:
    """What a selector chooses from. What it did not ask for may be ``None``.

    They stand in an order of their own, by key or by content, which is the same however a batch was
    shuffled: a selector that breaks ties by row number does not depend on the order of the batch.

    Attributes:
        sources: ``[n]`` int64 code of each candidate's source.
        options: the switches of selection.
        features: ``[n, d]`` features, normalised for Adam where that is on.
        gradients: ``[n, d]`` the same before normalization.
        label_tokens: ``[n]`` int64 label tokens, where known.
        weight: ``[d]`` weight that the features are gradients of, where a criterion needs it.
        losses: ``[n]`` loss of each.
        hidden: ``[n, e]`` mean of the last hidden state over each candidate's tokens.
        prompt: ``[n, e]`` last hidden state at the end of each candidate's prompt.
    """

    sources: Tensor
    options: SelectionOptions
    features: Tensor | None = None
    gradients: Tensor | None = None
    label_tokens: Tensor | None = None
    weight: Tensor | None = None
    losses: Tensor | None = None
    hidden: Tensor | None = None
    prompt: Tensor | None = None

    def __len__(self) -> int:
        """Return n."""
        return len(self.sources)

    def take(self, rows: Tensor) -> "Candidates":
        """Return the candidates ``rows [k]``, in that order."""
        parts = {"sources": self.sources, "label_tokens": self.label_tokens, **self.observed}
        parts["features"] = self.features
        taken: dict[str, Any] = {
            name: part[rows.to(part.device)] for name, part in parts.items() if part is not None
        }
        return replace(self, **taken)

    def without(self, unneeded: Iterable[str]) -> "Candidates":
        """Return the same candidates with these of their fields unknown."""
        nothing: dict[str, Any] = dict.fromkeys(unneeded)
        return replace(self, **nothing)

    @property
    def observed(self) -> dict[str, Tensor]:
        """What was observed of them, by name, one row a candidate."""
        parts = {name: getattr(self, name) for name in OBSERVATIONS}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def target(self) -> Tensor | None:
        """What each counts for in the mean gradient, ``[n]``; ``None`` where all count the same.

        Raises:
            ValueError: label tokens decide, and are not known.
        """
        if self.options.example_weights == "equal":
            return None
        if self.label_tokens is None:
            raise ValueError("example_weights='label_tokens' needs the label_tokens of candidates.")
        return self.label_tokens.clamp(min=1)

    @property
    def finite(self) -> Tensor:
        """``[n]`` bool, on the CPU: whether all that was observed of a candidate is finite."""
        finite = torch.ones(len(self), dtype=torch.bool)
        for part in self.observed.values():
            finite &= torch.isfinite(part.reshape(len(self), -1)).all(1).cpu()
        return finite


@dataclass(frozen=True)
class Choice:
    """What a selector kept: ``rows [k]`` int64 in pick order, and their cluster sizes ``[k]``."""

    rows: Tensor
    weights: Tensor | None = None

    @property
    def counts(self) -> Tensor:
        """What each row kept counts for, ``[k]``: its weight, 1 where none were given."""
        return torch.ones(len(self.rows)) if self.weights is None else self.weights.float()


Choose = Callable[[Candidates, int, torch.Generator], Tensor | Choice]


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
