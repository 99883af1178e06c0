"""Finding the parts of a causal language model: its decoder, the decoder's layers, V in the last.

Works on any decoder of ``transformers``, bare or under PEFT, by structure and by name, never by
architecture. The rows of V inside a fused projection are found by one backward pass over one-token
sequences: there softmax is 1, so only V receives a gradient, whatever the layout.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from colm.gradients.patching import evaluation_mode, forward_hook

# Last part of a module's name, as found in 130 architectures of transformers.
VALUE_NAMES = frozenset({"v_proj", "value", "project_v", "Wv"})
FUSED_NAMES = frozenset(
    {"qkv_proj", "query_key_value", "c_attn", "Wqkv", "kv_b_proj", "kv_proj", "qkv"}
)
OUTPUT_NAMES = ("out_proj", "o_proj", "output", "dense", "c_proj")
CROSS_ATTENTION = ("cross", "encoder_attn")
PROBE_TOKENS = 16


@dataclass(frozen=True)
class Projection:
    """A linear map in a decoder layer whose gradient is the feature of an example.

    Attributes:
        name: its module name inside the layer.
        layer: index of the decoder layer it is in.
        modules: what computes it: the projection itself, or LoRA's B factors on it.
        rows: ``[k]`` int64 output rows that are V, ``None`` for all of them.
        is_value: false where the model has no attention, and its output projection serves.
        is_adapter: true where ``modules`` are LoRA B factors.
    """

    name: str
    layer: int
    modules: tuple[nn.Module, ...]
    rows: Tensor | None
    is_value: bool
    is_adapter: bool


def base_model(model: nn.Module) -> nn.Module:
    """Return the model without PEFT's wrapper; adapters inside its layers stay."""
    get_base_model = getattr(model, "get_base_model", None)
    return get_base_model() if callable(get_base_model) else model


def find_decoder(model: nn.Module) -> nn.Module:
    """Return the module that turns token ids into hidden states.

    Raises:
        ValueError: the model does not name one.
    """
    get_decoder = getattr(base_model(model), "get_decoder", None)
    decoder = get_decoder() if callable(get_decoder) else None
    if not isinstance(decoder, nn.Module) or decoder is base_model(model):
        raise ValueError(f"{type(base_model(model)).__name__} has no decoder that colm can find.")
    return decoder


def find_layers(model: nn.Module) -> nn.ModuleList:
    """Return the decoder's layers: the shallowest list as long as the configuration says.

    Raises:
        ValueError: no such list.
    """
    config: Any = base_model(model).config
    num_layers = config.get_text_config(decoder=True).num_hidden_layers
    lists = [
        (name.count("."), module)
        for name, module in find_decoder(model).named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers
    ]
    if not lists:
        raise ValueError(
            f"{type(base_model(model)).__name__} has no list of {num_layers} decoder "
            "layers that colm can find."
        )
    return min(lists, key=lambda depth_and_list: depth_and_list[0])[1]


def find_value_projection(model: nn.Module) -> Projection:
    """Find V of the last decoder layer that has one, or LoRA's B factor where V carries LoRA.

    A model without attention (Mamba, say) has no V: the output projection of its last layer serves
    instead, with one warning. Costs a forward and a partial backward of a few one-token sequences
    where V is part of a fused projection, and nothing else.

    Args:
        model: a causal language model of ``transformers``, or PEFT's wrapper of one.

    Returns:
        Where V is.

    Raises:
        ValueError: the decoder or its layers cannot be found, or the layer has no linear map.
    """
    layers = find_layers(model)
    for index in reversed(range(len(layers))):
        for name, module in _linears(layers[index]):
            if _last_name(name) in VALUE_NAMES:
                return _projection(name, index, module, None, is_value=True)
            if _last_name(name) in FUSED_NAMES:
                rows = _value_rows(model, module)
                return _projection(name, index, module, rows, is_value=True)
    name, module = _output_projection(layers[-1], type(base_model(model)).__name__)
    warnings.warn(
        f"{type(base_model(model)).__name__} has no value projection; the features are gradients "
        f"of '{name}' in its last layer instead.",
        stacklevel=2,
    )
    return _projection(name, len(layers) - 1, module, None, is_value=False)


def weight_rows(projection: Projection) -> Tensor:
    """Return the weight whose gradient is the feature, ``[rows, inputs]`` for each module, joined.

    Raises:
        ValueError: the weight is quantised and has no such shape.
    """
    weights = []
    for module in projection.modules:
        weight = module.weight.detach()  # type: ignore[operator]
        weight = weight.T if _is_transposed(module) else weight
        if weight.ndim != 2 or not weight.is_floating_point():
            raise ValueError(f"The weight of '{projection.name}' is quantised and cannot be read.")
        weights.append(weight if projection.rows is None else weight[projection.rows])
    return torch.cat([weight.reshape(-1) for weight in weights])


def _linears(layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Linear maps of a layer in order of definition, wrapped ones once, none of cross-attention."""
    for name, module in layer.named_modules():
        inner = getattr(module, "base_layer", module)
        inside_adapter = any(part in name for part in (".base_layer", "lora_", "ia3_"))
        if inside_adapter or any(part in name.lower() for part in CROSS_ATTENTION):
            continue
        if getattr(getattr(inner, "weight", None), "ndim", 0) == 2:
            yield name, module


def _last_name(name: str) -> str:
    """Own name of a module; a wrapper that calls its inner map ``linear`` has its parent's."""
    parts = name.split(".")
    return parts[-2] if parts[-1] == "linear" and len(parts) > 1 else parts[-1]


def _output_projection(layer: nn.Module, model_name: str) -> tuple[str, nn.Module]:
    linears = list(_linears(layer))
    if not linears:
        raise ValueError(f"The last layer of {model_name} has no linear map to take gradients of.")
    for wanted in OUTPUT_NAMES:
        for name, module in linears:
            if _last_name(name) == wanted:
                return name, module
    return linears[-1]


def _projection(
    name: str, layer: int, module: nn.Module, rows: Tensor | None, *, is_value: bool
) -> Projection:
    """Point at LoRA's B factors where the module carries trainable ones, else at its own weight."""
    adapters = getattr(module, "lora_B", None)
    if isinstance(adapters, nn.ModuleDict):
        active = [
            adapters[key]
            for key in getattr(module, "active_adapters", adapters.keys())
            if key in adapters and adapters[key].weight.requires_grad
        ]
        if active:
            return Projection(name, layer, tuple(active), rows, is_value, is_adapter=True)
    inner = getattr(module, "base_layer", module)
    return Projection(name, layer, (inner,), rows, is_value, is_adapter=False)


def _is_transposed(module: nn.Module) -> bool:
    """Whether the weight is ``[inputs, outputs]``, as that of GPT-2's ``Conv1D``."""
    return type(module).__name__ == "Conv1D"


def _value_rows(model: nn.Module, module: nn.Module) -> Tensor | None:
    """Output rows of a fused projection that receive a gradient from one-token sequences."""
    device = next(module.parameters()).device
    base = base_model(model)
    vocabulary = base.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocabulary, (PROBE_TOKENS, 1), generator=generator).to(device)
    output: list[Tensor] = []

    def watch(_module: nn.Module, _args: tuple[Tensor, ...], result: Tensor) -> Tensor:
        torch.set_grad_enabled(True)
        output.append(result.detach().requires_grad_())
        return output[-1]

    # Other attention kernels recompute the softmax and round it; this one gives exact zeros.
    kernel = sdpa_kernel(SDPBackend.MATH)
    with evaluation_mode(model), torch.no_grad(), forward_hook(module, watch), kernel:
        hidden = find_decoder(model)(input_ids=tokens, use_cache=False)[0]
        direction = torch.randn(hidden.shape, generator=generator).to(hidden)
        (gradient,) = torch.autograd.grad((hidden * direction).sum(), [output[0]])
    size = gradient.reshape(-1, gradient.shape[-1]).abs().float().sum(0)
    rows = (size > 1e-3 * size.max()).nonzero().flatten()
    return None if len(rows) == len(size) else rows
