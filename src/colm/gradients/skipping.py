"""Looking with fewer layers: some of the middle ones are passed by while candidates are looked at.

Neighbouring middle layers of a deep decoder change the hidden state little and alike, so a look
without some of them still tells examples apart, at less cost. A layer passed by returns the hidden
state that it was given; everything else (masks, positions, the kind of attention of each layer) is
made by the model for all its layers. Nothing of the model is changed outside the look.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from colm.gradients.decoder import base_model, class_name, find_layers
from colm.gradients.label_loss import DecoderRun, with_hidden
from colm.gradients.patching import evaluation_mode, forward_hook, replaced_forward
from colm.gradients.sharding import is_sharded

# The first layers make of tokens what all later ones work on, and attention its sinks.
FIRST_KEPT = 2
PROBE_TOKENS = 4


class LayerSkipping:
    """The layers that a look passes by, and the context in which it does.

    Left out are layers one after the other, in the middle between the first two, which are kept,
    and the first layer whose gradients are features. Costs a forward of four tokens, to see that
    the model can do without them.

    Args:
        model: a causal language model of ``transformers``, or PEFT's wrapper of one.
        share: of all decoder layers, to be left out: ``0 <= share < 1``.
        before: index of the first layer that must run; all later ones run as well.

    Raises:
        ValueError: a share out of range, more layers than can be left out, or a model whose layers
            need each other.
    """

    def __init__(self, model: nn.Module, share: float, before: int) -> None:
        check_share(share)
        self._model = model
        self.indices = middle_layers(model, share, before) if share else ()
        if self.indices:
            self._probe()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Pass the layers by in the model calls made inside."""
        with ExitStack() as stack:
            if self.indices:
                layers, outputs = find_layers(self._model), _Outputs()
                for index, layer in enumerate(layers):
                    if index in self.indices:
                        stack.enter_context(replaced_forward(layer, outputs.passed_by))
                    elif index < self.indices[-1]:
                        stack.enter_context(forward_hook(layer, outputs.keep))
            yield

    def _probe(self) -> None:
        """Run a few tokens, so that a model that cannot do it says so before training."""
        config: Any = base_model(self._model).config
        vocabulary = config.get_text_config(decoder=True).vocab_size
        device = next(self._model.parameters()).device
        tokens = torch.arange(PROBE_TOKENS, device=device).remainder(vocabulary).unsqueeze(0)
        try:
            with evaluation_mode(self._model), torch.no_grad(), self():
                # Layers are all that is tried: inputs that PEFT asks for are not at hand.
                whole = self._model if is_sharded(self._model) else base_model(self._model)
                DecoderRun(whole, {"input_ids": tokens})
        except torch.OutOfMemoryError:
            raise
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"skipped_layers: {class_name(self._model)} cannot run without its middle layers "
                f"({type(error).__name__}: {error}): set skipped_layers=0."
            ) from error


def check_share(share: float) -> None:
    """Refuse a share of layers that is none.

    Raises:
        ValueError: it is not at least 0 and below 1.
    """
    if not 0 <= share < 1:
        raise ValueError(f"skipped_layers must be at least 0 and below 1; got {share}.")


def middle_layers(model: nn.Module, share: float, before: int) -> tuple[int, ...]:
    """Return the layers to pass by, ascending: ``share`` of all, rounded to a whole number.

    Args:
        model: a causal language model.
        share: above 0 and below 1.
        before: index of the first layer that must run.

    Raises:
        ValueError: there are not as many between the first layers and ``before``, or the share
            rounds to none.
    """
    total = len(find_layers(model))
    number = math.floor(share * total + 0.5)
    free = max(0, before - FIRST_KEPT)
    if not 1 <= number <= free:
        raise ValueError(
            f"skipped_layers={share} is {number} of the {total} layers of {class_name(model)}, "
            f"of which 1 to {free} can be left out: the first {FIRST_KEPT} and those from "
            f"{before} on, which features come from, are needed."
            if free
            else f"skipped_layers={share}: none of the {total} layers of {class_name(model)} can "
            f"be left out: the first {FIRST_KEPT} and those from {before} on, which features come "
            "from, are needed. Set skipped_layers=0."
        )
    start = FIRST_KEPT + (free - number) // 2
    return tuple(range(start, start + number))


class _Outputs:
    """What layers that run return, which one passed by must look like."""

    def __init__(self) -> None:
        self._last: Any = None

    def keep(self, _module: nn.Module, _args: Any, output: Any) -> None:
        """Forward hook of a layer that runs."""
        self._last = output

    def passed_by(self, *args: Any, **kwargs: Any) -> Any:
        """Forward of a layer passed by: the hidden state given, beside what the last one added."""
        hidden = args[0] if args else kwargs["hidden_states"]
        return with_hidden(self._last, hidden)
