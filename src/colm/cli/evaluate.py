"""``colm evaluate``: how many questions a model answers rightly, and its held-out loss."""

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colm.cli.libraries import set_environment, silence_bitsandbytes
from colm.cli.parsing import check_counts
from colm.cli.terminal import Saying

if TYPE_CHECKING:
    from colm.data import Source

METHOD_CHOICES = ("auto", "program", "chain", "direct", "options")
DTYPE_CHOICES = ("auto", "bfloat16", "float16", "float32")

#: Every option, and what ``add_argument`` takes for it.
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "--data": {
        "metavar": "FILE",
        "nargs": "+",
        "default": [],
        "help": "JSONL, JSON, CSV or Parquet files of question and answer, or of prompt, "
        "candidates and label",
    },
    "--output": {
        "metavar": "FILE.json",
        "help": "where the result goes (default: a file of its own in evaluations/ in the run's "
        "folder, where colm report finds it; of other models in runs/evaluations/MODEL/)",
    },
    "--resume": {
        "action": "store_true",
        "default": True,
        "help": "go on with the answers that an interrupted run left beside the output (default)",
    },
    "--no_resume": {
        "action": "store_false",
        "dest": "resume",
        "help": "begin anew, and write over a result that is there",
    },
    "--method": {
        "choices": METHOD_CHOICES,
        "default": "auto",
        "help": "program: write a program, reason in words where it fails; chain: reason in words; "
        "direct: answer at once; options: compare the likelihood of candidates (default: auto, "
        "one of the last three by what the answers of each file are)",
    },
    "--programs": {
        "action": "store_true",
        "help": "with --method auto, ask for a program where an answer is a number, a formula or a "
        "letter, and run it, confined (default: nothing that the model writes is run)",
    },
    "--max_new_tokens": {
        "type": int,
        "metavar": "N",
        "help": "longest answer (default: 512, or 64 for direct ones)",
    },
    "--batch_size": {
        "type": int,
        "default": 16,
        "metavar": "N",
        "help": "questions at a time (default: 16)",
    },
    "--limit": {"type": int, "metavar": "N", "help": "only the first N questions of each file"},
    "--program_request": {
        "metavar": "TEXT",
        "help": "what follows a question where a program is asked for, as in your training data "
        '(default: " Let\'s write a Python program.")',
    },
    "--program_seconds": {
        "type": float,
        "default": 5.0,
        "metavar": "S",
        "help": "longest run of a program (default: 5)",
    },
    "--length_normalized": {
        "action": "store_true",
        "help": "compare candidates by their mean over tokens, not their sum",
    },
    "--held_out": {
        "metavar": "FILE",
        "nargs": "+",
        "default": [],
        "help": "examples, in any layout that colm sft takes, to measure the loss on: files, "
        "patterns such as 'tests/*.jsonl', or NAME=FILE; each file is a source of its own, and of "
        "several with one NAME all are one",
    },
    "--source_column": {
        "metavar": "NAME",
        "help": "column of --held_out that names sources (default: 'source' where there is one)",
    },
    "--max_length": {
        "type": int,
        "default": 1024,
        "metavar": "N",
        "help": "most tokens of a held-out example (default: 1024)",
    },
    "--dtype": {
        "choices": DTYPE_CHOICES,
        "default": "auto",
        "help": "of the weights (default: auto, as they are saved)",
    },
    "--device": {
        "default": "auto",
        "metavar": "NAME",
        "help": "such as cpu or cuda:1 (default: auto, the accelerator where there is one)",
    },
    "--trust_remote_code": {
        "action": "store_true",
        "help": "run code that the model brings (default: such a model is refused)",
    },
}


def add_parser(subparsers: Any) -> None:
    """Add the command and its options.

    Args:
        subparsers: What ``add_subparsers`` returned.
    """
    parser = subparsers.add_parser(
        "evaluate",
        help="ask a model questions and count the right answers; measure held-out loss",
        description="Ask a model every question of some files, greedily and without examples, "
        "judge its answers, and write one JSON with all of them. An interrupted run goes on where "
        "it was when the same command is given again.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="folder of a model, a PEFT adapter or a side block, or name on the hub",
    )
    for name, properties in OPTIONS.items():
        parser.add_argument(name, **properties)
    parser.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> int:
    """Ask, judge, write the result and print a table.

    Args:
        namespace: The options of ``add_parser``.

    Returns:
        Exit code 0.

    Raises:
        ValueError: An option, the data, the model or what lies at the output cannot be used.
        FileNotFoundError: A file is not there.
    """
    _check(namespace)
    set_environment(TQDM_DISABLE="1")
    silence_bitsandbytes()
    with warnings.catch_warnings():
        # Deprecations inside other libraries: users can do nothing about them.
        warnings.simplefilter("ignore", FutureWarning)
        from colm.runs.evaluate import EvaluationOptions, evaluate

        options = {each.name: getattr(namespace, each.name) for each in fields(EvaluationOptions)}
        options["held_out"] = _held_out_files(namespace.held_out)
        output, result = evaluate(EvaluationOptions(**options), Saying(sys.stderr))
    print(describe_evaluation(result))
    for note in result["notes"]:
        print(f"\n{note}")
    print(f"\nresult  {output}")
    return 0


def _check(namespace: argparse.Namespace) -> None:
    """Refuse values that argparse takes and that cannot be."""
    check_counts(namespace, ["max_new_tokens", "batch_size", "limit", "max_length"])
    if not 0 < namespace.program_seconds < float("inf"):
        raise ValueError(
            f"--program_seconds must be above 0 and finite; got {namespace.program_seconds}."
        )
    if not namespace.data and not namespace.held_out:
        raise ValueError("nothing to evaluate on: name files with --data or --held_out")
    if namespace.programs and namespace.method != "auto":
        raise ValueError(
            f"--programs goes with --method auto, not with {namespace.method}; --method program "
            "asks for programs everywhere"
        )
    if namespace.output:
        from colm.runs.evaluation_file import check_output

        check_output(Path(namespace.output), namespace.resume)


def _held_out_files(texts: Sequence[str]) -> "list[Source]":
    """The files of ``--held_out``, found before anything is loaded."""
    from colm.data import named_files

    try:
        return named_files(texts)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"--held_out {error}") from error


def describe_evaluation(result: Mapping[str, Any]) -> str:
    """Return accuracy by set and held-out loss by source as text.

    Args:
        result: What was written.

    Returns:
        One table, or two.
    """
    from colm.reports.tables import Table

    parts = []
    if "sets" in result:
        rows = [
            [
                name,
                each["method"],
                str(each["questions"]),
                f"{each['accuracy']:.1%}",
                f"{each['standard_error']:.1%}",
                str(each["answered_by"].get("program", 0)) if "programs" in each else "-",
            ]
            for name, each in result["sets"].items()
        ]
        rows.append(["macro", "", "", f"{result['accuracy']:.1%}", "", ""])
        head = ["set", "method", "questions", "right", "standard error", "by program"]
        parts.append(Table(head, rows).to_text())
    if "held_out" in result:
        loss = result["held_out"]
        sources = [[source, f"{value:.4f}"] for source, value in loss["by_source"].items()]
        means = [[name, f"{loss[name]:.4f}"] for name in ("macro", "micro")]
        parts.append(Table(["held-out loss", ""], [*sources, *means]).to_text())
    return "\n\n".join(parts)
