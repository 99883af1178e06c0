"""What selection needs of a trainer, as functions: the trainer may replace any of it meanwhile."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from colm.training.example import Example
from colm.training.processes.exchange import Exchange


def text_config(model: Any) -> Any:
    """Return the configuration of a model's decoder, ``None`` of a model without one."""
    config = getattr(model, "config", None)
    get_text_config = getattr(config, "get_text_config", None)
    return get_text_config(decoder=True) if callable(get_text_config) else config


@dataclass(frozen=True)
class ModelAccess:
    """What selection needs of a trainer to look at examples with the model as it trains.

    Attributes:
        model: returns the unwrapped model.
        collate: the real collator.
        prepare: moves a batch to the model's device.
        autocast: context of the training forward.
        optimizer: returns the optimiser, with its state.
        sharing: the processes that hold the model's weights together; this one alone where it has
            them all.
    """

    model: Callable[[], nn.Module]
    collate: Callable[[Sequence[Example]], Mapping[str, Any]]
    prepare: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    autocast: Callable[[], AbstractContextManager[Any]]
    optimizer: Callable[[], Any]
    sharing: Exchange = field(default_factory=Exchange)
