"""The selectors by name, and how a user adds one.

A selector is a function ``(candidates, budget, generator) -> rows``. Beside it stands what it needs
and which defaults it brings: its registration is the one place where the default of such an option
stands. All that come with the library are registered at the end of this module.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from colm.checks import check_flags, check_whole, shown
from colm.coreset import selectors as methods
from colm.coreset.candidates import OBSERVATIONS, Choose

#: The options that a selector decides where they are not given, as those have them that say nothing
#: else: the exact gradient in V as Adam scales it, uniform draws, no source kept whole.
BASE_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "gradient": "exact",
        "projections": ("v",),
        "normalization": "adam",
        "dimension_criterion": "gradient",
        "distance": "l1",
        "allocation": "proportional",
        "weighted": False,
        "small_sources": "none",
        "candidate_sampling": "uniform",
    }
)
#: Keywords of `register_selector` in earlier versions, and what replaces each.
_OLD_KEYWORDS = {
    "keeps_small_sources": "defaults={'small_sources': 'auto'}",
    "weighs": "defaults={'weighted': True}",
}


@dataclass(frozen=True)
class Selector:
    """A registered selector.

    Attributes:
        name: what ``selector=`` takes.
        choose: the function.
        needs: what it must see of each candidate, of ``gradients``, ``losses``, ``hidden`` and
            ``prompt``; nothing for a selector that spends no forward.
        keeps_all: whether it keeps every candidate, whatever the budget.
        most_together: the most candidates that it compares with each other; of more, it chooses in
            parts. ``None``: any number.
        defaults: what each option of ``BASE_DEFAULTS`` is where it is not given.
    """

    name: str
    choose: Choose
    needs: tuple[str, ...] = ("gradients",)
    keeps_all: bool = False
    most_together: int | None = None
    defaults: Mapping[str, Any] = field(default_factory=lambda: BASE_DEFAULTS)


_SELECTORS: dict[str, Selector] = {}


def register_selector(
    name: str,
    *,
    needs: Sequence[str] = ("gradients",),
    keeps_all: bool = False,
    most_together: int | None = None,
    defaults: Mapping[str, Any] | None = None,
    **old: Any,
) -> Callable[[Choose], Choose]:
    """Register a function as a selector, so that ``selector=name`` finds it.

    Args:
        name: a new name.
        needs: what it reads of `Candidates`: ``gradients`` (with ``features``), ``losses``,
            ``hidden``, ``prompt``. With nothing to read, no forward is spent.
        keeps_all: whether it keeps every candidate, whatever the budget.
        most_together: the most candidates that it can choose among at once: trainers divide more
            at random into parts. ``None``: any number.
        defaults: options that it brings, such as ``{"small_sources": "auto"}`` to keep small
            sources whole, or ``{"weighted": True}`` to weigh what is kept in the loss. What is not
            named is as in ``BASE_DEFAULTS``.
        **old: keywords of earlier versions, which are refused.

    Returns:
        A decorator that leaves the function as it is.

    Raises:
        ValueError: the name is taken, or a need or an option is unknown.

    Example:
        >>> @register_selector("shortest", needs=(), defaults={"small_sources": "auto"})
        ... def shortest(candidates, budget, generator):
        ...     return candidates.label_tokens.argsort()[:budget]
        >>> "shortest" in available_selectors()
        True
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"name must be that of a selector; got {shown(name)}.")
    _refuse_old(old)
    check_flags(keeps_all=keeps_all)
    if most_together is not None:
        check_whole("most_together", most_together, least=1)
    if not isinstance(needs, Sequence):
        raise ValueError(f"needs must be a list of {', '.join(OBSERVATIONS)}; got {shown(needs)}.")
    needs = (needs,) if isinstance(needs, str) else tuple(needs)
    for need in needs:
        if need not in OBSERVATIONS:
            raise ValueError(f"needs must be of {', '.join(OBSERVATIONS)}; got {need!r}.")
    brought = _over_base(defaults)

    def register(choose: Choose) -> Choose:
        if name in _SELECTORS:
            raise ValueError(f"A selector named {name!r} exists already.")
        _SELECTORS[name] = Selector(name, choose, needs, keeps_all, most_together, brought)
        return choose

    return register


def _refuse_old(keywords: Mapping[str, Any]) -> None:
    """Refuse keywords of earlier versions, and name what replaces them."""
    for keyword in keywords:
        if keyword in _OLD_KEYWORDS:
            raise ValueError(
                f"{keyword} is no keyword of register_selector any more: say it as "
                f"{_OLD_KEYWORDS[keyword]}."
            )
        raise TypeError(f"register_selector() got an unexpected keyword argument {keyword!r}")


def _over_base(defaults: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The options that a selector brings, and the base where it brings none."""
    if defaults is not None and not isinstance(defaults, Mapping):
        raise ValueError(f"defaults must map options to values; got {shown(defaults)}.")
    given = dict(defaults or {})
    for option in given:
        if option not in BASE_DEFAULTS:
            raise ValueError(
                f"defaults must be of {', '.join(BASE_DEFAULTS)}; got {shown(option)}."
            )
    check_flags(weighted=given.get("weighted", False))
    return MappingProxyType({**BASE_DEFAULTS, **given})


def available_selectors() -> tuple[str, ...]:
    """Return the names that ``selector=`` takes, in order of registration."""
    return tuple(_SELECTORS)


def get_selector(name: str | Selector) -> Selector:
    """Return the selector of that name, or one that is given as it is.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if isinstance(name, Selector):
        return name
    if not isinstance(name, str) or name not in _SELECTORS:
        raise ValueError(f"selector must be one of {', '.join(_SELECTORS)}; got {shown(name)}.")
    return _SELECTORS[name]


#: What is compared in two blocks at once, scaled by the candidates' own second moments.
_SPREAD = {"projections": "spread", "normalization": "rms"}
_KEEPS_SMALL = {"small_sources": "auto"}

register_selector("colm", most_together=4096, defaults=_KEEPS_SMALL)(methods.medoids_of_sources)
register_selector(
    "ssm",
    most_together=4096,
    defaults={
        "normalization": "none",
        "allocation": "none",
        "candidate_sampling": "inverse_source_size",
    },
)(methods.medoids_of_sources)
register_selector("mean_matching", most_together=2048, defaults=_KEEPS_SMALL)(methods.matched_mean)
# What a part costs these three grows with the cube of its size, and faster.
register_selector("gradient_matching", most_together=512, defaults={**_SPREAD, "weighted": True})(
    methods.matched_gradient
)
register_selector(
    "balanced_sampling", most_together=512, defaults={**_SPREAD, "candidate_sampling": "unimax"}
)(methods.balanced_sample)
register_selector(
    "importance_sampling",
    most_together=512,
    defaults={**_SPREAD, "candidate_sampling": "unimax", "weighted": True},
)(methods.importance_sample)
register_selector("random", needs=())(methods.random_subset)
register_selector("small_random", needs=(), defaults=_KEEPS_SMALL)(methods.random_subset)
register_selector("top_loss", needs=("losses",))(methods.top_loss)
register_selector("selective_backprop", needs=("losses",))(methods.selective_backprop)
register_selector("longest", needs=())(methods.longest)
register_selector("middle_perplexity", needs=("losses",))(methods.middle_perplexity)
register_selector("gradient_norm")(methods.gradient_norm)
register_selector("hidden_facility_location", needs=("hidden",), most_together=4096)(
    methods.hidden_facility_location
)
register_selector("none", needs=(), keeps_all=True)(methods.everything)
