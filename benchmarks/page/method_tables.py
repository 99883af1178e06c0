"""Figures of `docs/memory.md`: every way of training in less memory, alone and with CoLM.

Each way has the learning rate that its runs of all seeds have; other rates are in the result files.
At equal time: what the run has come to once it took the processor time of the reference's whole
run, seed by seed.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.page.result_files import CLOCK, BySeed, Run, read_result
from benchmarks.page.standings import Spread, Standing, table
from benchmarks.ways import REFERENCE, WAYS

MIB = 2**20
#: Heads of the columns of bytes.
SIZES = {
    "Weights": "weight_bytes",
    "Gradients": "gradient_bytes",
    "Optimizer": "optimizer_bytes",
    "For backward": "saved_bytes",
    "Peak": "total_bytes",
}
#: What is not for training from scratch: what it leaves frozen is random there.
OF_PRETRAINED = ("LoRA", "QLoRA", "QLoRA, 8-bit Adam", "LoRA, EVA", "side block")
#: The least that losses differ by, over the reference's, to be called better or worse.
TELLING = 0.05
#: Runs that the sentences go by, and those that have bytes of a real model.
LOSSES, BYTES = "generated-from-scratch", "smollm2-bytes"
MODEL = "SmolLM2-135M"


@dataclass(frozen=True)
class Trained:
    """Runs of a way at its learning rate, by seed."""

    runs: Mapping[int, Run]

    @property
    def rate(self) -> float:
        """The learning rate."""
        return float(next(iter(self.runs.values())).result.settings["learning_rate"])

    @property
    def losses(self) -> BySeed:
        """Held-out loss after the steps that all ways take, mean over sources."""
        return self.read("macro")

    def read(self, figure: str) -> BySeed:
        """Return a figure of the summary, by seed."""
        found = {seed: run.result.summary.get(figure) for seed, run in self.runs.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def losses_at(self, seconds: BySeed) -> BySeed:
        """Return held-out losses after so much processor time, by seed."""
        both = self.runs.keys() & seconds.keys()
        found = {seed: self.runs[seed].at(seconds[seed], "macro", CLOCK) for seed in sorted(both)}
        return {seed: loss for seed, loss in found.items() if loss is not None}


class Compared:
    """All runs of a label.

    Attributes:
        alone: by way.
        selected: with CoLM, by way.
    """

    def __init__(self, folder: Path) -> None:
        found: dict[tuple[str, bool], dict[float, dict[int, Run]]] = {}
        for path in sorted(folder.glob("*.json")):
            run = Run(read_result(path))
            said = run.result.settings
            rates = found.setdefault((run.arm, said["selected"]), {})
            rates.setdefault(said["learning_rate"], {})[run.seed] = run
        self.alone = _by_way(found, selected=False)
        self.selected = _by_way(found, selected=True)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What all runs share."""
        return next(iter(self.alone[REFERENCE].runs.values())).result.settings

    @property
    def seconds(self) -> BySeed:
        """Processor time of the reference's run, by seed."""
        return self.alone[REFERENCE].read(CLOCK)

    def table(self, ways: Mapping[str, Trained]) -> str:
        """Return bytes, time of a step and losses of ways, as far as they were measured."""
        trains = bool(self.settings["steps"])
        # On a CPU the loss takes a buffer as wide as a large vocabulary, whatever the model.
        sizes = [name for name in SIZES if name != "Peak" or not self.settings["from_scratch"]]
        pace = statistics.median(self.alone[REFERENCE].read("step_cpu_seconds").values())
        rows = []
        for name, trained in ways.items():
            mean = {key: Spread.of(trained.read(SIZES[key])).mean / MIB for key in sizes}
            step = statistics.median(trained.read("step_cpu_seconds").values())
            cells = [name, *(f"{size:,.1f}" for size in mean.values()), f"{step / pace:.2f}"]
            if trains:
                after = (trained.losses, trained.losses_at(self.seconds))
                cells += [f"{trained.rate:g}", *(Spread.of(losses).short(2) for losses in after)]
            rows.append(cells)
        losses = ["Learning rate", "Loss", "Loss at equal time"] if trains else []
        return table(["Training", *sizes, "Time of a step", *losses], rows)

    def setting(self) -> str:
        """Return what was run, in sentences."""
        said = self.settings
        run = next(iter(self.alone[REFERENCE].runs.values()))
        model = f"{MODEL}-Instruct"
        if said["from_scratch"]:
            model = "The small model of bytes (0.4 million weights), from scratch"
        trained = ""
        if said["steps"]:
            seeds = len(self.alone[REFERENCE].runs)
            trained = f"{said['steps']:,} steps, {seeds} seeds; "
        return (
            f"{model}; {trained}r = {said['r']} of n = {said['n']} examples of "
            f"{said['data'] or 'the generated mixture'}, at most {said['max_length']} tokens, in "
            f"one micro-batch; weights in {said['dtype']}, rank {said['rank']}, new directions "
            f"every {said['refresh']} steps; measured on {run.result.machine['processor']}. Bytes "
            "are in MiB; the time of a step is processor time over that of AdamW alone."
        )


def _by_way(
    found: Mapping[tuple[str, bool], Mapping[float, Mapping[int, Run]]], *, selected: bool
) -> dict[str, Trained]:
    """Each way that has runs, at the rate that most seeds have, of these the best."""
    made = {}
    for name in WAYS:
        rates = [Trained(runs) for runs in found.get((name, selected), {}).values()]
        if rates:
            made[name] = min(rates, key=_rank)
    return made


def _rank(trained: Trained) -> tuple[int, float]:
    losses = trained.losses
    return -len(trained.runs), losses[min(losses)] if losses else float("inf")


def blocks(results: Path) -> dict[str, str]:
    """Return the tables of each label, and a sentence on each way, by their place in the page."""
    made = {}
    labels = {one.name: Compared(one) for one in sorted((results / "methods").glob("*/"))}
    compared = {label: one for label, one in labels.items() if REFERENCE in one.alone}
    for label, one in compared.items():
        made[f"methods {label} setting"] = one.setting()
        made[f"methods {label}"] = one.table(one.alone)
        made[f"methods {label} colm"] = one.table(one.selected)
    for name in WAYS:
        said = [
            sentence
            for label, say in ((LOSSES, say_loss), (BYTES, say_bytes))
            if label in compared
            for sentence in [say(compared[label], name)]
            if sentence
        ]
        if said:
            made[f"verdict {name}"] = " ".join(said)
    return made


def say_loss(compared: Compared, name: str) -> str:
    """Return how the loss of a way stands to the reference's; empty where unknown.

    "Worse" and "better" are beyond the spread of the seeds, see `Standing`, and by 5 % at least:
    two seeds are apart by chance every third time.
    """
    if name in (REFERENCE, *OF_PRETRAINED) or name not in compared.alone:
        return ""
    ours, theirs = compared.alone[name], compared.alone[REFERENCE]
    standing = Standing.of(ours.losses, theirs.losses)
    if standing.word in ("open", "one seed"):
        return ""
    loss, their = (Spread.of(one.losses).mean for one in (ours, theirs))
    tells = abs(loss - their) > TELLING * their
    word = standing.word if tells else "level"
    begins = {"lower": "Better than", "higher": "Worse than"}.get(word, "Level with")
    at_equal_time = ours.losses_at(compared.seconds)
    then = f", at equal time {Spread.of(at_equal_time).mean:.2f}" if at_equal_time else ""
    return (
        f"{begins} AdamW on all weights in {compared.settings['steps']} steps from "
        f"scratch, {len(ours.runs)} seeds: a held-out loss of {loss:.2f}{then}, not {their:.2f}."
    )


def say_bytes(compared: Compared, name: str) -> str:
    """Return what a step holds at its peak beside the reference's; empty where unknown."""
    if name == REFERENCE or name not in compared.alone:
        return ""
    ours, theirs = (
        Spread.of(compared.alone[one].read("total_bytes")).mean / MIB for one in (name, REFERENCE)
    )
    return f"A step of {MODEL} holds {ours:,.0f} MiB at its peak, that of AdamW {theirs:,.0f}."
