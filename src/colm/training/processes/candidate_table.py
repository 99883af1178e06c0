"""What every process of a group knows of the candidates of all: everything but their tokens.

Symbols: n candidates of the whole group, r kept.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from colm.training.example import Example, label_token_count, token_count, whole_numbers
from colm.training.processes.exchange import Exchange


@dataclass(frozen=True)
class CandidateTable:
    """One row a candidate, those of the first process first.

    Attributes:
        sources: ``[n]`` names.
        tokens: ``[n]`` int64.
        label_tokens: ``[n]`` int64.
        keys: ``[n]`` int64, from `content_key`.
        owners: ``[n]`` int64 process that holds the candidate.
        own: the rows of this process's candidates, in their order.
    """

    sources: list[str]
    tokens: Tensor
    label_tokens: Tensor
    keys: Tensor
    owners: Tensor
    own: range

    def __len__(self) -> int:
        """Return n."""
        return len(self.sources)


def tabulate(
    examples: Sequence[Example], sources: Sequence[str], exchange: Exchange
) -> CandidateTable:
    """Return the table of the candidates of all processes.

    Args:
        examples: this process's, which may be none.
        sources: name of the source of each.
        exchange: the processes that select together.
    """
    rank = exchange.process_index
    numbers = [
        (token_count(example), label_token_count(example), content_key(example), rank)
        for example in examples
    ]
    joined = exchange.rows(torch.tensor(numbers, dtype=torch.int64).reshape(-1, 4)).cpu()
    tokens, label_tokens, keys, owners = joined.unbind(1)
    first = int((owners < rank).sum())
    return CandidateTable(
        sources=exchange.names(sources),
        tokens=tokens,
        label_tokens=label_tokens,
        keys=keys,
        owners=owners,
        own=range(first, first + len(examples)),
    )


def content_key(example: Example) -> int:
    """Return what an example is known by: a hash of its token ids and labels, 63 bits.

    It does not depend on where the example stands in a batch, nor on the process that holds it.
    """
    digest = hashlib.blake2b(digest_size=8)
    for column in ("input_ids", "labels"):
        values = np.asarray(whole_numbers(example.get(column)), dtype=np.int64)
        digest.update(len(values).to_bytes(8, "big"))
        digest.update(values.tobytes())
    return int.from_bytes(digest.digest(), "big") >> 1
