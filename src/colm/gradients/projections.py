"""Finding the projections of the last decoder layer whose gradients are the features.

Where a projection is a linear map of its own, it is known by its name; where it is some rows of a
fused one, by a probe (`colm.gradients.fused`).
"""

import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from colm.gradients.applied_weights import Projection, projections_of
from colm.gradients.decoder import (
    class_name,
    find_layers,
    linear_maps,
    linear_shape,
    wrappers_and_map,
)
from colm.gradients.fused import fused_rows

PROJECTIONS = ("q", "k", "v", "o", "mlp")
#: In place of these: all linear maps of two blocks, see `colm.gradients.block_gradients`.
SPREAD = "spread"

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
        is_whole = len(rows) == linear_shape(wrappers_and_map(module)[-1])[0]
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


def _part(place: _Place) -> str:
    """The part of the layer that a map is in; empty where it is in the layer itself."""
    first, dot, _ = place.name.partition(".")
    return first if dot else ""


def _last_name(place: _Place) -> str:
    """Own name of a module; a wrapper that calls its inner map ``linear`` has its parent's."""
    parts = place.name.split(".")
    return parts[-2] if parts[-1] == "linear" and len(parts) > 1 else parts[-1]
