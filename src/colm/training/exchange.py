"""What processes tell each other when they select among the candidates of all of them.

Every process observes its own candidates and tells the others what was observed; then each runs
the same selection on the union, and the kept examples go to where they are trained on. What is
observed travels as plain tensors, tokens only of those kept examples that change place. Selection
among a process's own candidates is the same with a group of one, which tells nobody anything.

Every process of a group makes the same calls in the same order, whatever it holds. Symbols: n
candidates of the whole group, r kept, w processes.
"""

import json
from collections.abc import Mapping, Sequence

import torch
from accelerate.utils import gather, gather_object, reduce
from torch import Tensor

from colm.training.pool import Example

_DTYPES = (torch.float32, torch.float64, torch.int64, torch.uint8)


class Exchange:
    """The group of processes that select together.

    Args:
        num_processes: w; 1 for a process that selects on its own, whatever else is running.
        process_index: this process's place in it.
        device: where the group's backend wants its tensors.
    """

    def __init__(
        self,
        num_processes: int = 1,
        process_index: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_processes = num_processes
        self.process_index = process_index
        self.device = torch.device(device)

    def rows(self, own: Tensor) -> Tensor:
        """Return the rows of all processes, those of the first process first.

        Costs two collective calls: one of three numbers, one of w times the most rows that any
        process has.

        Args:
            own: ``[k]`` or ``[k, d]`` of this process, k differing between processes, 0 included;
                a process without rows need not know d, nor their type.

        Returns:
            ``[n]`` or ``[n, d]``, the same on every process and on the device of the group.
        """
        if self.num_processes == 1:
            return own
        width = own.shape[1] if own.ndim == 2 else 1
        header = [len(own), *((width, _DTYPES.index(own.dtype)) if len(own) else (0, 0))]
        headers = gather(torch.tensor([header], device=self.device))
        most, width, dtype = (int(value) for value in headers.amax(0))
        padded = torch.zeros((most, width), dtype=_DTYPES[dtype], device=self.device)
        if len(own):
            padded[: len(own)] = own.reshape(len(own), width)
        parts = gather(padded).split(most) if most else [padded] * self.num_processes
        counts = headers[:, 0].tolist()
        joined = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
        return joined if own.ndim == 2 else joined.flatten()

    def of_first(self, own: Tensor) -> Tensor:
        """Return the rows of the first process, whatever the others have."""
        return self.rows(own if self.process_index == 0 else own[:0])

    def names(self, own: Sequence[str]) -> list[str]:
        """Return the names of all processes, those of the first process first."""
        if self.num_processes == 1:
            return list(own)
        # JSON has no line break inside a string, so that each name is a line.
        text = "".join(f"{json.dumps(name)}\n" for name in own)
        lines = self.rows(torch.tensor(list(text.encode()), dtype=torch.uint8))
        return [json.loads(line) for line in bytes(lines.tolist()).decode().split("\n")[:-1]]

    def total(self, own: Tensor) -> Tensor:
        """Return the sum over processes of a tensor that has the same shape on each."""
        if self.num_processes == 1:
            return own
        summed: Tensor = reduce(own.to(self.device), "sum")
        return summed.to(own.device)

    def examples(self, leaving: Mapping[int, Example]) -> dict[int, Example]:
        """Return what all processes hand over, by its key.

        Lists of token ids are pickled: 2 bytes a token up to 255, 3 up to 65,535, 5 above, for each
        column of the example. Every process receives every example that changes place.
        """
        if self.num_processes == 1:
            return dict(leaving)
        return dict(gather_object(list(leaving.items())))


def deal(lengths: Sequence[int], processes: int) -> list[int]:
    """Share kept examples out, as many for each process give or take one, and even in tokens.

    In each round every process gets one example, the longest going where there are fewest tokens.

    Args:
        lengths: ``[r]`` tokens of each kept example.
        processes: w.

    Returns:
        ``[r]`` the process that trains on each.

    Example:
        >>> deal([9, 5, 5, 4, 1, 1], 2)
        [0, 1, 1, 0, 1, 0]
    """
    shares = [0] * len(lengths)
    load = [0] * processes
    longest_first = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    for start in range(0, len(lengths), processes):
        least_loaded = sorted(range(processes), key=lambda process: load[process])
        for index, process in zip(longest_first[start:], least_loaded, strict=False):
            shares[index] = process
            load[process] += lengths[index]
    return shares
