"""Which step's answer counts, and what is counted."""

import pytest

from colm.evaluation.asking import choose_method
from colm.evaluation.journal import Step
from colm.evaluation.questions import Question, QuestionSet
from colm.evaluation.results import set_results


def question_set(*questions):
    return QuestionSet("a", "a.jsonl", "question + answer", "00", questions)


OPEN = question_set(Question("6 * 7?", "42"), Question("1 + 1?", "2"), Question("3?", "3"))
CHOICE = question_set(Question("It rained so", "wet", candidates=("dry", "wet"), label=1))


def ran(text, status, output=""):
    return {"text": text, "status": status, "output": output, "message": ""}


def test_words_count_where_the_program_fails():
    answers = {
        Step("a", 0, "program"): ran("print(6 * 7)", "ok", "42\n"),
        Step("a", 1, "program"): ran("print(1 / 0)", "error"),
        Step("a", 1, "chain"): {"text": "The answer is 2."},
        Step("a", 2, "program"): ran("print(4)", "ok", "4\n"),
    }
    found = set_results(OPEN, "program", answers)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["answered_by"] == {"program": 2, "chain": 1}
    assert found["programs"] == {"ok": 2, "error": 1}
    first, second, third = found["answers"]
    assert (first["answer"], first["right"], first["step"]) == ("42", True, "program")
    assert (second["written"], second["right"]) == ("The answer is 2.", True)
    assert second["program"]["written"] == "print(1 / 0)"
    assert not third["right"]


def test_candidates_by_sum_or_by_mean():
    answers = {Step("a", 0, "options"): {"log_likelihoods": [-2.0, -3.0], "tokens": [1, 3]}}
    assert set_results(CHOICE, "options", answers)["accuracy"] == 0
    found = set_results(CHOICE, "options", answers, length_normalized=True)
    assert (found["accuracy"], found["answers"][0]["answer"]) == (1, "wet")


def test_methods_follow_the_answers():
    assert choose_method(OPEN) == "chain"
    assert choose_method(OPEN, programs=True) == "program"
    assert choose_method(CHOICE) == choose_method(CHOICE, programs=True) == "options"
    assert (
        choose_method(question_set(Question("Where?", "Bern"), Question("Who?", "she"))) == "direct"
    )
    assert choose_method(OPEN, "direct") == "direct"
    with pytest.raises(ValueError, match=r"--method options: a\.jsonl has no candidates"):
        choose_method(OPEN, "options")
    with pytest.raises(ValueError, match=r"--method chain: a\.jsonl has candidates"):
        choose_method(CHOICE, "chain")
