"""Finding the projections of the last decoder layer whose gradients are the features.

Where a projection is a linear map of its own, it is known by its name; where it is some rows of a
fused one, by a probe (`colm.gradients.fused`). Adapters: where LoRA of any kind (DoRA, rsLoRA, EVA,
PiSSA) trains the map, its B factors serve, and where it is trained in a random subspace, its B.
Elsewhere the map's own weight does, also under adapters without a factor that is worth
differentiating: IA3 has none, and AdaLoRA starts with a zero between its factors, whose gradients
are then zero.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from colm.gradients.decoder import (
    class_name,
    find_layers,
    is_transposed,
    linear_maps,
    linear_shape,
)
from colm.gradients.fused import fused_rows
from colm.gradients.sharding import whole

PROJECTIONS = ("q", "k", "v", "o", "mlp")

# Last part of a module's name, as found in 140 architectures of transformers.
NAMES = {
    "q": ("q_proj", "query", "project_q", "Wq", "q_b_proj", "q"),
    "k": ("k_proj", "key", "project_k", "Wk", "k"),
    "v": ("v_proj", "value", "project_v", "Wv", "v"),
    "o": ("o_proj", "out_proj", "attention_out", "o_b_proj", "output", "dense", "c_proj", "Wo"),
}
FUSED_NAMES = ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "kv_b_proj", "kv_proj", "qkv")
# First part of the name, of what follows attention in a layer.
FEED_FORWARD = re.compile(r".*(mlp|ffn|feed_?forward|moe).*|fc\d|intermediate|output|ff")


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
    """

    name: str
    first_layer: int
    modules: tuple[nn.Module, ...]
    rows: Tensor | None
    is_adapter: bool
    identity_rows: int | None

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs o and inputs i of the map."""
        outputs, inputs = linear_shape(self.modules[0])
        return outputs if self.rows is None else len(self.rows), inputs


class _Place(NamedTuple):
    """A linear map in a layer, and which of its output rows are meant."""

    name: str
    module: nn.Module
    rows: Tensor | None = None


def find_projections(model: nn.Module, wanted: Sequence[str] = ("v",)) -> tuple[Projection, ...]:
    """Find projections of the last decoder layer that has attention.

    A model without attention (Mamba, say) has no V: the output projection of its last layer serves
    instead, with one warning. A map of its own counts whole, an output gate that a model packs into
    it (Qwen3-Next's q) included. In latent attention (DeepSeek) q and k are what the compressed
    states are mapped to, k without its rotary part. Costs nothing but where a projection is part of
    a fused map; there, see `fused_rows`.

    Args:
        model: a causal language model of ``transformers``, or PEFT's wrapper of one.
        wanted: any of q, k, v, o, and mlp: all linear maps of the feed-forward part, experts' left
            out, for each sees tokens of its own.

    Returns:
        Where they are, in the order wanted; ``mlp`` may be several.

    Raises:
        ValueError: the layers cannot be found, or the last one lacks a projection, which is named
            beside those that can be had.
    """
    last = _LastLayer(model)
    places = [place for name in wanted for place in last.places(name)]
    return tuple(found for place in places for found in projections_of(*place, layers=last.layers))


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


class _LastLayer:
    """The last decoder layer with attention, or the very last of a model that has none."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layers = find_layers(model)
        self.index, self.value = self._find_value()
        self.maps = self._maps(self.index)
        self._rows: dict[str, Tensor] | None = None

    def places(self, wanted: str) -> list[_Place]:
        """Where a projection is; an error that says what there is instead, where it is not."""
        if self.value is None and wanted == "v":
            return [self._instead_of_value()]
        found = self._find(wanted)
        if found:
            return found
        had = [name for name in PROJECTIONS if name == "v" or self._find(name)]
        fused = self._fused_value()
        where = f"'{fused.name}' of layer" if fused and wanted in ("q", "k") else "layer"
        raise ValueError(
            f"projections: no {wanted!r} that colm can tell apart in {where} {self.index} of "
            f"{class_name(self.model)}; choose among {', '.join(had)}."
        )

    def _maps(self, index: int) -> list[_Place]:
        return [_Place(*found) for found in linear_maps(self.layers[index])]

    def _find_value(self) -> tuple[int, _Place | None]:
        """The last layer with a map that holds V, and that map."""
        names = (*NAMES["v"], *FUSED_NAMES)
        for index in reversed(range(len(self.layers))):
            for place in self._maps(index):
                if _last_name(place) in names:
                    return index, place
        return len(self.layers) - 1, None

    def _find(self, wanted: str) -> list[_Place]:
        if wanted == "mlp":
            return [place for place in self.maps if self._is_feed_forward(place)]
        named = [place for place in self._attention() if _last_name(place) in NAMES[wanted]]
        if named:
            # Beside V rather than deeper inside, as in an indexer of its own.
            return [min(named, key=lambda place: place.name.count("."))]
        return [] if wanted == "o" else self._find_fused(wanted)

    def _find_fused(self, wanted: str) -> list[_Place]:
        """In the fused projection that holds V."""
        fused = self._fused_value()
        if fused is None:
            return []
        name, module, _ = fused
        if self._rows is None:
            self._rows = fused_rows(self.model, self.layers[self.index], module)
        if wanted not in self._rows:
            return []
        rows = self._rows[wanted]
        is_whole = len(rows) == linear_shape(getattr(module, "base_layer", module))[0]
        return [_Place(name, module, None if is_whole else rows)]

    def _fused_value(self) -> _Place | None:
        """The map that holds V, where it holds more."""
        is_fused = self.value is not None and _last_name(self.value) in FUSED_NAMES
        return self.value if is_fused else None

    def _attention(self) -> list[_Place]:
        """What shares the first part of its name with V; all of a layer without attention."""
        if self.value is None:
            return self.maps
        return [place for place in self.maps if _part(place) == _part(self.value)]

    def _is_feed_forward(self, place: _Place) -> bool:
        parts = place.name.split(".")
        is_attention = self.value is not None and _part(place) == _part(self.value)
        return (
            not is_attention
            and "experts" not in parts
            and FEED_FORWARD.fullmatch(parts[0]) is not None
        )

    def _instead_of_value(self) -> _Place:
        if not self.maps:
            raise ValueError(
                f"The last layer of {class_name(self.model)} has no linear map to take gradients "
                "of."
            )
        place = (self._find("o") or self.maps[-1:])[0]
        warnings.warn(
            f"{class_name(self.model)} has no value projection that colm can find; the features "
            f"are gradients of '{place.name}' in its last layer instead.",
            stacklevel=2,
        )
        return place


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
    inner = getattr(module, "base_layer", module)
    adapters = getattr(module, "lora_B", None)
    factors: list[nn.Module] = []
    if isinstance(adapters, nn.ModuleDict):
        active = getattr(module, "active_adapters", adapters.keys())
        factors = [adapters[key] for key in active if key in adapters]
        factors = [factor for factor in factors if factor.weight.requires_grad]
    elif isinstance(subspace := getattr(module, "subspace", None), nn.Module):
        factors = [subspace]
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
        )


def _users(layer: nn.Module, owner: nn.Module) -> list[nn.Module]:
    """Modules of a layer that apply the owner's weight; a wrapper only shows that of its map."""
    weight = owner._parameters.get("weight", owner)
    return [m for m in layer.modules() if m is owner or m._parameters.get("weight") is weight]


def _part(place: _Place) -> str:
    """The part of the layer that a map is in; empty where it is in the layer itself."""
    first, dot, _ = place.name.partition(".")
    return first if dot else ""


def _last_name(place: _Place) -> str:
    """Own name of a module; a wrapper that calls its inner map ``linear`` has its parent's."""
    parts = place.name.split(".")
    return parts[-2] if parts[-1] == "linear" and len(parts) > 1 else parts[-1]
