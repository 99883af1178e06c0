"""The share of the draws that each source gets, and how a run's draws are told.

The options give each source a weight: the same for all (`unimax`), a power of its size
(`temperature`), or what a user says (`weights`). A bound on repeats takes from sources that are too
small for their weight (`colm.coreset.mixture.bounded_draws`). Symbols: N examples in the data set,
Q its sources.
"""

import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

from datasets import Dataset

from colm.coreset.mixture import bounded_draws
from colm.names import shown_name
from colm.training.example import label_token_count

logger = logging.getLogger(__name__)

#: Training goes on to learn from an example about as often.  Paper: Muennighoff et al. 2023,
#: "Scaling Data-Constrained Language Models".
MOST_REPEATS = 4.0
#: Examples of a source whose label tokens are counted, spread evenly; of fewer, all are.
MOST_COUNTED = 1000
#: Sources that have a line of their own when a run begins.
MOST_LINES = 20


def source_weights(
    args: Any, sizes: Mapping[str, int], label_tokens: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Return the weights by which sources share the draws, before any bound.

    Args:
        args: the options.
        sizes: examples of each source.
        label_tokens: mean of each source's examples, where weights are shares of tokens.

    Example:
        >>> from types import SimpleNamespace
        >>> args = SimpleNamespace(candidate_sampling="temperature", sampling_exponent=0.5)
        >>> source_weights(args, {"web": 900, "code": 100})
        {'web': 30.0, 'code': 10.0}
    """
    if args.candidate_sampling == "temperature":
        return {name: float(size) ** args.sampling_exponent for name, size in sizes.items()}
    if args.candidate_sampling != "weights":
        return dict.fromkeys(sizes, 1.0)
    given: Mapping[str, float] = args.source_weights
    if label_tokens is None:
        return {name: given[name] for name in sizes}
    # A source without label tokens is drawn as if its examples had one.
    return {name: given[name] / (label_tokens[name] or 1.0) for name in sizes}


def most_repeats(args: Any) -> float:
    """Return how often a source's examples are drawn at most, as the options say or leave open."""
    if args.most_repeats is not None:
        return float(args.most_repeats)
    # Who gives weights means them.
    return math.inf if args.candidate_sampling == "weights" else MOST_REPEATS


def mean_label_tokens(dataset: Any, rows: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Return the mean number of label tokens of each source's examples.

    Args:
        dataset: tokenised.
        rows: of each source's examples, of which ``MOST_COUNTED`` are read.
    """
    if isinstance(dataset, Dataset):
        read = {"input_ids", "labels"}
        dataset = dataset.select_columns([each for each in dataset.column_names if each in read])
    means = {}
    for name, own in rows.items():
        number = min(len(own), MOST_COUNTED)
        spread = [own[place * len(own) // number] for place in range(number)]
        means[name] = sum(label_token_count(dataset[row]) for row in spread) / number
    return means


def check_source_weights(weights: Mapping[str, float] | None, known: Collection[str]) -> None:
    """Refuse weights of sources that the data do not have, and sources without one.

    Args:
        weights: as given, ``None`` where they are not.
        known: the sources of the training data.

    Raises:
        ValueError: such names; the message says which sources there are, or lack a weight.
    """
    if weights is None:
        return
    unknown = [name for name in weights if name not in known]
    if unknown:
        raise ValueError(
            f"source_weights names {_listed(unknown)}, which the training data does not have; its "
            f"sources are {_listed(sorted(known))}."
        )
    missing = [name for name in sorted(known) if name not in weights]
    if missing:
        raise ValueError(
            f"source_weights says nothing of {_listed(missing)}: give each source a weight; 0 "
            "leaves it out."
        )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(shown_name(name)) for name in names[:MOST_LINES])
    return shown + (f" and {len(names) - MOST_LINES} more" if len(names) > MOST_LINES else "")


def rows_by_source(sources: Sequence[str]) -> dict[str, list[int]]:
    """Return the rows of each source's examples.

    Args:
        sources: name of each example's source, N of them.
    """
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(sources):
        rows.setdefault(name, []).append(row)
    return rows


def planned_draws(
    dataset: Any, rows: Mapping[str, Sequence[int]], args: Any, draws: int
) -> dict[str, float]:
    """Return how many of a run's draws each source gets, not rounded.

    Args:
        dataset: tokenised.
        rows: of each source's examples.
        args: the options.
        draws: candidates of the whole run, in all processes.
    """
    sizes = {name: len(own) for name, own in rows.items()}
    by_tokens = args.candidate_sampling == "weights" and args.source_weights_by == "tokens"
    weights = source_weights(args, sizes, mean_label_tokens(dataset, rows) if by_tokens else None)
    most = most_repeats(args)
    limits = {name: most * size for name, size in sizes.items()}
    return bounded_draws(weights, draws, limits, sizes)


#: Of each source, how many of its draws were before a round, and how many the round has.
Round = dict[str, tuple[int, int]]


class DrawPlan(Protocol):
    """Says how many draws of each source each part of an epoch has."""

    @property
    def shares(self) -> Mapping[str, float]:
        """Return the share of the draws that each source gets, at the beginning of a run."""

    def rounds(self, epoch: int) -> Iterator[Round]:
        """Go through the parts of an epoch, whose draws are as many as there are examples."""


class FixedPlan:
    """The same shares from the beginning of a run to its end; an epoch is one round.

    Args:
        draws: of each source in a run, not rounded, or in proportion to them.
        epoch: N, the draws of an epoch.
    """

    def __init__(self, draws: Mapping[str, float], epoch: int) -> None:
        total = sum(draws.values()) or 1
        self.shares = {name: draws[name] / total for name in sorted(draws)}
        self._epoch = epoch

    def rounds(self, epoch: int) -> Iterator[Round]:
        """Give the one round of an epoch."""
        expected = {name: share * self._epoch for name, share in self.shares.items()}
        drawn, due = dict.fromkeys(expected, 0), dict.fromkeys(expected, 0.0)
        for number in range(epoch + 1):
            counts = settle(due, expected, self._epoch)
            if number == epoch:
                yield {name: (drawn[name], count) for name, count in counts.items()}
            drawn = {name: drawn[name] + count for name, count in counts.items()}


def settle(due: dict[str, float], share: Mapping[str, float], total: int) -> dict[str, int]:
    """Return whole numbers of draws next to what is due, of a given sum; ties go to the first.

    Args:
        due: of each source from rounds before; becomes what is due after this one.
        share: of each source in this round, not rounded.
        total: draws of the round, the sum of the shares.
    """
    for name in share:
        due[name] += share[name]
    whole = {name: max(0, math.floor(due[name])) for name in share}
    missing = total - sum(whole.values())
    if missing >= 0:
        for name in sorted(share, key=lambda name: whole[name] - due[name])[:missing]:
            whole[name] += 1
    else:  # a source had more than was due to it, and cannot give it back
        drawn = [name for name in share if whole[name]]
        for name in sorted(drawn, key=lambda name: due[name] - whole[name])[:-missing]:
            whole[name] -= 1
    for name in share:
        due[name] -= whole[name]
    return whole


def draws_told(sizes: Mapping[str, int], shares: Mapping[str, float], draws: int) -> Iterator[str]:
    """Say how the draws of a run are shared, a line for each source.

    Args:
        sizes: examples of each source.
        shares: of the draws that each gets.
        draws: candidates of the whole run, in all processes.

    Yields:
        Lines, those of the largest shares first; beyond ``MOST_LINES`` the rest are summed up.

    Example:
        >>> for line in draws_told({"web": 900, "code": 100}, {"web": 0.5, "code": 0.5}, 600):
        ...     print(line)
        code: 50.0 % of the draws; its 100 examples come 3.0 times each
        web: 50.0 % of the draws; its 900 examples come 0.3 times each
    """
    order = sorted(sizes, key=lambda name: (-shares[name], name))
    own = order if len(order) <= MOST_LINES else order[: MOST_LINES - 1]
    parts = [(shown_name(name), [name]) for name in own]
    if len(own) < len(order):
        parts.append((f"{len(order) - len(own)} others", order[len(own) :]))
    for title, names in parts:
        size, share = sum(sizes[name] for name in names), sum(shares[name] for name in names)
        each = share * draws / size
        times = "fewer than 0.1" if each < 0.1 else f"{each:.1f}"
        often = f"its {size} examples come {times} times each"
        yield f"{title}: {100 * share:.1f} % of the draws; {often if share else 'never drawn'}"


def report_draws(
    sampling: str, sizes: Mapping[str, int], shares: Mapping[str, float], draws: int
) -> None:
    """Log how the draws of a run that begins are shared, where there are several sources.

    Args:
        sampling: the option ``candidate_sampling``.
        sizes: examples of each source.
        shares: of the draws that each gets.
        draws: candidates of the whole run, in all processes.
    """
    if len(sizes) < 2:
        return
    logger.info("%d draws in all, by candidate_sampling=%s:", draws, sampling)
    for line in draws_told(sizes, shares, draws):
        logger.info("  %s", line)
    if sampling == "adaptive":
        logger.info("  so it begins; from then on, half of the draws go where losses still fall")
    if sampling != "uniform":
        logger.info(
            "  an epoch is %d draws; it does not draw each example once", sum(sizes.values())
        )
