"""What a selector chooses from, what it may follow, and what it returns.

Symbols: n candidates, d feature size, e hidden size, k kept.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from colm.coreset.checks import check_choice, check_flags, check_whole
from colm.coreset.mixture import ALLOCATIONS
from colm.coreset.similarity import METRICS
from colm.gradients.observation import OBSERVATIONS
from colm.gradients.sparsify import CRITERIA

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
class Candidates:
    """What a selector chooses from. What it did not ask for may be ``None``.

    They stand in an order of their own, by key or by content, which is the same however a batch was
    shuffled: a selector that breaks ties by row number does not depend on the order of the batch.

    Attributes:
        sources: ``[n]`` int64 code of each candidate's source.
        options: the switches of selection.
        features: ``[n, d]`` features, normalised for Adam where that is on.
        gradients: ``[n, d]`` the same before normalisation.
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
