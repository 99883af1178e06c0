"""``colm compare``: ways of training on one's own model and data, for equal time, in turns."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colm.cli.libraries import notes_on_stderr, set_environment
from colm.cli.parsing import add_sft_command, check_one_process
from colm.cli.terminal import Saying

if TYPE_CHECKING:
    from colm.reports import Comparison

DEFAULT_COMPARISON_FOLDER = Path("runs/compare")
REPORT_NAME = "report.html"


def add_parser(subparsers: Any) -> None:
    """Add the command; beside its own options it takes those of ``colm sft``.

    Args:
        subparsers: What ``add_subparsers`` returned.
    """
    parser = add_sft_command(
        subparsers,
        "compare",
        summary="train in several ways for equal time on your model and data, and compare",
        usage="[--arms ARM ...] [--seeds N] [--minutes M]",
        description="Train the model of a recipe in several ways for equal time, in turns, so that "
        "the machine's noise falls on all alike, and say which is best on held-out examples and "
        "whether looking at candidates paid. Controls are always among the ways. Interrupted, the "
        "same command goes on. One process only.",
    )
    parser.add_argument(
        "--arms",
        nargs="+",
        default=["colm", "even"],
        metavar="ARM",
        help="ways of training: the name of any selector, plain (r examples drawn uniformly, all "
        "trained on), plain_n, plain_2n (n, 2n of them), even (r, every source equally often), "
        "any other candidate_sampling, recipe (as it says), or NAME:OPTION=VALUE,OPTION=VALUE "
        "(default: colm even). plain, plain_n and, for what looks at gradients or losses, a random "
        "choice with the same draws and the same small sources kept come by themselves",
    )
    _add_length(parser)
    _add_ways(parser)
    parser.set_defaults(run=run)


def _add_length(parser: argparse.ArgumentParser) -> None:
    """Add the options that say for how long is trained and how often measured."""
    parser.add_argument(
        "--minutes",
        type=float,
        default=60.0,
        metavar="M",
        help="of training, for each arm and seed (default: 60)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        metavar="N",
        help="runs of each arm, from the recipe's seed on (default: 3)",
    )
    parser.add_argument(
        "--turns",
        type=int,
        metavar="N",
        help="into how many the time of a run is cut; the held-out loss is measured after each "
        "(default: one for each 30 seconds, 10 at most)",
    )
    parser.add_argument(
        "--held_out",
        type=int,
        default=32,
        metavar="N",
        help="examples of each source to measure on, a fifth of it at most; where the data have "
        "the recipe's test split, that is used (default: 32)",
    )


def _add_ways(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how it is done, and where it is written."""
    parser.add_argument(
        "--learning_rates",
        type=float,
        nargs="+",
        default=[],
        metavar="RATE",
        help="tried by every arm, each a run of its own; each arm's best on one half of the "
        "held-out examples is reported on the other (default: the recipe's)",
    )
    parser.add_argument(
        "--one_at_a_time",
        action="store_true",
        help="train each arm to its end before the next is loaded, where memory does not hold all",
    )
    parser.add_argument(
        "--keep_models", action="store_true", help="save the trained model of each run"
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=DEFAULT_COMPARISON_FOLDER,
        metavar="FOLDER",
        help="new or empty, or that of a comparison to go on with "
        f"(default: {DEFAULT_COMPARISON_FOLDER})",
    )


def run(namespace: argparse.Namespace) -> int:
    """Compare, print the tables and write the report.

    Args:
        namespace: The options of ``add_parser``; its ``rest`` holds those of ``colm sft``.

    Returns:
        Exit code 0.

    Raises:
        ValueError: An option, the data, the model or the output folder cannot be used.
        FileNotFoundError: A file is not there.
        OSError: The output folder cannot be written to.
    """
    check_one_process("compare")
    set_environment()
    with notes_on_stderr():
        from colm.runs.compare import ComparisonPlan, compare, turns_of
        from colm.runs.compared import report_comparison

        recipes = [word for path in namespace.config or () for word in ("--config", path)]
        plan = ComparisonPlan(
            recipe=[*recipes, *namespace.rest],
            arms=namespace.arms,
            folder=namespace.output_dir,
            minutes=namespace.minutes,
            seeds=namespace.seeds,
            learning_rates=namespace.learning_rates,
            held_out=namespace.held_out,
            turns=turns_of(namespace.minutes) if namespace.turns is None else namespace.turns,
            one_at_a_time=namespace.one_at_a_time,
            keep_models=namespace.keep_models,
        )
        comparing = compare(plan, Saying())
        tell_comparison(report_comparison(comparing, {}), plan.folder)
    return 0


def tell_comparison(comparison: "Comparison", folder: Path) -> None:
    """Print what came of a comparison, write its report and say where it is.

    Args:
        comparison: At its end.
        folder: Of the comparison.
    """
    from colm.reports import write_report

    report = write_report(folder / REPORT_NAME, comparison)
    findings = comparison.findings
    assert findings is not None
    print(f"\n{findings.headline}.")
    for sentence in findings.sentences:
        print(sentence)
    for title, table in findings.tables.items():
        print(f"\n{title}\n\n{table.fitted().to_text()}")
    print("\nmacro: mean over sources; micro: mean over the examples of the mixture")
    for note in comparison.notes:
        print(f"\n{note}")
    print(f"\nreport   {report}")
