"""Which dimensions of the gradient features to keep.

Most coordinates of a gradient are noise, and distances in many dimensions tell little apart: each
source keeps the few that matter most to it. Numbers closer than rounding count as equal, or
rounding would decide what is kept; position decides instead. Symbols: n examples of one source, d
feature size, h kept dimensions.
"""

import torch
from torch import Tensor

CRITERIA = ("gradient", "weight", "weight_gradient", "random")
#: Those that go by the weight behind the features.
WEIGHT_CRITERIA = ("weight", "weight_gradient")


def sparsify(
    normalised: Tensor,
    kept_dimensions: int,
    criterion: str = "gradient",
    *,
    weight: Tensor | None = None,
    gradients: Tensor | None = None,
    generator: torch.Generator | None = None,
    tie_tolerance: float = 0.0,
) -> Tensor:
    """Return the dimensions to keep for the examples of one source.

    Costs O(nd).  Paper: SSM v1; Table 3 compares the criteria but ``random``, Table 4 values of h.
    Deviates: one set for all n, by their mean; SSM's Alg. 1 takes the largest of each example,
    which are the same for all where the features are multiples of one direction, as there.

    Args:
        normalised: ``[n, d]`` features u_i, n >= 1.
        kept_dimensions: h >= 1; all d are kept where there are no more.
        criterion: what h coordinates must have the most of: ``gradient`` abs(mean_i u_i),
            ``weight`` abs(w), ``weight_gradient`` abs(w mean_i g_i); or ``random`` ones.
        weight: ``[d]`` w, the weight that the features are gradients of.
        gradients: ``[n, d]`` g_i, the features before normalization.
        generator: for ``random``.
        tie_tolerance: scores that differ by no more than this share of the largest are tied, and
            the first dimensions are kept of those tied with the last one kept.

    Returns:
        ``[min(h, d)]`` int64 dimensions, the highest score first.

    Raises:
        ValueError: the criterion is unknown or lacks its input, or h is below 1.

    Example:
        >>> sparsify(torch.tensor([[1.0, -9.0, 4.0], [1.0, 9.0, 4.0]]), 2)
        tensor([2, 0])
    """
    if criterion not in CRITERIA:
        raise ValueError(
            f"dimension_criterion must be one of {', '.join(CRITERIA)}; got {criterion!r}."
        )
    if kept_dimensions < 1:
        raise ValueError(f"kept_dimensions must be at least 1; got {kept_dimensions}.")
    d = normalised.shape[1]
    if criterion == "random":
        if generator is None:
            raise _lacks(criterion, "a generator")
        shuffled = torch.randperm(d, generator=generator, device=generator.device)
        return shuffled[:kept_dimensions].to(normalised.device)
    score = _score(criterion, normalised, weight, gradients).abs()
    return largest(score, min(kept_dimensions, d), tie_tolerance * float(score.max()))


def _score(
    criterion: str, normalised: Tensor, weight: Tensor | None, gradients: Tensor | None
) -> Tensor:
    """Return ``[d]`` what the criterion takes the absolute value of."""
    if criterion == "gradient":
        return normalised.mean(0)
    if weight is None or weight.numel() != normalised.shape[1]:
        raise _lacks(criterion, f"a weight of {normalised.shape[1]} entries")
    weight = weight.detach().flatten().to(normalised.device)
    if criterion == "weight":
        return weight
    if gradients is None:
        raise _lacks(criterion, "gradients")
    return weight * gradients.mean(0)


def _lacks(criterion: str, what: str) -> ValueError:
    return ValueError(f"dimension_criterion={criterion!r} needs {what}.")


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
