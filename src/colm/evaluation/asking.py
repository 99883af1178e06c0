"""Asking a model all questions of some sets, one way after another, each answer kept as it comes.

A way is a sequence of steps: of a question whose first step fails the next is taken. Answers that a
journal holds already are not asked for again.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from colm.evaluation.generation import generate_answers
from colm.evaluation.journal import Journal, Step
from colm.evaluation.judging.final_answer import answer_kind
from colm.evaluation.likelihoods import OptionLikelihoods, option_likelihoods
from colm.evaluation.programs import PROGRAM_REQUEST, ProgramAnswer, run_programs
from colm.evaluation.prompt_tokens import candidate_tokens, end_tokens, last_tokens, prompt_tokens
from colm.evaluation.questions import Question, QuestionSet

#: The steps of each method, the first choice first.
METHODS: Mapping[str, tuple[str, ...]] = {
    "program": ("program", "chain"),
    "chain": ("chain",),
    "direct": ("direct",),
    "options": ("options",),
}
AUTO = "auto"
#: Tokens of the longest answer, by step, unless asked for otherwise.
MOST_NEW_TOKENS: Mapping[str, int] = {"program": 512, "chain": 512, "direct": 64}

#: Told of a set, a step, how many of its questions are answered, of how many.
Progress = Callable[[str, str, int, int], None]


@dataclass(frozen=True)
class Asked:
    """A model and how it is asked.

    Attributes:
        model: A causal language model of ``transformers``.
        tokenizer: Its tokenizer.
        max_new_tokens: Longest answer; ``None`` for ``MOST_NEW_TOKENS`` of the step.
        batch_size: Questions at a time.
        program_request: What follows a question where a program is asked for.
        program_seconds: Longest run of a program.
    """

    model: Any
    tokenizer: Any
    max_new_tokens: int | None = None
    batch_size: int = 16
    program_request: str = PROGRAM_REQUEST
    program_seconds: float = 5.0

    def room(self) -> int:
        """Most tokens of prompt and answer together that the model takes."""
        named = getattr(self.model.config, "max_position_embeddings", None)
        return int(named) if named else 2**20

    def new_tokens(self, step: str) -> int:
        """Most tokens of an answer.

        Raises:
            ValueError: The model has no room for as many and a prompt.
        """
        most = MOST_NEW_TOKENS[step] if self.max_new_tokens is None else self.max_new_tokens
        if self.max_new_tokens is None:
            return min(most, self.room() // 2)
        if most >= self.room():
            raise ValueError(
                f"--max_new_tokens {most} leaves no room for a prompt: the model takes "
                f"{self.room()} tokens in all"
            )
        return most


def choose_method(questions: QuestionSet, method: str = AUTO, *, programs: bool = False) -> str:
    """Return how the questions of a set are asked.

    By default candidates are compared, questions are answered in words where at least half of the
    answers are numbers, formulas or letters of a choice, and other questions directly.

    Args:
        questions: The set.
        method: One of ``METHODS``, or "auto".
        programs: Whether "auto" asks for programs where an answer takes reasoning.

    Returns:
        One of ``METHODS``.

    Raises:
        ValueError: The set cannot be asked in that way.
    """
    if method == AUTO:
        if questions.has_candidates:
            return "options"
        kinds = [answer_kind(each.gold, each.text) for each in questions.questions]
        reasoned = "program" if programs else "chain"
        return "direct" if 2 * kinds.count("text") > len(kinds) else reasoned
    if (method == "options") != questions.has_candidates:
        has = "has candidates" if questions.has_candidates else "has no candidates"
        fitting = "options" if questions.has_candidates else "program, chain or direct"
        raise ValueError(
            f"--method {method}: {questions.file} {has} ({questions.layout}); "
            f"choose {fitting}, or {AUTO}"
        )
    return method


def heading(
    sets: Sequence[QuestionSet], methods: Mapping[str, str], asked: Asked, model: Mapping[str, str]
) -> dict[str, Any]:
    """Return what answers depend on, for the head of a journal.

    Args:
        sets: The questions.
        methods: How those of each set are asked, by its name.
        asked: The model and how it is asked.
        model: Name, digest and type of its weights.

    Returns:
        JSON values.
    """
    steps = {step for method in methods.values() for step in METHODS[method]}
    options = {"max_new_tokens": {s: asked.new_tokens(s) for s in sorted(steps - {"options"})}}
    request = {"program_request": asked.program_request, "program_seconds": asked.program_seconds}
    prompt = prompt_tokens(asked.tokenizer, sets[0].questions[0])
    return {
        "model": dict(model),
        "data": {each.name: each.digest for each in sets},
        "method": dict(methods),
        "options": {**options, **(request if "program" in steps else {})},
        # Tells of another tokenizer or chat template.
        "prompt": hashlib.sha256(json.dumps(prompt).encode()).hexdigest(),
    }


def ask(
    sets: Sequence[QuestionSet],
    methods: Mapping[str, str],
    asked: Asked,
    journal: Journal,
    progress: Progress,
) -> None:
    """Ask what the journal does not hold yet.

    Args:
        sets: The questions.
        methods: How those of each set are asked, by its name.
        asked: The model and how it is asked.
        journal: Takes the answers.
        progress: Told of every batch.

    Raises:
        ValueError: The model has no room for an answer.
        OSError: The journal cannot be written.
    """
    for each in sets:
        for step in METHODS[methods[each.name]]:
            _ask_step(each, step, asked, journal, progress)


def is_final(step: str, answer: Mapping[str, Any]) -> bool:
    """Tell whether a step's answer stands, or the next step is to be taken."""
    return step != "program" or program_answer(answer).answer is not None


def program_answer(answer: Mapping[str, Any]) -> ProgramAnswer:
    """Return what came of the program in an answer of a journal."""
    return ProgramAnswer(answer["status"], answer["output"], answer["message"])


def _ask_step(
    questions: QuestionSet, step: str, asked: Asked, journal: Journal, progress: Progress
) -> None:
    """Take one step for the questions of a set that need it."""
    first = journal.answers.get
    wanted = [
        number
        for number in range(len(questions.questions))
        if step != "chain"
        or not (program := first(Step(questions.name, number, "program")))
        or not is_final("program", program)
    ]
    places = [Step(questions.name, number, step) for number in wanted]
    done = sum(place in journal.answers for place in places)
    progress(questions.name, step, done, len(wanted))
    missing = [place for place in places if place not in journal.answers]
    if not missing:
        return
    left = [questions.questions[place.number] for place in missing]

    def keep(rows: Sequence[int], answers: Sequence[Mapping[str, Any]]) -> None:
        nonlocal done
        journal.add({missing[row]: answer for row, answer in zip(rows, answers, strict=True)})
        done += len(rows)
        progress(questions.name, step, done, len(wanted))

    if step == "options":
        _compare_candidates(left, asked, keep)
    else:
        _generate(left, step, asked, keep)


_Keep = Callable[[Sequence[int], Sequence[Mapping[str, Any]]], None]


def _compare_candidates(questions: Sequence[Question], asked: Asked, keep: _Keep) -> None:
    """Keep how likely the candidates of each question are."""

    def on_batch(rows: Sequence[int], values: Sequence[OptionLikelihoods]) -> None:
        keep(
            rows,
            [{"log_likelihoods": v.log_likelihoods, "tokens": v.tokens} for v in values],
        )

    option_likelihoods(
        asked.model,
        [candidate_tokens(asked.tokenizer, question, asked.room()) for question in questions],
        batch_size=asked.batch_size,
        on_batch=on_batch,
    )


def _generate(questions: Sequence[Question], step: str, asked: Asked, keep: _Keep) -> None:
    """Keep what the model writes for each question, and what its programs print."""
    new_tokens = asked.new_tokens(step)
    suffix = asked.program_request if step == "program" else ""
    prompts = [
        last_tokens(prompt_tokens(asked.tokenizer, question, suffix), asked.room() - new_tokens)
        for question in questions
    ]

    def on_batch(rows: Sequence[int], written: Sequence[str]) -> None:
        programs = (
            map(vars, run_programs(written, asked.program_seconds))
            if step == "program"
            else [{}] * len(rows)
        )
        answers = [{"text": t, **p} for t, p in zip(written, programs, strict=True)]
        keep(rows, answers)

    generate_answers(
        asked.model,
        prompts,
        partial(asked.tokenizer.decode, skip_special_tokens=True),
        end_token=end_tokens(asked.tokenizer, asked.model.generation_config.eos_token_id),
        max_new_tokens=new_tokens,
        batch_size=asked.batch_size,
        on_batch=on_batch,
    )
