"""The selectors by name, and how a user adds one.

A selector is a function ``(candidates, budget, generator) -> rows``; what it needs and which rules
it follows stand beside it. All that come with the library are registered at the end of this module.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from colm.checks import check_flags, shown
from colm.coreset import selectors as baselines
from colm.coreset import selectors as methods
from colm.coreset.candidates import Choose
from colm.coreset.observed import OBSERVATIONS


@dataclass(frozen=True)
class Selector:
    """A registered selector.

    Attributes:
        name: what ``selector=`` takes.
        choose: the function.
        needs: what it must see of each candidate, of ``gradients``, ``losses``, ``hidden`` and
            ``prompt``; nothing for a selector that spends no forward.
        keeps_small_sources: whether ``small_sources="auto"`` keeps all candidates of small sources.
        keeps_all: whether it keeps every candidate, whatever the budget.
        weighs: whether its choice is meant to be weighted in the loss.
    """

    name: str
    choose: Choose
    needs: tuple[str, ...] = ("gradients",)
    keeps_small_sources: bool = False
    keeps_all: bool = False
    weighs: bool = False


_SELECTORS: dict[str, Selector] = {}


def register_selector(
    name: str,
    *,
    needs: Sequence[str] = ("gradients",),
    keeps_small_sources: bool = False,
    keeps_all: bool = False,
    weighs: bool = False,
) -> Callable[[Choose], Choose]:
    """Register a function as a selector, so that ``selector=name`` finds it.

    Args:
        name: a new name.
        needs: what it reads of `Candidates`: ``gradients`` (with ``features``), ``losses``,
            ``hidden``, ``prompt``. With nothing to read, no forward is spent.
        keeps_small_sources: whether small sources are kept whole under ``small_sources="auto"``.
        keeps_all: whether it keeps every candidate, whatever the budget.
        weighs: whether it returns a `Choice` whose weights belong in the loss, so that training
            weighs kept examples unless told not to.

    Returns:
        A decorator that leaves the function as it is.

    Raises:
        ValueError: the name is taken, or a need is unknown.

    Example:
        >>> @register_selector("shortest", needs=())
        ... def shortest(candidates, budget, generator):
        ...     return candidates.label_tokens.argsort()[:budget]
        >>> "shortest" in available_selectors()
        True
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"name must be that of a selector; got {shown(name)}.")
    check_flags(keeps_small_sources=keeps_small_sources, keeps_all=keeps_all, weighs=weighs)
    if not isinstance(needs, Sequence):
        raise ValueError(f"needs must be a list of {', '.join(OBSERVATIONS)}; got {shown(needs)}.")
    needs = (needs,) if isinstance(needs, str) else tuple(needs)
    for need in needs:
        if need not in OBSERVATIONS:
            raise ValueError(f"needs must be of {', '.join(OBSERVATIONS)}; got {need!r}.")

    def register(choose: Choose) -> Choose:
        if name in _SELECTORS:
            raise ValueError(f"A selector named {name!r} exists already.")
        _SELECTORS[name] = Selector(name, choose, needs, keeps_small_sources, keeps_all, weighs)
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
    if not isinstance(name, str) or name not in _SELECTORS:
        raise ValueError(f"selector must be one of {', '.join(_SELECTORS)}; got {shown(name)}.")
    return _SELECTORS[name]


register_selector("colm", keeps_small_sources=True)(methods.medoids_of_sources)
register_selector("ssm")(methods.medoids_of_sources)
register_selector("mean_matching", keeps_small_sources=True)(methods.matched_mean)
register_selector("gradient_matching", weighs=True)(methods.matched_gradient)
register_selector("balanced_sampling")(methods.balanced_sample)
register_selector("importance_sampling", weighs=True)(methods.importance_sample)
register_selector("random", needs=())(baselines.random_subset)
register_selector("small_random", needs=(), keeps_small_sources=True)(baselines.random_subset)
register_selector("top_loss", needs=("losses",))(baselines.top_loss)
register_selector("selective_backprop", needs=("losses",))(baselines.selective_backprop)
register_selector("longest", needs=())(baselines.longest)
register_selector("middle_perplexity", needs=("losses",))(baselines.middle_perplexity)
register_selector("gradient_norm")(baselines.gradient_norm)
register_selector("hidden_facility_location", needs=("hidden",))(baselines.hidden_facility_location)
register_selector("none", needs=(), keeps_all=True)(baselines.everything)
