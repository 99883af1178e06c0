"""The result of ``colm evaluate``: made step by step, told on the way, and shown as a table."""

import argparse
import importlib.metadata
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colm.evaluation.asking import Asked
    from colm.evaluation.questions import QuestionSet
    from colm.training.evaluated import EvaluatedModel

FORMAT = "colm evaluation 1"
JOURNAL_ENDING = ".answers.jsonl"
PACKAGES = ("colm", "torch", "transformers", "peft", "trl", "math-verify", "sympy")
#: How often progress is told where nobody watches, in seconds.
SECONDS_BETWEEN_LINES = 60.0


def journal_of(output: Path) -> Path:
    """Return the file of the answers that are kept while a result is made."""
    return output.with_name(f"{output.name}{JOURNAL_ENDING}")


def evaluate(namespace: argparse.Namespace, output: Path, options: Sequence[str]) -> dict[str, Any]:
    """Return the result of everything that was asked for.

    Args:
        namespace: The options of ``colm evaluate``.
        output: Where the result will go; answers are kept beside it as they come.
        options: Names of the options that the result records.

    Returns:
        JSON values.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: The data, the model or the answers kept so far cannot be used.
    """
    from colm.data import check_file
    from colm.evaluation.asking import choose_method
    from colm.evaluation.fingerprint import weights_digest
    from colm.evaluation.questions import read_question_sets

    sets = read_question_sets(namespace.data, namespace.limit)
    methods = {each.name: choose_method(each, namespace.method) for each in sets}
    if namespace.held_out is not None:
        check_file(namespace.held_out)
    from colm.training.evaluated import load_evaluated

    evaluated = load_evaluated(
        namespace.model,
        namespace.dtype,
        namespace.device,
        trust_remote_code=namespace.trust_remote_code,
    )
    first = next(evaluated.model.parameters())
    model = {
        "name": _short_name(namespace.model),
        "weights": weights_digest(evaluated.model),
        "dtype": str(first.dtype).removeprefix("torch."),
    }
    result: dict[str, Any] = {
        "format": FORMAT,
        "model": {**model, "base": evaluated.base and _short_name(evaluated.base)},
        "settings": _settings(namespace, options),
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
        "device": first.device.type,
        "notes": [],
    }
    if sets:
        _answer(namespace, sets, methods, evaluated, model, output, result)
    if namespace.held_out is not None:
        result["held_out"] = _held_out(namespace, evaluated)
    return result


def _answer(
    namespace: argparse.Namespace,
    sets: Sequence["QuestionSet"],
    methods: Mapping[str, str],
    evaluated: "EvaluatedModel",
    model: Mapping[str, str],
    output: Path,
    result: dict[str, Any],
) -> None:
    """Ask the questions and put the verdicts into the result."""
    from colm.evaluation.asking import ask, heading
    from colm.evaluation.equivalence import FormulaComparison
    from colm.evaluation.journal import Journal
    from colm.evaluation.prompt_tokens import check_prompts
    from colm.evaluation.results import macro_accuracy, set_results

    asked = _asked(namespace, evaluated)
    check_prompts(asked.tokenizer, sets)
    place, progress = journal_of(output), _Progress()
    top = heading(sets, methods, asked, model)
    with (
        Journal(place, top, resume=namespace.resume) as journal,
        FormulaComparison() as same_formula,
    ):
        try:
            ask(sets, methods, asked, journal, progress)
        except KeyboardInterrupt:
            print(f"\nanswers so far are in {place}; the same command goes on", file=sys.stderr)
            raise
        result["sets"] = {
            each.name: set_results(
                each,
                methods[each.name],
                journal.answers,
                same_formula=same_formula,
                length_normalised=namespace.length_normalised,
            )
            for each in sets
        }
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


def _held_out(namespace: argparse.Namespace, evaluated: "EvaluatedModel") -> dict[str, Any]:
    """The loss on held-out examples."""
    from dataclasses import asdict

    from colm.evaluation import held_out_loss
    from colm.training.evaluated import held_out_examples

    examples = held_out_examples(
        namespace.held_out, namespace.source_column, evaluated, namespace.max_length
    )
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


class _Progress:
    """One line that says what is asked: written over on a terminal, else kept now and then."""

    def __init__(self) -> None:
        self._step = ("", "")
        self._began = self._last = time.monotonic()
        self._first = 0

    def __call__(self, set_name: str, step: str, done: int, total: int) -> None:
        """Tell how many questions of a set are answered in a step."""
        from colm.training.progress import duration_in_words

        now = time.monotonic()
        is_new = (set_name, step) != self._step
        if is_new:
            self._step, self._began, self._first = (set_name, step), now, done
        line = f"{set_name}  {step}  {done}/{total}"
        if done > self._first:
            seconds = (now - self._began) / (done - self._first)
            line += (
                f"  {seconds:.1f} s a question, {duration_in_words(seconds * (total - done))} left"
            )
        is_last = done == total
        if sys.stderr.isatty():
            end = "\n" if is_last else ""
            print(f"\r\x1b[K{line}", end=end, file=sys.stderr, flush=True)
        elif is_new or is_last or now - self._last > SECONDS_BETWEEN_LINES:
            self._last = now
            print(line, file=sys.stderr, flush=True)
