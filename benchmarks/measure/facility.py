"""Facility location beside two libraries' lazy greedy and six lines of numpy, in one run.

For each n, on features drawn from a mixture of Gaussians and C - distance between them:

- **selection**: seconds from a ready similarity matrix to the picks, and the objective, the sum of
  everyone's best similarity, computed by one function in float64 for all. Each package gets the
  matrix in the type it works in. What peers spend on copying the matrix (submodlib-py) and on
  compiling (apricot-select, which does it anew at every call) is left out of their seconds; the
  second is given beside them, ``apricot_as_called``. ``numpy`` is the plain greedy as one would
  write it down, up to n = 512.
- **end to end**: seconds from features to picks, and the peak of memory above what the process held
  before, each in a process of its own; ``colm_from_features`` never holds all similarities.

``NAME_over_colm`` is a peer's seconds by those of `facility_location`, of the same repeat, and
``ratio`` that of the faster library. ``--tie_tolerance 1e-5`` chooses as training does: ties are
seen through that relative error of the features, which are float64.

``pip install --group bench`` brings both peers; without both there is no ratio to claim.
"""

import argparse
import functools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.record import machine, write_result
from colm.coreset.facility_location import facility_location, facility_location_from_features
from colm.coreset.similarity import METRICS, similarity
from colm.coreset.similarity import sizes as sizes_of

PEERS = {"submodlib": "submodlib-py", "apricot": "apricot-select"}
# scikit-learn's names, by which apricot computes distances.
DISTANCES = {"l1": "manhattan", "l2": "euclidean", "cosine": "cosine"}
APRICOT = "apricot.functions.facilityLocation"
APRICOT_COMPILERS = ("calculate_gains", "calculate_gains_sieve")
END_TO_END = ("colm", "colm_from_features", *PEERS)
COMPILED_ON = 16
# Beyond, the plain greedy's O(n^2) for each pick takes seconds.
MOST_FOR_NUMPY = 512
TABLE = ("colm", *PEERS, "numpy")


def main() -> None:
    """Measure, print the table, and write the result."""
    options = parse()
    if options.arm:
        print(json.dumps(end_to_end(options)))
        return
    peers = installed_peers()
    repeats = []
    for n in options.sizes:
        for repeat in range(options.repeats):
            repeats += measure(n, options.seed + repeat, options, list(peers))
    summary = summarize(repeats, list(peers))
    print(shown(summary))
    settings = vars(options) | {"peers": peers}
    print(f"wrote {write_result('facility', settings, repeats, summary)} on {machine()}")
    if len(peers) < len(PEERS):
        print("no ratio is claimed: both peers have to be installed, pip install --group bench")


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = [32, 64, 128, 256, 512, 1024, 2048, 4096, 8192]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes, help="n, examples")
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[0.5, 0.25], help="of n that are kept"
    )
    parser.add_argument("--dimensions", type=int, default=64, help="of a feature")
    parser.add_argument("--clusters", type=int, default=14, help="Gaussians in the mixture")
    parser.add_argument("--metric", choices=METRICS, default="l2")
    parser.add_argument("--repeats", type=int, default=3, help="draws of features")
    parser.add_argument("--best_of", type=int, default=3, help="runs of which the fastest counts")
    parser.add_argument("--seed", type=int, default=0, help="of the first draw")
    parser.add_argument(
        "--tie_tolerance", type=float, default=0.0, help="relative error of the features; 1e-5"
    )
    parser.add_argument("--selection_only", action="store_true", help="nothing end to end")
    parser.add_argument("--arm", choices=END_TO_END, help="measure one end to end; for itself")
    return parser.parse_args()


def installed_peers() -> dict[str, str]:
    """Versions of the peers; a line for each that is not there."""
    found = {}
    for name, package in PEERS.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            print(f"{package} is not installed: measured without it (pip install --group bench)")
    return found


def draw_features(n: int, seed: int, options: argparse.Namespace) -> Tensor:
    """Features ``[n, d]`` of a mixture of Gaussians of unit variance, their centres 2 apart.

    As in training, they are float64 where ties are to be seen through rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(options.clusters, options.dimensions, generator=generator)
    cluster = torch.randint(options.clusters, (n,), generator=generator)
    features = centres[cluster] + torch.randn(n, options.dimensions, generator=generator)
    return features.double() if options.tie_tolerance else features


def tied_within(features: Tensor, options: argparse.Namespace) -> float:
    """By how much gains may differ and be tied, as `medoids_of` works it out."""
    relative: float = options.tie_tolerance
    return relative * float(sizes_of(features, options.metric).mean()) * math.sqrt(len(features))


def measure(
    n: int, seed: int, options: argparse.Namespace, peers: list[str]
) -> list[dict[str, float]]:
    """One draw of features: every share, every package."""
    features = draw_features(n, seed, options)
    matrix = similarity(features, options.metric)
    rows = []
    for share in options.shares:
        budget = max(1, round(share * n))
        row: dict[str, float] = {"n": n, "budget": budget, "seed": seed}
        arms = {"colm": select_with_colm(matrix, tied_within(features, options))}
        arms |= {name: SELECT[name](matrix) for name in peers}
        if n <= MOST_FOR_NUMPY:
            arms["numpy"] = select_with_numpy(matrix)
        if "apricot" in peers:
            arms["apricot_as_called"] = select_with_apricot(matrix, compiles=True)
        for name, select in arms.items():
            runs = 1 if name == "apricot_as_called" else options.best_of
            picks, row[f"{name}_seconds"] = min(
                (select(budget) for _ in range(runs)), key=lambda run: run[1]
            )
            row[f"{name}_objective"] = objective(matrix, picks)
        for name in (name for name in TABLE[1:] if name in arms):
            row[f"{name}_over_colm"] = row[f"{name}_seconds"] / row["colm_seconds"]
        if len(peers) == len(PEERS):
            fastest = min(row[f"{name}_seconds"] for name in peers)
            row["ratio"] = fastest / row["colm_seconds"]
        print(described(row), flush=True)
        rows.append(row)
    if options.selection_only:
        return rows
    budget = rows[0]["budget"]
    for arm in (name for name in END_TO_END if name in ("colm", "colm_from_features", *peers)):
        rows[0] |= {f"end_to_end_{arm}_{k}": v for k, v in in_a_process(arm, n, seed, options)}
    print(f"  end to end, r={budget:.0f}: " + described(rows[0], "end_to_end_"), flush=True)
    return rows


def described(row: dict[str, float], prefix: str = "") -> str:
    """A row's figures in a line."""
    if prefix:
        named = {name[len(prefix) :]: row[name] for name in row if name.startswith(prefix)}
    else:
        named = {name: value for name, value in row.items() if name != "seed"}
    return "  ".join(f"{name}={value:.6g}" for name, value in named.items())


def objective(matrix: Tensor, picks: list[int]) -> float:
    """Sum over everyone of the similarity to the best representative, in float64."""
    best = torch.cat([block[:, picks].amax(1) for block in matrix.split(512)])
    return float(best.double().sum())


Select = Callable[[int], tuple[list[int], float]]


def select_with_colm(matrix: Tensor, tie_tolerance: float) -> Select:
    """Picks and seconds of this library."""

    def select(budget: int) -> tuple[list[int], float]:
        start = perf_counter()
        picks = facility_location(matrix, budget, tie_tolerance=tie_tolerance).indices
        return picks.tolist(), perf_counter() - start

    return select


def select_with_numpy(matrix: Tensor) -> Select:
    """Picks and seconds of the plain greedy, which sums all gains anew for each pick."""
    similarities = matrix.numpy()

    def select(budget: int) -> tuple[list[int], float]:
        start = perf_counter()
        cover, picks = np.zeros(len(similarities), similarities.dtype), list[int]()
        for _ in range(budget):
            gains = np.maximum(similarities - cover[:, None], 0).sum(0)
            gains[picks] = -1
            picks.append(int(gains.argmax()))
            cover = np.maximum(cover, similarities[:, picks[-1]])
        return picks, perf_counter() - start

    return select


def select_with_submodlib(matrix: Tensor) -> Select:
    """Picks and seconds of submodlib-py's lazy greedy; it keeps state, and is made anew."""
    submodlib = import_module("submodlib")
    similarities = matrix.float().numpy()

    def select(budget: int) -> tuple[list[int], float]:
        function = submodlib.FacilityLocationFunction(
            n=len(matrix), mode="dense", sijs=similarities, separate_rep=False
        )
        start = perf_counter()
        picks = function.maximize(budget=budget, optimizer="LazyGreedy", show_progress=False)
        return [pick for pick, _ in picks], perf_counter() - start

    return select


def select_with_apricot(matrix: Tensor, compiles: bool = False) -> Select:
    """Picks and seconds of apricot-select's lazy greedy, which works in float64."""
    apricot = import_module(APRICOT)
    exact = matrix.double().numpy()
    originals = {name: getattr(apricot, name) for name in APRICOT_COMPILERS}

    def fit(values: Any, budget: int) -> tuple[list[int], float]:
        selector = apricot.FacilityLocationSelection(budget, metric="precomputed", optimizer="lazy")
        start = perf_counter()
        selector.fit(values)
        return selector.ranking.tolist(), perf_counter() - start

    def select(budget: int) -> tuple[list[int], float]:
        try:
            for name in () if compiles else APRICOT_COMPILERS:
                setattr(apricot, name, compiled_once(originals[name]))
            if not compiles:
                fit(np.ascontiguousarray(exact[:COMPILED_ON, :COMPILED_ON]), 2)
            return fit(exact, budget)
        finally:
            for name, original in originals.items():
                setattr(apricot, name, original)

    return select


@functools.cache
def compiled_once(compiler: Callable[..., Any]) -> Callable[..., Any]:
    """The same compiler, which returns what it has compiled before."""
    return functools.cache(compiler)


SELECT: dict[str, Callable[[Tensor], Select]] = {
    "submodlib": select_with_submodlib,
    "apricot": select_with_apricot,
}


def in_a_process(
    arm: str, n: int, seed: int, options: argparse.Namespace
) -> list[tuple[str, float]]:
    """Figures of one package end to end, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks", "facility", "--arm", arm, "--sizes", str(n)]
    command += ["--seed", str(seed), "--metric", options.metric, "--shares", str(options.shares[0])]
    command += ["--tie_tolerance", str(options.tie_tolerance)]
    command += ["--dimensions", str(options.dimensions), "--clusters", str(options.clusters)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout.splitlines()[-1]).items())


def end_to_end(options: argparse.Namespace) -> dict[str, float]:
    """Seconds from features to picks, and the bytes that the process grew by at most."""
    n = options.sizes[0]
    features = draw_features(n, options.seed, options)
    budget = max(1, round(options.shares[0] * n))
    small = features[:COMPILED_ON]
    # What is imported, compiled or allocated once is no matter of n.
    run_end_to_end(options, small, 2)
    before = memory_bytes("VmRSS")
    # Has the kernel forget the peak so far.
    Path("/proc/self/clear_refs").write_text("5")
    start = perf_counter()
    picks = run_end_to_end(options, features, budget)
    seconds, peak = perf_counter() - start, memory_bytes("VmHWM") - before
    return {
        "seconds": seconds,
        "peak_bytes": peak,
        "objective": objective(similarity(features, options.metric), picks),
    }


def run_end_to_end(options: argparse.Namespace, features: Tensor, budget: int) -> list[int]:
    """Picks of one package from features."""
    metric, tied = options.metric, tied_within(features, options)
    if options.arm == "colm":
        matrix = similarity(features, metric)
        return facility_location(matrix, budget, tie_tolerance=tied).indices.tolist()
    if options.arm == "colm_from_features":
        chosen = facility_location_from_features(features, budget, metric, tie_tolerance=tied)
        return chosen.indices.tolist()
    if options.arm == "submodlib":
        # Its own similarities are others than C - distance.
        return select_with_submodlib(similarity(features, metric))(budget)[0]
    apricot = import_module(APRICOT)
    for name in APRICOT_COMPILERS:
        setattr(apricot, name, compiled_once(getattr(apricot, name)))
    selector = apricot.FacilityLocationSelection(budget, metric=DISTANCES[metric], optimizer="lazy")
    ranking: list[int] = selector.fit(features.double().numpy()).ranking.tolist()
    return ranking


def memory_bytes(name: str) -> int:
    """A figure of this process that Linux keeps: VmRSS, memory in use, or VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def summarize(repeats: list[dict[str, float]], peers: list[str]) -> dict[str, float]:
    """Medians over repeats for each n and budget, and how far objectives are apart at most."""
    summary: dict[str, float] = {}
    cases = dict.fromkeys((row["n"], row["budget"]) for row in repeats)
    for case in cases:
        rows = [row for row in repeats if (row["n"], row["budget"]) == case]
        where = f"n={case[0]:.0f} r={case[1]:.0f}"
        for name in rows[0]:
            if name == "ratio" or name.endswith(("_seconds", "_bytes", "_over_colm")):
                summary[f"{where}/{name}"] = median(row[name] for row in rows)
        gaps = [
            abs(row["colm_objective"] / row[f"{name}_objective"] - 1)
            for row in rows
            for name in (*peers, "numpy")
            if f"{name}_objective" in row
        ]
        if gaps:
            summary[f"{where}/largest_relative_difference_of_objectives"] = max(gaps)
    return summary


def shown(summary: dict[str, float]) -> str:
    """A table of milliseconds from a ready matrix, in brackets over those of this library."""
    lines = [f"{'milliseconds':18}" + "".join(f"{name:>20}" for name in TABLE)]
    for case in dict.fromkeys(key.partition("/")[0] for key in summary):
        cells = []
        for name in TABLE:
            seconds = summary.get(f"{case}/{name}_seconds")
            over = summary.get(f"{case}/{name}_over_colm")
            ratio = f" ({over:.2f})" if over else ""
            cells.append(f"{'-' if seconds is None else f'{1e3 * seconds:.3g}{ratio}':>20}")
        lines.append(f"{case:18}" + "".join(cells))
    return "\n".join(lines)
