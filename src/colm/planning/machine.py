"""How fast the machine at hand multiplies and moves, and how long work takes at that speed.

An operation takes what the slowest of three things takes: its multiplications and additions, the
bytes it reads and writes, and starting it. Speeds are measured in half a second, in the types that
training uses; only ratios of times are meant to be read.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch

from colm.planning.tally import Work

REPEATS = 3
SMALL_OPERATIONS = 200
#: Sides of the squares that are multiplied, on a CPU and elsewhere: the largest that does not take
#: longer than ``MOST_SECONDS``, as types that a CPU has no instructions for may.
SIDES_ON_CPU, SIDES = (512, 1024), (8192,)
MOST_SECONDS = 0.3


@dataclass(frozen=True)
class Machine:
    """Speeds of a device.

    Attributes:
        flops_per_second: of matrix products, by type; other types go as float32.
        bytes_per_second: read and written.
        operation_seconds: that it takes to start an operation.
    """

    flops_per_second: dict[torch.dtype, float]
    bytes_per_second: float
    operation_seconds: float = 0.0

    def seconds(self, work: Counter[Work]) -> float:
        """Return how long operations take, one after the other."""
        return sum(times * self._seconds(one) for one, times in work.items())

    def _seconds(self, one: Work) -> float:
        rate = self.flops_per_second.get(one.dtype, self.flops_per_second[torch.float32])
        moving = one.moved_bytes / self.bytes_per_second
        return max(one.flops / rate, moving, self.operation_seconds)


def measure_machine(dtypes: Iterable[torch.dtype], device: torch.device) -> Machine:
    """Return the speeds of a device.

    Args:
        dtypes: of matrix products; float32 is added.
        device: to measure.
    """
    rates = {dtype: _multiplying(dtype, device) for dtype in {torch.float32, *dtypes}}
    # Larger than caches; one of them is read, another written.
    numbers = torch.ones(2**24 if device.type == "cpu" else 2**28, device=device)
    seconds = _least_seconds(lambda: numbers + 1, device)
    one = torch.ones(1, device=device)

    def start_many() -> None:
        for _ in range(SMALL_OPERATIONS):
            one.add_(1)

    starting = _least_seconds(start_many, device) / SMALL_OPERATIONS
    return Machine(rates, 2 * numbers.numel() * numbers.element_size() / seconds, starting)


def _multiplying(dtype: torch.dtype, device: torch.device) -> float:
    """Floating point operations a second in a product of squares."""
    rate = 0.0
    for size in SIDES_ON_CPU if device.type == "cpu" else SIDES:
        if rate and 2 * size**3 / rate > MOST_SECONDS:
            break
        square = torch.ones((size, size), dtype=dtype, device=device)
        rate = 2 * size**3 / _least_seconds(partial(torch.mm, square, square), device)
    return rate


def _least_seconds(run: Callable[[], object], device: torch.device) -> float:
    """The least of some runs after one that does not count: others may use the machine, too."""
    found = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        run()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        found.append(time.perf_counter() - started)
    return min(found[1:])
