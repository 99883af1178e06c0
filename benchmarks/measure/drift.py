"""Whether the errors of a selector average out over steps, or add up.

For batches of n candidates at one state of a model, every selector chooses r as in training. Its
error in a batch is the gradient of what it keeps less that of all n, in every trained parameter, by
the mean over label tokens, as in the training loss. After B batches its drift is

    ||sum_b e_b|| / sqrt(sum_b E ||e_b,random||^2),

with e_b,random the error of a random subset of r: about 1 for whatever is right on average and as
noisy as a random choice, whatever B, and growing with sqrt(B) where the same is left out at every
step. Beside it stands the mean over batches of the error of a single one, ||e_b|| / sqrt(E
||e_b,random||^2), which is the score of `benchmarks match`. ``raw`` and ``adam`` as there.

``python -m benchmarks drift`` runs on the generated mixture; ``--data FILE`` on one's own.
"""

import argparse
import time
from collections import defaultdict
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from benchmarks.measure.match import ARMS, MatchBench, Truth, add_options, expected_square
from benchmarks.record import machine, write_result

NAMES = (
    "random",
    "longest",
    "highest loss",
    "CoLM, small sources not kept",
    "CoLM, exact gradients",
    "mean matching",
    "gradient matching",
    "balanced sampling, 0.45 deep",
    "balanced sampling",
    "importance sampling",
)
WEIGHTS = "label_tokens"
KINDS = ("raw", "adam")


def main() -> None:
    """Measure, print the table, and write the result."""
    options = parse()
    torch.manual_seed(options.seed)
    repeats: list[dict[str, float]] = []
    path = None
    with TemporaryDirectory() as folder:
        bench = DriftBench(options, folder)
        bench.train_until(options.states[-1])
        for number in range(1, options.batches + 1):
            started = time.perf_counter()
            repeats.append({"batches": float(number)} | bench.measure())
            print(f"batch {number} in {time.perf_counter() - started:.0f} s", flush=True)
            # After every batch, so that a run cut short has lost nothing.
            path = write_result("drift", vars(options), repeats, repeats[-1], path)
    for name, value in repeats[-1].items():
        print(f"{name:56s} {value:.3f}")
    print(f"wrote {path} on {machine()}")


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.set_defaults(n=32, r=[16], states=[20], batches=24)
    options = parser.parse_args()
    return argparse.Namespace(**vars(options), timed_batches=0, ablations=False)


class DriftBench(MatchBench):
    """The match benchmark's model and selectors, and the sum of each selector's errors."""

    def __init__(self, options: argparse.Namespace, folder: str) -> None:
        super().__init__(options, folder)
        self.arms = tuple(arm for arm in ARMS if arm.name in NAMES)
        looks = {arm.look for arm in self.arms}
        self.observers = {name: look for name, look in self.observers.items() if name in looks}
        self.sums: dict[str, list[Tensor]] = {}
        self.expected: dict[str, float] = defaultdict(float)
        self.scores: dict[str, float] = defaultdict(float)

    def measure(self) -> dict[str, float]:
        """Draw a batch; return every selector's drift up to it, and its mean score."""
        examples = [next(self.examples) for _ in range(self.options.n)]
        gradients, scales = self._gradients(examples), self._scales()
        truth = Truth(gradients, scales, self._tokens(examples))
        _, looks = self._looks(examples)
        self.batches += 1
        figures: dict[str, float] = {}
        for arm in self.arms:
            for r in self.options.r:
                rows, weights = self._select(arm, r, looks, examples, WEIGHTS)
                shares = truth.shares[WEIGHTS]
                kept = torch.zeros_like(shares).index_add(0, rows, shares[rows] * weights.double())
                change = (kept / kept.sum() - shares).float()
                error = [change @ part for part in gradients]
                for kind in KINDS:
                    expected = float(expected_square(truth.grams[kind, WEIGHTS], shares, r))
                    scaled = error if kind == "raw" else _times(error, scales)
                    figures |= self._add(f"{arm.name}/{r}/{kind}", scaled, expected)
        return figures

    def _add(self, name: str, error: list[Tensor], expected: float) -> dict[str, float]:
        """Add a batch's error to the sum; return drift and mean score."""
        before = self.sums.get(name, [torch.zeros_like(part) for part in error])
        self.sums[name] = [old + part for old, part in zip(before, error, strict=True)]
        self.expected[name] += expected
        self.scores[name] += (_square(error) / expected) ** 0.5
        drift = (_square(self.sums[name]) / self.expected[name]) ** 0.5
        return {f"{name}/drift": drift, f"{name}/score": self.scores[name] / self.batches}


def _times(error: list[Tensor], scales: list[Tensor]) -> list[Tensor]:
    return [part * scale for part, scale in zip(error, scales, strict=True)]


def _square(parts: list[Tensor]) -> float:
    return sum(float(part.double().square().sum()) for part in parts)
