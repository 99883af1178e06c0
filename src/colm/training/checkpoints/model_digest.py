"""What the model and the adapters of a run are, so that a later run can be held against them.

Of weights that a checkpoint brings, their number is enough; those that it leaves to the model
it is loaded on, the frozen ones beneath adapters, are looked at themselves: a few values of each.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from colm.memory.side_block import side_block_of

#: Values that are looked at of each weight, spread evenly.
VALUES_OF_A_WEIGHT = 256

#: What a configuration says of where the model came from, and of how it runs; special tokens come
#: with the tokenizer.
_NOT_THE_MODEL = {
    "_name_or_path",
    "architectures",
    "attn_implementation",
    # Saving a model writes it down, in the model's own configuration, too; weights tell it.
    "dtype",
    "name_or_path",
    "transformers_version",
    "use_cache",
}
_NOT_THE_ADAPTER = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
    "runtime_config",
}


def describe_model(model: nn.Module) -> dict[str, Any]:
    """Return the configuration of a model, and how much of it is trained.

    Args:
        model: not wrapped for distributed training.
    """
    config: Any = getattr(model, "config", None)
    settings = config.to_dict() if hasattr(config, "to_dict") else {}
    told = {f"{name} of the model": plain(value) for name, value in _of_the_model(settings).items()}
    sizes = [(_size(weight), weight.requires_grad) for weight in model.parameters()]
    return told | {
        "dtype of the model": sorted({str(weight.dtype) for weight in model.parameters()}),
        "number of weights": sum(size for size, _ in sizes),
        "number of trained weights": sum(size for size, is_trained in sizes if is_trained),
    }


def _of_the_model(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that make a model what it is, those of its parts included."""
    return {
        name: _of_the_model(value) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if name not in _NOT_THE_MODEL and not str(name).endswith("_token_id")
    }


def describe_adapters(model: nn.Module) -> dict[str, Any]:
    """Return the options of each adapter as the command line has them, ``lora_r`` for instance."""
    if side_block_of(model) is not None:
        return {"kind of adapter": "side block"}
    adapters = getattr(model, "peft_config", None)
    if not isinstance(adapters, Mapping):
        return {"kind of adapter": "none"}
    told: dict[str, Any] = {"kind of adapter": [_kind(adapter) for adapter in adapters.values()]}
    for label, adapter in adapters.items():
        prefix = f"{_kind(adapter).lower()}_"
        for name, value in adapter.to_dict().items():
            if name not in _NOT_THE_ADAPTER:
                option = name if name.startswith(prefix) else prefix + name
                told[option if len(adapters) == 1 else f"{option} of {label}"] = plain(value)
    return told


def has_adapters(model: nn.Module) -> bool:
    """Whether a checkpoint holds adapters alone, or a side block, and not the weights beneath."""
    has_block = side_block_of(model) is not None
    return has_block or isinstance(getattr(model, "peft_config", None), Mapping)


def digest_weights(model: nn.Module) -> str | None:
    """Return a digest of the weights that a run begins with.

    Those of adapters are begun anew each time, and embeddings may have been given new rows, so
    neither is looked at. Costs a copy of ``VALUES_OF_A_WEIGHT`` numbers for each weight.

    Args:
        model: not wrapped for distributed training.

    Returns:
        ``None`` where a weight is not whole on this process.
    """
    digest = hashlib.blake2b(digest_size=16)
    passed_over = {id(weight) for weight in _embeddings(model)}
    beneath_adapters = has_adapters(model)
    for name, weight in model.named_parameters():
        if id(weight) in passed_over or (beneath_adapters and weight.requires_grad):
            continue
        if weight.is_meta or hasattr(weight, "to_local") or hasattr(weight, "ds_id"):
            return None
        # The numbers of quantised weights depend on the machine that rounded them.
        if weight.is_floating_point() and weight.numel():
            digest.update(name.encode())
            digest.update(_some_values(weight))
    return digest.hexdigest()


def plain(value: Any) -> Any:
    """Return a value of an option as JSON has it, the same for the same value in every process."""
    if isinstance(value, Enum):
        value = value.value
    if is_dataclass(value) and not isinstance(value, type):
        value = {each.name: getattr(value, each.name, None) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in sorted(value.items(), key=_by_text)}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if value is None or isinstance(value, bool | int | str) or _is_finite(value):
        return value
    # The text of other things may name their place in memory.
    has_text = isinstance(value, float | torch.dtype | torch.device)
    return str(value) if has_text else type(value).__name__


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _by_text(item: tuple[Any, Any]) -> str:
    return str(item[0])


def _kind(adapter: Any) -> str:
    kind = getattr(adapter, "peft_type", None)
    return str(getattr(kind, "value", kind))


def _size(weight: Any) -> int:
    # DeepSpeed leaves nothing in a weight that is not in use, but its size.
    return int(getattr(weight, "ds_numel", weight.numel()))


def _embeddings(model: nn.Module) -> Iterator[Tensor]:
    for name in ("get_input_embeddings", "get_output_embeddings"):
        try:
            layer = getattr(model, name)()
        except (AttributeError, NotImplementedError):
            continue
        if isinstance(layer, nn.Module):
            yield from layer.parameters()


def _some_values(weight: Tensor) -> bytes:
    flat = weight.detach().reshape(-1)
    places = torch.linspace(
        0, len(flat) - 1, min(len(flat), VALUES_OF_A_WEIGHT), dtype=torch.float64
    )
    return flat[places.long().to(flat.device)].float().cpu().numpy().tobytes()
