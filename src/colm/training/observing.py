"""Looking at candidates with the model as it trains, whichever processes hold them.

Each process runs its own candidates, in chunks of examples of like length; then the rows of all
meet. Symbols: n candidates of the whole group, k of them to be looked at.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from colm.coreset.randomness import keyed_generator
from colm.gradients.observation import OBSERVATIONS, Observed
from colm.gradients.observe import ExampleObserver
from colm.training.candidates import CandidateTable
from colm.training.config import SelectionArguments
from colm.training.exchange import Exchange
from colm.training.model_access import ModelAccess
from colm.training.pool import Example, length_sorted_chunks, token_count
from colm.training.presets import WEIGHT_CRITERIA


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
        seen = self._look(examples, self._vocabulary(examples), step)
        # The joined rows come process by process; each goes back to its place.
        place = owners.argsort(stable=True).argsort()
        joined = {
            name: self.exchange.rows(seen.get(name, torch.empty(0) if flat else torch.empty(0, 0)))
            for name, flat in self._parts()
        }
        return Observed(**{name: part[place.to(part.device)] for name, part in joined.items()})

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
        if "gradients" not in self.needs or self.args.selection_vocabulary == "full":
            return None
        tokens = {token for each in examples for token in each["input_ids"]}
        tokens.update(token for each in examples for token in each.get("labels") or ())
        own = torch.tensor(sorted(int(token) for token in tokens if token >= 0), dtype=torch.int64)
        union: Tensor = self.exchange.rows(own).unique()
        return union

    def _look(
        self, examples: list[Example], vocabulary: Tensor | None, step: int
    ) -> dict[str, Tensor]:
        """Look at examples of this process, chunk by chunk; nothing is seen of none."""
        if not examples:
            return {}
        # Rows come in the selector's own order, so that the same examples share a chunk whatever
        # the order of the batch: what is seen of them is then the same to the last bit.
        lengths = [token_count(example) for example in examples]
        observer, directions = self._model_observer(), self._draw_directions(step)
        order: list[int] = []
        seen: list[Observed] = []
        with self.access.autocast():
            for chunk in length_sorted_chunks(lengths, self.args.selection_tokens):
                batch = self.access.prepare(self.access.collate([examples[i] for i in chunk]))
                if vocabulary is not None:
                    vocabulary = vocabulary.to(batch["input_ids"].device)
                seen.append(observer(batch, directions, vocabulary=vocabulary))
                order += chunk
        place = torch.tensor(order).argsort()
        parts = {name: [getattr(part, name) for part in seen] for name, _ in self._parts()}
        return {name: torch.cat(part)[place.to(part[0].device)] for name, part in parts.items()}

    def _draw_directions(self, step: int) -> list[Tensor] | None:
        """Draw z of a step; the published code draws it once a run."""
        key = [self.seed] if self.args.reference_behaviour else [self.seed, step]
        return self._model_observer().draw_directions(keyed_generator(*key, "directions"))

    def _model_observer(self) -> ExampleObserver:
        """What looks at examples of this trainer's model; V is looked for at the first use."""
        if self._observer is None:
            self._observer = ExampleObserver(
                self.access.model(),
                self.needs,
                estimator=self.args.gradient,
                projections=self.args.projections,
                layers=self.args.gradient_layers,
                vocabulary=self.args.selection_vocabulary,
                num_directions=self.args.num_directions,
                perturbation_scale=self.args.perturbation_scale,
                reduction=self.args.gradient_reduction,
            )
        return self._observer
