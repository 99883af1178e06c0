"""Counting what a piece of work keeps for its backward, what is alive at a time, and what it does.

Works on real tensors and on those without values, as a plan is
made; the two differ in nothing here.
"""

import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import (
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

_ATEN = torch.ops.aten


class SavedBytes:
    """Context that counts the bytes which autograd saves for backward, each storage once.

    Weights are not counted: they are there anyway. Copies of weights in another type are.

    Attributes:
        bytes: saved now.
        peak_bytes: most that were saved at one time.

    Args:
        excluded: tensors whose storages do not count.

    Example:
        >>> x = torch.ones(5, requires_grad=True)
        >>> with SavedBytes([x]) as saved:
        ...     y = x.exp().sum()  # the backward of exp needs what it returned: 5 x 4 bytes
        >>> saved.bytes
        20
    """

    def __init__(self, excluded: Iterable[Tensor] = ()) -> None:
        self.bytes = 0
        self.peak_bytes = 0
        self._excluded = [tensor.untyped_storage() for tensor in excluded]
        self._excluded_keys = {storage._cdata for storage in self._excluded}
        self._holders: Counter[int] = Counter()
        self._hooks: Any = None

    def __enter__(self) -> "SavedBytes":
        """Begin to count."""
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, _Saved.unpack)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop; what is freed later is still taken off ``bytes``."""
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> "_Saved":
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._excluded_keys:
            return _Saved(tensor, lambda: None)
        if not self._holders[key]:
            self.bytes += size
            self.peak_bytes = max(self.peak_bytes, self.bytes)
        self._holders[key] += 1

        def release() -> None:
            self._holders[key] -= 1
            if not self._holders[key]:
                # The storage may go now, and another may come to have its address.
                del self._holders[key]
                self.bytes -= size

        return _Saved(tensor, release)


class _Saved:
    """What autograd holds in place of a tensor: the tensor, and what to do when it lets go."""

    def __init__(self, tensor: Tensor, release: Callable[[], None]) -> None:
        # Detached: an output saved by the very node that made it would never be freed.
        self.tensor = tensor.detach()
        self.release = release

    def unpack(self) -> Tensor:
        return self.tensor

    def __del__(self) -> None:
        self.release()


class Work(NamedTuple):
    """What one operation does.

    Attributes:
        flops: multiplications and additions of matrix products, attention and convolutions.
        moved_bytes: of what it reads and writes.
        dtype: of what it returns.
    """

    flops: int
    moved_bytes: int
    dtype: torch.dtype


class Tally(TorchDispatchMode):
    """Mode that counts the bytes of all tensors made in it while they live, and the operations.

    Memory that a kernel takes for itself and gives back is not seen.

    Attributes:
        bytes: alive now, of those made in the mode.
        peak_bytes: most that were alive at one time.
        work: how often each kind of operation ran.

    Args:
        excluded: tensors from before, such as weights; what writes to them makes nothing.
    """

    def __init__(self, excluded: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.bytes = 0
        self.peak_bytes = 0
        self.work: Counter[Work] = Counter()
        self._alive: dict[int, Any] = {}
        for tensor in excluded:
            self._watch(tensor, counted=False)

    @property
    def flops(self) -> int:
        """Multiplications and additions of matrix products, attention and convolutions."""
        return sum(work.flops * times for work, times in self.work.items())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        made = [leaf for leaf in tree_iter(out) if isinstance(leaf, Tensor)]
        for tensor in made:
            self._watch(tensor, counted=True)
        if made and not func.is_view and func.overloadpacket not in _FREE:
            taken = [leaf for leaf in tree_iter((args, kwargs)) if isinstance(leaf, Tensor)]
            moved = sum(tensor.numel() * tensor.element_size() for tensor in [*made, *taken])
            self.work[Work(_flops(func, args, kwargs, out), moved, made[0].dtype)] += 1
        return out

    def _watch(self, tensor: Tensor, counted: bool) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes() if counted else 0
        if key in self._alive:
            return

        def release(_: Any) -> None:
            del self._alive[key]
            self.bytes -= size

        self._alive[key] = weakref.ref(storage, release)
        self.bytes += size
        self.peak_bytes = max(self.peak_bytes, self.bytes)


#: Operations that neither read nor write.
_FREE = {_ATEN.empty, _ATEN.empty_like, _ATEN.empty_strided, _ATEN.new_empty, _ATEN.detach}


def _flops(func: Any, args: tuple[Any, ...], kwargs: Any, out: Any) -> int:
    packet = func.overloadpacket
    if packet is _ATEN._scaled_dot_product_flash_attention_for_cpu:
        return int(sdpa_flop_count(*(tensor.shape for tensor in args[:3])))
    if packet is _ATEN._scaled_dot_product_flash_attention_for_cpu_backward:
        return int(sdpa_backward_flop_count(*(tensor.shape for tensor in args[:4])))
    formula = flop_registry.get(packet)
    return int(formula(*args, **kwargs, out_val=out)) if formula else 0


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors, those that share a storage counted once."""
    return sum(
        math.prod(tensor.shape) * tensor.element_size() for tensor in distinct_tensors(tensors)
    )


def distinct_tensors(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Go through tensors, leaving out those that are the same object as one before."""
    return iter({id(tensor): tensor for tensor in tensors}.values())
