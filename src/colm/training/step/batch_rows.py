"""Where the examples of a micro-batch stand in it: each a row, or all in one row without padding.

Symbols: k examples, t tokens a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from colm.training.example import Example, token_count


@dataclass(frozen=True)
class BatchRows:
    """The places of the examples of a collated micro-batch, in their order.

    Attributes:
        tokens: t.
        lengths: ``[k]`` tokens of each example where all stand in one row, one after the other;
            ``None`` where each has a row of its own.
    """

    tokens: int
    lengths: tuple[int, ...] | None = None

    @classmethod
    def of(cls, examples: Sequence[Example], shape: Sequence[int]) -> "BatchRows":
        """Return the places of examples in a batch.

        Args:
            examples: k of them, as they were collated.
            shape: of the batch's labels, ``[rows, t]``.

        Raises:
            ValueError: the examples of such a batch cannot be told apart.
        """
        rows, tokens = shape
        if rows == len(examples):
            return cls(tokens)
        lengths = tuple(token_count(each) for each in examples)
        if rows != 1 or sum(lengths) > tokens:
            raise ValueError(
                f"{len(examples)} examples apart in a batch of {rows} x {tokens} tokens"
            )
        return cls(tokens, lengths)

    def spread(self, values: Tensor) -> Tensor:
        """Return ``[k]`` values of examples as those of tokens: ``[k, 1]``, or ``[1, t]``."""
        if self.lengths is None:
            return values.unsqueeze(1)
        spread = values.repeat_interleave(torch.tensor(self.lengths))
        return nn.functional.pad(spread, (0, self.tokens - len(spread))).unsqueeze(0)

    def sums(self, values: Tensor) -> Tensor:
        """Sum values of the predicted tokens by example, in the same order on every device.

        Args:
            values: ``[rows, t - 1]``, of all tokens but the first of each row; or more, where a
                model puts virtual tokens, which have no labels, before each row.

        Returns:
            ``[k]``.
        """
        if self.lengths is None:
            return values.sum(1)
        ends = torch.tensor(self.lengths).cumsum(0)
        starts = ends - torch.tensor(self.lengths)
        places = starts.unsqueeze(1) + torch.arange(max(self.lengths))
        # A token is predicted one place before its own; nothing is at the last.
        inside = (places < ends.unsqueeze(1)) & (places > 0)
        places = torch.where(inside, places - 1, self.tokens - 1).to(values.device)
        return nn.functional.pad(values[0], (0, 1))[places].sum(1)
