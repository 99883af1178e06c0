"""One look at a batch: gradient features, losses and hidden states of its examples.

Selectors ask for some of these; whatever they ask for, the model runs once. Without gradients the
look is one forward that keeps nothing, with logits at label positions only. Symbols: n examples,
t tokens a row, d feature size, e hidden size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from colm.coreset.candidates import OBSERVATIONS, Observed
from colm.gradients.adapters import check_adapter, check_inputs, labels_seen
from colm.gradients.batch import drop_labels, is_packed, label_positions, one_example_a_row
from colm.gradients.block_gradients import DEPTH, BlockGradients
from colm.gradients.label_loss import DecoderRun, example_losses
from colm.gradients.patching import evaluation_mode
from colm.gradients.value_gradients import ExampleGradients, ValueGradients, check_choices

LAYERS = ("last", "spread")
VOCABULARIES = ("full", "batch")


class ExampleObserver:
    """Shows what selectors need of each example, by one forward of the model a batch.

    The model is left as it was, also after an exception; see `ValueGradients`.

    Args:
        model: a causal language model of ``transformers``, or PEFT's wrapper of one.
        needs: which of ``gradients``, ``losses``, ``hidden`` and ``prompt``; losses always come.
        estimator: of the gradients: ``exact``, ``directional`` or ``zeroth_order``.
        projections: of the last layer, whose gradients are the features; any of q, k, v, o, mlp.
        layers: ``last``, or ``spread``: all linear maps of two blocks, see `BlockGradients`.
        depth: share of the layers, from the last, that the backward passes with ``spread``.
        vocabulary: of the softmax, with ``spread``: ``full``, or ``batch``, the tokens that calls
            give.
        num_directions: k, for ``directional`` and ``zeroth_order``.
        perturbation_scale: eps of ``zeroth_order``.
        reduction: loss of an example: ``mean`` over its label tokens, or their ``sum``.

    Raises:
        ValueError: an unknown choice, or a model whose layers or projections cannot be found.
    """

    def __init__(
        self,
        model: nn.Module,
        needs: Sequence[str] = ("gradients",),
        *,
        estimator: str = "exact",
        projections: Sequence[str] = ("v",),
        layers: str = "last",
        depth: float = DEPTH,
        vocabulary: str = "full",
        num_directions: int = 1,
        perturbation_scale: float = 1e-3,
        reduction: str = "mean",
    ) -> None:
        unknown = [need for need in needs if need not in OBSERVATIONS]
        if unknown:
            raise ValueError(f"needs must be among {', '.join(OBSERVATIONS)}; got {unknown[0]!r}.")
        check_choices(estimator, projections, reduction)
        check_layers(layers, vocabulary, estimator)
        check_adapter(model)
        self.model = model
        self.needs = tuple(needs)
        self.reduction = reduction
        self.vocabulary = vocabulary
        self.gradients: ValueGradients | BlockGradients | None = None
        if "gradients" in self.needs and layers == "spread":
            self.gradients = BlockGradients(model, reduction=reduction, depth=depth)
        elif "gradients" in self.needs:
            self.gradients = ValueGradients(
                model,
                estimator,
                projections=projections,
                num_directions=num_directions,
                perturbation_scale=perturbation_scale,
                reduction=reduction,
            )

    def draw_directions(self, generator: torch.Generator) -> list[Tensor] | None:
        """Draw z for all batches of a step; ``None``, and nothing drawn, where none is needed."""
        if isinstance(self.gradients, ValueGradients) and self.gradients.estimator != "exact":
            return self.gradients.draw_directions(generator)
        return None

    def weight(self) -> Tensor:
        """Return the weight that the features are gradients of, ``[d]``.

        Raises:
            ValueError: gradients of the last layer are not observed, or the weight is quantised.
        """
        if not isinstance(self.gradients, ValueGradients):
            raise ValueError("Only an observer of the last layer's gradients has a weight.")
        return self.gradients.weight()

    def __call__(
        self,
        batch: Mapping[str, Any],
        directions: list[Tensor] | None = None,
        *,
        vocabulary: Tensor | None = None,
    ) -> Observed:
        """Look at one padded or padding-free batch.

        Args:
            batch: ``input_ids``, ``labels`` and what else the model takes, on the model's device.
            directions: from `draw_directions`.
            vocabulary: ``[v]`` ascending token ids, all labels of the step among them; used where
                the observer has ``vocabulary="batch"``.

        Returns:
            Losses and what else is needed, one row an example; hidden states in float32 or wider.

        Raises:
            ValueError: the batch lacks an input, or directions are needed.
        """
        check_inputs(self.model, batch, packed=is_packed(batch))
        batch = one_example_a_row(batch)
        if self.gradients is None:
            features, (losses, hidden) = None, self._losses(batch)
        else:
            result = self._gradients_of(batch, directions, vocabulary)
            features, losses, hidden = result.features, result.losses, result.hidden
        return Observed(
            gradients=features,
            losses=losses,
            hidden=mean_hidden(hidden, batch) if "hidden" in self.needs else None,
            prompt=prompt_hidden(hidden, labels_seen(self.model, batch["labels"]))
            if "prompt" in self.needs
            else None,
        )

    def _gradients_of(
        self, batch: Mapping[str, Any], directions: list[Tensor] | None, vocabulary: Tensor | None
    ) -> ExampleGradients:
        if isinstance(self.gradients, BlockGradients):
            return self.gradients(batch, vocabulary if self.vocabulary == "batch" else None)
        assert self.gradients is not None
        return self.gradients(batch, directions)

    def _losses(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Losses ``[n]`` and last hidden states ``[n, p + t, e]``, and nothing of a backward."""
        seen = labels_seen(self.model, batch["labels"])
        labels = label_positions(seen)
        with evaluation_mode(self.model), torch.no_grad():
            run = DecoderRun(self.model, drop_labels(batch))
            losses = example_losses(run, labels, self.reduction)
        return losses, run.hidden.reshape(*seen.shape, -1)


def check_layers(layers: str, vocabulary: str, estimator: str) -> None:
    """Refuse an unknown choice of layers or vocabulary, or one that does not fit the others.

    Raises:
        ValueError: such a choice.
    """
    for option, value, choices in (
        ("layers", layers, LAYERS),
        ("vocabulary", vocabulary, VOCABULARIES),
    ):
        if value not in choices:
            raise ValueError(f"{option} must be one of {', '.join(choices)}; got {value!r}.")
    if layers == "spread" and estimator != "exact":
        raise ValueError(
            f"layers='spread' needs estimator='exact'; got {estimator!r}: layers='last' takes it."
        )
    if vocabulary == "batch" and layers != "spread":
        raise ValueError("vocabulary='batch' needs layers='spread'; got layers='last'.")


def mean_hidden(hidden: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """Average hidden states ``[n, p + t, e]`` over each example's own t tokens, ``[n, e]``.

    An example without tokens has a zero row; what stands at padding does not matter, nan included.
    """
    mask = batch.get("attention_mask")
    own = torch.ones_like(batch["input_ids"]) if mask is None else mask
    own = own.bool().unsqueeze(-1)
    total = _widened(hidden[:, -own.shape[1] :]).masked_fill(~own, 0).sum(1)
    return total / own.sum(1).clamp(min=1)


def prompt_hidden(hidden: Tensor, labels: Tensor) -> Tensor:
    """Pick of hidden states ``[n, t, e]`` that which predicts an example's first label, ``[n, e]``.

    It has seen the prompt and nothing of the completion. An example without labels has a zero row.
    """
    positions = label_positions(labels)
    labelled = positions.counts > 0
    first = (positions.counts.cumsum(0) - positions.counts)[labelled]
    rows = hidden.new_zeros((len(hidden), hidden.shape[-1]))
    rows[labelled] = hidden.flatten(0, 1)[positions.position[first]]
    return _widened(rows)


def _widened(hidden: Tensor) -> Tensor:
    return hidden.to(torch.promote_types(hidden.dtype, torch.float32))
