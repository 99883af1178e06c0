"""The result of ``colm evaluate``: made step by step, told on the way, and shown as a table."""

import argparse
import hashlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colm.runs.answering_progress import AnsweringProgress
from colm.runs.evaluation_file import check_replaceable, digest, result_file, trained_steps
from colm.versions import library_versions

if TYPE_CHECKING:
    from colm.evaluation.asking import Asked
    from colm.evaluation.questions import QuestionSet
    from colm.runs.evaluated import EvaluatedModel

_FORMAT = "colm evaluation 1"
JOURNAL_ENDING = ".answers.jsonl"


def journal_of(output: Path) -> Path:
    """Return the file of the answers that are kept while a result is made."""
    return output.with_name(f"{output.name}{JOURNAL_ENDING}")


def evaluate(namespace: argparse.Namespace, options: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """Return the result of everything that was asked for, and the file that it is to be written to.

    Answers are kept beside that file as they come.

    Args:
        namespace: The options of ``colm evaluate``.
        options: Names of the options that the result records.

    Returns:
        The file, which may be written over, and JSON values.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: The data, the model, what lies at the output, or the answers kept so far cannot
            be used, or a package is missing.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise ValueError("colm evaluate needs math-verify: pip install 'colm[evaluate]'")
    from colm.data import check_file
    from colm.evaluation.questions import read_question_sets

    sets = read_question_sets(namespace.data, namespace.limit)
    methods = _methods(namespace, sets)
    if namespace.held_out is not None:
        check_file(namespace.held_out)
    from colm.runs.evaluated import held_out_examples, load_evaluated

    evaluated = load_evaluated(
        namespace.model,
        namespace.dtype,
        namespace.device,
        trust_remote_code=namespace.trust_remote_code,
    )
    result = _beginning(namespace, options, evaluated)
    examples = None
    if namespace.held_out is not None:
        examples = held_out_examples(
            namespace.held_out, namespace.source_column, evaluated, namespace.max_length
        )
    top = _heading(namespace, sets, methods, evaluated, result["model"]) if sets else None
    identity = _identity(namespace, result["model"], top)
    result["identity"] = digest(identity)
    output = _output(namespace, sets, result["model"]["steps"], identity)
    counts = {each.name: len(each.questions) for each in sets}
    if top is not None:
        _answer(namespace, sets, methods, evaluated, top, output, result, counts)
    elif namespace.resume:
        check_replaceable(output, result, counts)
    if examples is not None:
        result["held_out"] = _held_out(namespace, evaluated, examples)
    return output, result


def _methods(namespace: argparse.Namespace, sets: Sequence["QuestionSet"]) -> dict[str, str]:
    """How the questions of each set are asked."""
    from colm.evaluation.asking import choose_method

    methods = {
        each.name: choose_method(each, namespace.method, programs=namespace.programs)
        for each in sets
    }
    if namespace.program_request is not None and "program" not in methods.values():
        raise ValueError(
            "--program_request: no program is asked for; add --programs, or --method program"
        )
    return methods


def _beginning(
    namespace: argparse.Namespace, options: Sequence[str], evaluated: "EvaluatedModel"
) -> dict[str, Any]:
    """What a result says of the model, the options and the versions."""
    from colm.evaluation.fingerprint import weights_digest

    first = next(evaluated.model.parameters())
    return {
        "format": _FORMAT,
        "model": {
            "name": _short_name(namespace.model),
            "weights": weights_digest(evaluated.model),
            "dtype": str(first.dtype).removeprefix("torch."),
            "base": evaluated.base and _short_name(evaluated.base),
            "steps": trained_steps(namespace.model),
        },
        "settings": _settings(namespace, options),
        "versions": library_versions("math-verify", "sympy"),
        "device": first.device.type,
        "notes": [],
    }


def _heading(
    namespace: argparse.Namespace,
    sets: Sequence["QuestionSet"],
    methods: Mapping[str, str],
    evaluated: "EvaluatedModel",
    model: Mapping[str, Any],
) -> dict[str, Any]:
    """What the answers depend on, once the model's chat template takes every question."""
    from colm.evaluation.asking import heading
    from colm.evaluation.prompt_tokens import check_prompts

    check_prompts(evaluated.tokenizer, sets)
    named = {key: model[key] for key in ("name", "weights", "dtype")}
    return heading(sets, methods, _asked(namespace, evaluated), named)


def _identity(
    namespace: argparse.Namespace, model: Mapping[str, Any], top: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Everything that decides a result, but for how many of the questions are asked."""
    held_out = None
    if namespace.held_out is not None:
        with Path(namespace.held_out).open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        held_out = [content, namespace.source_column, namespace.max_length]
    weights = [model["weights"], model["dtype"]]
    return {
        "asked": top,
        "weights": weights,
        "held_out": held_out,
        # Spelled as before: the names of results that are there come of it.
        "length_normalised": namespace.length_normalized,
    }


def _output(
    namespace: argparse.Namespace,
    sets: Sequence["QuestionSet"],
    steps: int | None,
    identity: Mapping[str, Any],
) -> Path:
    """The file that was named, or one of the evaluation's own."""
    if namespace.output:
        return Path(namespace.output)
    names = [each.name.replace("/", "-") for each in sets]
    if namespace.held_out is not None:
        names.append(f"{Path(namespace.held_out).name.split('.')[0]}-loss")
    return result_file(namespace.model, names, steps, identity)


def _answer(
    namespace: argparse.Namespace,
    sets: Sequence["QuestionSet"],
    methods: Mapping[str, str],
    evaluated: "EvaluatedModel",
    top: Mapping[str, Any],
    output: Path,
    result: dict[str, Any],
    counts: Mapping[str, int],
) -> None:
    """Ask the questions and put the verdicts into the result."""
    from colm.evaluation.asking import ask
    from colm.evaluation.journal import Journal
    from colm.evaluation.judging.equivalence import FormulaComparison
    from colm.evaluation.results import macro_accuracy, set_results

    place, progress = journal_of(output), AnsweringProgress()
    with (
        Journal(place, top, resume=namespace.resume) as journal,
        FormulaComparison() as same_formula,
    ):
        if namespace.resume:
            check_replaceable(output, result, counts)
        try:
            ask(sets, methods, _asked(namespace, evaluated), journal, progress)
        except KeyboardInterrupt:
            print(f"\nanswers so far are in {place}; the same command goes on", file=sys.stderr)
            raise
        result["sets"] = {
            each.name: set_results(
                each,
                methods[each.name],
                journal.answers,
                same_formula=same_formula,
                length_normalized=namespace.length_normalized,
            )
            for each in sets
        }
    if same_formula.unsettled:
        result["notes"].append(
            f"{same_formula.unsettled} formulas could not be compared in time: they count as right "
            "where their values agree or they are written alike."
        )
    result["accuracy"] = macro_accuracy(list(result["sets"].values()))
    refused = sum(each.get("programs", {}).get("refused", 0) for each in result["sets"].values())
    if refused:
        result["notes"].append(
            f"{refused} programs were not run: nothing on this machine could have held them. Their "
            "questions were answered in words."
        )


def _asked(namespace: argparse.Namespace, evaluated: "EvaluatedModel") -> "Asked":
    from colm.evaluation.asking import Asked
    from colm.evaluation.programs import PROGRAM_REQUEST

    request = namespace.program_request
    return Asked(
        model=evaluated.model,
        tokenizer=evaluated.tokenizer,
        max_new_tokens=namespace.max_new_tokens,
        batch_size=namespace.batch_size,
        program_request=PROGRAM_REQUEST if request is None else request,
        program_seconds=namespace.program_seconds,
    )


def _held_out(
    namespace: argparse.Namespace,
    evaluated: "EvaluatedModel",
    examples: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The loss on held-out examples."""
    from dataclasses import asdict

    from colm.evaluation import held_out_loss

    print(f"held-out loss of {len(examples)} examples ...", file=sys.stderr, flush=True)
    loss = asdict(held_out_loss(evaluated.model, examples))
    return {"file": Path(namespace.held_out).name, "examples": len(examples), **loss}


def _settings(namespace: argparse.Namespace, options: Sequence[str]) -> dict[str, Any]:
    """The options, files by their names alone."""
    settings = {name: getattr(namespace, name) for name in options}
    settings["data"] = [Path(path).name for path in namespace.data]
    settings["held_out"] = namespace.held_out and Path(namespace.held_out).name
    return settings


def _short_name(name: str) -> str:
    """A folder's own name; that of a model on the hub whole."""
    return Path(name).resolve().name if Path(name).expanduser().is_dir() else name


def table(result: Mapping[str, Any]) -> str:
    """Return accuracy by set and held-out loss by source as text.

    Args:
        result: What ``evaluate`` returned.

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
