"""Features that see the prompt, for mixtures whose sources are not known.

SSM (v1) appends the hidden state of the prompt to the sparsified gradient, so that examples of one
kind lie close to each other, and leaves open how the two are scaled. Here neither drowns the other:
both parts are of the same mean size under the distance in use. Symbols: n examples, h kept
dimensions, e hidden size.
"""

import torch
from torch import Tensor

from colm.coreset.similarity import pairwise_distances


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
