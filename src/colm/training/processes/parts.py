"""Large selections in parts: what compares every candidate with every other, for n of any size.

Medoids and matching cost O(n^2) memory, and gradient matching solves r systems of up to r
equations. Above a number of candidates they are divided at random into parts; each part keeps its
share of the budget, on its own and on one process, and what is kept of all parts is kept. Part by
part the same is matched as before: the mean of each, and so the mean of all. Which candidates share
a part follows from their keys alone, never from the processes.

Symbols: n candidates, r kept, w processes.
"""

from dataclasses import replace
from itertools import pairwise

import torch

from colm.coreset.candidates import Candidates, Choice, Choose
from colm.coreset.mixture import allocate
from colm.coreset.registry import Selector
from colm.training.processes.exchange import Exchange


def in_parts(selector: Selector, exchange: Exchange) -> Selector:
    """Return a selector that divides many candidates among processes; of few it chooses as before.

    Args:
        selector: as registered.
        exchange: the processes, all of which will choose among the same candidates.
    """
    most = selector.most_together
    if most is None:
        return selector

    def choose(candidates: Candidates, budget: int, generator: torch.Generator) -> Choice:
        if len(candidates) <= most:
            choice = selector.choose(candidates, budget, generator)
            return choice if isinstance(choice, Choice) else Choice(choice)
        return _choose_in_parts(selector.choose, candidates, budget, generator, most, exchange)

    return replace(selector, choose=choose)


def _choose_in_parts(
    choose: Choose,
    candidates: Candidates,
    budget: int,
    generator: torch.Generator,
    most: int,
    exchange: Exchange,
) -> Choice:
    """Let each process choose in its parts, and tell all; part by part in the order picked."""
    # Candidates stand in the order of their keys, which are hashes: each run of them is a random
    # part, and examples that are the same share one.
    number = -(-len(candidates) // most)
    bounds = [len(candidates) * part // number for part in range(number + 1)]
    budgets = allocate([stop - start for start, stop in pairwise(bounds)], budget)
    seeds = torch.randint(2**62, (number,), generator=generator).tolist()
    kept = [torch.empty(0, 3, dtype=torch.float64)]
    for part in range(exchange.process_index, number, exchange.num_processes):
        if budgets[part] == 0:
            continue
        rows = torch.arange(bounds[part], bounds[part + 1])
        own = torch.Generator().manual_seed(seeds[part])
        choice = choose(candidates.take(rows), budgets[part], own)
        choice = choice if isinstance(choice, Choice) else Choice(choice)
        picked, counts = rows[choice.rows.cpu()].double(), choice.counts.cpu().double()
        kept.append(torch.stack([torch.full_like(picked, part), picked, counts], dim=1))
    parts, picked, counts = exchange.rows(torch.cat(kept)).cpu().unbind(1)
    order = parts.argsort(stable=True)
    return Choice(picked[order].long(), counts[order].float())
