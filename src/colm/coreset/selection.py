"""What one selection step keeps."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Selection:
    """What one step keeps.

    Attributes:
        indices: ``[k]`` int64 candidates to train on: those of small sources first, then the
            selected in pick order. k = r, unless too few candidates had finite features.
        weights: ``[k]`` how many candidates each stands for, itself included, the weight of its
            loss where losses are weighted: 1 for those kept whole, the size of its cluster within
            its source (among all selected from, where sources are pooled) for a medoid, and 1 for
            what a selector without clusters keeps. With medoids they sum to the finite candidates.
        kept_whole: how many were kept because their source is small.
        non_finite: ``[j]`` int64 candidates left out for NaN or infinite features.
        matching_error: distance of the selected features' mean from that of all they were selected
            from, over its expectation for a random choice of as many: 1 is random, 0 is perfect;
            NaN where nothing was selected by features.
    """

    indices: Tensor
    weights: Tensor
    kept_whole: int
    non_finite: Tensor
    matching_error: float


def keep_whole(rows: Tensor, *, because_small: bool) -> Selection:
    """Return a selection of all of ``rows``, which were not compared with any other."""
    number = len(rows) if because_small else 0
    return Selection(rows, torch.ones(len(rows)), number, torch.arange(0), math.nan)
