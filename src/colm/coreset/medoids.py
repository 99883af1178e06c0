"""Medoids of each source: how CoLM chooses among the candidates of large sources.

Steps 5 to 7 of the method as one function of tensors: sparsify the features of each source, append
the prompt's hidden state where sources are not known (SSM v1), compare examples, give each source
its share of the budget, and let facility location choose. Symbols: n candidates, d feature size, h
kept dimensions, e hidden size, b the budget.

Three conventions are those of the selections published with CoLM, so that theirs come out in the
same order: sources come by ascending number, each with its own C in C - distance; kept dimensions
come by descending score (which decides how float32 sums round); and of tied examples the last is
picked. Ties are no rarity: of two mutual nearest neighbours that stand for nobody else, either adds
the same. With a tolerance for ties the first of them is picked instead, and ties are seen through
rounding: distances are computed in float64, and what their inputs' rounding may move is a tie.
"""

import math

import torch
from torch import Tensor

from colm.coreset.facility_location import FacilityLocation, facility_location
from colm.coreset.features import sparsify
from colm.coreset.mixture import allocate
from colm.coreset.similarity import pairwise_distances, similarity, sizes


def source_medoids(
    normalised: Tensor,
    sources: Tensor,
    budget: int,
    *,
    distance: str = "l1",
    allocation: str = "proportional",
    kept_dimensions: int | None = None,
    criterion: str = "gradient",
    weight: Tensor | None = None,
    gradients: Tensor | None = None,
    generator: torch.Generator | None = None,
    prompt: Tensor | None = None,
    tie_tolerance: float | None = None,
) -> FacilityLocation:
    """Choose the medoids of each source among its candidates.

    Costs O(n^2 h) for distances, O(n d) for everything else.  Paper: CoLM v3.

    Args:
        normalised: ``[n, d]`` finite features, normalised for Adam where Adam trains.
        sources: ``[n]`` integer source of each candidate.
        budget: ``0 <= budget <= n`` candidates to choose.
        distance: ``l1``, ``l2`` or ``cosine``, between examples of one source.
        allocation: how sources share the budget: ``proportional`` to their candidates,
            ``balanced``, or ``none`` for all sources together, which then also share C and the
            kept dimensions.
        kept_dimensions: h, dimensions kept for each source; all where ``None``.
        criterion: which those are, as in `sparsify`.
        weight: ``[d]`` weight that the features belong to, for the criteria that need it.
        gradients: ``[n, d]`` features before normalization, for ``weight_gradient``.
        generator: for the criterion ``random``.
        prompt: ``[n, e]`` hidden state of each candidate's prompt, appended to its features as
            `with_prompt` does; not appended where ``None``.
        tie_tolerance: relative error of the features that ties are to be seen through; of those
            tied the first is picked. ``None``: exact ties alone, and the last of them.

    Returns:
        Candidates by source and then in the order picked, their gains, and their cluster sizes
        within their source.

    Raises:
        ValueError: the budget is out of range, or an option is unknown or lacks its input.

    Example:
        >>> features = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
        >>> source_medoids(features, torch.tensor([0, 0, 0, 1, 1, 1]), 2).indices
        tensor([1, 4])
    """
    n = len(normalised)
    if not 0 <= budget <= n:
        raise ValueError(f"budget must be between 0 and the number of examples, {n}; got {budget}.")
    groups = _groups(sources.to(normalised.device), allocation)
    shares = allocate([len(rows) for rows in groups], budget, allocation)
    parts = []
    for rows, share in zip(groups, shares, strict=True):
        if share == 0:
            continue
        features = normalised[rows]
        if kept_dimensions is not None:
            kept = sparsify(
                features,
                kept_dimensions,
                criterion,
                weight=weight,
                gradients=None if gradients is None else gradients[rows],
                generator=generator,
                tie_tolerance=tie_tolerance or 0.0,
            )
            features = features[:, kept]
        if prompt is not None:
            features = with_prompt(features, prompt[rows], distance)
        medoids = medoids_of(features, share, distance, tie_tolerance)
        parts.append(medoids._replace(indices=rows[medoids.indices]))
    return _joined(parts, normalised)


def _groups(sources: Tensor, allocation: str) -> list[Tensor]:
    """Return the rows of each source, by ascending number, or all rows where sources are pooled."""
    if allocation == "none":
        return [torch.arange(len(sources), device=sources.device)]
    # Sorted once: a search for each source would cost n times their number.
    rows = sources.argsort(stable=True)
    sizes = sources.unique(return_counts=True)[1].tolist()
    return list(rows.split(sizes))


def medoids_of(
    features: Tensor, budget: int, distance: str, tie_tolerance: float | None
) -> FacilityLocation:
    """Choose the medoids of all rows together; arguments as those of `source_medoids`.

    Args:
        features: ``[n, d]``.
        budget: ``1 <= budget <= n``.
        distance: ``l1``, ``l2`` or ``cosine``.
        tie_tolerance: relative error of the features, or ``None``.
    """
    if tie_tolerance is None:
        from_the_end = facility_location(similarity(features, distance).flip(0, 1), budget)
        return from_the_end._replace(indices=len(features) - 1 - from_the_end.indices)
    # Apple's accelerator has no float64.
    device = "cpu" if features.device.type == "mps" else features.device
    exact = features.to(device, torch.float64)
    # A relative error of the rows moves a distance by that share of their size, and a gain sums n.
    error = tie_tolerance * float(sizes(exact, distance).mean()) * math.sqrt(len(features))
    medoids = facility_location(similarity(exact, distance), budget, tie_tolerance=error)
    return FacilityLocation(*(field.to(features.device) for field in medoids))


def _joined(parts: list[FacilityLocation], like: Tensor) -> FacilityLocation:
    """Concatenate what was chosen source by source."""
    nothing = like.new_empty(0, dtype=torch.promote_types(like.dtype, torch.float32))
    parts = [FacilityLocation(nothing.long(), nothing, nothing), *parts]
    return FacilityLocation(*(torch.cat(fields) for fields in zip(*parts, strict=True)))


def with_prompt(features: Tensor, prompt: Tensor, metric: str = "l1") -> Tensor:
    """Return the features with the prompt's hidden state appended, scaled to the same mean size.

    For ``l1`` and ``l2`` the mean size is the mean distance between two examples, so that a
    direction that all hidden states share counts for nothing; for ``cosine``, which knows no scale,
    the mean Euclidean norm. A part without any size is appended as it is. Costs O(n^2 (h + e)).
    Paper: SSM v1, which leaves the scale open.

    Args:
        features: ``[n, h]``.
        prompt: ``[n, e]``.
        metric: ``l1``, ``l2`` or ``cosine``.

    Returns:
        ``[n, h + e]``.

    Raises:
        ValueError: the metric is unknown, or not as many prompts as features.

    Example:
        >>> with_prompt(torch.tensor([[0.0], [6.0]]), torch.tensor([[10.0], [13.0]]))
        tensor([[ 0., 20.],
                [ 6., 26.]])
    """
    if len(features) != len(prompt):
        raise ValueError(f"{len(prompt)} prompts were passed for {len(features)} examples.")
    prompt = prompt.to(features.device, features.dtype)
    size, prompt_size = _mean_size(features, metric), _mean_size(prompt, metric)
    scale = size / prompt_size if size > 0 and prompt_size > 0 else 1.0
    return torch.cat([features, scale * prompt], dim=1)


def _mean_size(rows: Tensor, metric: str) -> float:
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    if metric == "cosine":
        return float(rows.norm(dim=1).mean())
    return float(pairwise_distances(rows, metric).mean())
