"""Bytes and seconds of selecting together, as processes and candidates grow.

Measured on gloo processes of this machine, which the script starts itself: each selects with
``ExampleSelection`` as training does, on random features in place of a model's, so that what is
timed is the exchange and the selection alone. Then modelled to more processes than there are here.
Symbols: n candidates of all processes, r = n / 2 kept, w processes, d features, d' of them kept
(see ``colm.training.step.look``).

The model, in ``predict``, assumes

- candidates that are even over processes, and lengths and owners of kept examples at random;
- bytes as this library's own calls send them, of which the measured runs print the share that the
  formula explains;
- a network of ``--latency`` seconds a message and ``--bandwidth`` bytes a second into a process:
  gathers and exchanges go in w - 1 messages, broadcasts in log2 w, sums in 2 (w - 1);
- work that costs what it costs here, on one core or, of features, on the accelerator where there is
  one: a part of gradient matching, which as many processes as there are parts solve at the same
  time; a number of the features normalised, checked and compared, on every process; a candidate's
  bookkeeping, hashing one's own apart; and the dealing, which is run in full.

``python -m benchmarks scale`` takes some minutes.
"""

import argparse
import json
import math
import os
import random
import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn

from benchmarks.record import machine, write_result
from colm.coreset.coreset_selector import CoresetSelector
from colm.coreset.features import rms_normalize
from colm.coreset.gradient_matching import gradient_matching
from colm.coreset.registry import get_selector
from colm.coreset.selection import matching_error
from colm.randomness import keyed_generator
from colm.training.options.config import CoLMTrainingArguments
from colm.training.processes.candidate_table import content_key, tabulate
from colm.training.processes.dealing import deal
from colm.training.processes.exchange import Exchange
from colm.training.processes.packets import packed
from colm.training.processes.parts import in_parts
from colm.training.step.draw import DrawnCandidates, drawn_candidates
from colm.training.step.keep import ExampleSelection, Kept
from colm.training.step.look import MOST_NUMBERS, CandidateObserver, ModelAccess

SOURCES = 8
SELECTOR = "gradient_matching"
_MOST = get_selector(SELECTOR).most_together
assert _MOST is not None
MOST_TOGETHER: int = _MOST
# Collective calls of each kind in a step, by what they cost; the last gather is of parts.
CALLS = {"gathers": 12, "broadcasts": 4, "sums": 2, "exchanges": 2}


def main() -> None:
    """Measure, model, print both, and write the result."""
    options = parse()
    torch.set_num_threads(1)
    repeats = measured(options)
    costs = unit_costs(options)
    print({name: float(f"{value:.3g}") for name, value in costs.items()})
    predictions = [
        predict(ranks, ranks * options.candidates_per_rank, costs, options)
        for ranks in (2**power for power in range(options.most_ranks.bit_length()))
    ]
    show(predictions)
    summary = costs | {
        f"{name}_{row['ranks']}_ranks": value
        for row in predictions
        for name, value in row.items()
        if name != "ranks"
    }
    path = write_result("scale", vars(options), repeats, summary)
    print(f"wrote {path} on {machine()}")


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4], help="measured")
    parser.add_argument("--n", type=int, nargs="+", default=[64, 256, 1024], help="measured")
    parser.add_argument("--measured_d", type=int, default=8192, help="features, measured")
    parser.add_argument("--repeats", type=int, default=3, help="after one that warms up")
    parser.add_argument("--most_ranks", type=int, default=1024, help="modelled")
    parser.add_argument("--candidates_per_rank", type=int, default=64, help="modelled")
    parser.add_argument("--d", type=int, default=2**18, help="features, modelled")
    parser.add_argument("--tokens", type=int, default=400, help="most tokens of an example")
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--latency", type=float, default=2e-5, help="seconds a message")
    parser.add_argument("--bandwidth", type=float, default=1e10, help="bytes a second")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def measured(options: argparse.Namespace) -> list[dict[str, float]]:
    """Return a row for each number of processes, n and repeat; the slowest process counts."""
    rows = []
    for ranks in options.ranks:
        with TemporaryDirectory() as folder, socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            free.close()
            spawn(work, (ranks, port, folder, options), nprocs=ranks)
            told = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
        for same in zip(*told, strict=True):
            row = {name: max(each[name] for each in same) for name in same[0]}
            formula = sum(received_bytes(ranks, int(row["n"]), options.measured_d, options)[:2])
            sent = sum(row[f"received_{kind}_bytes"] for kind in KINDS if kind != "examples")
            row["formula_share"] = formula / sent if ranks > 1 else 1.0
            rows.append(row)
            print({name: round(value, 4) for name, value in row.items()}, flush=True)
    return rows


def work(rank: int, ranks: int, port: int, folder: str, options: argparse.Namespace) -> None:
    """Select in one process of several, and leave its figures in a file."""
    torch.set_num_threads(1)
    if ranks > 1:
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
        os.environ |= {name: str(value) for name, value in places.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        PartialState(cpu=True)
    rows = []
    for n in options.n:
        exchange = TimedExchange(ranks, rank)
        selection = make_selection(SELECTOR, n, exchange, options.measured_d, folder)
        for step in range(options.repeats + 1):
            own = make_examples(n, options, step)[rank * n // ranks : (rank + 1) * n // ranks]
            exchange.received_bytes, exchange.seconds = Counter(), 0.0
            if ranks > 1:
                distributed.barrier()
            started = time.perf_counter()
            select(selection, drawn_candidates([own], "source"), step)
            seconds = time.perf_counter() - started
            received = exchange.received_bytes
            rows.append(
                {"ranks": ranks, "n": n, "step": step, "seconds": seconds}
                | {"exchange_seconds": exchange.seconds, "received_bytes": received.total()}
                | {f"received_{kind}_bytes": received[kind] for kind in KINDS}
            )
    kept = [row for row in rows if row["step"] > 0]
    (Path(folder) / f"{rank}.json").write_text(json.dumps(kept))
    if ranks > 1:
        distributed.destroy_process_group()


KINDS = ("rows", "first", "sums", "examples")


class TimedExchange(Exchange):
    """An exchange that notes how long its calls take, waiting for other processes included."""

    seconds = 0.0


def _timed(name: str) -> Any:
    def call(self: TimedExchange, *arguments: Any) -> Any:
        before, started = self.seconds, time.perf_counter()
        result = getattr(Exchange, name)(self, *arguments)
        # Calls within calls count once.
        self.seconds = before + time.perf_counter() - started
        return result

    return call


for _name in ("rows", "of_first", "names", "union", "total", "examples"):
    setattr(TimedExchange, _name, _timed(_name))


class RandomFeatures(CandidateObserver):
    """Shows random features in place of a model's, the same for an example wherever it lies."""

    size = 0

    def _renew(self) -> bool:
        return False

    def _weight(self) -> None:
        """No criterion needs one."""

    def _look(self, examples: list[Any], *_: Any) -> tuple[dict[str, Tensor], list[Tensor]]:
        rows = [
            torch.randn(self.size, generator=keyed_generator(content_key(each)))
            for each in examples
        ]
        if not rows:
            return {}, []
        return {"gradients": torch.stack(rows), "losses": torch.ones(len(rows))}, []


def make_selection(
    selector: str, n: int, exchange: Exchange, size: int, folder: str
) -> ExampleSelection:
    """Return a selection as the trainer makes it, but for the model."""
    args = CoLMTrainingArguments(
        output_dir=folder, selector=selector, use_cpu=True, report_to="none"
    )
    core = CoresetSelector(
        in_parts(get_selector(selector), exchange),
        normalization=args.normalization,
        example_weights="label_tokens",
    )
    nothing: Any = None
    access = ModelAccess(nothing, nothing, nothing, nothing, nothing)
    features = RandomFeatures(args, access, core.needs, 0, exchange)
    features.size = kept_dimensions(n, size)
    return ExampleSelection(args, core, features, "source", exchange)


def select(selection: ExampleSelection, drawn: DrawnCandidates, step: int) -> Kept:
    """Keep half of the candidates, as a step of training does."""
    split = selection.split(drawn, len(drawn.examples) // 2, step)
    seen = selection.observer.look(split.own, split.table, split.to_see, step)
    return selection.keep(split, seen)


def make_examples(n: int, options: argparse.Namespace, step: int) -> list[dict[str, Any]]:
    """Return n random examples of several sources, the same on each process."""
    rng = random.Random(f"{options.seed} {n} {step}")
    examples = []
    for number in range(n):
        tokens = [rng.randrange(options.vocabulary) for _ in range(rng.randint(20, options.tokens))]
        # The vocabulary's last token is there, so that its size is known to the formula.
        tokens[0] = options.vocabulary - 1
        source = f"source {number % SOURCES}"
        examples.append({"input_ids": tokens, "labels": tokens, "source": source})
    return examples


def kept_dimensions(n: int, size: int) -> int:
    """Return d'."""
    return min(size, MOST_NUMBERS // n)


def received_bytes(
    ranks: int, n: int, size: int, options: argparse.Namespace
) -> tuple[float, float, float]:
    """Return what a process receives: of features, of all else but examples, and of examples."""
    if ranks == 1:
        return 0.0, 0.0, 0.0
    others = n * (ranks - 1) / ranks
    features = 4.0 * kept_dimensions(n, size) * others
    # A table of four numbers, a name in JSON and its line's end, and a loss for each candidate.
    rows = others * (32 + len('"source 0"\n') + 4)
    headers = 24 * (ranks - 1) * 6 + 8 * (ranks - 1)
    parts = -(-n // MOST_TOGETHER)
    if parts > 1:
        # Padded to what the process with most parts has: part, row and weight of each.
        rows += (ranks - 1) * -(-parts // ranks) * -(-n // 2 // parts) * 24
    else:
        headers -= 24 * (ranks - 1)
    first = n // 2 * (8 + 4) + 2 * 16
    sums = 4 * options.vocabulary + 8
    moved, _ = dealing(ranks, n, options)
    examples = make_examples(8, options, 0)
    size_of_one = statistics.mean(
        len(packed({number: {key: each[key] for key in ("input_ids", "labels")}}))
        for number, each in enumerate(examples)
    )
    return features, rows + headers + first + sums, 8 * ranks + moved / ranks * size_of_one


def dealing(ranks: int, n: int, options: argparse.Namespace) -> tuple[int, float]:
    """Deal n / 2 kept examples; return how many change place, and the seconds it takes."""
    rng = random.Random(options.seed)
    rows = rng.sample(range(n), n // 2)
    owners = [row * ranks // n for row in rows]
    lengths = [rng.randint(20, options.tokens) for _ in rows]
    started = time.perf_counter()
    trained_by = deal(lengths, owners, ranks)
    seconds = time.perf_counter() - started
    return sum(a != b for a, b in zip(trained_by, owners, strict=True)), seconds


def unit_costs(options: argparse.Namespace) -> dict[str, float]:
    """Return seconds of the work that the model is made of."""
    most = MOST_TOGETHER
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    features = torch.randn(most, 4096, generator=keyed_generator(options.seed)).to(device)
    part_seconds = seconds_of(lambda: gradient_matching(features, most // 2))
    many, rows = features.repeat(4, 1), torch.arange(most)

    def handle() -> None:
        torch.isfinite(many).all(1).cpu()
        matching_error(rms_normalize(many), rows)

    n = 4096
    examples = make_examples(n, options, 0)
    with TemporaryDirectory() as folder:
        selection = make_selection("random", n, Exchange(), 1, folder)
        drawn = drawn_candidates([examples], "source")
        own = seconds_of(lambda: tabulate(drawn.examples, drawn.sources, Exchange()))
        together = seconds_of(lambda: select(selection, drawn, 0))
    return {
        "part_seconds": part_seconds,
        "number_seconds": seconds_of(handle) / many.numel(),
        "own_candidate_seconds": own / n,
        "candidate_seconds": max(0.0, together - own) / n,
    }


def seconds_of(work: Callable[[], Any]) -> float:
    """Return the median time of a few calls."""
    work()
    times = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def predict(
    ranks: int, n: int, costs: dict[str, float], options: argparse.Namespace
) -> dict[str, float]:
    """Return bytes, memory and seconds of a step on one of many processes."""
    features, rest, examples = received_bytes(ranks, n, options.d, options)
    kept = kept_dimensions(n, options.d)
    latency = options.latency * (
        (CALLS["gathers"] + CALLS["exchanges"]) * (ranks - 1)
        + CALLS["broadcasts"] * math.ceil(math.log2(ranks))
        + CALLS["sums"] * 2 * (ranks - 1)
    )
    parts = -(-n // MOST_TOGETHER)
    # One part is matched by every process; it costs what its candidates do, at most a whole part.
    whole = min(1.0, (n / MOST_TOGETHER) ** 2)
    return {
        "ranks": ranks,
        "n": n,
        "kept_dimensions": kept,
        "all_features_bytes": 4 * n * options.d,
        "feature_bytes": 4 * n * kept,
        "received_bytes": features + rest + examples,
        "received_besides_features_bytes": rest + examples,
        "received_examples_bytes": examples,
        "network_seconds": latency + (features + rest + examples) / options.bandwidth,
        "matching_seconds": -(-parts // ranks) * whole * costs["part_seconds"],
        "numbers_seconds": n * kept * costs["number_seconds"],
        "bookkeeping_seconds": n * costs["candidate_seconds"]
        + n / ranks * costs["own_candidate_seconds"],
        "dealing_seconds": dealing(ranks, n, options)[1],
    }


def show(predictions: list[dict[str, float]]) -> None:
    """Print the model's table."""
    mebibyte = 2**20
    columns = ("network", "matching", "numbers", "bookkeeping", "dealing")
    print("Modelled for each process, MiB and seconds:")
    print(
        f"{'w':>5} {'n':>6} {'d-kept':>7} {'all d':>7} {'held':>6} {'got':>7} {'else':>6}", end=""
    )
    print("".join(f" {name:>11}" for name in columns))
    for row in predictions:
        sizes = ("all_features_bytes", "feature_bytes", "received_bytes")
        told = [f"{row[name] / mebibyte:7.0f}" for name in sizes]
        rest = row["received_besides_features_bytes"] / mebibyte
        seconds = "".join(f" {row[f'{name}_seconds']:11.3f}" for name in columns)
        print(
            f"{row['ranks']:5.0f} {row['n']:6.0f} {row['kept_dimensions']:7.0f} "
            f"{told[0]} {told[1][1:]} {told[2]} {rest:6.1f}{seconds}"
        )
