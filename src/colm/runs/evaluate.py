"""What ``colm evaluate`` does: read the questions, load the model, ask, judge, write the result."""

import hashlib
import importlib.util
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colm.data import Source, source_name
from colm.evaluation import held_out_loss
from colm.evaluation.asking import Asked, ask, choose_method, heading
from colm.evaluation.fingerprint import weights_digest
from colm.evaluation.journal import Journal
from colm.evaluation.judging.equivalence import FormulaComparison
from colm.evaluation.programs import PROGRAM_REQUEST
from colm.evaluation.prompt_tokens import check_prompts
from colm.evaluation.questions import QuestionSet, read_question_sets
from colm.evaluation.results import macro_accuracy, set_results
from colm.runs.evaluation_file import (
    check_replaceable,
    digest,
    journal_of,
    result_file,
    trained_steps,
    write_result,
)
from colm.runs.saying import AnsweringProgress, Say
from colm.versions import library_versions

if TYPE_CHECKING:
    from colm.runs.evaluated import EvaluatedModel

_FORMAT = "colm evaluation 1"
#: Options that say where a result goes; the others say what is found, and stand in it.
_OF_THE_OUTPUT = ("model", "output", "resume")


@dataclass(frozen=True)
class EvaluationOptions:
    """The options of ``colm evaluate``, checked."""

    model: str
    data: Sequence[str]
    output: str | None
    resume: bool
    method: str
    programs: bool
    max_new_tokens: int | None
    batch_size: int
    limit: int | None
    program_request: str | None
    program_seconds: float
    length_normalized: bool
    held_out: Sequence[Source]
    source_column: str | None
    max_length: int
    dtype: str
    device: str
    trust_remote_code: bool


def evaluate(options: EvaluationOptions, say: Say) -> tuple[Path, dict[str, Any]]:
    """Evaluate a model on everything that was asked for, and write the result.

    Answers are kept beside its file as they come.

    Args:
        options: What to evaluate, on what and how.
        say: Takes lines on how far it has come.

    Returns:
        The file of the result, and the result.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: The data, the model, what lies at the output, or the answers kept so far cannot
            be used, or a package is missing.
        OSError: The result cannot be written.
    """
    began = time.monotonic()
    if importlib.util.find_spec("math_verify") is None:
        raise ValueError("colm evaluate needs math-verify: pip install 'colm[evaluate]'")
    sets = read_question_sets(options.data, options.limit)
    methods = _methods(options, sets)
    # What trains takes seconds to load.
    from colm.runs.evaluated import held_out_examples, load_evaluated

    evaluated = load_evaluated(
        options.model,
        options.dtype,
        options.device,
        trust_remote_code=options.trust_remote_code,
    )
    examples = None
    if options.held_out:
        examples = held_out_examples(
            options.held_out, options.source_column, evaluated, options.max_length
        )
    model = _describe_model(options.model, evaluated)
    top = _heading(options, sets, methods, evaluated, model)
    identity = _identity(options, model, top)
    output = Path(options.output) if options.output else _own_file(options, sets, model, identity)
    result = _beginning(options, evaluated, model) | {"identity": digest(identity)}
    if top is not None:
        result |= _answers(options, sets, methods, evaluated, top, output, result, say)
    elif options.resume:
        check_replaceable(output, result, {})
    if examples is not None:
        result["held_out"] = _held_out(options, evaluated, examples, say)
    result["seconds"] = round(time.monotonic() - began, 1)
    write_result(result, output)
    return output, result


def _methods(options: EvaluationOptions, sets: Sequence[QuestionSet]) -> dict[str, str]:
    """How the questions of each set are asked."""
    methods = {
        each.name: choose_method(each, options.method, programs=options.programs) for each in sets
    }
    if options.program_request is not None and "program" not in methods.values():
        raise ValueError(
            "--program_request: no program is asked for; add --programs, or --method program"
        )
    return methods


def _describe_model(name: str, evaluated: "EvaluatedModel") -> dict[str, Any]:
    """What a result says of the model."""
    return {
        "name": _short_name(name),
        "weights": weights_digest(evaluated.model),
        "dtype": str(next(evaluated.model.parameters()).dtype).removeprefix("torch."),
        "base": evaluated.base and _short_name(evaluated.base),
        "steps": trained_steps(name),
    }


def _heading(
    options: EvaluationOptions,
    sets: Sequence[QuestionSet],
    methods: Mapping[str, str],
    evaluated: "EvaluatedModel",
    model: Mapping[str, Any],
) -> dict[str, Any] | None:
    """What the answers depend on, once the model's chat template takes every question."""
    if not sets:
        return None
    check_prompts(evaluated.tokenizer, sets)
    named = {key: model[key] for key in ("name", "weights", "dtype")}
    return heading(sets, methods, _asked(options, evaluated), named)


def _identity(
    options: EvaluationOptions, model: Mapping[str, Any], top: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Everything that decides a result, but for how many of the questions are asked."""
    held_out = None
    if options.held_out:
        named = [[_content(file.path), source_name(file)] for file in options.held_out]
        # Of one file the content alone, so that results of earlier versions are found again.
        alone = len(named) == 1 and options.held_out[0].name is None
        held_out = [
            named[0][0] if alone else named,
            options.source_column,
            options.max_length,
        ]
    return {
        "asked": top,
        "weights": [model["weights"], model["dtype"]],
        "held_out": held_out,
        "length_normalised": options.length_normalized,
    }


def _content(path: str) -> str:
    """A hash of what a file holds."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _held_out_name(options: EvaluationOptions) -> str | None:
    """The files of held-out examples, without their folders."""
    return ", ".join(Path(file.path).name for file in options.held_out) or None


def _own_file(
    options: EvaluationOptions,
    sets: Sequence[QuestionSet],
    model: Mapping[str, Any],
    identity: Mapping[str, Any],
) -> Path:
    """A file of the evaluation's own, where none was named."""
    names = [each.name.replace("/", "-") for each in sets]
    if options.held_out:
        stems = [Path(file.path).name.split(".")[0] for file in options.held_out]
        names.append(f"{'-'.join(stems)}-loss")
    return result_file(options.model, names, model["steps"], identity)


def _beginning(
    options: EvaluationOptions, evaluated: "EvaluatedModel", model: Mapping[str, Any]
) -> dict[str, Any]:
    """What a result says before anything is asked; files are named without their folders."""
    settings = {k: v for k, v in sorted(asdict(options).items()) if k not in _OF_THE_OUTPUT}
    settings["data"] = [Path(path).name for path in options.data]
    settings["held_out"] = _held_out_name(options)
    return {
        "format": _FORMAT,
        "model": model,
        "settings": settings,
        "versions": library_versions("math-verify", "sympy"),
        "device": next(evaluated.model.parameters()).device.type,
        "notes": [],
    }


def _answers(
    options: EvaluationOptions,
    sets: Sequence[QuestionSet],
    methods: Mapping[str, str],
    evaluated: "EvaluatedModel",
    top: Mapping[str, Any],
    output: Path,
    known: Mapping[str, Any],
    say: Say,
) -> dict[str, Any]:
    """Ask the questions and judge the answers: verdicts by set, their mean, and notes."""
    place = journal_of(output)
    with (
        Journal(place, top, resume=options.resume) as journal,
        FormulaComparison() as same_formula,
    ):
        if options.resume:
            check_replaceable(output, known, {each.name: len(each.questions) for each in sets})
        try:
            ask(sets, methods, _asked(options, evaluated), journal, AnsweringProgress(say))
        except KeyboardInterrupt:
            say(f"\nanswers so far are in {place}; the same command goes on")
            raise
        found = {
            each.name: set_results(
                each,
                methods[each.name],
                journal.answers,
                same_formula=same_formula,
                length_normalized=options.length_normalized,
            )
            for each in sets
        }
    refused = sum(each.get("programs", {}).get("refused", 0) for each in found.values())
    return {
        "sets": found,
        "accuracy": macro_accuracy(list(found.values())),
        "notes": _notes(same_formula.unsettled, refused),
    }


def _notes(unsettled: int, refused: int) -> list[str]:
    """What the figures do not tell."""
    notes = []
    if unsettled:
        notes.append(
            f"{unsettled} formulas could not be compared in time: they count as right where their "
            "values agree or they are written alike."
        )
    if refused:
        notes.append(
            f"{refused} programs were not run: nothing on this machine could have held them. Their "
            "questions were answered in words."
        )
    return notes


def _asked(options: EvaluationOptions, evaluated: "EvaluatedModel") -> Asked:
    request = options.program_request
    return Asked(
        model=evaluated.model,
        tokenizer=evaluated.tokenizer,
        max_new_tokens=options.max_new_tokens,
        batch_size=options.batch_size,
        program_request=PROGRAM_REQUEST if request is None else request,
        program_seconds=options.program_seconds,
    )


def _held_out(
    options: EvaluationOptions,
    evaluated: "EvaluatedModel",
    examples: Sequence[Mapping[str, Any]],
    say: Say,
) -> dict[str, Any]:
    """The loss on held-out examples."""
    say(f"held-out loss of {len(examples)} examples ...")
    loss = asdict(held_out_loss(evaluated.model, examples))
    return {"file": _held_out_name(options), "examples": len(examples), **loss}


def _short_name(name: str) -> str:
    """A folder's own name; that of a model on the hub whole."""
    return Path(name).resolve().name if Path(name).expanduser().is_dir() else name
