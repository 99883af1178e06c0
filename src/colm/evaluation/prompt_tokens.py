"""The tokens that a model is asked with, and those that end its answer.

Questions are put as ``colm.data`` puts them in training: as a message where the tokenizer has a
chat template, else between headings. A tokenizer is one of ``transformers``.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from colm.data.prompts import chat_prompt, continued_prompt, plain_prompt
from colm.evaluation.questions import Question, QuestionSet

_PROBE = "colm"


class CandidateTokens(NamedTuple):
    """Prompt and candidate of each candidate of a question, and where the candidates begin."""

    rows: list[list[int]]
    start: int


def prompt_tokens(tokenizer: Any, question: Question, suffix: str = "") -> list[int]:
    """Return the tokens of a prompt.

    Args:
        tokenizer: Of the model.
        question: What is asked.
        suffix: What follows the question, such as a request for a program.

    Returns:
        Token ids that the answer follows.
    """
    if not tokenizer.chat_template or question.continued:
        return text_tokens(tokenizer, _prompt_text(question, suffix))
    messages = chat_prompt(
        f"{question.text}{suffix}", question.about, question.system, question.history
    )
    return list(
        tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    )


def check_prompts(tokenizer: Any, sets: Iterable[QuestionSet]) -> None:
    """Refuse questions that the chat template does, such as those with a system message.

    Args:
        tokenizer: Of the model.
        sets: What is to be asked.

    Raises:
        ValueError: The file and the record of the first such question, and what the template said.
    """
    for each in sets:
        for number, question in enumerate(each.questions, 1):
            try:
                prompt_tokens(tokenizer, question)
            except Exception as error:  # templates raise errors of any kind
                said = str(error) or type(error).__name__
                raise ValueError(
                    f"{each.file}: record {number}: the chat template cannot take it: {said}"
                ) from error


def text_tokens(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text that goes on: what the tokenizer puts before it, and the text.

    Some tokenizers end every text with an end token (``add_eos_token``), after which a model has
    nothing to say.

    Args:
        tokenizer: Of the model.
        text: Any text.

    Returns:
        Token ids without those that the tokenizer puts after the text's own.
    """
    tokens = list(tokenizer(text)["input_ids"])
    own = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    for start in range(len(tokens) - len(own) + 1 if own else 0):
        if tokens[start : start + len(own)] == own:
            return tokens[: start + len(own)]
    return tokens


def candidate_tokens(tokenizer: Any, question: Question, most_tokens: int) -> CandidateTokens:
    """Return the tokens of a question with each of its candidates.

    Text that is continued and a candidate are joined with a space and become tokens together.

    Args:
        tokenizer: Of the model.
        question: With candidates.
        most_tokens: Most of a row; longer ones lose their first tokens, all of them as many.

    Returns:
        A row for each candidate, the same up to ``start``.
    """
    prompt = prompt_tokens(tokenizer, question)
    if question.continued or not tokenizer.chat_template:
        text = _prompt_text(question)
        joined = text if text[-1:].isspace() else f"{text} "
        rows = [text_tokens(tokenizer, f"{joined}{c}") for c in question.candidates]
    else:
        rows = [
            [*prompt, *tokenizer(c, add_special_tokens=False)["input_ids"]]
            for c in question.candidates
        ]
    start = max(1, min(_common(prompt, row) for row in rows))
    surplus = min(max(0, max(map(len, rows)) - most_tokens), start - 1)
    return CandidateTokens([row[surplus:] for row in rows], start - surplus)


def end_tokens(tokenizer: Any, more: int | Iterable[int] | None = None) -> list[int]:
    """Return the tokens that end an answer.

    Args:
        tokenizer: Of the model.
        more: End tokens that the model's settings name.

    Returns:
        The tokenizer's end token first, the end of a turn of its chat template, and those.

    Raises:
        ValueError: There is none.
    """
    named = [more] if isinstance(more, int) else list(more or ())
    found = dict.fromkeys([tokenizer.eos_token_id, *_turn_end(tokenizer), *named])
    ends = [token for token in found if token is not None]
    if not ends:
        raise ValueError("the tokenizer has no token that ends an answer (eos_token)")
    return ends


def last_tokens(tokens: list[int], most: int) -> list[int]:
    """Return the last tokens of a prompt, as many as there is room for.

    Example:
        >>> last_tokens([5, 6, 7], 2), last_tokens([5], 2)
        ([6, 7], [5])
    """
    return tokens[max(0, len(tokens) - most) :]


def _prompt_text(question: Question, suffix: str = "") -> str:
    text = f"{question.text}{suffix}"
    if question.continued:
        return continued_prompt(text, question.system)
    return plain_prompt(text, question.about, question.system, question.history)


def _turn_end(tokenizer: Any) -> list[int]:
    """The special token that the chat template puts after an answer, if it does."""
    if not tokenizer.chat_template:
        return []
    messages = [*chat_prompt(_PROBE), {"role": "assistant", "content": _PROBE}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # a template may refuse any turn; its answers end with the text
        return []
    after = tokenizer(text.rpartition(_PROBE)[2].lstrip(), add_special_tokens=False)["input_ids"]
    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    return [token for token in after[:1] if token in special]


def _common(first: list[int], second: list[int]) -> int:
    """How many tokens two rows begin with alike; the last of ``second`` is never one of them."""
    alike = 0
    for one, other in zip(first, second[:-1], strict=False):
        if one != other:
            break
        alike += 1
    return alike
