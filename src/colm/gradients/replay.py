"""Running only the last part of a model again: the last layer, the norm, the head.

One full forward keeps what the layer before it returned. A replay lets every earlier layer return
just that and calls the model again, so masks, positions, soft-capping and scaling are what the
model itself makes of them; only the layers from the last with attention on are computed.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from colm.gradients.decoder import base_model, find_layers
from colm.gradients.patching import forward_hook, replaced_forward
from colm.gradients.sharding import is_sharded


class Replay:
    """What the layer before returned, and the context in which a model call starts from there.

    Args:
        model: a causal language model.
        layer: index of the decoder layer to start from.
    """

    def __init__(self, model: nn.Module, layer: int) -> None:
        self._model = model
        self.is_sharded = is_sharded(model)
        config: Any = base_model(model).config
        # Layers that share keys and values (Gemma 3n) hand on more than they return: run them all.
        is_whole = getattr(config.get_text_config(decoder=True), "num_kv_shared_layers", 0)
        self._earlier = [] if is_whole else list(find_layers(model))[:layer]
        self._output: Any = None

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Keep what the last skipped layer returns in the model call made inside."""

        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            self._output = output

        if not self._earlier:
            yield
            return
        with forward_hook(self._earlier[-1], keep):
            yield

    @contextmanager
    def replaying(self, dtype: torch.dtype | None = None) -> Iterator[None]:
        """Skip the earlier layers in the model calls made inside; hidden states in ``dtype``."""
        output = self._output if dtype is None else _cast(self._output, dtype)
        with ExitStack() as stack:
            for module in self._earlier:
                stack.enter_context(replaced_forward(module, lambda *_args, **_kwargs: output))
            yield

    def modules(self) -> list[nn.Module]:
        """Every module that a replay may run: all but what is in skipped layers alone."""
        found: dict[nn.Module, None] = {}
        waiting = [self._model]
        while waiting:
            module = waiting.pop()
            if module not in found and not any(module is skipped for skipped in self._earlier):
                found[module] = None
                waiting.extend(module.children())
        return list(found)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Cast the floating tensors of a layer's output, whatever holds them."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(_cast(part, dtype) for part in value)
    if isinstance(value, Mapping):
        return type(value)(**{key: _cast(part, dtype) for key, part in value.items()})
    return value
