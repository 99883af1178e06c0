"""The trunk of a decoder, all of its layers but the last: read, and replaced by what it put out.

Symbols: L layers, h_i ``[..., d]`` what layer i takes, the first being layer 0; the trunk puts out
h_0, what the first takes, to h_{L-1}, what the last would.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from colm.gradients.decoder import class_name, text_config
from colm.gradients.label_loss import hidden_of, with_hidden
from colm.gradients.patching import replaced_forward

#: What goes into the last layer, given what the trunk put out.
Join = Callable[[Sequence[Tensor]], Tensor]


class Trunk:
    """The layers before the last, frozen with all else of their model, and without a graph.

    Args:
        model: whose decoder it is.
        decoder: of the model.
        layers: L of the decoder, at least two.
        every: which outputs are read: h_{L-1}, and every such one before it.

    Attributes:
        model: as given.
        decoder: as given.
        every: as given.
        read: i of each h_i that is read, ascending.

    Raises:
        ValueError: there are too few layers, or one of them stands in two places.
    """

    def __init__(
        self, model: nn.Module, decoder: nn.Module, layers: Sequence[nn.Module], every: int
    ) -> None:
        number = len(layers)
        if number < 2 or len({*layers}) < number:
            raise ValueError(
                f"{class_name(model)} has {len({*layers})} layers of its own in {number} places, "
                "and a side block stands between one and the last: it needs two or more, all apart."
            )
        if every > number - 1:
            raise ValueError(
                f"every must be at most {number - 1} with {number} layers, so that two outputs are "
                f"read; got {every}."
            )
        self.model = model
        self.decoder = decoder
        self.every = every
        self.read = tuple(range((number - 1) % every, number, every))
        self._layers = list(layers[:-1])
        # Layers that share keys and values (Gemma 3n) hand on more than they return.
        self._hands_on = bool(getattr(text_config(model), "num_kv_shared_layers", 0))
        self._outputs: dict[int, Tensor] = {}
        self._given: Sequence[Tensor] | None = None
        self._recorded: list[list[Tensor]] | None = None
        # How the layers return an output: in a tuple, say. Known once the last of them has run.
        self._form: Any = None
        self._form_is_known = False

    def enter(self, join: Join) -> None:
        """Freeze the model, and let what ``join`` makes of the outputs go into the last layer."""
        self._join = join
        self._frozen = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.model.requires_grad_(False)
        first = self._layers[0].register_forward_pre_hook(self._begin, with_kwargs=True)
        after = [
            layer.register_forward_hook(partial(self._after, number))
            for number, layer in enumerate(self._layers, start=1)
        ]
        # Also after an error: what was read must not stay where memory has run out.
        let_go = self.decoder.register_forward_hook(self._let_go, always_call=True)
        self._handles = [first, *after, let_go]

    def leave(self) -> nn.Module:
        """Remove the hooks, train again what was trained, and return the model."""
        for handle in self._handles:
            handle.remove()
        for weight in self._frozen:
            weight.requires_grad_(True)
        return self.model

    @contextmanager
    def recording(self) -> Iterator[list[list[Tensor]]]:
        """Give a list to which each forward made inside adds what is read, detached."""
        before, self._recorded = self._recorded, []
        try:
            yield self._recorded
        finally:
            self._recorded = before

    @property
    def can_be_given(self) -> bool:
        """Whether `given` will do: known once the model has run."""
        return self._form_is_known and not self._hands_on

    @contextmanager
    def given(self, outputs: Sequence[Tensor]) -> Iterator[None]:
        """Let forwards made inside take ``outputs``, as recorded, in place of running the layers.

        Embeddings, positions and masks are made as ever.
        """
        self._given = outputs
        put_out = with_hidden(self._form, outputs[-1])
        try:
            with ExitStack() as stack:
                for layer in self._layers:
                    stack.enter_context(replaced_forward(layer, lambda *_, **__: put_out))
                yield
        finally:
            self._given = None

    def _begin(self, _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before the first layer: read what it takes, and cut it off from all before it."""
        if args:
            args = (args[0].detach(), *args[1:])
        else:
            kwargs = {**kwargs, "hidden_states": kwargs["hidden_states"].detach()}
        self._read(0, args[0] if args else kwargs["hidden_states"])
        return args, kwargs

    def _after(self, number: int, _layer: nn.Module, _args: Any, output: Any) -> Any:
        """After a layer: read what it returned; after the last, join what was read."""
        self._read(number, hidden_of(output))
        if number < len(self._layers):
            return None
        if self._given is not None:
            return with_hidden(output, self._join(self._given))
        outputs = list(self._outputs.values())
        if self._recorded is not None:
            self._recorded.append([one.detach() for one in outputs])
        if not _has_more(output):
            self._form, self._form_is_known = with_hidden(output, None), True
        return with_hidden(output, self._join(outputs))

    def _read(self, number: int, hidden: Tensor) -> None:
        if self._given is None and number in self.read:
            self._outputs[number] = hidden

    def _let_go(self, _decoder: nn.Module, _args: Any, _output: Any) -> None:
        self._outputs = {}


def _has_more(output: Any) -> bool:
    """Whether a layer returns anything beside its hidden state."""
    if isinstance(output, Mapping):
        output = list(output.values())
    return isinstance(output, tuple | list) and any(part is not None for part in output[1:])
