"""The weight that a linear map's gradient is taken in, and where in a model it is applied.

Adapters: where LoRA of any kind (DoRA, rsLoRA, EVA, PiSSA) trains the map, its B factors serve, and
where it is trained in a random subspace, its B. Elsewhere the map's own weight does, also under
adapters without a factor that is worth differentiating: IA3 has none, AdaLoRA starts with a zero
between its factors, whose gradients are then zero, and some see only a part of the tokens (aLoRA)
or are no whole matrix (block-diagonal LoRA). An adapter that makes a weight of its own out of the
map's, and applies that (HRA, SHiRA), has the gradient in the weight that it applies.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from colm.gradients.decoder import is_transposed, linear_shape, wrappers_and_map
from colm.gradients.patching import forward_hook, replaced_forward
from colm.gradients.sharding import shape_of, whole

# Variants of LoRA, by PEFT's classes, that do not send every token through B.
PARTIAL_VARIANTS = ("ALoraLinearVariant", "ArrowLinearVariant")
# Marks of adapters that call the map and take what it returned away again (GLoRA).
REPLACING = ("glora_A",)


@dataclass(frozen=True)
class Projection:
    """A linear map in a decoder layer whose gradient is part of an example's features.

    Attributes:
        name: its module name inside the layer.
        first_layer: index of the first decoder layer that applies its weight.
        modules: what applies the weight, an adapter's B factor or the map itself; more than one
            where layers share it (Zamba).
        rows: ``[o]`` int64 output rows that it has in a fused map, ``None`` for all of them.
        is_adapter: true for a B factor, of LoRA or of a random subspace.
        identity_rows: size of the identity matrix that DoRA sends through B, ``None`` without.
        wrapper: an adapter's wrapper of the map, which may apply a weight of its own instead of
            calling it; ``None`` without, and for a B factor.
    """

    name: str
    first_layer: int
    modules: tuple[nn.Module, ...]
    rows: Tensor | None
    is_adapter: bool
    identity_rows: int | None
    wrapper: nn.Module | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs o and inputs i of the map."""
        outputs, inputs = linear_shape(self.modules[0])
        return outputs if self.rows is None else len(self.rows), inputs


def projections_of(
    name: str, module: nn.Module, rows: Tensor | None = None, *, layers: nn.ModuleList
) -> Iterator[Projection]:
    """B factors where the map is trained by such, one each, else the map itself.

    Args:
        name: of the map inside its layer.
        module: the map, or PEFT's wrapper of it.
        rows: ``[o]`` its output rows that count, ``None`` for all of them.
        layers: of the decoder, any of which may apply the same weight.
    """
    *wrappers, inner = wrappers_and_map(module)
    factors = [factor for wrapper in wrappers for factor in _factors(wrapper)]
    if isinstance(subspace := getattr(module, "subspace", None), nn.Module):
        factors = [subspace]
    if not factors and any(hasattr(module, mark) for mark in REPLACING):
        wrappers, inner = [], module
    is_dora = len(getattr(module, "lora_magnitude_vector", ())) > 0
    for owner in factors or [inner]:
        users = [(i, m) for i, layer in enumerate(layers) for m in _users(layer, owner)]
        yield Projection(
            name=name,
            first_layer=users[0][0],
            modules=tuple(dict.fromkeys(user for _, user in users)),
            rows=rows,
            is_adapter=bool(factors),
            identity_rows=linear_shape(inner)[1] if is_dora else None,
            wrapper=None if factors or not wrappers else wrappers[0],
        )


def _factors(wrapper: nn.Module) -> list[nn.Module]:
    """The B factors of LoRA in a wrapper that are trained, whole matrices, and see every token."""
    adapters = getattr(wrapper, "lora_B", None)
    if not isinstance(adapters, nn.ModuleDict):
        return []
    active = getattr(wrapper, "active_adapters", adapters.keys())
    variants: Any = getattr(wrapper, "lora_variant", {})
    return [
        adapters[key]
        for key in active
        if key in adapters
        and type(variants.get(key)).__name__ not in PARTIAL_VARIANTS
        and _is_trained_matrix(adapters[key])
    ]


def _is_trained_matrix(factor: nn.Module) -> bool:
    weight: Any = factor.weight
    return weight.requires_grad and tuple(shape_of(weight)) == linear_shape(factor)


def _users(layer: nn.Module, owner: nn.Module) -> list[nn.Module]:
    """Modules of a layer that apply the owner's weight; a wrapper only shows that of its map."""
    weight = owner._parameters.get("weight", owner)
    return [m for m in layer.modules() if m is owner or m._parameters.get("weight") is weight]


@contextmanager
def map_hook(projection: Projection, hook: Callable[..., Any]) -> Iterator[None]:
    """Run ``hook(module, args, output)`` after each application of a projection's weight.

    That is where the map is called; or where its wrapper is, if it did not call the map.
    """
    called = False

    def of_map(module: nn.Module, args: Any, output: Any) -> Any:
        nonlocal called
        called = True
        return hook(module, args, output)

    def before_wrapper(_module: nn.Module, _args: Any) -> None:
        nonlocal called
        called = False

    def of_wrapper(module: nn.Module, args: Any, output: Any) -> Any:
        return None if called else hook(module, args, output)

    with ExitStack() as stack:
        if projection.wrapper is None:
            for module in projection.modules:
                stack.enter_context(forward_hook(module, of_map))
        else:
            for module in projection.modules:
                # Some wrappers warn of hooks on what they wrap, which they may not call.
                stack.enter_context(_followed_forward(module, of_map))
            handle = projection.wrapper.register_forward_pre_hook(before_wrapper)
            stack.callback(handle.remove)
            stack.enter_context(forward_hook(projection.wrapper, of_wrapper))
        yield


def _followed_forward(module: nn.Module, hook: Callable[..., Any]) -> AbstractContextManager[None]:
    """A forward hook that nobody sees."""
    own = module.forward
    return replaced_forward(
        module, lambda *args, **options: hook(module, args, own(*args, **options))
    )


def weight_rows(projection: Projection) -> Tensor:
    """Return the weight whose gradient is the feature, ``[o * i]``, o the slower.

    Raises:
        ValueError: the weight is quantised and has no such shape.
    """
    module = projection.modules[0]
    with whole(module.weight) as (gathered,):  # type: ignore[arg-type]
        weight: Tensor = gathered.detach().clone()
    if weight.ndim != 2 or not weight.is_floating_point():
        raise ValueError(f"The weight of '{projection.name}' is quantised and cannot be read.")
    weight = weight.T if is_transposed(module) else weight
    return (weight if projection.rows is None else weight[projection.rows]).flatten()
