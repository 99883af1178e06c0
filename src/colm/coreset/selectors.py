"""The selectors as functions of candidates: the papers', this library's own, and baselines.

Baselines, what the papers and the field compare coresets with, go by one number of a candidate, or
by none. Where that number is computed from a forward pass, what rounding may move is a tie, which
goes to the first candidate. Symbols: n candidates, e hidden size.
"""

import torch
from torch import Tensor

from colm.coreset.balanced_sampling import balanced_sampling
from colm.coreset.candidates import Candidates, Choice
from colm.coreset.features import largest
from colm.coreset.gradient_matching import gradient_matching
from colm.coreset.importance_sampling import importance_sampling
from colm.coreset.mean_matching import mean_matching
from colm.coreset.medoids import medoids_of, source_medoids
from colm.coreset.similarity import sizes


def medoids_of_sources(candidates: Candidates, budget: int, generator: torch.Generator) -> Choice:
    """Keep the medoids of the sparsified features, with their cluster sizes.

    Source by source, or among all candidates together (``allocation="none"``). With
    ``prompt_features`` the prompt's hidden state is part of the features.  Paper: CoLM v3,
    section 4, source by source, small sources kept whole, features normalised for Adam; SSM v1,
    Alg. 1, all together and without the rest.
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


def random_subset(candidates: Candidates, budget: int, generator: torch.Generator) -> Tensor:
    """Keep a uniform random subset: plain training on mini-batches of r.

    With small sources kept whole it is the control that shows what that rule does by itself.
    """
    return torch.randperm(len(candidates), generator=generator)[:budget]


def everything(candidates: Candidates, _budget: int, _generator: torch.Generator) -> Tensor:
    """Keep every candidate: plain training on mini-batches of n, with the memory that takes."""
    return torch.arange(len(candidates))


def top_loss(candidates: Candidates, budget: int, _generator: torch.Generator) -> Tensor:
    """Keep the largest losses.

    Paper: Kawaguchi and Lu 2020, "Ordered SGD"; Sahayam et al. 2023, "Can we learn better with
    hard samples?".
    """
    losses = _known(candidates.losses)
    return largest(losses, budget, _rounding(losses, candidates))


def selective_backprop(candidates: Candidates, budget: int, generator: torch.Generator) -> Tensor:
    """Draw candidates with probability proportional to a power of their loss's percentile.

    Paper: Jiang et al. 2019, "Accelerating Deep Learning by Focusing on the Biggest Losers": each
    example is kept with probability percentile^beta.  Deviates: percentiles are taken among the
    candidates of the step, not among recent losses, so that there is nothing to carry over; and as
    exactly ``budget`` are to be kept, that many are drawn one after the other without replacement,
    with the beta that keeps so many on average, n / budget - 1: the paper's 1 for a half, 2 for a
    third.
    """
    losses = _known(candidates.losses)
    no_larger = losses <= losses[:, None] + _rounding(losses, candidates)
    percentile = no_larger.double().mean(1).cpu()
    beta = len(candidates) / budget - 1
    drawn = torch.rand(len(candidates), generator=generator, dtype=torch.float64)
    # The largest of logarithms of weights with Gumbel noise are such a draw.
    noise = -drawn.clamp(min=torch.finfo(drawn.dtype).tiny).log().neg().log()
    return largest(beta * percentile.log() + noise, budget)


def longest(candidates: Candidates, budget: int, _generator: torch.Generator) -> Tensor:
    """Keep those with the most label tokens; no forward is spent.

    Paper: Zhao et al. 2024, "Long Is More for Alignment".

    Raises:
        ValueError: label tokens are not known.
    """
    if candidates.label_tokens is None:
        raise ValueError("selector 'longest' needs label_tokens of candidates.")
    return largest(candidates.label_tokens, budget)


def middle_perplexity(candidates: Candidates, budget: int, _generator: torch.Generator) -> Tensor:
    """Keep the losses closest to the median: neither learned already nor noise.

    Perplexity is the exponential of the mean loss, so that both have the same median.  Paper:
    Marion et al. 2023, "When Less is More: Investigating Data Pruning for Pretraining LLMs at
    Scale".
    """
    losses = _known(candidates.losses)
    from_median = (losses - losses.quantile(0.5)).abs()
    return largest(-from_median, budget, _rounding(losses, candidates))


def gradient_norm(candidates: Candidates, budget: int, _generator: torch.Generator) -> Tensor:
    """Keep the gradients of largest Euclidean norm, before any normalization for Adam.

    Paper: Katharopoulos and Fleuret 2018, "Not All Samples Are Created Equal", which samples by it.
    """
    norms = _known(sizes(_known(candidates.gradients), "l2"))
    return largest(norms, budget, _rounding(norms, candidates))


def hidden_facility_location(
    candidates: Candidates, budget: int, _generator: torch.Generator
) -> Choice:
    """Keep the medoids of the mean hidden states by cosine, all sources together.

    Paper: Bhatt et al. 2024, "An Experimental Design Framework for Label-Efficient Supervised
    Finetuning of Large Language Models", which selects once, before training.
    """
    hidden = _known(candidates.hidden)
    medoids = medoids_of(hidden, budget, "cosine", candidates.options.tie_tolerance)
    return Choice(medoids.indices, medoids.weights)


def _known(values: Tensor | None) -> Tensor:
    """What the selector needs has been observed; float32 or wider."""
    assert values is not None
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _rounding(values: Tensor, candidates: Candidates) -> float:
    """By how much ``values [n]`` may be off."""
    return (candidates.options.tie_tolerance or 0.0) * float(values.abs().max())
