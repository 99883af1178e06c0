"""What PEFT does around a model's forward, so that a look sees what training sees.

Adapters inside layers come along with the layers. What PEFT brings from outside comes with a call
of its own wrapper alone: virtual tokens before an example's, keys and values before all, the place
in an example from which an adapter counts. Symbols: n examples, t tokens a row, p virtual tokens.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from colm.gradients.batch import IGNORED_LABEL
from colm.gradients.sharding import is_sharded

#: Kinds of adapter whose looks would not be what training sees, by PEFT's names, and why.
REFUSED = {
    "ADAPTION_PROMPT": "sends prompts of its own through the maps whose gradients are features",
    "CPT": "trains on a loss of its own, on tokens of its own",
    "LILY": "mixes its adapters by what it has seen of all examples of a batch",
    "SHADOW": "trains a second model beside the layers, on a loss of its own",
    "XLORA": "runs the model twice, to mix adapters by what it has seen of an example",
}
#: Kinds that put virtual tokens before those of an example; others put keys and values there.
_WITH_TOKENS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING")


def check_adapter(model: nn.Module) -> None:
    """Refuse a model under an adapter of which no look sees what training sees.

    Raises:
        ValueError: such an adapter, by name.
    """
    kind = _kind(model)
    if kind in REFUSED:
        raise ValueError(
            f"selection cannot look at a model under {kind}, which {REFUSED[kind]}: use another "
            "adapter, or a selector that does not look at examples, such as selector='random'."
        )


def check_inputs(model: nn.Module, inputs: Mapping[str, Any], *, packed: bool = False) -> None:
    """Refuse inputs that an adapter treats otherwise in training than where they are looked at.

    Args:
        model: a causal language model.
        inputs: of a batch.
        packed: whether the batch has its examples in one row.

    Raises:
        ValueError: such inputs.
    """
    if inputs.get("adapter_names") is not None:
        raise ValueError(
            "selection cannot compare examples that have adapters of their own: leave "
            "'adapter_names' out of batches, or use a selector that does not look at examples."
        )
    if packed and _is_around_examples(model):
        raise ValueError(
            f"padding_free=True puts examples into one row, and {_kind(model)} would adapt the row "
            "instead of each example: set padding_free=False."
        )


def training_call(model: nn.Module) -> Callable[..., Any]:
    """Return what to call so that the model computes what it computes in training."""
    # What is sharded gathers itself only when it is called by its outermost module.
    if is_sharded(model) or not hasattr(model, "get_base_model"):
        return model
    # Not the forward of this very object: mixed precision puts its own around that, and whether a
    # look computes in it is for the look to say.
    wrapper = getattr(model, "_orig_mod", model)
    return partial(type(wrapper).forward, wrapper)


def virtual_tokens(model: nn.Module) -> int:
    """Return p, how many positions the decoder sees before the tokens of each example."""
    if _kind(model) not in _WITH_TOKENS:
        return 0
    config: Any = getattr(model, "active_peft_config", None)
    return int(config.num_virtual_tokens)


def labels_seen(model: nn.Module, labels: Tensor) -> Tensor:
    """Return labels ``[n, p + t]`` of all positions that the decoder sees, of ``labels [n, t]``.

    Virtual tokens have none, but the last of them predicts an example's first token.
    """
    return functional.pad(labels, (virtual_tokens(model), 0), value=IGNORED_LABEL)


def _kind(model: nn.Module) -> str | None:
    """PEFT's name for how the model is adapted, ``None`` without PEFT."""
    config: Any = getattr(model, "active_peft_config", None)
    kind = getattr(config, "peft_type", None)
    return None if kind is None else str(getattr(kind, "value", kind))


def _is_around_examples(model: nn.Module) -> bool:
    config: Any = getattr(model, "active_peft_config", None)
    return bool(
        getattr(config, "is_prompt_learning", False)
        or getattr(config, "alora_invocation_tokens", None)
    )
