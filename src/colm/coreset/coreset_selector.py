"""``CoresetSelector``: a whole selection step, from candidates to the examples to train on.

The order is that of the papers: small sources are kept whole; of the others, features (normalised
for Adam) go to the selector; Adam's moments then follow what was selected. It knows no model. Who
has one calls `split`, looks at what is left to choose among, and no more, and calls `choose` with
what was seen; who has features of all candidates calls `select`. Symbols: n candidates, r kept (the
budget), k rows to choose among, d feature size.
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from colm.checks import (
    check_choice,
    check_flags,
    check_tensor,
    check_vector,
    check_whole,
    shown,
)
from colm.coreset.candidates import (
    OBSERVATIONS,
    TIE_TOLERANCES,
    Candidates,
    Choice,
    Observed,
    SelectionOptions,
    as_observed,
    number_of_rows,
    order_by_content,
    order_by_key,
    take_rows,
)
from colm.coreset.features import AdamMoments, rms_normalize
from colm.coreset.mixture import SMALL_SOURCES_AUTO, SMALL_SOURCES_NONE, SmallSources, source_codes
from colm.coreset.registry import Selector, get_selector
from colm.coreset.selection import Contested, Selection, matching_error
from colm.randomness import keyed_generator
from colm.source_names import as_source_names

__all__ = [
    "NORMALIZATIONS",
    "ONE_SOURCE",
    "SMALL_SOURCES_AUTO",
    "SMALL_SOURCES_NONE",
    "Contested",
    "CoresetSelector",
    "Selection",
]

NORMALIZATIONS = ("adam", "rms", "none")
ONE_SOURCE = "all"


class CoresetSelector:
    """Selects the examples of each step that stand for all candidates; keeps Adam's moments.

    Works in any PyTorch loop.  Paper: CoLM v3, Alg. 1.

    The same candidates in another order give the same selection: they are looked at in the order of
    their keys, or else of their content (source, label tokens, observed values), and of candidates
    that are tied, up to what rounding moves, the first in that order is picked.

    Args:
        selector: a name of `colm.available_selectors`, or the record of a selector.
        distance: ``l1``, ``l2`` or ``cosine``. This and the next four are the selector's own where
            they are ``None``; see `register_selector`.
        allocation: how large sources share the budget: ``proportional``, ``balanced``, ``none``.
        normalization: ``adam``, ``rms`` (see `rms_normalize`) or ``none``.
        kept_dimensions: dimensions kept per source, all where ``None``.
        dimension_criterion: ``gradient``, ``weight``, ``weight_gradient`` or ``random``.
        prompt_features: whether the prompt's hidden state is appended to the features of selectors
            that compare features by distance.  Paper: SSM v1.
        example_weights: what an example counts for in the mean that is matched: ``equal``, or
            ``label_tokens`` where the loss averages over those.
        small_sources: sources to keep whole: ``auto`` (those with fewer examples than the average
            one), ``none``, or their names.
        source_sizes: examples of each source in the data set; without it ``auto`` goes by the
            candidates seen so far.
        reference_behaviour: as the published code does, candidates in the order given, exact ties
            alone, to the last of them.
        seed: of whatever is random in a selection; with the step it decides it.

    Raises:
        ValueError: an unknown choice.

    Example:
        >>> features = torch.tensor([[0.0], [4.0], [9.0]])
        >>> selector = CoresetSelector("mean_matching", normalization="none")
        >>> selector.select(features, 1).indices
        tensor([1])
    """

    def __init__(
        self,
        selector: str | Selector = "colm",
        *,
        distance: str | None = None,
        allocation: str | None = None,
        normalization: str | None = None,
        dimension_criterion: str | None = None,
        small_sources: str | Iterable[str] | None = None,
        kept_dimensions: int | None = None,
        prompt_features: bool = False,
        example_weights: str = "equal",
        source_sizes: Mapping[str, int] | None = None,
        reference_behaviour: bool = False,
        seed: int = 0,
    ) -> None:
        check_flags(reference_behaviour=reference_behaviour)
        self.selector = get_selector(selector)
        brought = self.selector.defaults
        self.normalization: str = (
            brought["normalization"] if normalization is None else normalization
        )
        check_choice("normalization", self.normalization, NORMALIZATIONS)
        self.options = SelectionOptions(
            brought["distance"] if distance is None else distance,
            brought["allocation"] if allocation is None else allocation,
            kept_dimensions,
            brought["dimension_criterion"] if dimension_criterion is None else dimension_criterion,
            prompt_features,
            example_weights,
            tie_tolerance=None if reference_behaviour else TIE_TOLERANCES[self.normalization],
        )
        self.reference_behaviour = reference_behaviour
        self.seed = check_whole("seed", seed)
        self.step = 0
        self._small_sources = SmallSources(
            brought["small_sources"] if small_sources is None else small_sources, source_sizes
        )
        self._moments: AdamMoments | None = None
        self._warned: set[str] = set()

    @property
    def needs(self) -> tuple[str, ...]:
        """What must be observed of each candidate: what the selector needs, and its options."""
        needs = self.selector.needs
        with_prompt = self.options.prompt_features and "gradients" in needs
        return (*needs, "prompt") if with_prompt and "prompt" not in needs else needs

    def split(
        self,
        budget: int,
        *,
        sources: Sequence[str],
        keys: Sequence[str] | Sequence[int] | Tensor | None = None,
        label_tokens: Tensor | None = None,
        step: int | None = None,
    ) -> Contested:
        """Settle which of n candidates need no comparison, before anything is seen of them.

        Args:
            budget: r, at least 1; all candidates are kept where there are no more.
            sources: name of each candidate's source.
            keys: what each candidate is known by, strings or numbers, such as its row in the data
                set. With them, not even a selector that looks at nothing depends on the order of
                the candidates.
            label_tokens: ``[n]`` int64, for selectors that go by length.
            step: keys the randomness; counted from 0 where ``None``.

        Returns:
            What is kept whole, and the rows to choose among.

        Raises:
            ValueError: a budget below 1, no candidates, or sizes that do not fit.
        """
        budget = check_whole("budget", budget, least=1)
        names = _names_of(sources)
        if label_tokens is not None:
            check_vector("label_tokens", label_tokens, len(names))
        order = torch.arange(len(names))
        if keys is not None and not self.reference_behaviour:
            order = order_by_key(keys, names)
        self._small_sources.see(names)
        self.step = self.step if step is None else check_whole("step", step, least=0)
        generator = keyed_generator(self.seed, self.step, "select")
        self.step += 1
        whole, rows, from_small = self._split(names, order, budget)
        return Contested(
            whole=whole,
            kept_whole=len(whole) if len(whole) < len(names) else 0,
            rows=rows,
            budget=budget - len(whole) if len(rows) else 0,
            sources=source_codes(names)[rows],
            label_tokens=None if label_tokens is None else label_tokens.cpu()[rows],
            generator=generator,
            are_small=from_small,
            have_keys=keys is not None,
        )

    def choose(
        self,
        contested: Contested,
        observed: Tensor | Observed | None,
        *,
        weight: Tensor | None = None,
    ) -> Selection:
        """Choose among the rows of a split; Adam's moments follow what was chosen.

        Args:
            contested: from `split`; it is used up, as its generator is.
            observed: what `needs` names of ``contested.rows``, in that order; a bare ``[k, d]``
                tensor is the gradient of each. ``None`` where nothing is needed, or no rows are.
            weight: ``[d]`` weight behind the features, for criteria that need it.

        Returns:
            The selection, of all candidates that were split.

        Raises:
            ValueError: sizes that do not fit, or something needed is missing.
        """
        if weight is not None:
            check_tensor("weight", weight, "a weight")
        whole, rows = contested.whole, contested.rows
        if len(rows) == 0:
            weights = torch.ones(len(whole))
            return Selection(whole, weights, contested.kept_whole, torch.arange(0), math.nan)
        everyone = Candidates(
            contested.sources,
            self.options,
            label_tokens=contested.label_tokens,
            weight=weight,
            **vars(self._checked(observed, len(rows))),
        )
        places = torch.arange(len(rows))
        if not contested.have_keys and not self.reference_behaviour:
            places = order_by_content(everyone)
        finite = self._finite(everyone)
        places = places[finite[places]]
        choice, error = self._choose(everyone.take(places), contested)
        return Selection(
            indices=torch.cat([whole, rows[places[choice.rows.cpu()]]]),
            weights=torch.cat([torch.ones(len(whole)), choice.counts.cpu()]),
            kept_whole=contested.kept_whole,
            non_finite=rows[~finite],
            matching_error=error,
        )

    def select(
        self,
        observed: Tensor | Observed | None,
        budget: int,
        *,
        sources: Sequence[str] | None = None,
        label_tokens: Tensor | None = None,
        weight: Tensor | None = None,
        keys: Sequence[str] | Sequence[int] | Tensor | None = None,
        step: int | None = None,
    ) -> Selection:
        """Choose ``budget`` of n candidates of which all is seen: `split` and `choose` in one.

        Args:
            observed: what `needs` names, one row a candidate; a bare ``[n, d]`` tensor is the
                gradient of each. It may be ``None`` where the selector needs nothing.
            budget: see `split`, as of the next three.
            sources: all are of one source where ``None``.
            label_tokens: likewise.
            weight: see `choose`.
            keys: see `split`.
            step: see `split`.

        Returns:
            The selection.

        Raises:
            ValueError: a budget below 1, no candidates, sizes that do not fit, something needed is
                missing, or a function as ``observed``.
        """
        seen = as_observed(observed)
        n = number_of_rows(seen)
        if sources is None:
            if n is None:
                raise ValueError("Pass sources, one name a candidate, or features as a tensor.")
            sources = [ONE_SOURCE] * n
        names = _names_of(sources)
        if n not in (None, len(names)):
            raise ValueError(f"{len(names)} sources were passed for {n} rows of features.")
        contested = self.split(
            budget, sources=names, keys=keys, label_tokens=label_tokens, step=step
        )
        return self.choose(contested, take_rows(seen, contested.rows), weight=weight)

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that the next selection depends on, as tensors."""
        state = {"step": torch.tensor(self.step)}
        if self._moments is not None:
            moments = self._moments.state_dict()
            state |= {f"moments.{key}": torch.as_tensor(value) for key, value in moments.items()}
        seen = self._small_sources.seen
        return state | {f"seen.{name}": torch.tensor(count) for name, count in seen.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.step = int(state["step"])
        moments, seen = (
            {key.removeprefix(part): value for key, value in state.items() if key.startswith(part)}
            for part in ("moments.", "seen.")
        )
        self._moments = AdamMoments.from_state_dict(moments) if moments else None
        self._small_sources.seen = Counter({name: int(count) for name, count in seen.items()})

    def forget_moments(self) -> None:
        """Let Adam's moments start anew, where the features are no longer those they are of."""
        self._moments = None

    def _split(self, names: list[str], order: Tensor, budget: int) -> tuple[Tensor, Tensor, bool]:
        """Rows kept whole, rows to choose among, and whether the latter are of small sources."""
        nothing = order[:0]
        if self.selector.keeps_all or budget >= len(names):
            return order, nothing, False
        small = self._small_sources.names()
        is_small = torch.tensor([names[row] in small for row in order.tolist()])
        whole, others = order[is_small], order[~is_small]
        if len(whole) == budget:
            return whole, nothing, False
        if len(whole) < budget:
            return whole, others, False
        self._warn_once(
            "small sources",
            f"{len(whole)} candidates of small sources do not fit a budget of {budget}: they go "
            "through the selection themselves. Fewer sources in small_sources would leave room.",
        )
        return nothing, whole, True

    def _checked(self, observed: Tensor | Observed | None, rows: int) -> Observed:
        """What was seen of the rows to choose among, where all that is needed was."""
        seen = as_observed(observed)
        for need in self.needs:
            if getattr(seen, need) is None:
                raise ValueError(f"selector {self.selector.name!r} needs {need} of candidates.")
        if number_of_rows(seen) not in (None, rows):
            raise ValueError(f"{number_of_rows(seen)} were observed of {rows} candidates.")
        return seen

    def _finite(self, candidates: Candidates) -> Tensor:
        """Which candidates can be compared, ``[n]`` bool; warn once where some cannot."""
        finite = candidates.finite if self.needs else torch.ones(len(candidates), dtype=torch.bool)
        if not finite.all():
            self._warn_once(
                "non-finite",
                f"{int((~finite).sum())} candidates have NaN or infinite {' or '.join(self.needs)}:"
                " they are left out of the coreset and counted. This is said once.",
            )
        return finite

    def _choose(self, candidates: Candidates, contested: Contested) -> tuple[Choice, float]:
        """Normalise, choose, and let the moments follow what was chosen."""
        budget, generator = contested.budget, contested.generator
        candidates = candidates.without(set(OBSERVATIONS) - set(self.needs))
        gradients = candidates.gradients
        if gradients is None or len(candidates) == 0:
            return self._call(candidates, budget, generator), math.nan
        moments = self._moments_for(gradients)
        features = gradients if moments is None else moments.normalize(gradients)
        if self.normalization == "rms":
            features = rms_normalize(gradients)
        choice = self._call(replace(candidates, features=features), budget, generator)
        if moments is not None and not contested.are_small:
            moments.update(gradients[choice.rows.to(gradients.device)])
        weights = choice.weights if self.selector.defaults["weighted"] else None
        return choice, matching_error(features, choice.rows, weights, candidates.target)

    def _call(self, candidates: Candidates, budget: int, generator: torch.Generator) -> Choice:
        if budget >= len(candidates):
            return Choice(torch.arange(len(candidates)))
        choice = self.selector.choose(candidates, budget, generator)
        return choice if isinstance(choice, Choice) else Choice(choice)

    def _moments_for(self, gradients: Tensor) -> AdamMoments | None:
        if self.normalization != "adam":
            return None
        if self._moments is None:
            self._moments = AdamMoments(gradients.shape[1])
        return self._moments

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(message, stacklevel=2)


def _names_of(sources: Sequence[str]) -> list[str]:
    """The names of sources, one a candidate."""
    if isinstance(sources, str) or not isinstance(sources, Sequence):
        raise ValueError(f"sources must be a list, one name a candidate; got {shown(sources)}.")
    if len(sources) == 0:
        raise ValueError("There are no candidates to choose from.")
    return as_source_names(sources)
