"""Per-example losses from the decoder's last hidden state, with logits at label positions only.

The output embedding is by far the dearest part of a small model, so it runs only where a label is
predicted, a chunk of positions at a time. What a model does after it (soft-capping, scaling) is
left to the model: for each chunk its own ``forward`` runs with the decoder's output replaced.
Symbols: m label positions, n examples, c positions in a chunk.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from colm.gradients.adapters import check_adapter, check_inputs, training_call
from colm.gradients.batch import LabelPositions
from colm.gradients.decoder import base_model, find_decoder, has_plain_head
from colm.gradients.patching import forward_hook, replaced_forward
from colm.gradients.sharding import head_calls, shape_of, whole

LOGITS_PER_CHUNK = 2**24  # 64 MiB of float32 logits
# Each chunk reads the whole head: an accelerator needs some hundred positions to earn that.
ON_ACCELERATOR = 4
# What a configuration may ask for that no look needs, and that takes memory or time.
BY_PRODUCTS = ("output_hidden_states", "output_attentions", "output_router_logits")


class DecoderRun:
    """One forward of the decoder, and the model's own tail (head and all) on parts of its result.

    Args:
        model: a causal language model, PEFT's wrapper allowed.
        inputs: its keyword arguments, without labels.

    Raises:
        ValueError: an adapter, or inputs, under which this is not what training computes.
    """

    def __init__(self, model: nn.Module, inputs: Mapping[str, Any]) -> None:
        check_adapter(model)
        check_inputs(model, inputs)
        self._model = base_model(model)
        self._call = training_call(model)
        self._decoder = find_decoder(model)
        config: Any = self._model.config
        unwanted = [name for name in BY_PRODUCTS if getattr(config, name, False)]
        self._inputs = {**inputs, "use_cache": False, **dict.fromkeys(unwanted, False)}
        self._small = 0
        self._output = self._run_decoder()
        hidden = self._output[0]
        self.hidden: Tensor = hidden.reshape(-1, hidden.shape[-1])
        """``[n * (p + t), hidden size]`` last hidden state, flattened; p virtual tokens of PEFT."""

    def _run_decoder(self) -> Any:
        """Run the model with an empty tail; what the decoder returned."""
        outputs: list[Any] = []

        def keep(_module: nn.Module, _args: Any, output: Any) -> Any:
            outputs.append(output)
            return with_hidden(output, output[0][:, :0])

        with forward_hook(self._decoder, keep):
            self._call(**self._inputs)
        return outputs[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the model's logits ``[c, vocabulary]`` for hidden states ``[c, hidden size]``."""

        def replay(*_args: Any, **_kwargs: Any) -> Any:
            return with_hidden(self._output, hidden.unsqueeze(0))

        with replaced_forward(self._decoder, replay):
            logits: Tensor = self._call(**self._inputs).logits
        return logits[0]

    @property
    def _head(self) -> Any:
        return self._model.get_output_embeddings()  # type: ignore[operator]

    @property
    def vocabulary_size(self) -> int:
        """Tokens that the head tells apart, fewer inside `small_head`."""
        return self._small or int(shape_of(self._head.weight)[0])

    @property
    def has_plain_head(self) -> bool:
        """Whether the head is a linear map and no more, of which rows can be taken."""
        return has_plain_head(self._model)

    @contextmanager
    def small_head(self, vocabulary: Tensor) -> Iterator[None]:
        """Let the head know the tokens of ``vocabulary [v]`` only, in that order."""
        with whole(self._head.weight, self._head.bias) as (all_rows, all_biases):
            weight = all_rows.detach()[vocabulary]
            bias = None if all_biases is None else all_biases.detach()[vocabulary]
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
    calls = head_calls()
    if calls is None:
        calls = calls_needed(len(labels.position), run.vocabulary_size)
    # Calls may be more than there are positions; the head then runs on none.
    bounds = [len(labels.position) * call // max(1, calls) for call in range(calls + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def calls_needed(positions: int, vocabulary_size: int) -> int:
    """Return how often the head must run, for a bounded number of logits at a time."""
    most = LOGITS_PER_CHUNK * (ON_ACCELERATOR if torch.accelerator.is_available() else 1)
    return math.ceil(positions / max(1, most // vocabulary_size))


def _cross_entropy(logits: Tensor, labels: LabelPositions, chunk: slice) -> Tensor:
    logits = logits.to(_accumulation_dtype(logits))
    return functional.cross_entropy(logits, labels.target[chunk], reduction="none")


def _accumulation_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def with_hidden(output: Any, hidden: Tensor | None) -> Any:
    """Copy what a decoder or a layer returned with another hidden state, its first value."""
    if isinstance(output, Mapping):
        first = next(iter(output))
        return type(output)(**{**output, first: hidden})
    if isinstance(output, tuple):
        return (hidden, *output[1:])
    return [hidden, *output[1:]] if isinstance(output, list) else hidden


def hidden_of(output: Any) -> Tensor:
    """Return the hidden state that a layer returns, alone or before others."""
    if isinstance(output, Mapping):
        output = list(output.values())
    return output if isinstance(output, Tensor) else hidden_of(output[0])
