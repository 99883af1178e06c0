"""``colm plan``: what a step of ``colm sft`` would hold and do, before anything is loaded."""

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from colm.cli.libraries import silence_bitsandbytes
from colm.cli.parsing import (
    add_sft_command,
    check_counts,
    parse_sft_options,
    read_size,
    sft_words,
)

if TYPE_CHECKING:
    from colm.planning.fits import Fit, Fits
    from colm.planning.plan import Plan, StepPlan

#: Of ways of training; that of the run is called by what it selects with.
HEADINGS = {"plain_r": "plain r", "plain_n": "plain n", "plain_2n": "plain 2n"}
NO_SELECTION = "this run"
UNKNOWN = "unknown"
THOUSAND = 1000
FIT_NOTE = (
    "- Operations are those of a step over the first row's, an estimate of its time: what an "
    "optimiser computes is left out, and so is how many steps a method needs. Memory is that of "
    "tensors: what kernels and the allocator hold comes on top."
)
PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def add_parser(subparsers: Any) -> None:
    """Add the command; beside its own options it takes those of ``colm sft``.

    Args:
        subparsers: What ``add_subparsers`` returned.
    """
    parser = add_sft_command(
        subparsers,
        "plan",
        summary="what a step of colm sft would hold and do, before anything is loaded",
        usage="[--tokens T] [--used_tokens K] [--fit SIZE] [--accelerator] [--json]",
        description="Print parameters, memory and work of a step of colm sft and of plain steps on "
        "r, n and 2n examples; with --fit, the methods of training in less memory that fit into so "
        "much. Of the model only its configuration is read; of the data nothing.",
    )
    parser.add_argument(
        "--tokens", type=int, metavar="T", help="tokens of an example (default: max_length)"
    )
    parser.add_argument(
        "--used_tokens",
        type=int,
        metavar="K",
        help="tokens that the data use, all special ones among them, for prune_vocabulary",
    )
    parser.add_argument(
        "--fit",
        metavar="SIZE",
        help="list what fits into so much memory, as 24GB (10^9 bytes) or 24GiB (2^30)",
    )
    parser.add_argument(
        "--accelerator",
        action="store_true",
        help="count the loss as an accelerator's kernels compute it, without one at hand",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, in bytes")
    parser.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> int:
    """Make the plan, or the list of what fits, and print it.

    Args:
        namespace: The options of ``add_parser``; its ``rest`` holds those of ``colm sft``.

    Returns:
        Exit code 0.
    """
    check_counts(namespace, ["used_tokens"])
    memory_bytes = None if namespace.fit is None else read_size("--fit", namespace.fit)
    given = {"accelerator": namespace.accelerator, "used_tokens": namespace.used_tokens}
    silence_bitsandbytes()
    with warnings.catch_warnings():
        # Deprecations inside other libraries: users can do nothing about them.
        warnings.simplefilter("ignore", FutureWarning)
        found: Plan | Fits
        if memory_bytes is None:
            from colm.planning.plan import make_plan

            found = make_plan(parse_sft_options(namespace), namespace.tokens, **given, tell=_tell)
            text = describe_plan(found)
        else:
            from colm.planning.fits import find_fits

            words = sft_words(namespace)
            found = find_fits(words, memory_bytes, namespace.tokens, **given, tell=_tell)
            text = describe_fits(found)
    print(json.dumps(found.to_dict(), indent=1) if namespace.json else text)
    return 0


def _tell(name: str) -> None:
    """Say what is counted, since a large model takes minutes."""
    print(f"counting: {name}", file=sys.stderr)


def describe_plan(plan: "Plan") -> str:
    """Return the plan in words: a table, and what its figures rest on."""
    from colm.reports.tables import Table

    kept, drawn = plan.ways["colm"].examples, plan.ways["plain_n"].examples
    ways = plan.ways.values()
    rows = [
        _row("examples in a micro-batch", ways, lambda way: f"{way.examples:,}"),
        _row("saved for backward, most", ways, lambda way: in_bytes(way.saved_bytes)),
        _row("alive while training, most", ways, lambda way: in_bytes(way.training_bytes)),
        _row("alive while looking, most", ways, lambda way: in_bytes(way.look_bytes)),
        _row("with weights and optimiser", ways, lambda way: in_bytes(way.total_bytes)),
        _row("operations of a step", ways, lambda way: with_prefix(way.flops, "FLOP")),
        _row("of the look", ways, lambda way: with_prefix(way.look_flops, "FLOP")),
        _row("operations over the first's", ways, lambda way: f"{way.work_ratio:.2f}"),
        _row("time over the first's", ways, lambda way: f"{way.time_ratio:.2f}"),
    ]
    headings = HEADINGS | {"colm": plan.selector or NO_SELECTION}
    table = Table(["", *(headings[name] for name in plan.ways)], rows, indented=[6])
    facts = {
        "model": f"{plan.model} ({plan.architecture})",
        "parameters": f"{plan.parameters:,}, of which trained {plan.trained_parameters:,}",
        "weights": in_bytes(plan.weight_bytes),
        "gradients": in_bytes(plan.gradient_bytes),
        "optimiser": f"{in_bytes(plan.optimizer_bytes)} ({plan.optimizer})",
        **({"on the CPU": in_bytes(plan.host_bytes)} if plan.host_bytes else {}),
        "micro-batch": f"r = {kept} of n = {drawn} examples of {plan.tokens:,} tokens",
        "micro-batches": f"{plan.micro_batches} a step",
    }
    width = max(map(len, facts))
    lines = [f"{name:<{width}}  {fact}" for name, fact in facts.items()]
    return "\n".join([*lines, "", table.to_text(), "", *(f"- {note}" for note in plan.notes)])


def describe_fits(found: "Fits") -> str:
    """Return what fits in words: a table, and what to put into the recipe for each row."""
    from colm.reports.tables import Table

    size = in_bytes(found.memory_bytes)
    of = f"{found.examples} examples of {found.tokens:,} tokens a step"
    notes = [f"- {name}: left out, {why}" for name, why in found.left_out.items()]
    if not found.fits and found.least is not None:
        least = found.least
        line = (
            f"nothing fits into {size} at {of}; the least is {in_bytes(least.total_bytes)}: "
            f"{least.name} ({_settings(least)})"
        )
        return "\n".join([line, *notes])
    first = found.fits[0].flops
    rows = [
        [
            str(number),
            fit.name,
            f"{fit.micro_batch} x {fit.micro_batches}",
            in_bytes(fit.total_bytes),
            f"{fit.flops / first:.2f}",
        ]
        for number, fit in enumerate(found.fits, start=1)
    ]
    table = Table(["", "method", "micro-batches", "memory", "operations"], rows)
    settings = [f"{number}  {_settings(fit)}" for number, fit in enumerate(found.fits, start=1)]
    return "\n".join(
        [
            f"fits into {size}, {of}",
            "",
            table.to_text(),
            "",
            "in the recipe:",
            *settings,
            "",
            FIT_NOTE,
            *notes,
        ]
    )


def _settings(fit: "Fit") -> str:
    """The options of a row, as a recipe has them."""
    options = [f"{name}: {json.dumps(value)}" for name, value in fit.settings.items()]
    return ", ".join(options) or "as it stands"


def _row(name: str, ways: Any, show: Callable[["StepPlan"], str]) -> list[str]:
    return [name, *map(show, ways)]


def in_bytes(number: int | None) -> str:
    """Return a number of bytes to three figures or so, ``unknown`` for none."""
    return UNKNOWN if number is None else with_prefix(number, "B")


def with_prefix(number: float, unit: str) -> str:
    """Return a number with a decimal prefix: ``1.50 kB`` for 1500 and ``B``."""
    power = 0
    while number >= THOUSAND and power < len(PREFIXES) - 1:
        number /= THOUSAND
        power += 1
    digits = 0 if not power else 2 if number < 10 else 1
    return f"{number:,.{digits}f} {PREFIXES[power]}{unit}"
