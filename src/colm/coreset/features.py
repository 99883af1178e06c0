"""What becomes of gradient features before they are compared: normalized, then sparsified.

Adam's view: with moments m and v after t updates, example i with gradient g_i, had it been trained
on alone, would have

    m_i = b1 m + (1 - b1) g_i,    v_i = b2 v + (1 - b2) g_i^2,
    u_i = (m_i / (1 - b1^(t+1))) / (sqrt(v_i / (1 - b2^(t+1))) + eps),

and u_i, its step, is its normalised feature. After selection m and v become the mean of m_i and v_i
over what was selected. These are not the optimiser's moments: the optimiser sees all that is
trained on, they only what the selector chose.

Most coordinates of a gradient are noise, and distances in many dimensions tell little apart: each
source keeps the few that matter most to it. Numbers closer than rounding count as equal, or
rounding would decide what is kept; position decides instead. Symbols: n candidates, or examples of
one source, k selected, d feature size, h kept dimensions.
"""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

CRITERIA = ("gradient", "weight", "weight_gradient", "random")
#: Those that go by the weight behind the features.
WEIGHT_CRITERIA = ("weight", "weight_gradient")


class AdamMoments:
    """First and second moments of the features of selected examples.

    ``normalize`` the candidates of a step, choose, then ``update`` with the chosen. With plain SGD
    features need no normalising: do without this class. Kept in float32, or in float64 once
    features are; it follows the features to their device.  Paper: CoLM v3.

    Args:
        size: d.
        beta1: decay of the mean of gradients.
        beta2: decay of the mean of their squares.
        eps: added to the root of the latter.

    Example:
        >>> moments = AdamMoments(2)
        >>> moments.normalize(torch.tensor([[0.5, -3.0], [0.0, 1.0]]))
        tensor([[ 1., -1.],
                [ 0.,  1.]])
        >>> moments.update(torch.tensor([[0.5, -3.0]]))
        >>> moments.step
        1
    """

    def __init__(
        self, size: int, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
    ) -> None:
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps
        self.step = 0
        self.exp_avg = torch.zeros(size)
        self.exp_avg_sq = torch.zeros(size)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> Self:
        """Return moments of the size and content that ``state_dict`` returned."""
        moments = cls(len(state["exp_avg"]))
        moments.load_state_dict(state)
        return moments

    @torch.no_grad()
    def normalize(self, gradients: Tensor) -> Tensor:
        """Return u_i of each candidate; nothing changes but where the moments are kept.

        Args:
            gradients: ``[n, d]``.

        Returns:
            ``[n, d]`` float32, or float64 where gradients or moments are.

        Raises:
            ValueError: gradients are not ``[n, d]``.
        """
        exp_avg, exp_avg_sq = self._after(gradients)
        exp_avg /= 1 - self.beta1 ** (self.step + 1)
        exp_avg_sq /= 1 - self.beta2 ** (self.step + 1)
        return exp_avg.div_(_root(exp_avg_sq).add_(self.eps))

    @torch.no_grad()
    def update(self, gradients: Tensor) -> None:
        """Move the moments to the mean of m_i and v_i over what was selected, and count the step.

        Rows whose squares overflow are left out. With no rows nothing changes, the count included:
        bias correction counts what the moments have seen.

        Args:
            gradients: ``[k, d]`` of the selected examples of large sources, before normalization.

        Raises:
            ValueError: gradients are not ``[k, d]``.
        """
        exp_avg, exp_avg_sq = self._after(gradients)
        # A finite gradient can have a square that is not: it would stay in the mean for good.
        finite = torch.isfinite(exp_avg_sq).all(1)
        if not finite.any():
            return
        exp_avg, exp_avg_sq = exp_avg[finite], exp_avg_sq[finite]
        self.exp_avg, self.exp_avg_sq = exp_avg.mean(0), exp_avg_sq.mean(0)
        self.step += 1

    def state_dict(self) -> dict[str, Tensor]:
        """Return a copy of step and moments, as tensors."""
        return {
            "step": torch.tensor(self.step),
            "exp_avg": self.exp_avg.clone(),
            "exp_avg_sq": self.exp_avg_sq.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned, bit for bit.

        Raises:
            ValueError: the state is of another size.
        """
        for name in ("exp_avg", "exp_avg_sq"):
            if state[name].shape != self.exp_avg.shape:
                raise ValueError(
                    f"{name} must have {len(self.exp_avg)} entries; got {state[name].numel()}."
                )
        self.step = int(state["step"])
        self.exp_avg = state["exp_avg"].clone()
        self.exp_avg_sq = state["exp_avg_sq"].clone()

    def _after(self, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Return m_i and v_i of each row, ``[n, d]`` each."""
        if gradients.ndim != 2 or gradients.shape[1] != len(self.exp_avg):
            raise ValueError(
                f"gradients must be [n, {len(self.exp_avg)}]; got {[*gradients.shape]}."
            )
        dtype = torch.promote_types(self.exp_avg.dtype, gradients.dtype)
        self.exp_avg = self.exp_avg.to(gradients.device, dtype)
        self.exp_avg_sq = self.exp_avg_sq.to(gradients.device, dtype)
        gradients = gradients.to(dtype)
        exp_avg = self.beta1 * self.exp_avg + (1 - self.beta1) * gradients
        exp_avg_sq = self.beta2 * self.exp_avg_sq + (1 - self.beta2) * gradients.square()
        return exp_avg, exp_avg_sq


@torch.no_grad()
def rms_normalize(gradients: Tensor) -> Tensor:
    """Divide each coordinate by its root mean square over the candidates.

    What Adam's second moments come to when they are those of this mini-batch's examples. The same
    factor for all examples, so that sums of gradients stay sums; no state.

    Args:
        gradients: ``[n, d]``.

    Returns:
        ``[n, d]``; 0 where a coordinate is 0 for all.

    Example:
        >>> rms_normalize(torch.tensor([[3.0, 0.0], [-4.0, 0.0], [5.0, 0.0], [0.0, 0.0]]))[:, 0]
        tensor([ 0.8485, -1.1314,  1.4142,  0.0000])
    """
    root = gradients.square().mean(0).sqrt()
    return gradients / torch.where(root > 0, root, torch.inf)


def _root(squares: Tensor) -> Tensor:
    """Return the square root, rounded the same on every machine.

    On some CPUs the float32 root is off by a unit in the last place. Distances turn that into ties
    broken another way, and so into other selections than those published.
    """
    if squares.device.type != "cpu":
        return squares.sqrt()
    return squares.double().sqrt().to(squares.dtype)


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
