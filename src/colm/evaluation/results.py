"""What an evaluation found: every answer with its verdict, and the share that is right."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from colm.evaluation.asking import METHODS, is_final, program_answer
from colm.evaluation.journal import Step
from colm.evaluation.judging.judgement import SameFormula, judge
from colm.evaluation.likelihoods import OptionLikelihoods
from colm.evaluation.questions import Question, QuestionSet


def set_results(
    questions: QuestionSet,
    method: str,
    answers: Mapping[Step, Mapping[str, Any]],
    *,
    same_formula: SameFormula | None = None,
    length_normalized: bool = False,
) -> dict[str, Any]:
    """Return the verdicts on the answers to a set.

    Args:
        questions: The set.
        method: How its questions were asked.
        answers: Those of a journal, one at least for each question.
        same_formula: Compares formulas.
        length_normalized: Compare candidates by their mean over tokens.

    Returns:
        JSON values: accuracy and its standard error, how many answers came of which step, how
        programs ended, and every answer.
    """
    verdicts = [
        _verdict(question, questions.name, number, method, answers, same_formula, length_normalized)
        for number, question in enumerate(questions.questions)
    ]
    accuracy = sum(verdict["right"] for verdict in verdicts) / len(verdicts)
    programs = Counter(v["program"]["status"] for v in verdicts if "program" in v)
    return {
        "file": questions.file,
        "sha256": questions.digest,
        "layout": questions.layout,
        "method": method,
        "questions": len(verdicts),
        "accuracy": accuracy,
        "standard_error": math.sqrt(accuracy * (1 - accuracy) / len(verdicts)),
        "answered_by": dict(Counter(verdict["step"] for verdict in verdicts)),
        **({"programs": dict(programs)} if programs else {}),
        "answers": verdicts,
    }


def macro_accuracy(sets: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean accuracy over sets.

    Args:
        sets: What ``set_results`` returned of each.

    Returns:
        The mean, each set counting alike.

    Example:
        >>> macro_accuracy([{"accuracy": 0.5}, {"accuracy": 1.0}])
        0.75
    """
    return float(sum(each["accuracy"] for each in sets) / len(sets))


def _verdict(
    question: Question,
    set_name: str,
    number: int,
    method: str,
    answers: Mapping[Step, Mapping[str, Any]],
    same_formula: SameFormula | None,
    length_normalized: bool,
) -> dict[str, Any]:
    """A question, what was answered, and whether it is right."""
    taken = {
        step: answers[Step(set_name, number, step)]
        for step in METHODS[method]
        if Step(set_name, number, step) in answers
    }
    step = next((step for step in taken if is_final(step, taken[step])), "chain")
    found: dict[str, Any] = {"question": question.text, "gold": question.gold, "step": step}
    if step == "options":
        return {**found, **_choice(question, taken[step], length_normalized)}
    if "program" in taken:
        program = program_answer(taken["program"])
        found["program"] = {"written": taken["program"]["text"], **vars(program)}
    if step == "program":
        written = program.answer or ""
    else:
        found["written"] = written = taken[step]["text"]
    verdict = judge(
        written,
        question.gold,
        question.text,
        same_formula=same_formula,
        direct=step == "direct" or question.continued,
    )
    return {**found, "answer": verdict.answer, "right": verdict.right}


def _choice(
    question: Question, answer: Mapping[str, Any], length_normalized: bool
) -> dict[str, Any]:
    """The candidate that was likeliest."""
    likelihoods = OptionLikelihoods(tuple(answer["log_likelihoods"]), tuple(answer["tokens"]))
    chosen = likelihoods.likeliest(length_normalized=length_normalized)
    return {
        "candidates": list(question.candidates),
        "log_likelihoods": list(likelihoods.log_likelihoods),
        "tokens": list(likelihoods.tokens),
        "answer": question.candidates[chosen],
        "right": chosen == question.label,
    }
