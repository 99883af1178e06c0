"""Baselines: what the papers and the field compare coresets with, as functions of candidates.

Each goes by one number of a candidate, or by none. Where that number is computed from a forward
pass, what rounding may move is a tie, which goes to the first candidate. Symbols: n candidates, e
hidden size.
"""

import torch
from torch import Tensor

from colm.coreset.candidates import Candidates, Choice
from colm.coreset.medoids import medoids_of
from colm.coreset.similarity import sizes
from colm.gradients.ties import largest


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
    """Keep the gradients of largest Euclidean norm, before any normalisation for Adam.

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
