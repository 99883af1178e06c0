"""Finding the parts of a causal language model: its decoder, the decoder's layers, their maps.

Works on any decoder of ``transformers``, bare or under PEFT, by structure and by name, never by
architecture.
"""

from collections.abc import Iterator
from typing import Any

from torch import nn

from colm.gradients.sharding import plain_class, shape_of

CROSS_ATTENTION = ("cross", "encoder_attn")


def base_model(model: nn.Module) -> nn.Module:
    """Return the model without PEFT's wrapper; adapters inside its layers stay."""
    get_base_model = getattr(model, "get_base_model", None)
    return get_base_model() if callable(get_base_model) else model


def class_name(model: nn.Module) -> str:
    """Return the class of the model without PEFT's wrapper, for messages."""
    return plain_class(base_model(model)).__name__


def text_config(model: Any) -> Any:
    """Return the configuration of a model's decoder, ``None`` of a model without one."""
    config = getattr(model, "config", None)
    get_text_config = getattr(config, "get_text_config", None)
    return get_text_config(decoder=True) if callable(get_text_config) else config


def find_decoder(model: nn.Module) -> nn.Module:
    """Return the module that turns token ids into hidden states.

    Raises:
        ValueError: the model does not name one.
    """
    base: Any = base_model(model)
    get_decoder = getattr(base, "get_decoder", None)
    head = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
    # Where a model calls something else its decoder, the usual name of a body serves.
    for found in (get_decoder() if callable(get_decoder) else None, getattr(base, "model", None)):
        if isinstance(found, nn.Module) and found is not base and found is not head:
            return found
    raise ValueError(f"{class_name(model)} has no decoder that colm can find.")


def find_layers(model: nn.Module) -> nn.ModuleList:
    """Return the decoder's layers: the shallowest list as long as the configuration says.

    Raises:
        ValueError: no such list, or several side by side.
    """
    config: Any = base_model(model).config
    num_layers = config.get_text_config(decoder=True).num_hidden_layers
    lists = [
        (name.count("."), module)
        for name, module in running_modules(find_decoder(model))
        if isinstance(module, nn.ModuleList) and len(module) == num_layers
    ]
    # Beside the layers may be a list of their norms or embeddings, of equal length.
    lists = [(depth, module) for depth, module in lists if any(linear_maps(module))]
    least = min((depth for depth, _ in lists), default=0)
    shallowest = [module for depth, module in lists if depth == least]
    if len(shallowest) != 1:
        raise ValueError(
            f"{class_name(model)} has {len(shallowest)} lists of {num_layers} modules in its "
            "decoder where colm looks for one, of its layers."
        )
    return shallowest[0]


def has_plain_head(model: nn.Module) -> bool:
    """Whether the head is a linear map and no more, so that rows of it can be taken."""
    base: Any = base_model(model)
    head = base.get_output_embeddings()
    return plain_class(head) is nn.Linear and head.weight.is_floating_point()


def linear_maps(layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Linear maps of a layer in order of definition, wrapped ones once, none of cross-attention."""
    # FSDP's own checkpointing of activations wraps whole layers.
    while isinstance(wrapped := getattr(layer, "_checkpoint_wrapped_module", None), nn.Module):
        layer = wrapped
    wrappers: list[str] = []
    for name, module in running_modules(layer):
        if any(name.startswith(f"{wrapper}.") for wrapper in wrappers):
            continue
        if hasattr(module, "base_layer") or hasattr(module, "subspace"):
            wrappers.append(name)
        if any(part in name.lower() for part in CROSS_ATTENTION):
            continue
        inner = wrappers_and_map(module)[-1]
        # A router is a linear map in a class of its own, which returns choices.
        is_map = hasattr(inner, "in_features") or is_transposed(inner)
        if is_map and not plain_class(inner).__name__.endswith("Router"):
            yield name, module


def wrappers_and_map(module: nn.Module) -> list[nn.Module]:
    """Return PEFT's wrappers of a linear map, the outermost first, and last the map itself."""
    found = [module]
    while isinstance(inner := getattr(found[-1], "base_layer", None), nn.Module):
        found.append(inner)
    return found


def running_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules inside, each once, by the name that it has without PEFT's ``modules_to_save``.

    Of what PEFT trains whole there are a copy and the original, of which one runs.
    """
    seen: set[nn.Module] = set()

    def walk(name: str, part: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        copies = getattr(part, "modules_to_save", None)
        if isinstance(copies, nn.ModuleDict):
            active: Any = [] if part.disable_adapters else part.active_adapters
            chosen = next((copies[key] for key in active if key in copies), part.original_module)
            yield from walk(name, chosen)  # type: ignore[arg-type]
        elif part not in seen:
            seen.add(part)
            yield name, part
            for child, inside in part.named_children():
                yield from walk(f"{name}.{child}" if name else child, inside)

    return walk("", module)


def is_transposed(module: nn.Module) -> bool:
    """Whether the weight is ``[inputs, outputs]``, as that of GPT-2's ``Conv1D``."""
    return any(kind.__name__ == "Conv1D" for kind in type(module).__mro__)


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """Outputs and inputs of a linear map, quantised or transposed ones included."""
    if hasattr(module, "out_features"):
        return int(module.out_features), int(module.in_features)  # type: ignore[arg-type]
    weight: Any = module.weight
    inputs, outputs = shape_of(weight)
    return int(outputs), int(inputs)
