"""``colm report``: one page of one or several runs, to open in a browser, send or print."""

import argparse
from pathlib import Path
from typing import Any

DEFAULT_OUTPUT = Path("report.html")


def add_parser(subparsers: Any) -> None:
    """Add the command and its options.

    Args:
        subparsers: What ``add_subparsers`` returned.
    """
    parser = subparsers.add_parser(
        "report",
        help="make a page of one or several runs: table, losses, sources kept, time, memory",
        description="Make one HTML page of runs side by side, with no network and no script in it. "
        "Runs that go on or were cut short are read from their newest checkpoint.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="output folder of colm sft, colm compare or colm demo, or report.json of the last two",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        default=DEFAULT_OUTPUT,
        help=f"the page to write (default: {DEFAULT_OUTPUT})",
    )
    parser.add_argument(
        "--names", nargs="+", metavar="NAME", help="one for each run (default: of their folders)"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="write over --output even where that is no report of colm",
    )
    parser.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> int:
    """Read the runs, write the page and say where it is.

    Args:
        namespace: The options of ``add_parser``.

    Returns:
        Exit code 0.

    Raises:
        ValueError: A run cannot be read, or the page not be written.
    """
    from colm.reports import headline, read_runs, summary_table, write_page
    from colm.reports.seeds import have_seeds, seeds_table, ways

    output: Path = namespace.output
    _check_output(output, namespace.overwrite)
    comparison = read_runs(namespace.runs, namespace.names)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_page(output, comparison)
    except OSError as error:
        raise ValueError(f"--output {output} cannot be written: {error.strerror}") from error
    print(f"{headline(comparison)}.\n")
    told = ways(comparison.arms)
    if have_seeds(told):
        print(f"{seeds_table(told).fitted().to_text()}\n")
    print(summary_table(comparison).fitted().to_text())
    for note in comparison.notes:
        print(f"\n{note}")
    print(f"\nreport   {output}")
    return 0


def _check_output(output: Path, overwrite: bool) -> None:
    """Refuse to write over a file that is no report."""
    from colm.reports import is_report

    if output.is_dir():
        raise ValueError(f"--output {output} is a folder: name a file in it.")
    if output.exists() and not overwrite and not is_report(output):
        raise ValueError(
            f"--output {output} is there and is not a report of colm: name another file, or write "
            "over it with --overwrite."
        )
