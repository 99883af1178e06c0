"""Per-example losses from the decoder's last hidden state, with logits at label positions only.

The output embedding is by far the dearest part of a small model, so it runs only where a label is
predicted, a chunk of positions at a time. What a model does after it (soft-capping, scaling) is
left to the model: for each chunk its own ``forward`` runs with the decoder's output replaced.
Symbols: m label positions, n examples, c positions in a chunk.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from colm.gradients.batch import LabelPositions
from colm.gradients.decoder import base_model, find_decoder
from colm.gradients.patching import forward_hook, replaced_forward

LOGITS_PER_CHUNK = 2**24  # 64 MiB of float32 logits


class DecoderRun:
    """One forward of the decoder, and the model's own tail (head and all) on parts of its result.

    Args:
        model: a causal language model, PEFT's wrapper allowed.
        inputs: its keyword arguments, without labels.
    """

    def __init__(self, model: nn.Module, inputs: Mapping[str, Any]) -> None:
        self._model = base_model(model)
        self._decoder = find_decoder(model)
        self._inputs = {**inputs, "use_cache": False}
        self._small = 0
        self._output = self._run_decoder()
        hidden = self._output[0]
        self.hidden: Tensor = hidden.reshape(-1, hidden.shape[-1])
        """``[n * t, hidden size]`` last hidden state, flattened."""

    def _run_decoder(self) -> Any:
        """Run the model with an empty tail; what the decoder returned."""
        outputs: list[Any] = []

        def keep(_module: nn.Module, _args: Any, output: Any) -> Any:
            outputs.append(output)
            return _with_hidden(output, output[0][:, :0])

        with forward_hook(self._decoder, keep):
            self._model(**self._inputs)
        return outputs[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the model's logits ``[c, vocabulary]`` for hidden states ``[c, hidden size]``."""

        def replay(*_args: Any, **_kwargs: Any) -> Any:
            return _with_hidden(self._output, hidden.unsqueeze(0))

        with replaced_forward(self._decoder, replay):
            logits: Tensor = self._model(**self._inputs).logits
        return logits[0]

    @property
    def _head(self) -> Any:
        return self._model.get_output_embeddings()  # type: ignore[operator]

    @property
    def vocabulary_size(self) -> int:
        """Tokens that the head tells apart, fewer inside `small_head`."""
        return self._small or int(self._head.weight.shape[0])

    @property
    def has_plain_head(self) -> bool:
        """Whether the head is a linear map and no more, of which rows can be taken."""
        return type(self._head) is nn.Linear and self._head.weight.is_floating_point()

    @contextmanager
    def small_head(self, vocabulary: Tensor) -> Iterator[None]:
        """Let the head know the tokens of ``vocabulary [v]`` only, in that order."""
        weight = self._head.weight.detach()[vocabulary]
        bias = None if self._head.bias is None else self._head.bias.detach()[vocabulary]
        self._small = len(vocabulary)
        try:
            with replaced_forward(self._head, lambda x: functional.linear(x, weight, bias)):
                yield
        finally:
            self._small = 0


def example_losses(run: DecoderRun, labels: LabelPositions, reduction: str) -> Tensor:
    """Return the loss of each example, ``[n]``: the mean or the sum over its label tokens."""
    losses = run.hidden.new_zeros(len(labels.counts), dtype=_accumulation_dtype(run.hidden))
    weights = token_weights(labels, reduction)
    for chunk in _chunks(run, labels):
        token_losses = _cross_entropy(run.logits(run.hidden[labels.position[chunk]]), labels, chunk)
        losses.index_add_(0, labels.example[chunk], (token_losses * weights[chunk]).to(losses))
    return losses


def hidden_gradients(
    run: DecoderRun, labels: LabelPositions, reduction: str, vocabulary: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return each example's loss ``[n]``, and the gradient of their sum in the last hidden state.

    The gradient has the shape and type of ``run.hidden``. Costs the head's forward and backward at
    label positions; no more than a chunk of logits is alive at a time. With a ``vocabulary [v]`` of
    ascending token ids the head runs on those alone, as if no other token were possible.
    """
    if vocabulary is not None and run.has_plain_head:
        with run.small_head(vocabulary):
            return _hidden_gradients(run, labels.within(vocabulary), reduction)
    return _hidden_gradients(run, labels, reduction)


def _hidden_gradients(
    run: DecoderRun, labels: LabelPositions, reduction: str
) -> tuple[Tensor, Tensor]:
    losses = run.hidden.new_zeros(len(labels.counts), dtype=_accumulation_dtype(run.hidden))
    gradient = torch.zeros_like(run.hidden, requires_grad=False)
    weights = token_weights(labels, reduction)
    for chunk in _chunks(run, labels):
        with torch.enable_grad():
            hidden = run.hidden[labels.position[chunk]].detach().requires_grad_()
            token_losses = _cross_entropy(run.logits(hidden), labels, chunk)
            weighted = token_losses * weights[chunk].to(token_losses)
            (gradient[labels.position[chunk]],) = torch.autograd.grad(weighted.sum(), hidden)
        losses.index_add_(0, labels.example[chunk], weighted.detach().to(losses))
    return losses, gradient


def token_weights(labels: LabelPositions, reduction: str) -> Tensor:
    """Return what each label token's loss counts for in its example's loss, ``[m]``."""
    if reduction == "sum":
        return torch.ones_like(labels.target, dtype=torch.float64)
    return 1.0 / labels.counts.to(torch.float64)[labels.example]


def _chunks(run: DecoderRun, labels: LabelPositions) -> list[slice]:
    size = max(1, LOGITS_PER_CHUNK // run.vocabulary_size)
    return [slice(start, start + size) for start in range(0, len(labels.position), size)]


def _cross_entropy(logits: Tensor, labels: LabelPositions, chunk: slice) -> Tensor:
    logits = logits.to(_accumulation_dtype(logits))
    return functional.cross_entropy(logits, labels.target[chunk], reduction="none")


def _accumulation_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _with_hidden(output: Any, hidden: Tensor) -> Any:
    """Copy a decoder's output with another last hidden state, its first value."""
    if isinstance(output, Mapping):
        first = next(iter(output))
        return type(output)(**{**output, first: hidden})
    if isinstance(output, tuple):
        return (hidden, *output[1:])
    return hidden
