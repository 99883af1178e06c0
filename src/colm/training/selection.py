"""From raw candidates to those kept: chunks, gradients and the selector, for one trainer.

The way of an example here: out of the pool, into a chunk of examples of its length, through the
model, its row of features into the selector, and back as an index. Symbols: n candidates, r kept.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from colm.coreset.randomness import keyed_generator
from colm.coreset.selector import ONE_SOURCE, CoresetSelector, Selection
from colm.gradients.features import ValueGradients
from colm.training.config import SelectionArguments
from colm.training.metrics import SelectionMetrics
from colm.training.pool import Example, label_token_count, length_sorted_chunks, token_count

WEIGHT_CRITERIA = ("weight", "weight_gradient")


@dataclass(frozen=True)
class ModelAccess:
    """What selection needs of a trainer to look at examples with the model as it trains.

    Attributes:
        model: returns the unwrapped model.
        collate: the real collator.
        prepare: moves a batch to the model's device.
        autocast: context of the training forward.
    """

    model: Callable[[], nn.Module]
    collate: Callable[[Sequence[Example]], Mapping[str, Any]]
    prepare: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    autocast: Callable[[], AbstractContextManager[Any]]


class ExampleSelection:
    """Selects among raw examples; what is kept goes to the trainer, the rest costs no backward.

    Args:
        args: the options.
        access: the model, the collator and where they live.
        selector: the selector, with its state.
        source_column: column that names the source, ``None`` for none.
        seed: of random directions.
    """

    def __init__(
        self,
        args: SelectionArguments,
        access: ModelAccess,
        selector: CoresetSelector,
        source_column: str | None,
        seed: int,
    ) -> None:
        self.args = args
        self.access = access
        self.selector = selector
        self.source_column = source_column
        self.seed = seed
        self.metrics = SelectionMetrics()
        self._gradients: ValueGradients | None = None
        self._warned_unlabelled = False

    def keep(self, examples: Sequence[Example], budget: int, step: int) -> list[Example]:
        """Return the ``budget`` examples to train on, longest first, without their source column.

        Args:
            examples: the candidates, raw.
            budget: r.
            step: the optimiser step, which keys the randomness.
        """
        sources = [self._source(example) for example in examples]
        label_tokens = torch.tensor([label_token_count(example) for example in examples])
        labelled = label_tokens.nonzero().flatten()
        self._report_unlabelled(len(examples) - len(labelled))
        if len(labelled) == 0:
            labelled = torch.arange(len(examples))
        bare = [
            {key: value for key, value in example.items() if key != self.source_column}
            for example in examples
        ]
        selection = self.selector.select(
            lambda rows: self._features([bare[row] for row in labelled[rows].tolist()], step),
            budget,
            sources=[sources[row] for row in labelled.tolist()],
            label_tokens=label_tokens[labelled],
            weight=self._weight(),
            step=step,
        )
        kept = labelled[selection.indices].tolist()
        if len(kept) == 0:
            raise FloatingPointError(
                f"No candidate of step {step} has a finite gradient: the model has diverged."
            )
        self._measure(sources, kept, label_tokens, selection)
        return sorted((bare[row] for row in kept), key=token_count, reverse=True)

    def _features(self, examples: list[Example], step: int) -> Tensor:
        """Gradient features of examples, ``[k, d]``, chunk by chunk."""
        gradients = self.gradients
        directions = None
        if gradients.estimator != "exact":
            generator = keyed_generator(self.seed, step, "directions")
            directions = gradients.draw_directions(generator)
        rows: list[Tensor | None] = [None] * len(examples)
        lengths = [token_count(example) for example in examples]
        with self.access.autocast():
            for chunk in length_sorted_chunks(lengths, self.args.selection_tokens):
                batch = self.access.prepare(self.access.collate([examples[i] for i in chunk]))
                result = gradients(batch, directions)
                # A loss can overflow where its gradient does not; such an example is no better.
                finite = torch.isfinite(result.losses).unsqueeze(1)
                features = result.features.masked_fill(~finite, torch.nan)
                for index, row in zip(chunk, features, strict=True):
                    rows[index] = row
        return torch.stack([row for row in rows if row is not None])

    @property
    def gradients(self) -> ValueGradients:
        """The features of this trainer's model; V is looked for at the first use."""
        if self._gradients is None:
            self._gradients = ValueGradients(
                self.access.model(),
                self.args.gradient,
                num_directions=self.args.num_directions,
                perturbation_scale=self.args.perturbation_scale,
                reduction=self.args.gradient_reduction,
            )
        return self._gradients

    def _weight(self) -> Tensor | None:
        needed = self.args.dimension_criterion in WEIGHT_CRITERIA
        return self.gradients.weight() if needed and self.selector.selector.needs_features else None

    def _source(self, example: Example) -> str:
        return ONE_SOURCE if self.source_column is None else str(example[self.source_column])

    def _report_unlabelled(self, number: int) -> None:
        self.metrics.count("without_label_tokens", number)
        if number and not self._warned_unlabelled:
            self._warned_unlabelled = True
            warnings.warn(
                f"{number} candidates have no label tokens: they are skipped and counted in "
                "colm/without_label_tokens. This is said once.",
                stacklevel=2,
            )

    def _measure(
        self, sources: list[str], kept: list[int], label_tokens: Tensor, selection: Selection
    ) -> None:
        self.metrics.count_step(Counter(sources), Counter(sources[row] for row in kept))
        self.metrics.count("non_finite", len(selection.non_finite))
        share = float(label_tokens[kept].sum() / label_tokens.sum().clamp(min=1))
        self.metrics.measure("label_token_share", share)
        self.metrics.measure("matching_error", selection.matching_error)
