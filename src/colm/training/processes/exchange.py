"""What processes tell each other when they select among the candidates of all of them.

Every process observes its own candidates and tells the others what was observed; then each runs
the same selection on the union, and a kept example goes to another process only where shares must
be evened out. Everything travels as plain tensors; nothing is pickled. Selection among a process's
own candidates is the same with a group of one, which tells nobody anything.

Every process of a group makes the same calls in the same order, whatever it holds. Symbols: n
candidates of the whole group, r kept, w processes.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from accelerate.utils import gather, reduce
from torch import Tensor, distributed

from colm.training.example import Example
from colm.training.processes.packets import packed, unpacked

_DTYPES = (torch.float32, torch.float64, torch.int64, torch.uint8)


class Exchange:
    """The group of processes that select together.

    Args:
        num_processes: w; 1 for a process that selects on its own, whatever else is running.
        process_index: this process's place in it.
        device: where the group's backend wants its tensors.

    Attributes:
        received_bytes: what this process has got from the others so far, padding included, by kind
            of call: ``rows``, ``first``, ``sums`` and ``examples``.
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
        self.received_bytes: Counter[str] = Counter()

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
        headers = self._gathered(torch.tensor([header], device=self.device))
        most, width, dtype = (int(value) for value in headers.amax(0))
        padded = torch.zeros((most, width), dtype=_DTYPES[dtype], device=self.device)
        if len(own):
            padded[: len(own)] = own.reshape(len(own), width)
        parts = self._gathered(padded).split(most) if most else [padded] * self.num_processes
        counts = headers[:, 0].tolist()
        joined = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
        return joined if own.ndim == 2 else joined.flatten()

    def of_first(self, own: Tensor) -> Tensor:
        """Return the flat tensor of the first process, whatever the others have."""
        if self.num_processes == 1:
            return own
        header = torch.tensor([len(own), _DTYPES.index(own.dtype)], device=self.device)
        distributed.broadcast(header, src=0)
        length, dtype = header.tolist()
        sent = torch.empty(length, dtype=_DTYPES[dtype], device=self.device)
        if self.process_index == 0:
            sent.copy_(own)
        distributed.broadcast(sent, src=0)
        if self.process_index:
            self.received_bytes["first"] += header.nbytes + sent.nbytes
        return sent

    def names(self, own: Sequence[str]) -> list[str]:
        """Return the names of all processes, those of the first process first."""
        if self.num_processes == 1:
            return list(own)
        # JSON has no line break inside a string, so that each name is a line.
        text = "".join(f"{json.dumps(name)}\n" for name in own)
        lines = self.rows(_as_tensor(text.encode()))
        return [json.loads(line) for line in _as_bytes(lines).decode().split("\n")[:-1]]

    def union(self, own: Tensor) -> Tensor:
        """Return which whole numbers any process has, ascending, each once.

        What travels is a number for each up to the largest, however many processes there are.

        Args:
            own: ``[k]`` int64, none negative.
        """
        own = own.unique()
        if self.num_processes == 1:
            return own
        largest = self.rows(own[-1:])
        size = int(largest.max()) + 1 if len(largest) else 0
        has = torch.zeros(size, dtype=torch.int32, device=self.device)
        has[own.to(self.device)] = 1
        return self.total(has).nonzero().flatten()

    def total(self, own: Tensor) -> Tensor:
        """Return the sum over processes of a tensor that has the same shape on each."""
        if self.num_processes == 1:
            return own
        summed: Tensor = reduce(own.to(self.device), "sum")
        self.received_bytes["sums"] += own.nbytes
        return summed.to(own.device)

    def examples(self, leaving: Mapping[int, Mapping[int, Example]]) -> dict[int, Example]:
        """Return the examples that other processes hand over to this one, by their number.

        Costs two collective calls: one of w numbers, one of what changes place, which only the
        process that it is for receives.

        Args:
            leaving: for each process that gets some of this one's, those, by number.

        Raises:
            ValueError: a column cannot be sent; see `packed`.
        """
        if self.num_processes == 1:
            return dict(leaving.get(0, {}))
        everyone = range(self.num_processes)
        packets = [packed(leaving[to]) if leaving.get(to) else b"" for to in everyone]
        sizes = torch.tensor([len(packet) for packet in packets], device=self.device)
        arriving = torch.empty_like(sizes)
        distributed.all_to_all_single(arriving, sizes)
        splits = arriving.tolist()
        received = torch.empty(sum(splits), dtype=torch.uint8, device=self.device)
        sent = _as_tensor(b"".join(packets)).to(self.device)
        distributed.all_to_all_single(received, sent, splits, sizes.tolist())
        self.received_bytes["examples"] += arriving.nbytes + received.nbytes
        examples: dict[int, Example] = {}
        for packet in received.cpu().split(splits):
            if len(packet):
                examples |= unpacked(_as_bytes(packet))
        return examples

    def _gathered(self, own: Tensor) -> Tensor:
        """Join tensors of one shape along their first axis."""
        joined: Tensor = gather(own)
        self.received_bytes["rows"] += joined.nbytes - own.nbytes
        return joined


def _as_tensor(data: bytes) -> Tensor:
    """Return bytes as a flat tensor of their own."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0).byte()


def _as_bytes(data: Tensor) -> bytes:
    """Return a flat tensor of bytes as bytes."""
    return data.cpu().numpy().tobytes()
