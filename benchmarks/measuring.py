"""Measuring a model while it trains, and ending its training early without losing what it did."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

from transformers import TrainerCallback

from benchmarks.by_hand import synchronise

#: What training took until a measurement: processor time of all threads, and time on the wall.
Spent = dict[str, float]
NOTHING_SPENT: Spent = {"cpu_seconds": 0.0, "seconds": 0.0}


class MeasureEvery(TrainerCallback):
    """Measures after every so many steps, while the clocks of training stand still.

    Args:
        every: steps between measurements.
        measure: called with the steps done and what they took.
        asked: once it is set, the step under way is the last, and is measured.
    """

    def __init__(self, every: int, measure: Callable[[int, Spent], None], asked: Event) -> None:
        self.every, self.measure, self.asked = every, measure, asked
        self.spent, self.since = NOTHING_SPENT, NOTHING_SPENT

    def on_train_begin(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """Start the clocks."""
        self.since = clocks()

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure where it is time."""
        ends = self.asked.is_set()
        if ends or state.global_step % self.every == 0:
            now = clocks()
            self.spent = {name: self.spent[name] + now[name] - self.since[name] for name in now}
            self.measure(state.global_step, self.spent)
            self.since = clocks()
        if ends:
            control.should_training_stop = True


def clocks() -> Spent:
    """Read both clocks, once the accelerator is done."""
    synchronise()
    return {"cpu_seconds": time.process_time(), "seconds": time.perf_counter()}


@contextmanager
def noting_sigterm() -> Iterator[Event]:
    """Set the event that is handed out when SIGTERM comes, which otherwise ends the process."""
    asked = Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
