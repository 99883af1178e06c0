"""Looking at candidates with the model as it trains, whichever processes hold them.

Each process runs its own candidates, in chunks of examples of like length; then the rows of all
meet. Symbols: n candidates of the whole group, k of them to be looked at.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from colm.coreset.observed import OBSERVATIONS, Observed
from colm.coreset.sparsify import WEIGHT_CRITERIA
from colm.gradients import block_gradients
from colm.gradients.decoder import base_model
from colm.gradients.example_observer import ExampleObserver
from colm.gradients.patching import evaluation_mode
from colm.gradients.projections import SPREAD
from colm.randomness import keyed_generator
from colm.training.example import Example, label_token_count, token_count, whole_numbers
from colm.training.options.selection_arguments import SelectionArguments
from colm.training.processes.candidate_table import CandidateTable
from colm.training.processes.exchange import Exchange
from colm.training.processes.lockstep import Lockstep, make_filler
from colm.training.step.arrange import length_sorted_chunks
from colm.training.step.model_access import ModelAccess
from colm.training.step.thinning import MOST_NUMBERS, ThinnedObserver
from colm.training.step.token_limit import token_limit


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
        self._observer: ExampleObserver | None = None
        self._parts_of_model: list[Any] = []
        self._lockstep = Lockstep(access.sharing)
        self._limit = token_limit(args, recovers=not self._lockstep.is_needed)
        self._has_looked = False

    def look_anew(self) -> None:
        """Let go of what was found in the model, to be found again."""
        self._observer = None

    def renew(self) -> bool:
        """Look for everything again where the model is another, or has come to have other parts.

        Returns:
            Whether features are gradients of other weights than before.
        """
        model = self.access.model()
        if self._observer is None or (
            self._observer.model is model and self._parts_of_model == parts_of(model)
        ):
            return False
        before, self._observer = _weights_observed(self._observer), None
        return before != _weights_observed(self._model_observer())

    def weight(self) -> Tensor | None:
        """Return the weight that the features are gradients of, ``[d]``, where it is asked for."""
        needed = self.args.dimension_criterion in WEIGHT_CRITERIA and "gradients" in self.needs
        return self._model_observer().weight() if needed else None

    def __call__(
        self, own: Sequence[Example], table: CandidateTable, rows: Tensor, step: int
    ) -> Observed:
        """Return what is to be seen of ``rows [k]`` of the table, in that order.

        Every process calls this with the same rows.

        Args:
            own: this process's candidates, those of the rows ``table.own``.
            table: the candidates of all processes.
            rows: which of them to look at.
            step: the optimiser step, which keys random directions.
        """
        owners = table.owners[rows]
        mine = rows[owners == self.exchange.process_index]
        examples = [own[row - table.own.start] for row in mine]
        seen = self._look(examples, self._vocabulary(examples), step, own)
        self._has_looked = True
        # The joined rows come process by process; each goes back to its place.
        place = owners.argsort(stable=True).argsort()
        joined = {
            name: self.exchange.rows(seen.get(name, torch.empty(0) if flat else torch.empty(0, 0)))
            for name, flat in self._parts()
        }
        return Observed(**{name: part[place.to(part.device)] for name, part in joined.items()})

    def accompany(self, own: Sequence[Example], step: int) -> None:
        """Run what others run to look, where there was nothing for this process to look at.

        Every process calls this after every selection; it does nothing but where the model's
        weights are sharded and processes select apart.

        Args:
            own: this process's candidates.
            step: the optimiser step.
        """
        if self.needs and self._lockstep.is_needed and not self._has_looked:
            self._look([], self._vocabulary(list(own)), step, own)
        self._has_looked = False

    def _parts(self) -> list[tuple[str, bool]]:
        """Names of what is exchanged and whether it has one number a row; losses always are.

        A loss can overflow where its gradient does not; such an example is no better.
        """
        names = [name for name in OBSERVATIONS if name in self.needs or name == "losses"]
        return [(name, name == "losses") for name in names]

    def _vocabulary(self, examples: list[Example]) -> Tensor | None:
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
    ) -> dict[str, Tensor]:
        """Look at examples of this process, chunk by chunk; nothing is seen of none."""
        if not examples and not self._lockstep.is_needed:
            return {}
        # Rows come in the selector's own order, so that the same examples share a chunk whatever
        # the order of the batch: what is seen of them is then the same to the last bit.
        lengths = [token_count(example) for example in examples]
        observer, directions = self._model_observer(), self._draw_directions(step)

        def look_at(chunk: Sequence[Example]) -> Observed:
            batch = self.access.prepare(self.access.collate(chunk))
            known = None if vocabulary is None else vocabulary.to(batch["input_ids"].device)
            return observer(batch, directions, vocabulary=known)

        with (
            self.access.autocast(),
            # Going through all modules costs as much as a small chunk: once for all of them.
            evaluation_mode(observer.model),
            self._in_step(examples, vocabulary) as missing,
        ):
            order, seen = self._limit.look(
                lengths, lambda chunk: look_at([examples[index] for index in chunk])
            )
            for _ in range(missing):
                look_at([make_filler(own, vocabulary)])
        if not seen:
            return {}
        place = torch.tensor(order).argsort()
        parts = {name: [getattr(part, name) for part in seen] for name, _ in self._parts()}
        return {name: torch.cat(part)[place.to(part[0].device)] for name, part in parts.items()}

    def _in_step(
        self, examples: list[Example], vocabulary: Tensor | None
    ) -> AbstractContextManager[int]:
        """Agree with those who hold the model together on how often it runs."""
        if not self._lockstep.is_needed:
            return nullcontext(0)
        config: Any = base_model(self.access.model()).config
        whole: int = config.get_text_config(decoder=True).vocab_size
        lengths = list(map(token_count, examples))
        chunks = length_sorted_chunks(lengths, self._limit.tokens(lengths))
        return self._lockstep(
            [sum(label_token_count(examples[index]) for index in chunk) for chunk in chunks],
            whole if vocabulary is None else len(vocabulary),
        )

    def _draw_directions(self, step: int) -> list[Tensor] | None:
        """Draw z of a step; the published code draws it once a run."""
        key = [self.seed] if self.args.reference_behaviour else [self.seed, step]
        return self._model_observer().draw_directions(keyed_generator(*key, "directions"))

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

    def _model_observer(self) -> ExampleObserver:
        """What looks at examples of this trainer's model; V is looked for at the first use."""
        if self._observer is None:
            self._observer = ThinnedObserver(
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
            self._parts_of_model = parts_of(self._observer.model)
        return self._observer


def parts_of(model: nn.Module) -> list[Any]:
    """Return a model's modules, and which of its parameters are trained: what projections go by."""
    return [*model.modules(), *(parameter.requires_grad for parameter in model.parameters())]


def _weights_observed(observer: ExampleObserver) -> list[Any]:
    """What the features are gradients of."""
    found = observer.gradients
    return [] if found is None else [projection.modules for projection in found.projections]
