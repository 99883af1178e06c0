"""How good is the model, as `quality` says, with many runs at once on one accelerator?

A small model leaves most of an accelerator idle: what takes time is the processor that starts its
kernels. So each arm and seed is a process of its own, and all share the accelerator.

``python -m benchmarks side_by_side --processes 12 --seconds 500`` takes every option of `quality`.
What has a result is not run again. Where there are more runs than processes, a run shares the time
that is left with those that wait for its place. One whose time is over is asked to end: it measures
once more, and its file is kept. So are those of all runs where this process is asked to end.

Runs disturb each other, so their seconds are no measure of what an arm costs: `pace` is.
"""

import argparse
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import quality
from benchmarks.measuring import noting_sigterm
from colm.runs.pretrained import demo_model_folder

#: From being asked to end to being ended: a step, a measurement and a file take less.
GRACE_SECONDS = 20.0
LOOK_SECONDS = 0.2


def main() -> None:
    """Train what is missing; exit with 1 where a run left no result."""
    started = time.monotonic()
    options, rest = parse()
    setting = quality.parse(rest)
    runs = [Run(arm, seed, setting) for seed in setting.seeds for arm in setting.arms]
    missing = [run for run in runs if not run.is_done()]
    if missing and setting.model is None and not setting.from_scratch:
        # Made here, once: all processes would make it at the same time.
        demo_model_folder()
    ends = started + options.seconds - GRACE_SECONDS
    with TemporaryDirectory() as logs:
        SideBySide(rest, options.processes, Path(logs), ends).train(missing)
    without = [run for run in runs if not run.path.exists()]
    for run in without:
        print(f"{run}: no result", file=sys.stderr)
    seconds = time.monotonic() - started
    print(f"{len(runs) - len(without)} of {len(runs)} runs have a result, after {seconds:.0f} s")
    raise SystemExit(1 if without else 0)


def parse(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Read the options; what is left is for `quality`."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Every other option is one of quality.",
        allow_abbrev=False,
    )
    parser.add_argument("--processes", type=int, default=12, help="runs at once")
    parser.add_argument("--seconds", type=float, default=500, help="in all")
    options, rest = parser.parse_known_args(arguments)
    if options.processes < 1:
        parser.error(f"--processes must be at least 1; got {options.processes}")
    if not options.seconds > GRACE_SECONDS:
        parser.error(
            f"--seconds must be more than the {GRACE_SECONDS:g} that runs have to end in; "
            f"got {options.seconds:g}"
        )
    return options, rest


class Run:
    """A run of `quality`: an arm and a seed, in its setting."""

    def __init__(self, arm: str, seed: int, setting: argparse.Namespace) -> None:
        self.arm, self.seed, self.setting = arm, seed, setting
        self.path = quality.result_path(setting, arm, seed)

    def __str__(self) -> str:
        """Return what `quality` begins the line of its result with."""
        return f"{self.arm}, seed {self.seed}"

    def is_done(self) -> bool:
        """Whether there is a result, which must be of the same setting."""
        if not self.path.exists():
            return False
        quality.check_same(self.path, quality.shared_settings(self.setting))
        print(f"{self}: done before", flush=True)
        return True


@dataclass(eq=False)
class Running:
    """A run in a process of its own.

    Attributes:
        run: that it is.
        process: that trains.
        log: what it prints.
        ends: when it is asked to end, in seconds of the monotonic clock.
        is_asked: whether it was.
    """

    run: Run
    process: subprocess.Popen[bytes]
    log: Path
    ends: float
    is_asked: bool = False

    def has_ended(self) -> bool:
        """Ask it to end where its time is over, and kill it where it takes too long over that."""
        if self.process.poll() is not None:
            return True
        late = time.monotonic() - self.ends
        if late >= GRACE_SECONDS:
            self.process.kill()
        elif late >= 0 and not self.is_asked:
            self.is_asked = True
            self.process.terminate()
        return False

    def report(self) -> None:
        """Print the line of its result, or the last lines of a run that failed."""
        lines = self.log.read_text(errors="replace").splitlines()
        code = self.process.returncode
        if code in (0, 128 + signal.SIGTERM):
            end = ", when it was asked to end" if code else ""
            results = [line for line in lines if line.startswith(str(self.run))]
            print(*(line + end for line in results), sep="\n", flush=True)
        else:
            shown = "\n  ".join([f"{self.run}: ended with code {code}", *lines[-15:]])
            print(shown, file=sys.stderr, flush=True)


class SideBySide:
    """Processes that share a machine.

    Args:
        options: of `quality`; arms and seeds among them are passed over.
        processes: most at once.
        logs: folder for what they print.
        ends: when the last are asked to end.
    """

    def __init__(self, options: list[str], processes: int, logs: Path, ends: float) -> None:
        self.options, self.processes, self.logs, self.ends = options, processes, logs, ends
        # Each with as many threads as there are cores would get into the others' way.
        threads = str(max(1, (os.cpu_count() or 1) // processes))
        self.environment = {"OMP_NUM_THREADS": threads, **os.environ}

    def train(self, runs: list[Run]) -> None:
        """Train all, or as many as there is time for; no process is left behind."""
        waiting, running = list(runs), list[Running]()
        with noting_sigterm() as asked:
            try:
                while running or (waiting and time.monotonic() < self.ends):
                    if asked.is_set():
                        waiting = []
                        for one in running:
                            one.ends = min(one.ends, time.monotonic())
                    while waiting and len(running) < self.processes:
                        running.append(self.start(waiting))
                    time.sleep(LOOK_SECONDS)
                    running = [one for one in running if not self.has_ended(one)]
            finally:
                for one in running:
                    one.process.kill()
                    one.process.wait()

    def has_ended(self, one: Running) -> bool:
        """Whether a run has ended; if so, say how."""
        if not one.has_ended():
            return False
        one.report()
        return True

    def start(self, waiting: list[Run]) -> Running:
        """Start the first of those that wait, with its share of the time that is left."""
        now = time.monotonic()
        share = (self.ends - now) / math.ceil(len(waiting) / self.processes)
        run = waiting.pop(0)
        log = self.logs / run.path.stem
        command = [sys.executable, "-m", "benchmarks", "quality", *self.options]
        with log.open("wb") as printed:
            process = subprocess.Popen(
                [*command, "--arms", run.arm, "--seeds", str(run.seed)],
                stdout=printed,
                stderr=subprocess.STDOUT,
                env=self.environment,
            )
        return Running(run, process, log, now + share)
