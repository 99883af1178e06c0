"""The Gram-Schmidt walk: from probabilities to a random subset whose sum is near what is expected.

With pi_i the probability that row i is kept and x_i a vector of each, it moves the probability of
one row up or down, by chance, and those of the others so that sum_i pi_i x_i moves least, until
each is 0 or 1 (Bansal et al. 2018; as a design Harshaw et al. 2024). Up or down is drawn so that
each probability stays what it is on average. Here sum_i pi_i stays what it is as well, as in the
cube method (Deville and Tille 2004), so that exactly as many rows are kept.
"""

import torch
from torch import Tensor

from colm.checks import check_budget, check_generator, check_matrix, check_not_negative
from colm.coreset.gram import centered_gram, shares_of

# Probabilities as close as this to 0 or 1 are that.
_ROUNDING = 1e-5
# Downdated inverses lose digits: they are computed anew after as many of their rows are gone.
_DOWNDATES = 128


def around_mean(
    features: Tensor,
    budget: int,
    target: Tensor | None,
    noise: float,
    generator: torch.Generator,
) -> tuple[int, Tensor, Tensor]:
    """Check the arguments of a draw around the mean of all rows, and compute what the draw goes by.

    Args:
        features: ``[n, d]`` finite, one row an example.
        budget: ``1 <= budget <= n`` examples.
        target: ``[n]`` positive, what each counts for in the mean; all the same where ``None``.
        noise: of `walk`.
        generator: on the CPU.

    Returns:
        The budget; ``[n]`` what each counts for, sum 1; ``[n, n]`` inner products of the rows less
        their mean.

    Raises:
        ValueError: features are not a finite matrix, or a number is out of range.
    """
    check_matrix("features", features)
    budget = check_budget(budget, len(features))
    check_not_negative("noise", noise)
    check_generator("generator", generator)
    shares = shares_of(target, len(features))
    return budget, shares, centered_gram(features, shares)


def distance_from_mean(gram: Tensor, kept: Tensor, weights: Tensor) -> float:
    """Return the l2 distance of the weighted mean of kept rows from the mean of all.

    Args:
        gram: ``[n, n]`` inner products of rows less their mean.
        kept: ``[r]`` rows.
        weights: ``[r]`` of each, sum 1.
    """
    return float((weights @ gram[kept][:, kept] @ weights).clamp(min=0).sqrt())


def walk(gram: Tensor, probabilities: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Draw rows, each with its probability, so that the sum of vectors is near its mean.

    Costs O(n^3).

    Args:
        gram: ``[n, n]`` float64 on the CPU, inner products of the vectors x_i.
        probabilities: ``[n]`` float64 within 0 and 1, of a whole sum.
        noise: squared norm of what the vectors do not tell of a row, relative to what they do.
        generator: on the CPU.

    Returns:
        ``[sum of probabilities]`` int64 rows, ascending.

    Example:
        >>> pairs = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], dtype=torch.float64)
        >>> half = torch.full((4,), 0.5, dtype=torch.float64)
        >>> kept = walk(pairs @ pairs.T, half, 0.0, torch.Generator().manual_seed(0))
        >>> pairs[kept].sum()
        tensor(0., dtype=torch.float64)
    """
    probabilities = _settled(probabilities)
    scale = float(gram.diagonal().mean())
    norms = _Norms(gram / scale if scale else gram, noise)
    norms.keep((probabilities > 0) & (probabilities < 1))
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
        now = _settled((now + step * direction).clamp(0, 1))
        probabilities[norms.rows] = now
        norms.keep((now > 0) & (now < 1))
    # The sum is whole, so that one left by itself is within rounding of 0 or 1.
    return (probabilities > 0.5).nonzero().flatten()


def _settled(probabilities: Tensor) -> Tensor:
    """A copy in which what is next to 0 or 1 is that."""
    settled = torch.where(probabilities < _ROUNDING, 0, probabilities)
    return torch.where(settled > 1 - _ROUNDING, 1, settled)


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
