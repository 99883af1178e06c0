"""The maps of a model that are trained in subspaces: which they are, merging, drawing anew.

Symbols: W ``[o, m]`` a frozen weight, P ``[r, m]`` its random directions, B ``[o, r]``, what is
trained; W + B P is what the model computes with.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from colm.checks import as_list, check_choice, check_whole, shown
from colm.gradients.decoder import class_name, find_layers, is_transposed, linear_maps, linear_shape
from colm.memory.subspaces import linear
from colm.memory.subspaces.projection import check_sampling, draw_projection
from colm.memory.subspaces.rounding import check_rounding, round_to
from colm.randomness import keyed_generator

#: What of a model lies in no subspace, and can be trained as usual: vectors such as norms and
#: biases, embeddings, the head, and matrices that are no linear map of a layer.
OTHERS = ("norms", "embeddings", "head", "rest")
#: Elements of a weight that are merged at once, in float32.
_PIECE_ELEMENTS = 2**22
_FACTOR = "subspace.weight"


class Subspaces:
    """A model whose linear maps are trained along random directions.

    Every linear map in the decoder's layers that is trained gets a B of its own, and P with the
    others of its module that have as many inputs (queries, keys and values, say); the head,
    embeddings, norms and biases stay as they are. Call ``detach`` to have the plain model back.
    Paper: RSO, arXiv 2502.07222.

    Args:
        model: a causal language model of ``transformers``, changed in place.
        rank: r, directions of each weight; a weight with fewer inputs has as many as those.
        sampling: of P: ``haar`` or ``gaussian``; see `draw_projection`.
        rounding: of merged weights in bfloat16: ``stochastic`` or ``nearest``.
        others: what else is trained: any of norms, embeddings, head and rest.
        seed: P depends on it, the outer step, the module's name and the number of its inputs.

    Attributes:
        maps: linear maps in a subspace, by name.
        outer_step: k, how often P was drawn anew.
        on_redraw: called whenever P is let go of, for those who keep what belongs to B.

    Raises:
        ValueError: an option out of range, or a model without a weight that can be trained so.
    """

    def __init__(
        self,
        model: nn.Module,
        rank: int,
        *,
        sampling: str = "haar",
        rounding: str = "stochastic",
        others: Collection[str] = OTHERS,
        seed: int = 0,
    ) -> None:
        rank, seed = check_whole("rank", rank, least=1), check_whole("seed", seed)
        check_sampling(sampling)
        check_rounding(rounding)
        check_others(others)
        self.model, self.rank, self.seed = model, rank, seed
        self.sampling, self.rounding = sampling, rounding
        self.outer_step = 0
        self.on_redraw: list[Callable[[], None]] = []
        self.maps = dict(find_maps(model))
        self._frozen = freeze(model, others, self.maps.values())
        self._directions: dict[tuple[str, int], linear.Directions] = {}
        for name, module in self.maps.items():
            linear.enter(module, min(rank, linear_shape(module)[1]), self._directions_of(name))

    def factors(self) -> Iterator[nn.Parameter]:
        """Yield every B."""
        for module in self.maps.values():
            yield module.subspace.weight  # type: ignore[union-attr, misc]

    @torch.no_grad()
    def merge(self, decays: Mapping[nn.Parameter, float] | None = None) -> None:
        """Make every W what the model computes with, decay W + B P, and B zero.

        Args:
            decays: by B, what its W is multiplied by first: weight decay over the inner steps.
        """
        for name, module in self.maps.items():
            weight: Any = module.weight
            trained: Any = module.subspace.weight  # type: ignore[union-attr]
            factor, own = _local(trained), _local(weight)
            if len(factor) != linear_shape(module)[0] and is_transposed(module):
                raise ValueError(
                    f"{name} has its outputs in columns, which cannot be merged where processes "
                    "hold rows of it: train it with whole weights on each process."
                )
            decay = (decays or {}).get(trained, 1.0)
            self._merge_into(own, own, factor, name, decay, part=_part(weight))
            factor.zero_()

    @torch.no_grad()
    def clear(self) -> None:
        """Set every B to zero, so that the model is what its W are."""
        for factor in self.factors():
            factor.zero_()

    def redraw(self, outer_step: int | None = None) -> None:
        """Go to another outer step, by default the next; the P of the last is let go of."""
        self.outer_step = self.outer_step + 1 if outer_step is None else outer_step
        for directions in self._directions.values():
            directions.forget()
        for notify in self.on_redraw:
            notify()

    def detach(self) -> nn.Module:
        """Merge, and return the model as a plain one again, trained where it was before."""
        self.merge()
        for module in self.maps.values():
            linear.leave(module)
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self.maps, self._frozen, self._directions = {}, [], {}
        return self.model

    @torch.no_grad()
    def merged_state_dict(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return the state of the plain model that computes the same; nothing changes.

        Args:
            state: ``state_dict()`` of the model, of whole weights; it may be on another device.
        """
        merged = {name: value for name, value in state.items() if not name.endswith(_FACTOR)}
        for name in self.maps:
            factor, weight = state[f"{name}.{_FACTOR}"], state[f"{name}.weight"]
            if factor.any():
                merged[f"{name}.weight"] = into = torch.empty_like(weight)
                self._merge_into(into, weight, factor, name)
        return merged

    def exact_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `merged_state_dict` cannot give back: every B that is not 0, and its W."""
        names = [name for name in self.maps if state[f"{name}.{_FACTOR}"].any()]
        return {key: state[key] for name in names for key in _keys(name)}

    def _merge_into(
        self,
        into: Tensor,
        weight: Tensor,
        factor: Tensor,
        name: str,
        decay: float = 1.0,
        part: int = 0,
    ) -> None:
        """Write decay W + B P, computed in float32 at least, a few outputs at a time.

        ``part`` says which rows these are, where processes hold parts of W and B.
        """
        module: Any = self.maps[name]
        key = (self.seed, "rounding", self.outer_step, name, part)
        generator = torch.Generator(weight.device).manual_seed(keyed_generator(*key).initial_seed())
        wide = torch.promote_types(weight.dtype, torch.float32)
        directions = module.projection(like=weight).to(wide)
        if is_transposed(module):
            into, weight = into.T, weight.T
        size = max(1, _PIECE_ELEMENTS // directions.shape[1])
        for start in range(0, len(factor), size):
            rows = slice(start, start + size)
            whole = torch.addmm(
                weight[rows].to(wide), factor[rows].to(wide), directions, beta=decay
            )
            into[rows] = round_to(whole, into.dtype, self.rounding, generator)

    def _directions_of(self, name: str) -> linear.Directions:
        """P of a map: that of all maps of its module with as many inputs."""
        parent, inputs = name.rpartition(".")[0], linear_shape(self.maps[name])[1]

        def draw(device: torch.device, dtype: torch.dtype) -> Tensor:
            key = (self.seed, "subspace", self.outer_step, parent, inputs)
            rank = min(self.rank, inputs)
            return draw_projection(inputs, rank, self.sampling, *key, device=device, dtype=dtype)

        return self._directions.setdefault((parent, inputs), linear.Directions(draw))


def find_maps(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the linear maps of a decoder's layers that are trained, with their names in the model.

    A map whose weight another module shares is left out: merged, both would change.

    Raises:
        ValueError: the model has adapters, quantised weights, or no such map.
    """
    if any(hasattr(module, "base_layer") for module in model.modules()):
        raise ValueError(
            f"{class_name(model)} has adapters, which are a subspace already: train it without "
            "subspaces, or without adapters."
        )
    maps = {module for layer in find_layers(model) for _, module in linear_maps(layer)}
    if any(not parameter.is_floating_point() for parameter in model.parameters()):
        raise ValueError(
            f"{class_name(model)} has quantised weights, which nothing can be merged into: load it "
            "without quantisation, or train adapters in place of subspaces."
        )
    owners = Counter(
        parameter for module in model.modules() for parameter in module._parameters.values()
    )
    found = [
        (name, module)
        for name, module in model.named_modules()
        if module in maps
        and isinstance(weight := module._parameters.get("weight"), nn.Parameter)
        and weight.requires_grad
        and owners[weight] == 1
    ]
    if not found:
        raise ValueError(f"{class_name(model)} has no linear map that is trained.")
    yield from found


def freeze(
    model: nn.Module, others: Collection[str], maps: Iterable[nn.Module]
) -> list[nn.Parameter]:
    """Freeze what is not to be trained beside the subspaces; return what was trained before.

    A head that shares the embeddings' weight is trained where either of them is.
    """
    inside = {id(module.weight) for module in maps}
    ends: Any = model
    owned: dict[int, set[str]] = {}
    for kind, module in (
        ("embeddings", ends.get_input_embeddings()),
        ("head", ends.get_output_embeddings()),
    ):
        for parameter in module.parameters() if module is not None else ():
            owned.setdefault(id(parameter), set()).add(kind)
    frozen = []
    for parameter in model.parameters():
        kinds = owned.get(id(parameter), {"norms" if parameter.ndim < 2 else "rest"})
        trained = id(parameter) in inside or bool(kinds & set(others))
        if parameter.requires_grad and not trained:
            parameter.requires_grad_(False)
            frozen.append(parameter)
    return frozen


def check_others(others: Collection[str]) -> None:
    """Refuse names that are none of `OTHERS`.

    Raises:
        ValueError: such a name.
    """
    names = None if isinstance(others, str | bytes) else as_list(others)
    if names is None:
        raise ValueError(f"others must be a list of names; got {shown(others)}.")
    for name in names:
        check_choice("others", name, OTHERS)


def _keys(name: str) -> tuple[str, str]:
    return f"{name}.weight", f"{name}.{_FACTOR}"


def _local(weight: Any) -> Tensor:
    """The part of a weight that this process holds."""
    part: Tensor = weight.to_local() if hasattr(weight, "to_local") else weight
    return part.detach()


def _part(weight: Any) -> int:
    """Which part of a weight this process holds."""
    place = weight.device_mesh.get_coordinate() if hasattr(weight, "device_mesh") else None
    return int(place[-1]) if place else 0
