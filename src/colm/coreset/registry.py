"""The selectors by name, and how a user adds one.

A selector is a function ``(candidates, budget, generator) -> rows``; what it needs and which rules
it follows stand beside it. Symbols: n candidates, budget of them to keep, d feature size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from colm.coreset.mean_matching import mean_matching
from colm.coreset.medoids import source_medoids


@dataclass(frozen=True)
class Candidates:
    """What a selector chooses from.

    Attributes:
        sources: ``[n]`` int64 code of each candidate's source.
        options: the switches of selection.
        features: ``[n, d]`` features, normalised for Adam where that is on; ``None`` for a selector
            that needs none.
        gradients: ``[n, d]`` the same before normalisation.
        label_tokens: ``[n]`` int64 label tokens, where known.
        weight: ``[d]`` weight that the features are gradients of, where a criterion needs it.
    """

    sources: Tensor
    options: "SelectionOptions"
    features: Tensor | None = None
    gradients: Tensor | None = None
    label_tokens: Tensor | None = None
    weight: Tensor | None = None

    def __len__(self) -> int:
        """Return n."""
        return len(self.sources)


@dataclass(frozen=True)
class SelectionOptions:
    """Switches that a selector may follow; ``docs/configuration.md`` has each beside the paper."""

    distance: str = "l1"
    allocation: str = "proportional"
    kept_dimensions: int | None = None
    dimension_criterion: str = "gradient"


@dataclass(frozen=True)
class Choice:
    """What a selector kept: ``rows [k]`` int64 in pick order, and their cluster sizes ``[k]``."""

    rows: Tensor
    weights: Tensor | None = None


Choose = Callable[[Candidates, int, torch.Generator], Tensor | Choice]


@dataclass(frozen=True)
class Selector:
    """A registered selector.

    Attributes:
        name: what ``selector=`` takes.
        choose: the function.
        needs_features: whether candidates go through the model before it chooses.
        keeps_small_sources: whether ``small_sources="auto"`` keeps all candidates of small sources.
        keeps_all: whether it keeps every candidate, whatever the budget.
    """

    name: str
    choose: Choose
    needs_features: bool = True
    keeps_small_sources: bool = False
    keeps_all: bool = False


_SELECTORS: dict[str, Selector] = {}


def register_selector(
    name: str,
    *,
    needs_features: bool = True,
    keeps_small_sources: bool = False,
    keeps_all: bool = False,
) -> Callable[[Choose], Choose]:
    """Register a function as a selector, so that ``selector=name`` finds it.

    Args:
        name: a new name.
        needs_features: whether it reads ``candidates.features``; without, no forward is spent.
        keeps_small_sources: whether small sources are kept whole under ``small_sources="auto"``.
        keeps_all: whether it keeps every candidate, whatever the budget.

    Returns:
        A decorator that leaves the function as it is.

    Raises:
        ValueError: the name is taken.

    Example:
        >>> @register_selector("shortest", needs_features=False)
        ... def shortest(candidates, budget, generator):
        ...     return candidates.label_tokens.argsort()[:budget]
        >>> "shortest" in available_selectors()
        True
    """

    def register(choose: Choose) -> Choose:
        if name in _SELECTORS:
            raise ValueError(f"A selector named {name!r} exists already.")
        _SELECTORS[name] = Selector(name, choose, needs_features, keeps_small_sources, keeps_all)
        return choose

    return register


def available_selectors() -> tuple[str, ...]:
    """Return the names that ``selector=`` takes, in order of registration."""
    return tuple(_SELECTORS)


def get_selector(name: str) -> Selector:
    """Return the selector of that name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name not in _SELECTORS:
        raise ValueError(f"selector must be one of {', '.join(_SELECTORS)}; got {name!r}.")
    return _SELECTORS[name]


@register_selector("colm", keeps_small_sources=True)
def _colm(candidates: Candidates, budget: int, generator: torch.Generator) -> Choice:
    """Medoids of the sparsified features, source by source.  Paper: CoLM v3, section 4."""
    assert candidates.features is not None
    medoids = source_medoids(
        candidates.features,
        candidates.sources,
        budget,
        distance=candidates.options.distance,
        allocation=candidates.options.allocation,
        kept_dimensions=candidates.options.kept_dimensions,
        criterion=candidates.options.dimension_criterion,
        weight=candidates.weight,
        gradients=candidates.gradients,
        generator=generator,
    )
    return Choice(medoids.indices, medoids.weights)


@register_selector("mean_matching", keeps_small_sources=True)
def _mean_matching(candidates: Candidates, budget: int, _generator: torch.Generator) -> Tensor:
    """Keep the rows whose plain mean is closest to that of all candidates."""
    assert candidates.features is not None
    return mean_matching(candidates.features, budget).indices


@register_selector("random", needs_features=False)
def _random(candidates: Candidates, budget: int, generator: torch.Generator) -> Tensor:
    """Keep a uniform random subset: plain training on mini-batches of r."""
    return torch.randperm(len(candidates), generator=generator)[:budget]


@register_selector("none", needs_features=False, keeps_all=True)
def _none(candidates: Candidates, _budget: int, _generator: torch.Generator) -> Tensor:
    """Keep every candidate: plain training on mini-batches of n, with the memory that takes."""
    return torch.arange(len(candidates))
