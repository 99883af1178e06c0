"""A model with rows of its embedding for the tokens that its data use, and for no others.

The data of one task use a small part of a large vocabulary. While a model is trained its embedding
is cut to those rows, and so are gradients and the optimiser's moments; the rows left out stay on
the CPU, and come back at the end. The head is cut with the embedding where both are one weight, or
where it is trained itself: the softmax is then over the used tokens alone. Symbols: V tokens in
the vocabulary, k of them used, d hidden size, m label positions.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from colm.gradients.adapters import check_adapter, labels_seen
from colm.gradients.batch import (
    IGNORED_LABEL,
    LABEL_KEYS,
    drop_labels,
    label_positions,
    one_example_a_row,
)
from colm.gradients.decoder import base_model, class_name, has_plain_head
from colm.gradients.label_loss import DecoderRun
from colm.gradients.patching import evaluation_mode, replaced_forward

#: Label positions of a batch at which the missing mass is measured.
MOST_POSITIONS = 256
#: Rows of the head that are multiplied with at once.
_PIECE_ROWS = 2**14
#: Methods of a model that whoever calls them means of the whole one.
_OF_THE_WHOLE = ("generate", "save_pretrained")
_UNUSED = -1


class PrunedVocabulary:
    """A model whose embedding has rows for the used tokens alone.

    Batches keep the ids that they have: the embedding takes them, and knows the place of each.
    Where the head is cut, too, labels must be places (`with_places`). Call ``restore`` to have the
    plain model back.  Paper: Williams and Aletras 2023, arXiv 2309.08708, which cuts the input
    embedding.  Deviates: a head that shares it, or is trained, is cut with it.

    Args:
        model: a causal language model of ``transformers``, or PEFT's wrapper of one, changed in
            place.
        tokens: int64 ids that are used, in any order.
        name: returns what messages call a token; its id stands beside.

    Attributes:
        tokens: ``[k]`` int64 used ids, ascending, on the CPU.
        size: V.
        cuts_head: whether the head has rows for the used tokens alone, too.
        is_cut: whether the model is cut now; inside ``whole`` it is not.

    Raises:
        ValueError: a model of which rows cannot be taken, or ids that it does not have.
    """

    def __init__(
        self, model: nn.Module, tokens: Tensor, name: Callable[[int], str] | None = None
    ) -> None:
        check_prunable(model)
        self.model = model
        base: Any = base_model(model)
        self._embedding, self._head = base.get_input_embeddings(), base.get_output_embeddings()
        self.size = len(self._embedding.weight)
        self.tokens = tokens.unique().cpu()
        if not len(self.tokens) or self.tokens[0] < 0 or self.tokens[-1] >= self.size:
            raise ValueError(f"tokens must be one or more ids of 0 to {self.size - 1}.")
        self.cuts_head = cuts_head(model)
        self._name = name
        self._padding: int | None = self._embedding.padding_idx
        self._places = torch.full((self.size,), _UNUSED)
        self._places[self.tokens] = torch.arange(len(self.tokens))
        weights = [self._embedding.weight]
        if self.cuts_head:
            weights += self._head.parameters()
        self._rows = [_Rows(model, each, self.tokens) for each in _each_once(weights)]
        self._undo = [self._embedding.register_forward_pre_hook(self._to_places).remove]
        for method in _OF_THE_WHOLE:
            if hasattr(base, method):
                self._undo.append(_replace(base, method, self.whole()(getattr(base, method))))
        if self.cuts_head and hasattr(base, "loss_function"):
            own = base.loss_function
            base.loss_function = _over_all_logits(own)
            self._undo.append(partial(setattr, base, "loss_function", own))
        self._fills = False
        self._cut()

    def places(self, tokens: Tensor) -> Tensor:
        """Return where the rows of tokens are, of the shape of the ids given.

        Raises:
            ValueError: a token that has no row, by its name.
        """
        if self._places.device != tokens.device:
            self._places = self._places.to(tokens.device)
        known = (tokens >= 0) & (tokens < self.size)
        places = self._places[tokens.clamp(0, self.size - 1)].where(known, _UNUSED)
        lacks = places == _UNUSED
        if lacks.any():
            token = int(tokens[lacks][0])
            named = f"{self._name(token)} (id {token})" if self._name and known.all() else token
            raise ValueError(
                f"token {named} is none of the {len(self.tokens)} that the model was cut to: "
                "they must be those of all data that it is trained on."
            )
        return places

    def label_places(self, tokens: Tensor) -> Tensor:
        """Return which logits are those of tokens; the ids themselves where the head is whole."""
        return self.places(tokens) if self.is_cut and self.cuts_head else tokens

    def with_places(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return a batch whose labels say which logit is theirs; ignored ones stay ignored."""
        found = dict(batch)
        for key in LABEL_KEYS:
            if isinstance(labels := batch.get(key), Tensor):
                ignored = labels == IGNORED_LABEL
                places = self.label_places(labels.masked_fill(ignored, int(self.tokens[0])))
                found[key] = places.masked_fill(ignored, IGNORED_LABEL)
        return found

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Let the model be the whole one inside; what is done to its rows there stays done.

        Costs the memory of the rows left out, and moving them to the model's device and back.
        """
        if not self.is_cut:
            yield
            return
        self._fill()
        try:
            yield
        finally:
            self._cut()

    @contextmanager
    def whole_if_run(self) -> Iterator[None]:
        """Let the model become the whole one inside once it is run, for those who may not run it.

        Its weights are those of the cut one before that.
        """
        before, self._fills = (self.is_cut, self._fills), True
        try:
            yield
        finally:
            was_cut, self._fills = before
            if was_cut and not self.is_cut:
                self._cut()

    def restore(self) -> nn.Module:
        """Return the model as a plain one again, with all rows."""
        if self.is_cut:
            self._fill()
        while self._undo:
            self._undo.pop()()
        self._rows = []
        return self.model

    def missing_mass(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the probability that the whole softmax gives to the tokens left out, ``[m]``.

        The loss of the whole model at a label is that of the cut one less log(1 - mass). Costs a
        forward, and the logits of all V tokens, a piece of the head at a time.

        Args:
            batch: padded or padding-free, with ``labels``, on the model's device.

        Returns:
            Float32, or wider, of the first label positions, ``MOST_POSITIONS`` at most; zeros where
            the head is whole.
        """
        batch = one_example_a_row(batch)
        labels = label_positions(labels_seen(self.model, batch["labels"]))
        position = labels.position[:MOST_POSITIONS]
        if not (self.is_cut and self.cuts_head and len(position)):
            return torch.zeros(len(position), device=position.device)
        weight, bias = (self._rows_of(each) for each in (self._head.weight, self._head.bias))
        with evaluation_mode(self.model), torch.no_grad():
            run = DecoderRun(self.model, drop_labels(batch))
            logits = partial(self._log_sum, run, run.hidden[position])
            used = logits(weight.rows, bias and bias.rows)
            left_out = logits(weight.left_out, bias and bias.left_out)
        return (left_out - used).sigmoid()

    def _log_sum(self, run: DecoderRun, hidden: Tensor, weight: Tensor, bias: Any) -> Tensor:
        """Log of the sum of exp of the logits that rows of a head have, ``[m]``."""
        sums = [hidden.new_full((len(hidden),), -torch.inf, dtype=torch.float32)]
        for start in range(0, len(weight), _PIECE_ROWS):
            part = slice(start, start + _PIECE_ROWS)
            rows = weight[part].to(hidden.device)
            constants = None if bias is None else bias[part].to(hidden.device)
            piece = partial(functional.linear, weight=rows, bias=constants)
            with replaced_forward(self._head, piece):
                logits = run.logits(hidden)
            sums.append(logits.to(torch.promote_types(logits.dtype, torch.float32)).logsumexp(-1))
        return torch.stack(sums).logsumexp(0)

    def _rows_of(self, weight: Tensor | None) -> Any:
        """The rows of a weight of the cut model, ``None`` of none."""
        return next((each for each in self._rows if each.rows is weight), None)

    def _cut(self) -> None:
        for each in self._rows:
            each.cut()
        if self._padding is not None:
            place = int(self._places[self._padding])
            self._embedding.padding_idx = None if place == _UNUSED else place
        self.is_cut = True

    def _fill(self) -> None:
        for each in self._rows:
            each.fill()
        self._embedding.padding_idx = self._padding
        self.is_cut = False

    def _to_places(self, _module: nn.Module, inputs: Any) -> Any:
        """Before the embedding: ids become places."""
        if self._fills and self.is_cut:
            self._fill()
        return (self.places(inputs[0]), *inputs[1:]) if self.is_cut else inputs


class _Rows:
    """The rows of one weight ``[V, ...]``: those used are trained, the others lie on the CPU.

    Attributes:
        rows: those used, ``[k, ...]``, in the order of their ids.
        left_out: all others, on the CPU.
    """

    def __init__(self, model: nn.Module, weight: Any, tokens: Tensor) -> None:
        self._whole = weight
        self._owners = list(_owners(model, weight))
        self._used = torch.zeros(len(weight), dtype=torch.bool, device=weight.device)
        self._used[tokens.to(weight.device)] = True
        # A gradient from before would stay as large as it is.
        weight.grad = None
        rows = weight.detach().new_empty((len(tokens), *weight.shape[1:]))
        self.rows = nn.Parameter(rows, weight.requires_grad)
        self.left_out = weight.detach().new_empty(0)

    def cut(self) -> None:
        """Take over what the whole weight is, let go of it, and stand in its place."""
        whole = self._whole.detach()
        with torch.no_grad():
            self.rows.copy_(whole[self._used])
        self.left_out = whole[~self._used].cpu()
        self._whole.data = whole.new_empty(0)
        self._put(self.rows)

    def fill(self) -> None:
        """Put the whole weight back in its place."""
        rows = self.rows.detach()
        whole = rows.new_empty((len(self._used), *rows.shape[1:]))
        whole[self._used] = rows
        whole[~self._used] = self.left_out.to(rows.device)
        self._whole.data = whole
        self._put(self._whole)

    def _put(self, weight: nn.Parameter) -> None:
        for module, name in self._owners:
            module._parameters[name] = weight


def check_prunable(model: nn.Module) -> None:
    """Refuse a model of whose embedding, or head, rows cannot be taken.

    Raises:
        ValueError: such a model, in one line.
    """
    check_parts(model)
    base: Any = base_model(model)
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    weights = [embedding.weight, *(head.parameters() if head is not None else ())]
    if any(type(each) is not nn.Parameter or each.is_meta for each in weights):
        raise ValueError(
            f"{class_name(model)} has an embedding or a head of which this process does not hold "
            "all rows as plain numbers."
        )


def check_parts(model: nn.Module) -> None:
    """Refuse a model by what its embedding and head are, wherever their numbers lie.

    Raises:
        ValueError: such a model, in one line.
    """
    base: Any = base_model(model)
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    owners = {module for module, _ in _owners(model, getattr(embedding, "weight", None))}
    wrong = {
        f"an embedding of {type(embedding).__name__}": not isinstance(embedding, nn.Embedding),
        f"a head of {type(head).__name__}": head is not None and not has_plain_head(model),
        "an embedding that more than the head shares": bool(owners - {embedding, head}),
    }
    for what, is_so in wrong.items():
        if is_so:
            raise ValueError(
                f"{class_name(model)} has {what}, of which rows cannot be taken: that needs "
                "nn.Embedding and nn.Linear, without adapters of their own."
            )
    if cuts_head(model):
        if len(head.weight) != len(embedding.weight):
            raise ValueError(
                f"{class_name(model)} has {len(embedding.weight)} rows of embeddings and "
                f"{len(head.weight)} of a head that is trained: they must be as many."
            )
        check_adapter(model)


def cuts_head(model: nn.Module) -> bool:
    """Whether the head is cut with the embedding: it is the same weight, or trained itself."""
    base: Any = base_model(model)
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    if head is None:
        return False
    is_trained = any(each.requires_grad for each in head.parameters())
    return head.weight is embedding.weight or is_trained


def _owners(model: nn.Module, weight: Any) -> Iterator[tuple[nn.Module, str]]:
    """Modules that have a weight, each with what it calls it."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is weight is not None:
                yield module, name


def _each_once(weights: list[Any]) -> list[Any]:
    return list({id(each): each for each in weights}.values())


def _replace(model: nn.Module, name: str, value: Any) -> Callable[[], None]:
    """Give a model another attribute for its own; return what takes it back."""
    before, attributes = vars(model).get(name), vars(model)
    attributes[name] = value

    def undo() -> None:
        if before is None:
            del attributes[name]
        else:
            attributes[name] = before

    return undo


def _over_all_logits(loss: Callable[..., Any]) -> Callable[..., Any]:
    """A model's loss over as many tokens as there are logits; models say V themselves."""

    @wraps(loss)
    def over_all(logits: Tensor, labels: Any, *_size: int, **options: Any) -> Any:
        return loss(logits, labels, **options | {"vocab_size": logits.shape[-1]})

    return over_all
