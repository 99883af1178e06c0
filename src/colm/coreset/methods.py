"""The selectors of the papers, and this library's own, as functions of candidates."""

import torch
from torch import Tensor

from colm.coreset.balanced_sampling import balanced_sampling
from colm.coreset.candidates import Candidates, Choice
from colm.coreset.gradient_matching import gradient_matching
from colm.coreset.importance_sampling import importance_sampling
from colm.coreset.mean_matching import mean_matching
from colm.coreset.medoids import source_medoids


def medoids_of_sources(candidates: Candidates, budget: int, generator: torch.Generator) -> Choice:
    """Keep the medoids of the sparsified features, source by source, with their cluster sizes.

    With ``prompt_features`` the prompt's hidden state is part of the features.  Paper: CoLM v3,
    section 4, where small sources are kept whole and features are normalised for Adam; SSM v1,
    Alg. 1, without either.
    """
    assert candidates.features is not None
    options = candidates.options
    medoids = source_medoids(
        candidates.features,
        candidates.sources,
        budget,
        distance=options.distance,
        allocation=options.allocation,
        kept_dimensions=options.kept_dimensions,
        criterion=options.dimension_criterion,
        weight=candidates.weight,
        gradients=candidates.gradients,
        generator=generator,
        prompt=candidates.prompt if options.prompt_features else None,
        tie_tolerance=options.tie_tolerance,
    )
    return Choice(medoids.indices, medoids.weights)


def matched_mean(candidates: Candidates, budget: int, _generator: torch.Generator) -> Tensor:
    """Keep the rows whose plain mean is closest to that of all candidates."""
    assert candidates.features is not None
    tolerance = candidates.options.tie_tolerance or 0.0
    return mean_matching(candidates.features, budget, tie_tolerance=tolerance).indices


def matched_gradient(candidates: Candidates, budget: int, _generator: torch.Generator) -> Choice:
    """Keep the rows, and weigh them, whose weighted mean is closest to the mean of all."""
    assert candidates.features is not None
    options = candidates.options
    chosen = gradient_matching(
        candidates.features,
        budget,
        target=candidates.target,
        tie_tolerance=options.tie_tolerance or 0.0,
    )
    return Choice(chosen.indices, chosen.weights)


def importance_sample(candidates: Candidates, budget: int, generator: torch.Generator) -> Choice:
    """Draw rows, large gradients more often, and weigh them by one over their probabilities."""
    assert candidates.features is not None
    drawn = importance_sampling(
        candidates.features, budget, target=candidates.target, generator=generator
    )
    return Choice(drawn.indices, drawn.weights)


def balanced_sample(candidates: Candidates, budget: int, generator: torch.Generator) -> Tensor:
    """Draw rows, all with the same probability, whose mean is close to the mean of all."""
    assert candidates.features is not None
    drawn = balanced_sampling(
        candidates.features, budget, target=candidates.target, generator=generator
    )
    return drawn.indices
