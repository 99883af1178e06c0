"""Times at given speeds, by hand, and speeds that are measured."""

from collections import Counter

import pytest
import torch

from colm.planning.machine import Machine, measure_machine
from colm.planning.tally import Work

FAST = 1e30


@pytest.mark.parametrize(
    ("machine", "seconds"),
    [
        (Machine({torch.float32: 10.0}, FAST), 3 * 100 / 10 + 40 / 10),
        (Machine({torch.float32: 10.0, torch.bfloat16: 20.0}, FAST), 3 * 100 / 20 + 40 / 10),
        (Machine({torch.float32: FAST}, 2.0), 3 * 8 / 2 + 6 / 2),
        (Machine({torch.float32: FAST}, FAST, 7.0), 4 * 7),
        # Products wait for the multiplier, the other for memory.
        (Machine({torch.float32: 10.0}, 1.0, 0.5), 3 * 10 + 6),
    ],
)
def test_an_operation_takes_what_its_slowest_part_takes(machine, seconds):
    work = Counter({Work(100, 8, torch.bfloat16): 3, Work(40, 6, torch.float64): 1})
    assert machine.seconds(work) == pytest.approx(seconds)


@pytest.mark.slow
def test_speeds_are_measured():
    machine = measure_machine([torch.bfloat16], torch.device("cpu"))
    assert set(machine.flops_per_second) == {torch.float32, torch.bfloat16}
    # Slower than any that runs this, faster than any that will.
    assert all(1e7 < rate < 1e17 for rate in machine.flops_per_second.values())
    assert 1e6 < machine.bytes_per_second < 1e15
    assert 0 < machine.operation_seconds < 0.1
