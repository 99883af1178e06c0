"""``colm select``: what the selector of a run would keep of its first candidates, by source."""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colm.cli.libraries import notes_on_stderr
from colm.cli.parsing import (
    add_sft_command,
    check_counts,
    check_one_process,
    parse_sft_options,
)

if TYPE_CHECKING:
    from colm.runs.kept_shares import Candidate, Share
    from colm.runs.select import DryRun

DEFAULT_BATCHES = 4


def add_parser(subparsers: Any) -> None:
    """Add the command; beside its own options it takes those of ``colm sft``.

    Args:
        subparsers: What ``add_subparsers`` returned.
    """
    parser = add_sft_command(
        subparsers,
        "select",
        summary="a dry run: what a selector would keep, by source",
        usage="[--batches N] [--output FILE]",
        description="Load model and data as colm sft would, draw the candidates of its first "
        "steps as it would, and print what it would keep of each source. Nothing is trained, and "
        "nothing written but --output; output_dir is not touched. So the first step is what the "
        "run itself keeps, later ones are what it would keep if its weights did not move. One "
        "process only.",
    )
    parser.add_argument(
        "--batches",
        type=int,
        default=DEFAULT_BATCHES,
        metavar="N",
        help=f"optimiser steps to draw candidates for (default: {DEFAULT_BATCHES})",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="a new file for JSON Lines, one a candidate: step, source, key, label_tokens, kept, "
        "weight, text",
    )
    parser.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> int:
    """Select for the first steps, print the table, and write the candidates where asked.

    Args:
        namespace: The options of ``add_parser``; its ``rest`` holds those of ``colm sft``.

    Returns:
        Exit code 0.

    Raises:
        ValueError: An option, the data or the model cannot be used, or there are several processes.
        FileNotFoundError: A file is not there.
        OSError: The output cannot be written.
    """
    _check(namespace)
    with notes_on_stderr():
        arguments = parse_sft_options(namespace)
        from colm.runs.select import make_dry_run, nothing_to_select

        if reason := nothing_to_select(arguments.training):
            if namespace.output is not None:
                raise ValueError(f"nothing to write to --output {namespace.output}: {reason}")
            print(f"Nothing to select: {reason}")
            return 0
        found = make_dry_run(arguments, namespace.batches)
    print(describe_dry_run(found))
    if namespace.output is not None:
        _write(found.candidates, namespace.output)
    return 0


def _check(namespace: argparse.Namespace) -> None:
    """Refuse what can be known before anything is loaded."""
    check_counts(namespace, ["batches"])
    check_one_process("select")
    if namespace.output is not None:
        _check_output(namespace.output)


def _check_output(output: Path) -> None:
    """Refuse a file that is there, or that hours of selecting could not write in the end."""
    if output.exists():
        raise ValueError(f"--output {output} is there already: name another file")
    folder = next(each for each in output.absolute().parents if each.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ValueError(f"--output {output} cannot be written: {folder} is no folder to write in")


def _write(candidates: Sequence["Candidate"], output: Path) -> None:
    from colm.durable import write_whole

    lines = [json.dumps(asdict(each), ensure_ascii=False) for each in candidates]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(output, "".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        raise OSError(f"--output {output} cannot be written: {error.strerror}") from error


def describe_dry_run(found: "DryRun") -> str:
    """Return a table of what was kept by source, and notes beneath it.

    Args:
        found: What the dry run saw.

    Returns:
        Lines of text.
    """
    from colm.names import shown_name
    from colm.reports.tables import Table
    from colm.runs.kept_shares import share_of, shares_by_source

    rows = [
        _row(shown_name(name), share) for name, share in shares_by_source(found.candidates).items()
    ]
    rows.append(_row("total", share_of(found.candidates)))
    table = Table(["source", "candidates", "kept", "share kept", "label tokens kept"], rows)
    return "\n".join([table.to_text(), "", *(f"- {note}" for note in found.notes)])


def _row(name: str, share: "Share") -> list[str]:
    return [
        name,
        f"{share.candidates:,}",
        f"{share.kept:,}",
        f"{share.of_candidates:.1%}",
        f"{share.of_label_tokens:.1%}",
    ]
