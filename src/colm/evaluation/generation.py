"""The answers a model gives, greedily, and what the scorer of each source says of them."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import nn

from colm.data import source_of
from colm.gradients.patching import evaluation_mode


@dataclass(frozen=True)
class AnswerScores:
    """Mean scores of answers, 0 (wrong) to 1 (right): by source, and over sources (macro)."""

    by_source: dict[str, float]
    macro: float


def generate_answers(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    decode: Callable[[list[int]], str],
    *,
    end_token: int | Sequence[int],
    max_new_tokens: int = 32,
    batch_size: int = 32,
    on_batch: Callable[[Sequence[int], Sequence[str]], None] | None = None,
) -> list[str]:
    """Return what the model writes after each prompt, token by likeliest token.

    Prompts are batched with others of their length and padded on the left.

    Args:
        model: Has the ``generate`` of ``transformers``.
        prompts: Token ids of each prompt, at least one.
        decode: Turns token ids into text, for instance a tokenizer's ``decode`` without special
            tokens.
        end_token: Token that ends an answer, or several that do.
        max_new_tokens: Longest answer; longer ones are cut.
        batch_size: Prompts answered at a time.
        on_batch: Told of each batch as it is done: the numbers of its prompts, and their answers.

    Returns:
        The answers without surrounding white space, in the order of the prompts. Training mode is
        as it was before.

    Raises:
        ValueError: A prompt is empty.
    """
    if not all(len(prompt) for prompt in prompts):
        raise ValueError("a prompt has no tokens.")
    end_tokens = [end_token] if isinstance(end_token, int) else list(end_token)
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    answers = [""] * len(prompts)
    with evaluation_mode(model), torch.no_grad():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = [prompts[row] for row in rows]
            for row, tokens in zip(
                rows, _continue(model, batch, end_tokens, max_new_tokens), strict=True
            ):
                answers[row] = decode(tokens).strip()
            if on_batch is not None:
                on_batch(rows, [answers[row] for row in rows])
    return answers


def score_answers(
    answers: Sequence[str],
    records: Sequence[Mapping[str, Any]],
    scorer: Callable[[str, Any], float],
) -> AnswerScores:
    """Return the mean score of each source's answers, and the mean over sources.

    Args:
        answers: One for each record.
        records: Each with its ``source``.
        scorer: Takes an answer and its record, returns 0.0 to 1.0.

    Returns:
        The scores.

    Raises:
        ValueError: There are none, or not as many answers as records.

    Example:
        >>> records = [{"source": "sums", "right": "4"}, {"source": "sums", "right": "5"}]
        >>> score_answers(["4", "6"], records, lambda answer, r: float(answer == r["right"]))
        AnswerScores(by_source={'sums': 0.5}, macro=0.5)
    """
    if not answers:
        raise ValueError("there are no answers to score.")
    scores: dict[str, list[float]] = defaultdict(list)
    for answer, record in zip(answers, records, strict=True):
        scores[source_of(record["source"], "source")].append(scorer(answer, record))
    by_source = {source: sum(v) / len(v) for source, v in sorted(scores.items())}
    return AnswerScores(by_source, sum(by_source.values()) / len(by_source))


def _continue(
    model: Any, prompts: Sequence[Sequence[int]], end_tokens: list[int], max_new_tokens: int
) -> list[list[int]]:
    """The new tokens after each prompt, up to the first end token."""
    padding_token = end_tokens[0]
    device = next(model.parameters()).device
    longest = max(len(prompt) for prompt in prompts)
    padding = [longest - len(prompt) for prompt in prompts]
    input_ids = [[padding_token] * n + list(p) for n, p in zip(padding, prompts, strict=True)]
    attention_mask = [[0] * n + [1] * (longest - n) for n in padding]
    output = model.generate(
        input_ids=torch.tensor(input_ids, device=device),
        attention_mask=torch.tensor(attention_mask, device=device),
        max_new_tokens=max_new_tokens,
        eos_token_id=end_tokens,
        pad_token_id=padding_token,
        use_cache=True,
        # Neutral values, or a model's own settings for sampling would be warned about, and those
        # that change which token is likeliest would hold.
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        temperature=None,
        top_p=None,
        top_k=None,
    )
    return [_until(end_tokens, row) for row in output[:, longest:].tolist()]


def _until(end_tokens: list[int], tokens: list[int]) -> list[int]:
    """The tokens before the first end token."""
    return list(takewhile(lambda token: token not in end_tokens, tokens))
