"""``CoresetSelector``: a whole selection step, from candidates to the examples to train on.

The order is that of the papers: small sources are kept whole; of the others, features (normalised
for Adam) go to the selector; Adam's moments then follow what was selected. It knows no model:
features come as a tensor, or from a function that is called for the rows in question only.
Symbols: n candidates, r kept (the budget), d feature size.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from colm.coreset.matching import matching_error
from colm.coreset.mixture import ALLOCATIONS, small_sources
from colm.coreset.randomness import keyed_generator
from colm.coreset.registry import Candidates, Choice, SelectionOptions, get_selector
from colm.coreset.similarity import METRICS
from colm.gradients.moments import AdamMoments
from colm.gradients.sparsify import CRITERIA

NORMALISATIONS = ("adam", "none")
SMALL_SOURCES_AUTO = "auto"
SMALL_SOURCES_NONE = "none"
ONE_SOURCE = "all"

FeatureFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Selection:
    """What one step keeps.

    Attributes:
        indices: ``[k]`` int64 candidates to train on: those of small sources first, then the
            selected in pick order. k = r, unless too few candidates had finite features.
        weights: ``[k]`` how many candidates each stands for (cluster sizes), 1 where unweighted.
        kept_whole: how many were kept because their source is small.
        non_finite: ``[j]`` int64 candidates left out for NaN or infinite features.
        matching_error: distance of the selected features' mean from that of all they were selected
            from, over its expectation for a random choice of as many: 1 is random, 0 is perfect;
            NaN where nothing was selected by features.
    """

    indices: Tensor
    weights: Tensor
    kept_whole: int
    non_finite: Tensor
    matching_error: float


class CoresetSelector:
    """Selects the examples of each step that stand for all candidates; keeps Adam's moments.

    Works in any PyTorch loop.  Paper: CoLM v3, Alg. 1.

    Args:
        selector: a name of `colm.available_selectors`.
        distance: ``l1``, ``l2`` or ``cosine``.
        allocation: how large sources share the budget: ``proportional``, ``balanced``, ``none``.
        normalisation: ``adam`` or ``none``.
        kept_dimensions: dimensions kept per source, all where ``None``.
        dimension_criterion: ``gradient``, ``weight``, ``weight_gradient`` or ``random``.
        small_sources: ``auto`` (sources with fewer examples than the average one, where the
            selector keeps small sources), ``none``, or the names of the sources to keep whole.
        source_sizes: examples of each source in the data set; without it ``auto`` goes by the
            candidates seen so far.
        seed: of whatever is random in a selection; with the step it decides it.

    Raises:
        ValueError: an unknown choice.

    Example:
        >>> features = torch.tensor([[0.0], [4.0], [9.0]])
        >>> selector = CoresetSelector("mean_matching", normalisation="none")
        >>> selector.select(features, 1).indices
        tensor([1])
    """

    def __init__(
        self,
        selector: str = "colm",
        *,
        distance: str = "l1",
        allocation: str = "proportional",
        normalisation: str = "adam",
        kept_dimensions: int | None = None,
        dimension_criterion: str = "gradient",
        small_sources: str | Iterable[str] = SMALL_SOURCES_AUTO,
        source_sizes: Mapping[str, int] | None = None,
        seed: int = 0,
    ) -> None:
        for option, value, choices in (
            ("distance", distance, METRICS),
            ("allocation", allocation, ALLOCATIONS),
            ("normalisation", normalisation, NORMALISATIONS),
            ("dimension_criterion", dimension_criterion, CRITERIA),
        ):
            if value not in choices:
                raise ValueError(f"{option} must be one of {', '.join(choices)}; got {value!r}.")
        self.selector = get_selector(selector)
        self.options = SelectionOptions(distance, allocation, kept_dimensions, dimension_criterion)
        self.normalisation = normalisation
        self.small_sources = _small_source_rule(small_sources)
        self.source_sizes = dict(source_sizes) if source_sizes is not None else None
        self.seed = seed
        self.step = 0
        self._seen: dict[str, int] = {}
        self._moments: AdamMoments | None = None
        self._warned: set[str] = set()

    def select(
        self,
        features: Tensor | FeatureFunction | None,
        budget: int,
        *,
        sources: Sequence[str] | None = None,
        label_tokens: Tensor | None = None,
        weight: Tensor | None = None,
        step: int | None = None,
    ) -> Selection:
        """Choose ``budget`` of n candidates.

        Args:
            features: ``[n, d]`` gradient of each candidate, or a function from the rows in question
                (``[k]`` int64) to their ``[k, d]``; it is called at most once, and not at all where
                the selector needs no features or nothing is left to choose.
            budget: r, at least 1; all candidates are kept where there are no more.
            sources: name of each candidate's source; all one source where ``None``.
            label_tokens: ``[n]`` int64, for selectors that go by length.
            weight: ``[d]`` weight behind the features, for criteria that need it.
            step: keys the randomness; counted from 0 where ``None``.

        Returns:
            The selection.

        Raises:
            ValueError: a budget below 1, no candidates, or sizes that do not fit.
        """
        names = self._source_names(features, sources)
        if budget < 1:
            raise ValueError(f"budget must be at least 1; got {budget}.")
        for name in names:
            self._seen[name] = self._seen.get(name, 0) + 1
        self.step = self.step if step is None else step
        generator = keyed_generator(self.seed, self.step, "select")
        self.step += 1
        if self.selector.keeps_all or budget >= len(names):
            return _keep(torch.arange(len(names)), whole=0)
        whole, contested, from_small = self._split(names, budget)
        if budget == len(whole):
            return _keep(whole, whole=len(whole))
        gradients, finite = self._features(features, contested)
        candidates = Candidates(
            _codes(names)[contested[finite]],
            self.options,
            gradients=gradients,
            label_tokens=None if label_tokens is None else label_tokens.cpu()[contested[finite]],
            weight=weight,
        )
        left = budget - len(whole)
        choice, error = self._choose(candidates, left, generator, keep_moments=from_small)
        rows = contested[finite][choice.rows.cpu()]
        return Selection(
            indices=torch.cat([whole, rows]),
            weights=torch.cat([torch.ones(len(whole)), _weights(choice).cpu()]),
            kept_whole=len(whole),
            non_finite=contested[~finite],
            matching_error=error,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that the next selection depends on, as tensors."""
        state = {"step": torch.tensor(self.step)}
        if self._moments is not None:
            moments = self._moments.state_dict()
            state |= {f"moments.{key}": torch.as_tensor(value) for key, value in moments.items()}
        return state | {f"seen.{name}": torch.tensor(count) for name, count in self._seen.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.step = int(state["step"])
        moments, seen = (
            {key.removeprefix(part): value for key, value in state.items() if key.startswith(part)}
            for part in ("moments.", "seen.")
        )
        self._moments = AdamMoments.from_state_dict(moments) if moments else None
        self._seen = {name: int(count) for name, count in seen.items()}

    def _source_names(
        self, features: Tensor | FeatureFunction | None, sources: Sequence[str] | None
    ) -> list[str]:
        n = len(features) if isinstance(features, Tensor) else None
        if sources is None:
            if n is None:
                raise ValueError("Pass sources, one name a candidate, or features as a tensor.")
            return [ONE_SOURCE] * n
        if n is not None and len(sources) != n:
            raise ValueError(f"{len(sources)} sources were passed for {n} rows of features.")
        if len(sources) == 0:
            raise ValueError("There are no candidates to choose from.")
        return [str(name) for name in sources]

    def _split(self, names: list[str], budget: int) -> tuple[Tensor, Tensor, bool]:
        """Rows kept whole, rows to choose from, and whether the latter are of small sources."""
        small = self._small_names()
        is_small = torch.tensor([name in small for name in names])
        whole, others = is_small.nonzero().flatten(), (~is_small).nonzero().flatten()
        if len(whole) <= budget:
            return whole, others, False
        self._warn_once(
            "small sources",
            f"{len(whole)} candidates of small sources do not fit a budget of {budget}: they go "
            "through the selection themselves. Fewer sources in small_sources would leave room.",
        )
        return whole[:0], whole, True

    def _small_names(self) -> frozenset[str]:
        if isinstance(self.small_sources, frozenset):
            return self.small_sources
        if not self.selector.keeps_small_sources or self.small_sources == SMALL_SOURCES_NONE:
            return frozenset()
        return small_sources(self._seen if self.source_sizes is None else self.source_sizes)

    def _features(
        self, features: Tensor | FeatureFunction | None, rows: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """Features of the finite ones of ``rows``, and which those are, ``[k]`` bool."""
        if not self.selector.needs_features:
            return None, torch.ones(len(rows), dtype=torch.bool)
        if features is None:
            raise ValueError(f"selector {self.selector.name!r} needs features.")
        values = (
            features[rows.to(features.device)] if isinstance(features, Tensor) else features(rows)
        )
        finite = torch.isfinite(values).all(1)
        if not finite.all():
            self._warn_once(
                "non-finite",
                f"{int((~finite).sum())} candidates have NaN or infinite gradients: they are left "
                "out of the coreset and counted. This is said once.",
            )
        return values[finite], finite.cpu()

    def _choose(
        self, candidates: Candidates, budget: int, generator: torch.Generator, *, keep_moments: bool
    ) -> tuple[Choice, float]:
        """Normalise, choose, and let the moments follow what was chosen."""
        gradients = candidates.gradients
        if gradients is None or len(candidates) == 0:
            return self._call(candidates, budget, generator), math.nan
        moments = self._moments_for(gradients)
        features = gradients if moments is None else moments.normalise(gradients)
        choice = self._call(replace(candidates, features=features), budget, generator)
        if moments is not None and not keep_moments:
            moments.update(gradients[choice.rows.to(gradients.device)])
        return choice, matching_error(features, choice.rows)

    def _call(self, candidates: Candidates, budget: int, generator: torch.Generator) -> Choice:
        if budget >= len(candidates):
            return Choice(torch.arange(len(candidates)))
        choice = self.selector.choose(candidates, budget, generator)
        return choice if isinstance(choice, Choice) else Choice(choice)

    def _moments_for(self, gradients: Tensor) -> AdamMoments | None:
        if self.normalisation == "none":
            return None
        if self._moments is None:
            self._moments = AdamMoments(gradients.shape[1])
        return self._moments

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(message, stacklevel=2)


def _small_source_rule(value: str | Iterable[str]) -> str | frozenset[str]:
    names = [value] if isinstance(value, str) else list(value)
    if names in ([SMALL_SOURCES_AUTO], [SMALL_SOURCES_NONE]):
        return names[0]
    return frozenset(names)


def _codes(names: list[str]) -> Tensor:
    """Number the sources in alphabetical order, so that the order of the batch plays no part."""
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    return torch.tensor([numbers[name] for name in names])


def _weights(choice: Choice) -> Tensor:
    return torch.ones(len(choice.rows)) if choice.weights is None else choice.weights.float()


def _keep(rows: Tensor, *, whole: int) -> Selection:
    return Selection(rows, torch.ones(len(rows)), whole, torch.arange(0), math.nan)
