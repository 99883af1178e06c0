"""What one look at a batch of examples shows of each: the shared word of models and selectors.

Symbols: n examples, d feature size, e hidden size.
"""

from dataclasses import dataclass

from torch import Tensor

OBSERVATIONS = ("gradients", "losses", "hidden", "prompt")


@dataclass(frozen=True)
class Observed:
    """One row an example, of what was asked for; the rest is ``None``.

    Attributes:
        gradients: ``[n, d]`` gradient features, float32 or wider.
        losses: ``[n]`` loss of each example, mean or sum over its label tokens.
        hidden: ``[n, e]`` mean of the last hidden state over an example's tokens.
        prompt: ``[n, e]`` last hidden state at the position that predicts the first label.
    """

    gradients: Tensor | None = None
    losses: Tensor | None = None
    hidden: Tensor | None = None
    prompt: Tensor | None = None
