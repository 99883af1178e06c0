"""What a run is called, and the papers that are to be cited for it.

A run is called by what it did, not by the library that did it: plain fine-tuning where nothing was
selected, a paper's method where that chose; and draws, stored losses, averages, random subspaces, a
side block, a pruned vocabulary or an optimiser of colm's own where there were any. A selector that
is this library's own, or one of its user's, has no paper to cite; those that it rests on are named
in the card.
"""

from typing import Any

from colm.coreset.registry import get_selector
from colm.training.citations import (
    OF_CHOICES,
    OF_DIRECTIONS,
    OF_METHODS,
    OF_OPTIMIZERS,
    OF_SELECTORS,
    OF_SUBSPACES,
    PEMA,
    RSO,
    SHERL,
    Origin,
    Paper,
)
from colm.training.low_rank_training import LOW_RANK_ADAM
from colm.training.optimizers import ZEROTH_ORDER, read_optim_args

PLAIN = "SFT"


def selects(args: Any) -> bool:
    """Return whether a run trains on less than it draws.

    Args:
        args: its options, settled.

    Example:
        >>> from types import SimpleNamespace
        >>> selects(SimpleNamespace(candidate_ratio=2, selector="none"))
        False
    """
    return bool(args.candidate_ratio > 1) and not get_selector(args.selector).keeps_all


def name_of_method(args: Any) -> str:
    """Return what a run is called.

    Args:
        args: its options, settled.

    Returns:
        Words that a sentence can have after "trained with".

    Example:
        >>> from types import SimpleNamespace
        >>> options = SimpleNamespace(candidate_ratio=2, selector="random", optim="lamb")
        >>> options.subspace_rank = options.side_block = options.optim_args = None
        >>> options.prune_vocabulary, options.candidate_sampling = False, "unimax"
        >>> options.stored_losses, options.loss_average = None, "token"
        >>> name_of_method(options)
        'SFT on mini-batches chosen by random with UniMax draws and LAMB'
    """
    name = PLAIN
    if selects(args):
        chosen = f"{PLAIN} on mini-batches chosen by {args.selector}"
        name = OF_METHODS[args.selector][0] if args.selector in OF_METHODS else chosen
    if choices := [words for words, _ in _choices(args)]:
        name += f" with {' and '.join(choices)}"
    if args.subspace_rank is not None:
        name += " in random subspaces (RSO)"
    if args.side_block is not None:
        name += " of a side block (SHERL)"
    if args.prune_vocabulary:
        name += " with a pruned vocabulary (PEMA)"
    optimizer = _optimizer(args)
    return name if optimizer is None else f"{name} and {optimizer[0]}"


def papers_of(args: Any) -> list[Paper]:
    """Return the papers whose methods a run followed.

    Args:
        args: its options, settled.

    Returns:
        None, one, or several.
    """
    found = []
    if selects(args) and args.selector in OF_METHODS:
        found.append(OF_METHODS[args.selector][1])
    found += [paper for _, paper in _choices(args)]
    if args.subspace_rank is not None:
        found.append(RSO)
    if args.side_block is not None:
        found.append(SHERL)
    if args.prune_vocabulary:
        found.append(PEMA)
    optimizer = _optimizer(args)
    return found if optimizer is None else [*found, optimizer[1]]


def _choices(args: Any) -> list[tuple[str, Paper]]:
    """What draws, stored losses and averages are called, and their papers.

    A selector's own draws are a part of its method, which has a name.
    """
    own = get_selector(args.selector).defaults.get("candidate_sampling") if selects(args) else None
    return [
        choice
        for (option, value), choice in OF_CHOICES.items()
        if getattr(args, option) == value and value != own
    ]


def _optimizer(args: Any) -> tuple[str, Paper] | None:
    """What an optimiser of colm's own is called, and its paper; ``None`` for any other."""
    if args.optim == LOW_RANK_ADAM:
        subspace = read_optim_args(args.optim, args.optim_args)["subspace"]
        return "low-rank Adam", OF_SUBSPACES[subspace]
    if args.optim == ZEROTH_ORDER:
        name, paper = OF_DIRECTIONS[read_optim_args(args.optim, args.optim_args)["direction"]]
        return f"zeroth order ({name})", paper
    return OF_OPTIMIZERS.get(args.optim)


def source_of_selector(name: str) -> Origin | None:
    """Return what a selector goes back to that is no paper's method itself.

    Args:
        name: of the selector.

    Returns:
        ``None`` where that is nothing, or where the selector is the paper's method.
    """
    return OF_SELECTORS.get(name)


def as_trl_cites(papers: list[Paper]) -> dict[str, str]:
    """Return papers as TRL's model card takes them.

    Args:
        papers: those that a run followed.

    Returns:
        Citations of all; a title and number only of one alone, for the card's sentence says that it
        introduced the whole.
    """
    if not papers:
        return {}
    citation = {"citation": "\n\n".join(paper.citation for paper in papers)}
    if len(papers) > 1:
        return citation
    number = papers[0].arxiv.partition("v")[0]  # the hub's pages have no versions
    return citation | {"title": papers[0].title, "id": number}
