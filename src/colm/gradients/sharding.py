"""Models whose weights lie in parts on several processes, by FSDP2 or by ZeRO-3.

A module's weights are gathered when the module is called and let go of afterwards, and each
gathering is a call that all processes make together. So whoever looks at examples must call the
model from its outermost module on, which gets the gathering ready, and as often as all others do,
down to each single module: another chunk of logits is another call of the head. Nothing here
imports what shards; its marks on modules and weights tell.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

_head_calls: ContextVar[int | None] = ContextVar("head_calls", default=None)


def is_sharded(model: nn.Module) -> bool:
    """Whether every forward of the model gathers weights from other processes."""
    return _is_fsdp(type(model)) or any(hasattr(weight, "ds_id") for weight in model.parameters())


def plain_class(module: nn.Module) -> type:
    """Return the class of a module as it was before FSDP2 put one of its own on top."""
    kinds = type(module).__mro__
    return next(kind for kind in kinds if not _is_fsdp(kind)) if _is_fsdp(kinds[0]) else kinds[0]


def shape_of(weight: Tensor) -> torch.Size:
    """Return the shape of the whole weight, of which this process may hold a part."""
    shape: torch.Size = getattr(weight, "ds_shape", weight.shape)
    return shape


@contextmanager
def whole(*weights: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Give whole weights, to be read inside; where they are sharded all processes must call it."""
    partitioned = [weight for weight in weights if hasattr(weight, "ds_id")]
    if partitioned:
        with import_module("deepspeed").zero.GatheredParameters(partitioned):
            yield weights
        return
    yield tuple(_joined(weight) for weight in weights)


@contextmanager
def tail_kept(model: nn.Module, layers: nn.Module) -> Iterator[None]:
    """Keep what follows the layers (norm and head) gathered from its first use inside to the end.

    Several backwards go through it, and FSDP2 lets go of everything at the end of each. Other
    models stay as they are.

    Args:
        model: any.
        layers: its decoder layers, which are gathered and let go of as ever.
    """
    kept: list[Any] = []
    if _is_fsdp(type(model)):
        inside = set(layers.modules())
        embedding = model.get_input_embeddings()  # type: ignore[operator]
        # Where embedding and head share a weight, they share what gathers it, too.
        inside.add(embedding)
        kept = [each for each in model.modules() if _is_fsdp(type(each)) and each not in inside]
    for module in kept:
        module.set_reshard_after_forward(False, recurse=False)
        module.set_reshard_after_backward(False, recurse=False)
    try:
        yield
    finally:
        for module in kept:
            module.set_reshard_after_backward(True, recurse=False)
            module.reshard()


@contextmanager
def head_called(times: int | None) -> Iterator[None]:
    """Let each pass over the labels of a batch call the head this often, even with none left.

    Args:
        times: the most that any process needs for any of its batches; as few as possible, and as
            each batch needs, where ``None``.
    """
    token = _head_calls.set(times)
    try:
        yield
    finally:
        _head_calls.reset(token)


def head_calls() -> int | None:
    """Return how often each pass over the labels of a batch must call the head."""
    return _head_calls.get()


def _joined(weight: Any) -> Any:
    """A weight of FSDP2 from all processes, any other as it is."""
    return weight.detach().full_tensor() if hasattr(weight, "full_tensor") else weight


def _is_fsdp(kind: type) -> bool:
    return any(base.__name__ == "FSDPModule" for base in kind.__mro__)
