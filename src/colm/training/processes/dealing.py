"""Who trains on which kept example: an even share each, and as few examples moved as that takes.

Symbols: r kept examples, w processes.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from colm.training.example import Example, token_count, without_labels
from colm.training.processes.candidate_table import CandidateTable
from colm.training.processes.exchange import Exchange

# Moves go on until the processes' tokens differ by no more than this share of their mean: the
# slowest process sets the pace of a step, and an example is a few kilobytes.
_UNEVEN = 0.05


def share_out(
    kept: Sequence[int], own: Sequence[Example], table: CandidateTable, exchange: Exchange
) -> dict[int, Example]:
    """Return what this process trains on of what all keep, by row; at least one example.

    Where less is kept than there are processes, some get an example without labels. Every process
    calls this at the same time.

    Args:
        kept: r rows of the table, the same on every process.
        own: this process's candidates, those of the rows ``table.own``.
        table: the candidates of all processes.
        exchange: the processes.
    """
    me, processes = exchange.process_index, exchange.num_processes
    tokens, owners = table.tokens[kept].tolist(), table.owners[kept].tolist()
    trained_by = dict(zip(kept, deal(tokens, owners, processes), strict=True))
    moves = [
        (row, owner, to)
        for (row, to), owner in zip(trained_by.items(), owners, strict=True)
        if to != owner
    ]
    # A process without candidates of its own needs something to fill its micro-batch with.
    idle = {*range(processes)} - {*trained_by.values()} - {*table.owners.tolist()}
    moves += [(kept[0], owners[0], to) for to in sorted(idle)]
    examples = {row: own[row - table.own.start] for row in kept if row in table.own}
    # All processes know all moves, so that all or none of them take part.
    if moves:
        leaving: dict[int, dict[int, Example]] = defaultdict(dict)
        for row, owner, to in moves:
            if owner == me:
                leaving[to][row] = examples[row]
        examples |= exchange.examples(leaving)
    share = {row: examples[row] for row in kept if trained_by[row] == me}
    if share:
        return share
    return {kept[0]: without_labels(min([*own, *examples.values()], key=token_count))}


def deal(lengths: Sequence[int], owners: Sequence[int], processes: int) -> list[int]:
    """Share kept examples out, as many for each process give or take one, and even in tokens.

    An example stays with the process that holds it unless a share must be evened out: first the
    surplus moves to processes that hold too few, then the process with the most tokens swaps with
    that with the fewest while a swap helps and they differ by more than a twentieth of the mean.
    No process ends up ahead of another by more tokens than the longest example has. Costs
    O(r log r / w) a swap, of which there are a few for each process.

    Args:
        lengths: ``[r]`` tokens of each kept example.
        owners: ``[r]`` the process that holds each.
        processes: w.

    Returns:
        ``[r]`` the process that trains on each.

    Example:
        >>> deal([9, 5, 5, 4, 1, 1], [0, 0, 0, 0, 0, 1], 2)
        [1, 0, 0, 0, 1, 1]
    """
    if processes == 1:
        return [0] * len(lengths)
    shares = _Shares(lengths, owners, processes)
    shares.even_out_counts()
    shares.even_out_tokens()
    trained_by = [0] * len(lengths)
    for process, held in enumerate(shares.held):
        for _, index in held:
            trained_by[index] = process
    return trained_by


class _Shares:
    """What each process has: ``(tokens, index)`` of its examples, the shortest first."""

    def __init__(self, lengths: Sequence[int], owners: Sequence[int], processes: int) -> None:
        self.held: list[list[tuple[int, int]]] = [[] for _ in range(processes)]
        for index, (length, owner) in enumerate(zip(lengths, owners, strict=True)):
            self.held[owner].append((int(length), index))
        for held in self.held:
            held.sort()
        self.load = [sum(length for length, _ in held) for held in self.held]
        self.longest = max(map(int, lengths), default=0)

    def even_out_counts(self) -> None:
        """Move the surplus, from where there are most tokens to where there are fewest."""
        processes = range(len(self.held))
        least, larger = divmod(sum(map(len, self.held)), len(self.held))
        # The remainder stays where most is held.
        fullest = sorted(processes, key=lambda process: -len(self.held[process]))
        quota = [least] * len(self.held)
        for process in fullest[:larger]:
            quota[process] += 1
        givers = [(-self.load[p], p) for p in processes if len(self.held[p]) > quota[p]]
        takers = [(self.load[p], p) for p in processes if len(self.held[p]) < quota[p]]
        heapify(givers)
        heapify(takers)
        while givers:
            (_, giver), (_, taker) = heappop(givers), heappop(takers)
            wanted = (self.load[giver] - self.load[taker]) / 2
            self._move(giver, _nearest(self.held[giver], wanted), taker)
            if len(self.held[giver]) > quota[giver]:
                heappush(givers, (-self.load[giver], giver))
            if len(self.held[taker]) < quota[taker]:
                heappush(takers, (self.load[taker], taker))

    def even_out_tokens(self) -> None:
        """Swap between the process with the most tokens and that with the fewest."""
        # Each swap brings the sum of squared loads down, so that this ends.
        tolerance = min(self.longest, _UNEVEN * sum(self.load) / len(self.load))
        by_load = sorted((load, process) for process, load in enumerate(self.load))
        while by_load[-1][0] - by_load[0][0] > tolerance:
            most, fewest = by_load[-1][1], by_load[0][1]
            swap = self._best_swap(most, fewest, self.load[most] - self.load[fewest])
            if swap is None:
                return
            self._move(most, swap[0], fewest)
            self._move(fewest, swap[1], most)
            del by_load[-1], by_load[0]
            for process in (most, fewest):
                insort(by_load, (self.load[process], process))

    def _best_swap(
        self, most: int, fewest: int, gap: int
    ) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """The pair whose swap brings two loads closest; ``None`` where none brings them closer.

        There is one wherever the gap is larger than the longest example: without its longest, the
        one with more has no more examples than the other and still more tokens, so that one of
        them is longer than its counterpart, by less than the gap.
        """
        if not self.held[fewest]:
            return None
        pairs = []
        for given in self.held[most]:
            taken = _nearest(self.held[fewest], given[0] - gap / 2)
            if 0 < given[0] - taken[0] < gap:
                pairs.append((abs(given[0] - taken[0] - gap / 2), given, taken))
        return min(pairs)[1:] if pairs else None

    def _move(self, giver: int, example: tuple[int, int], taker: int) -> None:
        self.held[giver].remove(example)
        insort(self.held[taker], example)
        self.load[giver] -= example[0]
        self.load[taker] += example[0]


def _nearest(held: list[tuple[int, int]], length: float) -> tuple[int, int]:
    """Return the example whose length is nearest to ``length``."""
    place = bisect_left(held, length, key=lambda example: example[0])
    return min(held[max(0, place - 1) : place + 1], key=lambda example: abs(example[0] - length))
