"""Running a model on tensors that have shapes and types, and no values.

What a model does may depend on values in a few places; here they are what a batch without padding
has whose every token is a label. Symbols: n examples, t tokens each.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
DEVICE = torch.device("cpu")


def without_values(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Let a model on the meta device believe it is on the CPU; tied weights stay tied."""
    made: dict[int, Tensor] = {}

    def convert(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            fake: Tensor = FakeTensor(mode, tensor.detach(), DEVICE)
            if isinstance(tensor, nn.Parameter):
                fake = nn.Parameter(fake, tensor.requires_grad)
            made[id(tensor)] = fake
        return made[id(tensor)]

    for module in model.modules():
        stores: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for store in stores:
            store.update(
                {
                    name: convert(tensor)
                    for name, tensor in store.items()
                    if tensor is not None and tensor.is_meta
                }
            )
    return model


@contextmanager
def valueless(mode: FakeTensorMode, tokens: int, *modes: TorchDispatchMode) -> Iterator[None]:
    """Make every tensor one without values; ``modes`` see each operation.

    Args:
        mode: that makes them.
        tokens: t, of each example of a batch.
        modes: entered in this order, after ``mode``.

    Raises:
        ValueError: the model asks for values that a plan does not know.
    """
    with ExitStack() as stack:
        stack.enter_context(mode)
        for each in modes:
            stack.enter_context(each)
        stack.enter_context(_Answers(tokens))
        try:
            yield
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise ValueError(
                f"this model cannot be planned for: what it does depends on values ({error.func})"
            ) from error


class _Answers(TorchDispatchMode):
    """Answers the questions about values that selection asks of a batch ``(n, t)``."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.predicting = tokens - 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is _ATEN.nonzero.default and self._is_of_labels(args[0]):
            # Which positions predict a label: all.
            return args[0].new_empty((args[0].numel(), 2), dtype=torch.int64)
        if func is _ATEN.bincount.default:
            return args[0].new_empty(kwargs["minlength"] if kwargs else args[2])
        if func is _ATEN.equal.default:
            # Whether all labels are in the vocabulary of the candidates: they are.
            return True
        return func(*args, **(kwargs or {}))

    def _is_of_labels(self, asked: Tensor) -> bool:
        return asked.dtype is torch.bool and asked.shape[1:] == (self.predicting,)
