"""Processes that hold a model together keep step: each runs it as often as any other.

Where weights are sharded every call of a module is a call that all processes make together, and
one that runs a chunk of candidates less than the others leaves them waiting for good. So before a
look the processes agree on the most chunks that any has, and on the most calls of the head that any
chunk takes; who has fewer fills up with chunks whose result is dropped.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from colm.gradients.label_loss import calls_needed
from colm.gradients.sharding import head_called
from colm.training.example import Example, filled_like, token_count, without_labels
from colm.training.processes.exchange import Exchange


class Lockstep:
    """Counts what looks are to have in common.

    Args:
        sharing: the processes that hold the model together; one has nobody to keep step with.
    """

    def __init__(self, sharing: Exchange) -> None:
        self.sharing = sharing

    @contextmanager
    def __call__(self, label_tokens: Sequence[int], vocabulary_size: int) -> Iterator[int]:
        """Agree on a look; inside, the head is called as often as all processes can keep up with.

        Every process calls this at the same time, also those that have nothing to look at.

        Args:
            label_tokens: at least those of each of this process's chunks.
            vocabulary_size: tokens that the head tells apart in this look.

        Yields:
            How many chunks this process has to add.
        """
        if self.sharing.num_processes == 1:
            yield 0
            return
        most = max((calls_needed(number, vocabulary_size) for number in label_tokens), default=0)
        own = torch.tensor([[len(label_tokens), most]])
        chunks, calls = self.sharing.rows(own).amax(0).tolist()
        with head_called(calls):
            yield chunks - len(label_tokens)


def make_filler(examples: Sequence[Example], vocabulary: Tensor | None) -> Example:
    """Return an example to look at for the sake of others: short, and without labels.

    Args:
        examples: some of this process's candidates, at least one.
        vocabulary: ``[v]`` token ids that a look is confined to, ``None`` for all.
    """
    filler = without_labels(min(examples, key=token_count))
    if vocabulary is not None and len(vocabulary):
        # Some collators make labels of the tokens.
        filler["input_ids"] = filled_like(filler["input_ids"], int(vocabulary[0]))
    return filler
