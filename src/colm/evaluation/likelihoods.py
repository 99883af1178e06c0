"""How likely each candidate is after its question: the sum over its tokens.

Candidates that differ in their last token alone share a row of the forward pass.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from colm.evaluation.prompt_tokens import CandidateTokens
from colm.gradients.patching import evaluation_mode


@dataclass(frozen=True)
class OptionLikelihoods:
    """Of each candidate of a question.

    Attributes:
        log_likelihoods: Sum over the candidate's tokens.
        tokens: How many these are.
    """

    log_likelihoods: tuple[float, ...]
    tokens: tuple[int, ...]

    def likeliest(self, *, length_normalized: bool = False) -> int:
        """Return the number of the likeliest candidate, the first of equals.

        Args:
            length_normalized: Go by the mean over tokens.

        Returns:
            Its number.

        Example:
            >>> likelihoods = OptionLikelihoods((-2.0, -3.0), (1, 2))
            >>> likelihoods.likeliest(), likelihoods.likeliest(length_normalized=True)
            (0, 1)
        """
        scores = [
            value / (count if length_normalized else 1)
            for value, count in zip(self.log_likelihoods, self.tokens, strict=True)
        ]
        return scores.index(max(scores))


def option_likelihoods(
    model: nn.Module,
    questions: Sequence[CandidateTokens],
    *,
    batch_size: int = 16,
    batch_tokens: int = 4096,
    on_batch: Callable[[Sequence[int], Sequence[OptionLikelihoods]], None] | None = None,
) -> list[OptionLikelihoods]:
    """Return how likely each candidate of each question is.

    Args:
        model: Takes ``input_ids`` and ``attention_mask``, returns ``.logits``.
        questions: Prompt and candidate of each candidate.
        batch_size: Most questions at a time.
        batch_tokens: Most tokens in one forward pass, padding included, where questions allow it.
        on_batch: Told of each batch as it is done: the numbers of its questions, and their values.

    Returns:
        The values, in the order of the questions. Training mode is as it was before.
    """
    found: list[OptionLikelihoods | None] = [None] * len(questions)
    with evaluation_mode(model), torch.no_grad():
        for batch in _batches(questions, batch_size, batch_tokens):
            values = _of_batch(model, [questions[number] for number in batch])
            for number, value in zip(batch, values, strict=True):
                found[number] = value
            if on_batch is not None:
                on_batch(batch, values)
    return [value for value in found if value is not None]


def _contexts(question: CandidateTokens) -> dict[tuple[int, ...], None]:
    """What the model must see of a question: its rows without their last tokens, each once."""
    return dict.fromkeys(tuple(row[:-1]) for row in question.rows)


def _batches(
    questions: Sequence[CandidateTokens], batch_size: int, batch_tokens: int
) -> Iterator[list[int]]:
    """Numbers of questions of like length together, the shortest first."""
    longest = [max(map(len, question.rows)) for question in questions]
    batch: list[int] = []
    rows = 0
    for number in sorted(range(len(questions)), key=longest.__getitem__):
        more = len(_contexts(questions[number]))
        full = len(batch) == batch_size or (rows + more) * longest[number] > batch_tokens
        if batch and full:
            yield batch
            batch, rows = [], 0
        batch.append(number)
        rows += more
    if batch:
        yield batch


def _of_batch(model: Any, questions: Sequence[CandidateTokens]) -> list[OptionLikelihoods]:
    """The values of questions that are run together."""
    device = next(model.parameters()).device
    contexts = list(dict.fromkeys(row for question in questions for row in _contexts(question)))
    lengths = torch.tensor([len(context) for context in contexts], device=device)
    tensors = [torch.tensor(context, dtype=torch.long) for context in contexts]
    input_ids = nn.utils.rnn.pad_sequence(tensors, batch_first=True).to(device)
    attention_mask = (torch.arange(input_ids.shape[1], device=device) < lengths[:, None]).long()
    logits = model(input_ids=input_ids, attention_mask=attention_mask).logits
    row_of = {context: row for row, context in enumerate(contexts)}
    return [
        OptionLikelihoods(
            tuple(
                _likelihood(logits[row_of[tuple(row[:-1])]], row, question.start)
                for row in question.rows
            ),
            tuple(len(row) - question.start for row in question.rows),
        )
        for question in questions
    ]


def _likelihood(logits: Tensor, row: Sequence[int], start: int) -> float:
    """Sum of the log-likelihoods of a row's tokens from ``start`` on; logits ``[t, words]``."""
    targets = torch.tensor(row[start:], device=logits.device)
    scores = functional.log_softmax(logits[start - 1 : len(row) - 1].float(), dim=-1)
    return float(scores.gather(1, targets[:, None]).sum())
