"""A forward at other weights than a model has, without writing to any of them.

Whatever operation of PyTorch reads a weight gets another tensor in its place, made when it is read
and let go of when the next module reads its own. Nothing has to be put back, so nothing drifts; a
weight that two modules share moves alike in both, and one that is read outside its module's forward
moves, too. Memory: the weights of one module.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

#: What tells of a tensor, and returns none of its values.
_TELL = {
    "data_ptr",
    "dim",
    "element_size",
    "get_device",
    "is_complex",
    "is_contiguous",
    "is_floating_point",
    "ndimension",
    "nelement",
    "numel",
    "size",
    "storage_offset",
    "stride",
}


class MovedWeights(TorchFunctionMode):
    """Mode in which reading a weight gives what ``move`` returns for it.

    Kernels that are not PyTorch's read the weights as they are: see `read`.

    Args:
        names: of the weights that are moved, by ``id``.
        move: takes name and weight, and returns a tensor like it.

    Attributes:
        read: names of the weights that were read.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> doubled = MovedWeights({id(layer.weight): "weight"}, lambda _name, weight: 2 * weight)
        >>> x = torch.ones(1, 2)
        >>> with torch.no_grad():
        ...     plain = layer(x)
        ...     with doubled:
        ...         moved = layer(x)
        >>> bool((moved == 2 * plain).all()), bool((layer(x) == plain).all())
        (True, True)
    """

    def __init__(self, names: Mapping[int, str], move: Callable[[str, Tensor], Tensor]) -> None:
        super().__init__()
        self.read: set[str] = set()
        self._names = names
        self._move = move
        self._module = ""
        self._made: dict[str, Tensor] = {}

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call a function of PyTorch with moved weights."""
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name in _TELL or not self._reads((*args, *kwargs.values())):
            return function(*args, **kwargs)
        if name == "__get__":
            # An attribute: of a shape there is nothing to move, of a transpose there is.
            value = function(*args, **kwargs)
            if not isinstance(value, Tensor):
                return value
        moved = {key: self._moved(value) for key, value in kwargs.items()}
        return function(*map(self._moved, args), **moved)

    def __exit__(self, *error: Any) -> None:
        """Leave, and let go of what was made."""
        self._made.clear()
        super().__exit__(*error)

    def _reads(self, values: tuple[Any, ...]) -> bool:
        return any(
            self._reads(tuple(value))
            if isinstance(value, list | tuple)
            else id(value) in self._names
            for value in values
        )

    def _moved(self, value: Any) -> Any:
        """A value with every weight in it moved."""
        if isinstance(value, list | tuple):
            return type(value)(map(self._moved, value)) if self._reads(tuple(value)) else value
        name = self._names.get(id(value))
        if name is None:
            return value
        module = name.rpartition(".")[0]
        if module != self._module:
            # A module reads its own again and again, one after the other: experts, a head in tiles.
            self._made.clear()
            self._module = module
        if name not in self._made:
            self._made[name] = self._move(name, value.detach())
            self.read.add(name)
        return self._made[name]
