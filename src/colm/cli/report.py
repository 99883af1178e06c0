"""``colm report``: one page of one or several runs, to open in a browser, send or print."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colm.reports import Comparison, Table

DEFAULT_OUTPUT = Path("report.html")


def add_parser(subparsers: Any) -> None:
    """Add the command and its options.

    Args:
        subparsers: What ``add_subparsers`` returned.
    """
    parser = subparsers.add_parser(
        "report",
        help="make a page of one or several runs: table, losses, sources, time, memory",
        description="Make one HTML page of runs side by side, with no network and no script in "
        "it. Runs that go on or were cut short are read from their newest checkpoint. Those "
        "that differ by their seed alone are shown together as well. Of more than eight runs, the "
        "page is an index with a row for each, and each has a page of its own beside it.",
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
        "--together",
        action="store_true",
        help="show more than eight runs on one page, too, and not each on its own behind an index",
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
    output: Path = namespace.output
    _check_output(output, namespace.overwrite)
    from colm.reports.index import MOST_ON_A_PAGE

    if len(namespace.runs) > MOST_ON_A_PAGE and not namespace.together:
        _report_many(namespace)
    else:
        _report_few(namespace)
    print(f"\nreport   {output}")
    return 0


def _report_few(namespace: argparse.Namespace) -> None:
    """Write one page, and print what it says first."""
    from colm.reports import read_runs, summary_table, write_page

    comparison = read_runs(namespace.runs, namespace.names)
    with _writing(namespace.output):
        write_page(namespace.output, comparison)
    _tell(comparison, summary_table(comparison).fitted())


def _report_many(namespace: argparse.Namespace) -> None:
    """Write an index and a page for each run, and print what the index says."""
    from colm.reports import read_many
    from colm.reports.index import index_table, join_many, pages_of, write_index

    parts, left_out = read_many(namespace.runs, namespace.names)
    for page in pages_of(namespace.output, list(parts)).values():
        _check_output(page, namespace.overwrite)
    comparison = join_many(parts, left_out)
    with _writing(namespace.output):
        write_index(namespace.output, parts, comparison)
    _tell(comparison, index_table(comparison))


def _tell(comparison: "Comparison", table: "Table") -> None:
    """Print the outcome, seeds together, each run, and what must be known with it."""
    from colm.reports import headline
    from colm.reports.seeds import have_seeds, seeds_table, ways

    print(f"{headline(comparison)}.\n")
    told = ways(comparison.arms)
    if comparison.findings is None and have_seeds(told):
        print(f"{seeds_table(told).fitted().to_text()}\n")
    print(table.to_text())
    for note in comparison.notes:
        print(f"\n{note}")


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Make the output's folder, and say in a line where something cannot be written."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ValueError(f"--output {output} cannot be written: {error.strerror}") from error


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
