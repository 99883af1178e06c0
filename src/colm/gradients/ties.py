"""The largest of some numbers, where those closer than rounding count as equal.

Numbers computed anew, in another order or another batch, come out a little different. What was tied
would then be decided by rounding: here it is decided by position instead.
"""

import torch
from torch import Tensor


def largest(scores: Tensor, count: int, tie_tolerance: float = 0.0) -> Tensor:
    """Return which ``count`` scores are largest; of those tied with the last of them, the first.

    Costs O(n + count log count).

    Args:
        scores: ``[n]`` finite.
        count: ``0 <= count <= n``.
        tie_tolerance: scores that differ from the last one kept by no more than this are tied with
            it.

    Returns:
        ``[count]`` int64, by descending score, the tied ones after them in order of position.

    Example:
        >>> largest(torch.tensor([1.0, 3.0, 2.0, 2.00001]), 2)
        tensor([1, 3])
        >>> largest(torch.tensor([1.0, 3.0, 2.0, 2.00001]), 2, tie_tolerance=1e-4)
        tensor([1, 2])
    """
    if count == 0:
        return torch.arange(0, device=scores.device)
    last = scores.topk(count).values[-1]
    above = (scores > last + tie_tolerance).nonzero().flatten()
    above = above[scores[above].argsort(descending=True, stable=True)]
    # Infinity is tied with itself, though their difference is not a number.
    tied = ((scores == last) | ((scores - last).abs() <= tie_tolerance)).nonzero().flatten()
    return torch.cat([above, tied[: count - len(above)]])
