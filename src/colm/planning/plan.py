"""The plan of a run: what a step holds in memory and how its work compares, from options alone.

Symbols: r examples kept and trained on in a micro-batch, n drawn for it, t tokens an example.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from colm.gradients.decoder import class_name
from colm.planning.machine import Machine, measure_machine
from colm.planning.run_counter import Held, RunCounter
from colm.planning.skeleton import autocast_dtype
from colm.planning.step_counter import Counted
from colm.planning.tally import Work
from colm.runs.arguments import SFTArguments
from colm.training.papers import selects

#: Ways of training that a plan compares: that of the run, whatever it selects with, and plain steps
#: on r, n and 2n examples.
WAYS = ("colm", "plain_r", "plain_n", "plain_2n")


@dataclass(frozen=True)
class StepPlan:
    """One way of training: what its step holds and does.

    Attributes:
        examples: in a micro-batch of the forward and backward.
        saved_bytes: most that are saved for backward at one time, the look's included.
        training_bytes: most that are alive during forward and backward, gradients included.
        look_bytes: most that are alive while candidates are looked at; 0 for plain training.
        total_bytes: weights, optimiser, and the larger of the two; ``None`` where the optimiser is
            not known.
        flops: multiplications and additions in matrix products and attention of an optimiser step.
        look_flops: those of the look among them.
        work_ratio: ``flops`` over those of the run.
        time_ratio: estimated time of a step over that of the run's; see `Machine`.
    """

    examples: int
    saved_bytes: int
    training_bytes: int
    look_bytes: int
    total_bytes: int | None
    flops: int
    look_flops: int
    work_ratio: float
    time_ratio: float


@dataclass(frozen=True)
class Plan(Held):
    """What `make_plan` returns.

    Attributes:
        model: its name or folder.
        architecture: its class.
        tokens: of each example.
        micro_batches: of an optimiser step.
        selector: what chooses among the candidates; ``None`` where all that is drawn is trained on.
        ways: by name, each of ``WAYS``.
        notes: what the figures rest on, a sentence each.
    """

    model: str
    architecture: str
    tokens: int
    micro_batches: int
    selector: str | None
    ways: dict[str, StepPlan]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as what JSON can hold."""
        return asdict(self)


def make_plan(
    arguments: SFTArguments,
    tokens: int | None = None,
    machine: Machine | None = None,
    *,
    accelerator: bool = False,
    used_tokens: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Return the plan of a run; neither weights nor data are read.

    Args:
        arguments: options of the run, from ``colm.runs.arguments.parse_arguments``.
        tokens: of each example; ``max_length`` by default.
        machine: to estimate times for; the one at hand is measured by default.
        accelerator: count the loss as an accelerator's kernels compute it, without one at hand.
        used_tokens: that the data use, for ``prune_vocabulary``.
        tell: is called with what is counted next: that of a large model takes minutes.

    Raises:
        ValueError: an option, or a model that cannot be planned for, in one line.
    """
    training = arguments.training
    tokens = tokens_of_an_example(tokens, training.max_length)
    run = RunCounter(arguments, tokens, accelerator=accelerator, used_tokens=used_tokens)
    kept, accumulated = training.per_device_train_batch_size, training.gradient_accumulation_steps
    drawn = round(kept * training.candidate_ratio)
    held = run.held()
    looks = selects(training)
    size = kept if looks else drawn
    sizes = {"colm": size, "plain_r": kept, "plain_n": drawn, "plain_2n": 2 * drawn}
    if looks:
        tell(f"a look at {drawn} examples")
    look = run.look(kept, drawn, accumulated)
    steps = {}
    for way, size in sizes.items():
        tell(f"a step on {size} examples" + (" after it" if looks and way == "colm" else ""))
        steps[way] = run.step(size, accumulated, after_look=way == "colm")
    counted = {way: (size, steps[way]) for way, size in sizes.items()}
    ways = _ways(counted, look, held, machine or _machine(arguments, run.model))
    copied_bytes = max(0, 2 * steps["plain_n"].saved_bytes - steps["plain_2n"].saved_bytes)
    return Plan(
        model=str(arguments.model.model_name_or_path),
        architecture=class_name(run.model),
        tokens=tokens,
        micro_batches=accumulated,
        selector=training.selector if looks else None,
        **asdict(held),
        ways=ways,
        notes=_notes(arguments, ways, copied_bytes),
    )


def _machine(arguments: SFTArguments, model: nn.Module) -> Machine:
    """The machine at hand, in the types that training multiplies in."""
    dtype = autocast_dtype(arguments) or next(model.parameters()).dtype
    return measure_machine([dtype], arguments.training.device)


def tokens_of_an_example(given: int | None, max_length: int | None) -> int:
    """Return how many tokens an example has, to plan with.

    Args:
        given: with ``--tokens``.
        max_length: of the run, where nothing else is said.

    Raises:
        ValueError: there is neither, or less than two.
    """
    tokens = max_length if given is None else given
    if tokens is None:
        raise ValueError("max_length is None: say with --tokens how many tokens an example has")
    if tokens < 2:
        option = "max_length" if given is None else "--tokens"
        raise ValueError(f"{option} must be at least 2, to plan with; got {tokens}")
    return tokens


def _ways(
    counted: dict[str, tuple[int, Counted]], look: Counted, held: Held, machine: Machine
) -> dict[str, StepPlan]:
    """Each way's counts and, for those of ``colm``, the look's beside them."""
    # The optimiser reads and writes its state and the weights, and reads gradients.
    stepped_bytes = 2 * (held.optimizer_bytes or 0) + 3 * held.gradient_bytes
    stepping = Counter({Work(0, stepped_bytes, torch.float32): 1})
    looks = {way: look if way == "colm" else Counted() for way in counted}
    flops = {way: step.flops + looks[way].flops for way, (_, step) in counted.items()}
    seconds = {
        way: machine.seconds(step.work + looks[way].work + stepping)
        for way, (_, step) in counted.items()
    }
    return {
        way: StepPlan(
            examples=size,
            saved_bytes=max(step.saved_bytes, looks[way].saved_bytes),
            training_bytes=step.alive_bytes,
            look_bytes=looks[way].alive_bytes,
            total_bytes=_total(held, max(step.alive_bytes, looks[way].alive_bytes)),
            flops=flops[way],
            look_flops=looks[way].flops,
            work_ratio=flops[way] / flops["colm"],
            time_ratio=seconds[way] / seconds["colm"],
        )
        for way, (size, step) in counted.items()
    }


def _total(held: Held, alive_bytes: int) -> int | None:
    if held.optimizer_bytes is None:
        return None
    return held.weight_bytes + held.optimizer_bytes + alive_bytes


def _notes(arguments: SFTArguments, ways: dict[str, StepPlan], copied_bytes: int) -> list[str]:
    """What the figures rest on, and what to know about them."""
    notes = [
        "Counted on the CPU's operators, every example as long as said and every token a label, "
        "with the attention mask that a batch has once one example is shorter. "
        "Memory that kernels take for themselves, and what an allocator holds in reserve, come on "
        "top.",
        "Operations are those of matrix products and attention. Times are estimated from them, "
        "from the bytes that all operations move, and from this machine's speeds as just measured; "
        "reading data and choosing among what was seen are left out. Trust a measurement more.",
    ]
    copies = autocast_dtype(arguments) is not None and arguments.model.dtype == "float32"
    if copies and copied_bytes > 0.05 * ways["plain_n"].saved_bytes:
        share = copied_bytes / ways["plain_n"].saved_bytes
        notes.append(
            f"{share:.0%} of what a plain step on n saves does not grow with n: copies of weights "
            "that autocast makes, mostly. dtype: bfloat16 does without them."
        )
    if ways["colm"].examples == ways["plain_n"].examples:
        option = f"selector={arguments.training.selector!r}"
        if arguments.training.candidate_ratio == 1:
            option = "candidate_ratio=1"
        notes.append(f"{option} selects nothing: the run is plain training on n.")
    if arguments.training.activation_offloading:
        notes.append("activation_offloading is not counted: what is saved goes to the host.")
    return notes
