"""Mixtures of sources: which are small, how often each is drawn, its share of the budget.

Theorem 4.1 of CoLM v3: medoids of a random mini-batch stand for large sources, not for small ones.
Symbols: D the data set, Q its sources, c_q the examples that source q has in the large mini-batch,
b the budget.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from colm.checks import as_list, shown
from colm.source_names import as_source_name, as_source_names

ALLOCATIONS = ("proportional", "balanced", "none")
#: How candidates are drawn; see `bounded_draws` and `inverse_size_weights`.
CANDIDATE_SAMPLINGS = (
    "uniform",
    "unimax",
    "temperature",
    "weights",
    "adaptive",
    "inverse_source_size",
)


def small_sources(counts: Mapping[str, int]) -> frozenset[str]:
    """Return the sources with fewer examples than the average source, |D| / Q.

    All their examples are kept, for medoids of a random mini-batch stand for large sources, not for
    small ones.  Paper: CoLM v3, Theorem 4.1; the threshold gives the ten of MathInstruct's fourteen
    sources that its authors keep.

    Args:
        counts: examples of each source in the whole data set.

    Returns:
        Names of the small sources; none where all sources are of one size.

    Example:
        >>> sorted(small_sources({"web": 900, "books": 80, "code": 20}))
        ['books', 'code']
    """
    total = sum(counts.values())
    return frozenset(name for name, count in counts.items() if count * len(counts) < total)


def inverse_size_weights(sources: Sequence[str] | Sequence[int] | Tensor) -> Tensor:
    """Return the probability to draw each example so that every source is drawn equally often.

    It is inversely proportional to the size of the example's source.  Paper: SSM v1, Alg. 1.

    Args:
        sources: ``[N]`` source of each example of the data set, by name or number.

    Returns:
        ``[N]`` float64, summing to 1: 1 / (Q c) for an example of a source of c examples.

    Example:
        >>> inverse_size_weights(["web", "web", "web", "books"])
        tensor([0.1667, 0.1667, 0.1667, 0.5000], dtype=torch.float64)
    """
    names = sources.tolist() if isinstance(sources, Tensor) else sources
    sizes = Counter(names)
    return torch.tensor([1 / (len(sizes) * sizes[name]) for name in names], dtype=torch.float64)


def bounded_draws(
    weights: Mapping[str, float],
    draws: float,
    limits: Mapping[str, float],
    sizes: Mapping[str, int],
) -> dict[str, float]:
    """Share draws among sources in proportion to their weights, none getting more than its limit.

    A source that reaches its limit leaves the rest of its share to the others, in proportion to
    their weights; where all are at their limits, each goes on in proportion to its size. With equal
    weights and limits of a few times each size it is UniMax.  Paper: Chung et al. 2023, "UniMax:
    Fairer and More Effective Language Sampling for Large-Scale Multilingual Pretraining", Alg. 1.

    Args:
        weights: of each source, 0 or more, one of them above 0; of weight 0, none is drawn.
        draws: examples drawn in all.
        limits: draws of each source at most, as long as another has not reached its own.
        sizes: examples of each source, at least 1.

    Returns:
        Draws of each source, not rounded; their sum is ``draws``.

    Example:
        >>> sizes = {"web": 900, "books": 80, "code": 20}
        >>> limits = {name: 4 * size for name, size in sizes.items()}
        >>> bounded_draws({"web": 1, "books": 1, "code": 1}, 300, limits, sizes)
        {'web': 110.0, 'books': 110.0, 'code': 80.0}
    """
    drawn = [name for name in weights if weights[name] > 0]
    # Those that reach their limits come before those that take what these leave.
    drawn.sort(key=lambda name: limits[name] / weights[name])
    of_rest = list(accumulate(weights[name] for name in reversed(drawn)))[::-1]
    shares, left = dict.fromkeys(weights, 0.0), float(draws)
    for name, rest in zip(drawn, of_rest, strict=True):
        shares[name] = min(left * weights[name] / rest, limits[name])
        left -= shares[name]
    beyond = max(0.0, left) / sum(sizes[name] for name in drawn)
    return shares | {name: shares[name] + beyond * sizes[name] for name in drawn}


def source_codes(names: Sequence[str]) -> Tensor:
    """Number the sources in alphabetical order, so that the order of the batch plays no part.

    Args:
        names: ``[n]`` source of each candidate.

    Returns:
        ``[n]`` int64.

    Example:
        >>> source_codes(["web", "books", "web"])
        tensor([1, 0, 1])
    """
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    return torch.tensor([numbers[name] for name in names], dtype=torch.int64)


def allocate(counts: Sequence[int], budget: int, allocation: str = "proportional") -> list[int]:
    """Share the budget among sources, none of which gets more than it has.

    Paper: CoLM v3, which leaves rounding open; that of ``proportional`` is its published code's.

    Args:
        counts: c_q, the candidates of each source, 0 or more.
        budget: b, 0 or more.
        allocation: ``proportional``: floor(b c_q / sum c), then what is left, one each, from the
            smallest share up (of equal shares the first). ``balanced``: the same for all, as far as
            a source has as many; what small ones leave, and the remainder, goes to larger ones.
            ``none``: sources are pooled, and the one pool gets it all.

    Returns:
        One share a source (one in all for ``none``), summing to ``min(budget, sum(counts))``.

    Raises:
        ValueError: the allocation is unknown, or a number is negative.

    Example:
        >>> allocate([16, 18, 15, 21], 20)
        [5, 5, 4, 6]
        >>> allocate([2, 30, 10], 20, "balanced")
        [2, 9, 9]
    """
    if allocation not in ALLOCATIONS:
        raise ValueError(f"allocation must be one of {', '.join(ALLOCATIONS)}; got {allocation!r}.")
    if budget < 0 or min(counts, default=0) < 0:
        raise ValueError(
            f"budget and counts must not be negative; got {budget} and {min(counts, default=0)}."
        )
    budget = min(budget, sum(counts))
    if allocation == "none":
        return [budget]
    return _balanced(counts, budget) if allocation == "balanced" else _proportional(counts, budget)


def _proportional(counts: Sequence[int], budget: int) -> list[int]:
    """Floor each share, then add one from the smallest share up."""
    total = sum(counts)
    shares = [budget * count // total if total else 0 for count in counts]
    smallest_first = sorted(range(len(counts)), key=shares.__getitem__)
    with_room = [q for q in smallest_first if shares[q] < counts[q]]
    for q in with_room[: budget - sum(shares)]:
        shares[q] += 1
    return shares


def _balanced(counts: Sequence[int], budget: int) -> list[int]:
    """Let sources take an equal part of what is left, in turn from the smallest."""
    shares = [0] * len(counts)
    smallest_first = sorted(range(len(counts)), key=counts.__getitem__)
    for turn, q in enumerate(smallest_first):
        shares[q] = min(counts[q], budget // (len(counts) - turn))
        budget -= shares[q]
    return shares


SMALL_SOURCES_AUTO = "auto"
SMALL_SOURCES_NONE = "none"


class SmallSources:
    """Knows which sources are kept whole, and counts what it has seen where nobody told sizes.

    Args:
        rule: ``auto``, ``none``, or the names of the sources to keep whole.
        sizes: examples of each source in the data set; without it ``auto`` goes by the candidates
            seen so far.
    """

    def __init__(
        self,
        rule: str | Iterable[str | int],
        sizes: Mapping[str, int] | Mapping[int, int] | None,
    ) -> None:
        names = _names_of(rule)
        if names is None:
            raise ValueError(
                f"small_sources must be auto, none or a list of names; got {shown(rule)}."
            )
        if sizes is not None and not _is_counts(sizes):
            raise ValueError(f"source_sizes must be counts by source; got {shown(sizes)}.")
        self._automatic = names == [SMALL_SOURCES_AUTO]
        is_rule = names in ([SMALL_SOURCES_AUTO], [SMALL_SOURCES_NONE])
        self._named: frozenset[str] = frozenset() if is_rule else frozenset(names)
        self._sizes: Counter[str] | None = None
        if sizes is not None:
            self._sizes = Counter()
            for source, size in sizes.items():
                self._sizes[as_source_name(source)] += size
        self.seen: Counter[str] = Counter()

    def see(self, names: Sequence[str]) -> None:
        """Count the candidates of a step, ``names [n]`` being their sources."""
        self.seen.update(names)

    def names(self) -> frozenset[str]:
        """Return the sources to keep whole, by what is known now."""
        if not self._automatic:
            return self._named
        return small_sources(self.seen if self._sizes is None else self._sizes)


def _names_of(rule: object) -> list[str] | None:
    """The names in a rule, ``None`` where it holds something else."""
    named = [rule] if isinstance(rule, str) else as_list(rule)
    try:
        return None if named is None else as_source_names(named)
    except ValueError:
        return None


def _is_counts(sizes: object) -> bool:
    return isinstance(sizes, Mapping) and all(
        isinstance(count, int) and count >= 0 for count in sizes.values()
    )
