"""Linear maps in four or eight bits without values: what QLoRA holds and does, for a plan.

bitsandbytes packs weights once they have values. Here they are packed without: in the sizes and by
the operations of bitsandbytes itself, on a CPU.
"""

import math
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.quantizers.base import get_keys_to_not_convert
from trl import get_quantization_config

from colm.runs.arguments import SFTArguments

BLOCK = 64  # weights that share a scale
SCALES_BLOCK = 256  # scales that share one of their own, where they are quantised, too


def has_few_bits(arguments: SFTArguments) -> bool:
    """Return whether a run loads its weights in four or eight bits."""
    return bool(arguments.model.load_in_4bit or arguments.model.load_in_8bit)


def use_packed_maps(model: Any, arguments: SFTArguments) -> Any:
    """Make a model's linear maps, but for its head, ones of bitsandbytes, as when it is loaded.

    Args:
        model: on the meta device, without adapters.
        arguments: options of the run, for which `has_few_bits` is true.

    Raises:
        ValueError: bitsandbytes is not installed.
    """
    bits = 4 if arguments.model.load_in_4bit else 8
    if find_spec("bitsandbytes") is None:
        raise ValueError(f"load_in_{bits}bit=True needs bitsandbytes: pip install bitsandbytes")
    config = get_quantization_config(arguments.model)
    kept = get_keys_to_not_convert(model)
    model = replace_with_bnb_linear(model, kept, quantization_config=config)
    setattr(model, f"is_loaded_in_{bits}bit", True)
    return model


def pack(model: nn.Module) -> None:
    """Give such maps their packed weights and scales; adapters become bfloat16, as in TRL.

    Args:
        model: what `use_packed_maps` returned, with its adapters.
    """
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_magnitude_vector" not in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    packing = {Linear4bit: _pack_map, Linear8bitLt: _pack_in_eight}
    for module in model.modules():
        if type(module) in packing:
            packing[type(module)](module)


def _pack_map(module: Any) -> None:
    weight, size = module.weight, module.weight.numel()
    make = partial(torch.empty, device=weight.device)
    nested, scales = weight.compress_statistics, math.ceil(size / BLOCK)
    module.register_buffer("code", make(16))
    module.register_buffer("absmax", make(scales, dtype=torch.uint8 if nested else torch.float32))
    if nested:
        module.register_buffer("offset", make(()))
        module.register_buffer("scales_code", make(256))
        module.register_buffer("scales_absmax", make(math.ceil(scales / SCALES_BLOCK)))
    shape, kind = weight.shape, weight.quant_type
    packed = make((math.ceil(size / 2), 1), dtype=torch.uint8)
    module.weight = nn.Parameter(packed, requires_grad=False)
    module.forward = partial(_forward, module, shape, kind)


def _forward(module: Any, shape: torch.Size, kind: str, inputs: Tensor) -> Tensor:
    """What ``Linear4bit`` computes."""
    from bitsandbytes import matmul_4bit  # type: ignore[attr-defined]
    from bitsandbytes.functional import QuantState

    dtype = module.compute_dtype
    nested: dict[str, Any] = {}
    if hasattr(module, "offset"):
        scales = {"code": module.scales_code, "blocksize": SCALES_BLOCK, "dtype": torch.float32}
        nested = {"offset": module.offset, "state2": QuantState(module.scales_absmax, **scales)}
    state = QuantState(module.absmax, shape, module.code, BLOCK, kind, dtype, **nested)
    bias = None if module.bias is None else module.bias.to(dtype)
    out: Tensor = matmul_4bit(inputs.to(dtype), module.weight, state, bias=bias)
    return out.to(inputs.dtype)


def _pack_in_eight(module: Any) -> None:
    """A byte for each number, and a scale for each row."""
    weight = module.weight
    scales = torch.empty(len(weight), device=weight.device)
    module.register_buffer("scales", scales)
    packed = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    module.weight = nn.Parameter(packed, requires_grad=False)
    module.forward = partial(_forward_in_eight, module)


def _forward_in_eight(module: Any, inputs: Tensor) -> Tensor:
    """What ``Linear8bitLt`` computes on a CPU."""
    from bitsandbytes import MatmulLtState, matmul  # type: ignore[attr-defined]

    state = MatmulLtState()
    state.CB, state.SCB = module.weight, module.scales
    state.has_fp16_weights, state.is_training = False, True
    bias = None if module.bias is None else module.bias.to(inputs.dtype)
    out: Tensor = matmul(inputs, module.weight, bias=bias, state=state)
    return out
