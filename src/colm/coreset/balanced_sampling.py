"""Balanced sampling: a random subset whose mean gradient is close to that of all.

Every candidate is kept with the same probability, r / n. So what is kept is right on average, in
every direction, whether features see it or not; a choice by features alone leaves the same things
out at every step. Within that, sums over the kept stay close to sums over all: of two candidates
alike in their features, one is kept.

It is the Gram-Schmidt walk (Bansal et al. 2018; as a design Harshaw et al. 2024) from the
probabilities to a subset. With g_i the features of n candidates, p_i what each counts for in the
training loss (sum 1), g = sum_i p_i g_i and x_i = n p_i (g_i - g), it moves the probability of one
candidate up or down, by chance, and those of the others so that sum_i pi_i x_i moves least, until
each is 0 or 1. Here sum_i pi_i stays what it is as well, as in the cube method (Deville and Tille
2004), so that exactly r are kept.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from colm.coreset.checks import (
    check_budget,
    check_generator,
    check_matrix,
    check_not_negative,
)
from colm.coreset.gram import centred_gram, shares_of

NOISE = 0.1
# Probabilities as close as this to 0 or 1 are that.
_ROUNDING = 1e-5
# Downdated inverses lose digits: they are computed anew after as many of their rows are gone.
_DOWNDATES = 128


class BalancedSample(NamedTuple):
    """What balanced sampling drew.

    Attributes:
        indices: ``[budget]`` int64 rows, ascending.
        error: l2 distance of their mean from the mean of all rows, means weighted by ``target``.
    """

    indices: Tensor
    error: float


@torch.no_grad()
def balanced_sampling(
    features: Tensor,
    budget: int,
    *,
    generator: torch.Generator,
    target: Tensor | None = None,
    noise: float = NOISE,
) -> BalancedSample:
    """Draw examples, each with probability r / n, whose mean is close to the mean of all.

    Computed in float64. Costs O(n^2 d) for the Gram matrix and O(n^3) for the walk.

    Args:
        features: ``[n, d]`` finite, one row an example.
        budget: ``1 <= budget <= n`` examples.
        generator: on the CPU; with the features it decides what is drawn.
        target: ``[n]`` positive, what each example counts for in the mean to be matched, such as
            its label tokens where the loss averages over those; all the same where ``None``.
        noise: squared norm of what the features do not see of a gradient, relative to what they
            do; the larger, the closer to a plain random draw.

    Returns:
        The rows, and the error left.

    Raises:
        ValueError: features are not a finite matrix, or a number is out of range.

    Example:
        >>> rows = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
        >>> drawn = balanced_sampling(rows, 2, generator=torch.Generator().manual_seed(0))
        >>> rows[drawn.indices].sum(0), round(drawn.error, 6)
        (tensor([1., 1.]), 0.0)
    """
    check_matrix("features", features)
    budget = check_budget(budget, len(features))
    check_not_negative("noise", noise)
    check_generator("generator", generator)
    shares = shares_of(target, len(features))
    gram = centred_gram(features, shares)
    scales = shares * len(shares)
    kept = _walk(gram * scales * scales[:, None], budget, noise, generator)
    weights = shares[kept] / shares[kept].sum()
    error = (weights @ gram[kept][:, kept] @ weights).clamp(min=0).sqrt()
    return BalancedSample(kept.to(features.device), float(error))


def _walk(gram: Tensor, budget: int, noise: float, generator: torch.Generator) -> Tensor:
    """Return ``[budget]`` rows, ascending, of those whose inner products are ``gram [n, n]``."""
    n = len(gram)
    probabilities = torch.full((n,), budget / n, dtype=torch.float64)
    scale = float(gram.diagonal().mean())
    norms = _Norms(gram / scale if scale else gram, noise)
    pivot = -1
    while len(norms.rows) > 1:
        if pivot not in norms.rows:
            place = int(torch.randint(len(norms.rows), (1,), generator=generator))
            pivot = int(norms.rows[place])
        direction = norms.least(pivot)
        now = probabilities[norms.rows]
        up, down = _room(now, direction), _room(now, -direction)
        chance = torch.rand((), generator=generator, dtype=torch.float64)
        # The mean of both ends is where it stands: probabilities stay what they are on average.
        step = up if chance * (up + down) < down else -down
        now = (now + step * direction).clamp(0, 1)
        now[now < _ROUNDING], now[now > 1 - _ROUNDING] = 0, 1
        probabilities[norms.rows] = now
        norms.keep((now > 0) & (now < 1))
    # The sum is whole, so that one left by itself is within rounding of 0 or 1.
    return (probabilities > 0.5).nonzero().flatten()


def _room(probabilities: Tensor, direction: Tensor) -> Tensor:
    """How far probabilities can go in a direction before the first is 0 or 1."""
    bound = (direction > 0).double()
    room = torch.where(direction == 0, torch.inf, (bound - probabilities) / direction)
    return room.min()


class _Norms:
    """``u' Q u`` of changes u of the probabilities of the rows still undecided."""

    def __init__(self, gram: Tensor, noise: float) -> None:
        # What features do not see of a row moves the sum as well. Rows of zeros, or repeated ones
        # without noise, must not make the equations singular.
        unseen = noise * gram.diagonal() + 1e-7
        self.quadratic = gram + torch.diag(unseen)
        self.rows = torch.arange(len(gram))
        self.inverse = torch.linalg.inv(self.quadratic)
        self._since_inverted = 0

    def least(self, pivot: int) -> Tensor:
        """The change of least norm that moves ``pivot`` by 1 and the sum of all by 0."""
        at = int((self.rows == pivot).nonzero())
        of_pivot, of_all = self.inverse[:, at], self.inverse.sum(1)
        # Stationary with two multipliers: u = inverse @ (a e_pivot + b 1).
        b = -of_pivot.sum() / of_all.sum()
        change: Tensor = of_pivot + b * of_all
        change = change / change[at]
        # Rounding must not add up over many changes.
        change[at] -= change.sum()
        return change

    def keep(self, undecided: Tensor) -> None:
        """Go on with these of the rows, ``[rows]`` bool."""
        for place in (~undecided).nonzero().flatten().flip(0).tolist():
            rest = torch.arange(len(self.rows)) != place
            column = self.inverse[rest, place]
            pivot = self.inverse[place, place]
            self.inverse = self.inverse[rest][:, rest] - torch.outer(column, column) / pivot
            self.rows = self.rows[rest]
            self._since_inverted += 1
        if self._since_inverted > _DOWNDATES:
            self.inverse = torch.linalg.inv(self.quadratic[self.rows][:, self.rows])
            self._since_inverted = 0
