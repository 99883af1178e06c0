"""Looking at candidates with the model as it trains, whichever processes hold them.

Each process runs its own candidates, in chunks of examples of like length; then the rows of all
meet on every process. So that they fit, features of very many candidates keep a random part of
their dimensions. Dimensions kept at random estimate every inner product and distance, up to a
factor that no selector sees, with a relative error of about one over the root of their number; and
unlike random mixtures they can still be normalised one by one, for Adam or by their root mean
square. Symbols: n candidates of the whole group, k of them to be looked at, d features.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from colm.coreset.candidates import OBSERVATIONS, Observed
from colm.coreset.features import WEIGHT_CRITERIA
from colm.gradients import block_gradients
from colm.gradients.decoder import base_model, text_config
from colm.gradients.example_observer import ExampleObserver
from colm.gradients.patching import evaluation_mode
from colm.gradients.projections import SPREAD
from colm.randomness import keyed_generator
from colm.training.example import (
    TRUNK_KEY,
    Example,
    label_token_count,
    token_count,
    whole_numbers,
    without_own_keys,
)
from colm.training.options.selection_arguments import SelectionArguments
from colm.training.processes.candidate_table import CandidateTable
from colm.training.processes.exchange import Exchange
from colm.training.processes.lockstep import Lockstep, make_filler
from colm.training.step.chunks import token_limit
from colm.training.step.trunk_outputs import look_and_keep, reused_block, with_trunk

#: Numbers in the features of all candidates of a step, 1 GiB in float32: up to 1,024 candidates
#: have all dimensions of even the largest features, 65,536 candidates 4,096.
MOST_NUMBERS = 2**28


@dataclass(frozen=True)
class ModelAccess:
    """What selection needs of a trainer, as functions: any of it may be replaced meanwhile.

    Attributes:
        model: returns the unwrapped model.
        collate: the real collator.
        prepare: moves a batch to the model's device.
        autocast: context of the training forward.
        optimizer: returns the optimiser, with its state.
        places: returns which logits of the model are those of token ids.
        sharing: the processes that hold the model's weights together; this one alone where it has
            them all.
    """

    model: Callable[[], nn.Module]
    collate: Callable[[Sequence[Example]], Mapping[str, Any]]
    prepare: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    autocast: Callable[[], AbstractContextManager[Any]]
    optimizer: Callable[[], Any]
    places: Callable[[Tensor], Tensor] = lambda tokens: tokens
    sharing: Exchange = field(default_factory=Exchange)

    @classmethod
    def of(cls, trainer: Any, sharing: Exchange) -> "ModelAccess":
        """Return that of a trainer, which is asked anew at each call."""
        return cls(
            model=lambda: trainer.accelerator.unwrap_model(trainer.model_wrapped),
            collate=lambda examples: trainer.data_collator([*map(without_own_keys, examples)]),
            prepare=lambda batch: trainer._prepare_inputs(dict(batch)),
            autocast=trainer.accelerator.autocast,
            optimizer=lambda: trainer.optimizer,
            places=trainer.label_places,
            sharing=sharing,
        )


@dataclass(frozen=True)
class Seen:
    """What a look shows.

    Attributes:
        observed: what the selector needs, one row a candidate looked at.
        weight: ``[d]`` weight that the features are gradients of, where it is asked for.
        of_other_weights: whether the features are gradients of other weights than at the look
            before, so that nothing of those can be compared with them.
        trunk: what the frozen layers of a model with a side block put out for this process's own
            candidates, by row of the table, where training reuses it.
    """

    observed: Observed = field(default_factory=Observed)
    weight: Tensor | None = None
    of_other_weights: bool = False
    trunk: Mapping[int, Tensor] = field(default_factory=dict)


class CandidateObserver:
    """Shows what a selector needs of candidates.

    Args:
        args: the options.
        access: the model, the collator and where they live.
        needs: what the selector needs; without any the model is not even looked at.
        seed: of random directions, the same on all processes.
        exchange: the processes that select together.
    """

    def __init__(
        self,
        args: SelectionArguments,
        access: ModelAccess,
        needs: Sequence[str],
        seed: int,
        exchange: Exchange,
    ) -> None:
        self.args = args
        self.access = access
        self.needs = needs
        self.seed = seed
        self.exchange = exchange
        self._found: ExampleObserver | None = None
        self._parts_of_model: list[Any] = []
        self._shares_model = access.sharing.num_processes > 1
        self._limit = token_limit(args, recovers=not self._shares_model)

    def look_anew(self) -> None:
        """Let go of what was found in the model, to be found again."""
        self._found = None

    def look(self, own: Sequence[Example], table: CandidateTable, rows: Tensor, step: int) -> Seen:
        """Return what is to be seen of ``rows [k]`` of the table, in that order.

        Every process calls this with the same rows, also with none: where processes hold a model
        together, those with nothing to look at run it as often as the others do.

        Args:
            own: this process's candidates, those of the rows ``table.own``.
            table: the candidates of all processes.
            rows: which of them to look at.
            step: the optimiser step, which keys random directions.
        """
        if not self.needs:
            return Seen()
        of_other_weights = self._renew()
        observed, trunk = self._observe(own, table, rows, step)
        return Seen(observed, self._weight(), of_other_weights, trunk)

    @property
    def example_observer(self) -> ExampleObserver:
        """What looks at examples of this trainer's model; V is looked for at the first use."""
        if self._found is None:
            self._found = ThinnedObserver(
                self.access.model(),
                self.needs,
                most_dimensions=max(1, MOST_NUMBERS // self._most_candidates),
                estimator=self.args.gradient,
                projections=("v",) if self._is_spread else self.args.projections,
                layers="spread" if self._is_spread else "last",
                depth=block_gradients.DEPTH,
                vocabulary="batch" if self._is_spread else "full",
                num_directions=self.args.num_directions,
                perturbation_scale=self.args.perturbation_scale,
            )
            self._parts_of_model = parts_of(self._found.model)
        return self._found

    def _renew(self) -> bool:
        """Look for everything again where the model is another, or has come to have other parts.

        Returns:
            Whether features are gradients of other weights than before.
        """
        model = self.access.model()
        if self._found is None or (
            self._found.model is model and self._parts_of_model == parts_of(model)
        ):
            return False
        before, self._found = _weights_observed(self._found), None
        return before != _weights_observed(self.example_observer)

    def _weight(self) -> Tensor | None:
        """The weight that the features are gradients of, ``[d]``, where it is asked for."""
        needed = self.args.dimension_criterion in WEIGHT_CRITERIA and "gradients" in self.needs
        return self.example_observer.weight() if needed else None

    def _observe(
        self, own: Sequence[Example], table: CandidateTable, rows: Tensor, step: int
    ) -> tuple[Observed, dict[int, Tensor]]:
        """What each process sees of its own, joined, and what the trunk put out for its own."""
        if len(rows) == 0:
            if self._shares_model:
                self._look([], self._vocabulary(own), step, own)
            return Observed(), {}
        owners = table.owners[rows]
        mine = rows[owners == self.exchange.process_index]
        examples = [own[row - table.own.start] for row in mine]
        seen, trunk = self._look(examples, self._vocabulary(examples), step, own)
        # The joined rows come process by process; each goes back to its place.
        place = owners.argsort(stable=True).argsort()
        joined = {
            name: self.exchange.rows(seen.get(name, torch.empty(0) if flat else torch.empty(0, 0)))
            for name, flat in self._parts()
        }
        observed = Observed(**{name: part[place.to(part.device)] for name, part in joined.items()})
        return observed, dict(zip(mine.tolist(), trunk, strict=False))

    def _parts(self) -> list[tuple[str, bool]]:
        """Names of what is exchanged and whether it has one number a row; losses always are.

        A loss can overflow where its gradient does not; such an example is no better.
        """
        names = [name for name in OBSERVATIONS if name in self.needs or name == "losses"]
        return [(name, name == "losses") for name in names]

    def _vocabulary(self, examples: Sequence[Example]) -> Tensor | None:
        """Tokens ``[v]`` of all candidates looked at, ascending, where the softmax is over those.

        The candidates of all processes share it, so that their gradients are of the same loss.
        """
        if "gradients" not in self.needs or not self._is_spread:
            return None
        tokens: set[int] = set()
        for each in examples:
            tokens.update(whole_numbers(each["input_ids"]), whole_numbers(each.get("labels")))
        own = torch.tensor(sorted(token for token in tokens if token >= 0), dtype=torch.int64)
        return self.exchange.union(own)

    def _look(
        self,
        examples: list[Example],
        vocabulary: Tensor | None,
        step: int,
        own: Sequence[Example],
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Look at examples of this process, chunk by chunk; nothing is seen of none.

        Returns:
            What is seen, by name, and what the trunk put out for each example where it is reused.
        """
        if not examples and not self._shares_model:
            return {}, []
        # Rows come in the selector's own order, so that the same examples share a chunk whatever
        # the order of the batch: what is seen of them is then the same to the last bit.
        lengths = [token_count(example) for example in examples]
        chunks = self._limit.chunks(lengths)
        directions = self._draw_directions(step)

        def look(chunk: Sequence[Example]) -> tuple[Observed, list[Tensor]]:
            return self._look_at(chunk, directions, vocabulary)

        with (
            self.access.autocast(),
            # Going through all modules costs as much as a small chunk: once for all of them.
            evaluation_mode(self.example_observer.model),
            self._in_step(chunks, examples, vocabulary) as missing,
        ):
            looked = self._limit.run(
                chunks, lengths, lambda chunk: look([examples[index] for index in chunk])
            )
            for _ in range(missing):
                look([make_filler(own, vocabulary)])
        if not looked:
            return {}, []
        order = [index for chunk, _ in looked for index in chunk]
        place = torch.tensor(order).argsort()
        parts = {
            name: [getattr(seen, name) for _, (seen, _) in looked] for name, _ in self._parts()
        }
        trunk = [part for _, (_, kept) in looked for part in kept]
        return (
            {name: torch.cat(part)[place.to(part[0].device)] for name, part in parts.items()},
            [trunk[at] for at in place.tolist()] if len(trunk) == len(order) else [],
        )

    def _look_at(
        self,
        chunk: Sequence[Example],
        directions: list[Tensor] | None,
        vocabulary: Tensor | None,
    ) -> tuple[Observed, list[Tensor]]:
        """What is seen of examples in one forward, and what the trunk put out for each."""
        batch = self.access.prepare(self.access.collate(chunk))
        device, observer = batch["input_ids"].device, self.example_observer
        known = None if vocabulary is None else self.access.places(vocabulary.to(device))
        return look_and_keep(
            reused_block(observer.model, self.args),
            batch,
            lambda: observer(batch, directions, vocabulary=known),
        )

    def completed(self, examples: Sequence[Example]) -> list[Example]:
        """Return examples with what the trunk puts out for them, where the look kept it of others.

        Not looked at are those of small sources, which are kept whole, and those of other
        processes.
        """
        if not any(TRUNK_KEY in each for each in examples):
            return list(examples)
        return with_trunk(examples, self.access, self.args, self._limit)

    def _in_step(
        self, chunks: list[list[int]], examples: list[Example], vocabulary: Tensor | None
    ) -> AbstractContextManager[int]:
        """Agree with those who hold the model together on how often it runs."""
        if not self._shares_model:
            return nullcontext(0)
        whole: int = text_config(base_model(self.access.model())).vocab_size
        return Lockstep(self.access.sharing)(
            [sum(label_token_count(examples[index]) for index in chunk) for chunk in chunks],
            whole if vocabulary is None else len(vocabulary),
        )

    def _draw_directions(self, step: int) -> list[Tensor] | None:
        """Draw z of a step; the published code draws it once a run."""
        key = [self.seed] if self.args.reference_behaviour else [self.seed, step]
        return self.example_observer.draw_directions(keyed_generator(*key, "directions"))

    @property
    def _is_spread(self) -> bool:
        """Whether gradients come from all maps of two blocks; their softmax is then a small one."""
        return self.args.projections == [SPREAD]

    @property
    def _most_candidates(self) -> int:
        """Candidates of a step, as many on one process as on w with a w-th of its batch each."""
        args: Any = self.args
        in_a_batch: int = round(args.train_batch_size * args.candidate_ratio)
        batches = int(args.gradient_accumulation_steps) * self.exchange.num_processes
        return max(1, in_a_batch * batches)


def parts_of(model: nn.Module) -> list[Any]:
    """Return a model's modules, and which of its parameters are trained: what projections go by."""
    return [*model.modules(), *(parameter.requires_grad for parameter in model.parameters())]


def _weights_observed(observer: ExampleObserver) -> list[Any]:
    """What the features are gradients of."""
    found = observer.gradients
    return [] if found is None else [projection.modules for projection in found.projections]


class ThinnedObserver(ExampleObserver):
    """An `ExampleObserver` whose features have no more dimensions than fit.

    Args:
        most_dimensions: features with more keep so many of them at random, always the same.
        arguments: those of `ExampleObserver`.
        options: likewise.
    """

    def __init__(self, *arguments: Any, most_dimensions: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.most_dimensions = most_dimensions
        self._kept: Tensor | None = None

    def weight(self) -> Tensor:
        """Return the weight that the kept features are gradients of; see `ExampleObserver`."""
        return self._thinned(super().weight())

    def __call__(
        self,
        batch: Mapping[str, Any],
        directions: list[Tensor] | None = None,
        *,
        vocabulary: Tensor | None = None,
    ) -> Observed:
        """Look at a batch as `ExampleObserver` does, and keep what fits of its features."""
        seen = super().__call__(batch, directions, vocabulary=vocabulary)
        if seen.gradients is None:
            return seen
        return replace(seen, gradients=self._thinned(seen.gradients))

    def _thinned(self, features: Tensor) -> Tensor:
        """Return ``[..., d]`` with the dimensions kept."""
        size = features.shape[-1]
        if size <= self.most_dimensions:
            return features
        if self._kept is None:
            shuffled = torch.randperm(size, generator=keyed_generator("dimensions", size))
            self._kept = shuffled[: self.most_dimensions].sort().values
        return features[..., self._kept.to(features.device)]
