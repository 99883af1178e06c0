"""Which output rows of a fused projection are q, k and v, whatever its layout.

A fused projection is one linear map whose output a layer takes apart, each family in its own way.
The way is found by trying: the output is replaced by random numbers, and the gradient of what the
layer returns tells what each row does.

- A lone token attends to itself alone, so softmax is 1 and only v has a gradient.
- Of two tokens, read what the layer returns for the second: at the first, k and v have a gradient
  and q has none; at the second, all have.
"""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from colm.gradients.decoder import base_model
from colm.gradients.label_loss import DecoderRun, hidden_of
from colm.gradients.patching import evaluation_mode, forward_hook
from colm.gradients.sharding import is_sharded

PROBE_SEQUENCES = 16
LEAST_SHARE = 1e-3  # of the largest gradient: below is rounding


def fused_rows(model: nn.Module, layer: nn.Module, module: nn.Module) -> dict[str, Tensor]:
    """Find the rows of each projection in a fused one.

    Costs two forwards of a few sequences of one and two tokens, and a backward through ``layer``.

    Args:
        model: a causal language model.
        layer: the decoder layer that ``module`` is in.
        module: a linear map that computes several projections.

    Returns:
        For ``q``, ``k`` and ``v`` the int64 rows; left out where none behave like it, as where one
        token's output depends on all rows (linear attention): then all are ``v``.
    """
    if isinstance(next(module.parameters()), FakeTensor):
        return _rows_by_heads(base_model(model).config)
    (alone,) = _gradient_sizes(model, layer, module, num_tokens=1)
    first, second = _gradient_sizes(model, layer, module, num_tokens=2)
    value = _stands_out(alone)
    key = _stands_out(first) & ~value
    query = _stands_out(second) & ~value & ~key
    masks = {"q": query, "k": key, "v": value}
    return {name: mask.nonzero().flatten() for name, mask in masks.items() if mask.any()}


def _rows_by_heads(config: Any) -> dict[str, Tensor]:
    """As many rows as each projection has, in some order: a plan has no values to find them by."""
    text = config.get_text_config(decoder=True)
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    of_values = width * (getattr(text, "num_key_value_heads", None) or heads)
    sizes = [width * heads, of_values, of_values]
    return dict(zip("qkv", torch.arange(sum(sizes)).split(sizes), strict=True))


def _stands_out(sizes: Tensor) -> Tensor:
    return sizes > LEAST_SHARE * sizes.max()


def _gradient_sizes(
    model: nn.Module, layer: nn.Module, module: nn.Module, num_tokens: int
) -> Tensor:
    """Size of the gradient of the last token's output in each row at each token, ``[t, rows]``."""
    device = next(module.parameters()).device
    config: Any = base_model(model).config
    vocabulary = config.get_text_config(decoder=True).vocab_size
    generator = torch.Generator().manual_seed(0)
    shape = (PROBE_SEQUENCES, num_tokens)
    tokens = torch.randint(vocabulary, shape, generator=generator).to(device)
    replaced: list[Tensor] = []
    returned: list[Tensor] = []

    def replace(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        torch.set_grad_enabled(True)
        numbers = torch.randn(output.shape, generator=generator).to(output)
        replaced.append(numbers.requires_grad_())
        return numbers

    def read(_module: nn.Module, _args: tuple[Tensor, ...], output: Any) -> None:
        torch.set_grad_enabled(False)
        returned.append(hidden_of(output))

    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(model))
        stack.enter_context(torch.no_grad())
        # Other attention kernels recompute the softmax and round it; this one gives exact zeros.
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(forward_hook(module, replace))
        stack.enter_context(forward_hook(layer, read))
        # Without what PEFT puts before the tokens: a lone token must be alone.
        DecoderRun(model if is_sharded(model) else base_model(model), {"input_ids": tokens})
    last = returned[0].reshape(*shape, -1)[:, -1]
    direction = torch.randn(last.shape, generator=generator).to(last)
    (gradient,) = torch.autograd.grad(last, replaced[:1], direction)
    return gradient.reshape(*shape, -1).abs().float().sum(0)
