"""From raw candidates to those kept: what is observed, the selector, and who trains on what.

The way of an example here: out of the pool, into a table of the candidates of all processes that
select together, through the model, its row of features into the selector, and back as an index.
What is kept goes where it is trained on. Symbols: n candidates, r kept.
"""

import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from colm.coreset.coreset_selector import CoresetSelector
from colm.coreset.selection import Selection
from colm.training.example import WEIGHT_KEY, Example, token_count, without_labels
from colm.training.options.selection_arguments import SelectionArguments
from colm.training.processes.candidate_table import CandidateTable, tabulate
from colm.training.processes.dealing import deal
from colm.training.processes.exchange import Exchange
from colm.training.processes.packets import packed
from colm.training.step.look import CandidateObserver
from colm.training.step.match import Compared, match_gradients
from colm.training.step.model_access import ModelAccess
from colm.training.step.record import SelectionMetrics


class ExampleSelection:
    """Selects among raw examples; what is kept goes to the trainer, the rest costs no backward.

    The same candidates give the same selection whatever their order, their chunks and padding, and
    the processes that hold them; nothing is drawn from global random state.

    Args:
        args: the options.
        access: the model, the collator and where they live.
        selector: the selector, with its state.
        source_column: column that names the source, ``None`` for none.
        seed: of random directions.
        exchange: the processes that select together; this one alone where ``None``.
    """

    def __init__(
        self,
        args: SelectionArguments,
        access: ModelAccess,
        selector: CoresetSelector,
        source_column: str | None,
        seed: int,
        exchange: Exchange | None = None,
    ) -> None:
        self.args = args
        self.access = access
        self.selector = selector
        self.source_column = source_column
        self.exchange = exchange or Exchange()
        self.metrics = SelectionMetrics()
        self._observe = CandidateObserver(args, access, selector.needs, seed, self.exchange)
        self._to_match: list[Compared] | None = None
        self._warned_unlabelled = False

    def keep(self, examples: Sequence[Example], budget: int, step: int) -> list[Example]:
        """Return the examples to train on, longest first, without their source column.

        Every process of the exchange calls this at the same time.

        Args:
            examples: this process's candidates, raw.
            budget: r, of this process; all processes together keep the sum of theirs.
            step: the optimiser step, which keys the randomness.

        Returns:
            ``budget`` examples: of those given, or under a global scope this process's share of
            what all keep. With ``weighted``, each has its weight under ``WEIGHT_KEY``.

        Raises:
            FloatingPointError: no candidate has a finite loss and gradient.
        """
        bare = self._bare(examples)
        if bare and self.exchange.num_processes > 1:
            # What cannot be sent is refused at the first step, not when it has to be sent.
            packed({0: bare[0]})
        table = tabulate(examples, self.source_column, self.exchange)
        rows = self._labelled(table)
        selection = self._select(bare, table, rows, budget, step)
        kept = rows[selection.indices].tolist()
        if len(kept) == 0:
            raise FloatingPointError(
                f"No candidate of step {step} has a finite gradient: the model has diverged."
            )
        self._measure(table, kept, selection)
        weights = dict.fromkeys(kept, 1.0)
        if self.args.weighted:
            weights = dict(zip(kept, selection.weights.tolist(), strict=True))
        self._to_match = None
        if self.args.match_every and step % self.args.match_every == 0:
            compared = set(rows.tolist()) - set(rows[selection.non_finite].tolist())
            self._to_match = [
                Compared(example, weights.get(row), self._count(table, row))
                for row, example in zip(table.own, bare, strict=True)
                if row in compared
            ]
        return sorted(self._share(bare, table, weights), key=token_count, reverse=True)

    def collate(self, examples: Sequence[Example]) -> Mapping[str, Any]:
        """Return candidates as one batch, as the model is given them."""
        return self.access.collate(self._bare(examples))

    def _bare(self, examples: Sequence[Example]) -> list[Example]:
        """Examples without their source column."""
        return [
            {key: value for key, value in example.items() if key != self.source_column}
            for example in examples
        ]

    def look_anew(self) -> None:
        """Look for the projections again, after the model's modules have changed."""
        self._observe.look_anew()
        self.selector.forget_moments()

    def measure_match(self) -> None:
        """Measure how well the kept gradients match all, where it is the turn of this step.

        Costs a forward and a backward of each of this process's candidates. Nothing of the model,
        the optimiser or the random state changes.
        """
        if self._to_match is None:
            return
        started = time.perf_counter()
        match = match_gradients(self._to_match, self.access, "mean", self.exchange.total)
        for name, value in match.metrics().items():
            self.metrics.measure(name, value)
        self.metrics.measure("match_seconds", time.perf_counter() - started)
        self._to_match = None

    def _count(self, table: CandidateTable, row: int) -> float:
        """What a candidate counts for in the gradient of all."""
        return max(1.0, float(table.label_tokens[row]))

    def _labelled(self, table: CandidateTable) -> Tensor:
        """Rows with label tokens, or all where there are none; those without are counted."""
        labelled = table.label_tokens.nonzero().flatten()
        number = len(table) - len(labelled)
        self.metrics.count("without_label_tokens", number)
        if number and not self._warned_unlabelled:
            self._warned_unlabelled = True
            warnings.warn(
                f"{number} candidates have no label tokens: they are skipped and counted in "
                "colm/without_label_tokens. This is said once.",
                stacklevel=2,
            )
        return labelled if len(labelled) else torch.arange(len(table))

    def _select(
        self, bare: list[Example], table: CandidateTable, rows: Tensor, budget: int, step: int
    ) -> Selection:
        """Select among ``rows`` of the table; every process gets the same."""
        if self._observe.renew():
            self.selector.forget_moments()
        contested = self.selector.split(
            int(self.exchange.total(torch.tensor(budget))),
            sources=[table.sources[row] for row in rows.tolist()],
            label_tokens=table.label_tokens[rows],
            keys=table.keys[rows].tolist(),
            step=step,
        )
        seen = None
        if self.selector.needs and len(contested.rows):
            seen = self._observe(bare, table, rows[contested.rows], step)
        selection = self.selector.choose(contested, seen, weight=self._observe.weight())
        self._observe.accompany(bare, step)
        # All had the same to go by, but unlike accelerators may break a tie in unlike ways.
        return replace(
            selection,
            indices=self.exchange.of_first(selection.indices).cpu(),
            weights=self.exchange.of_first(selection.weights).cpu(),
        )

    def _share(
        self, bare: list[Example], table: CandidateTable, weights: Mapping[int, float]
    ) -> list[Example]:
        """What this process trains on of the kept, given by row and weight; at least one example.

        Where less is kept than there are processes, some get an example without labels.
        """
        me, processes = self.exchange.process_index, self.exchange.num_processes
        kept = list(weights)
        tokens, owners = table.tokens[kept].tolist(), table.owners[kept].tolist()
        trained_by = dict(zip(kept, deal(tokens, owners, processes), strict=True))
        moves = [
            (row, owner, to)
            for (row, to), owner in zip(trained_by.items(), owners, strict=True)
            if to != owner
        ]
        # A process without candidates of its own needs something to fill its micro-batch with.
        idle = {*range(processes)} - {*trained_by.values()} - {*table.owners.tolist()}
        moves += [(kept[0], owners[0], to) for to in sorted(idle)]
        examples = {row: bare[row - table.own.start] for row in kept if row in table.own}
        # All processes know all moves, so that all or none of them take part.
        if moves:
            leaving: dict[int, dict[int, Example]] = defaultdict(dict)
            for row, owner, to in moves:
                if owner == me:
                    leaving[to][row] = examples[row]
            examples |= self.exchange.examples(leaving)
        share = {row: examples[row] for row in kept if trained_by[row] == me}
        if not share:
            filler = min([*bare, *examples.values()], key=token_count)
            share = {kept[0]: without_labels(filler)}
        if self.args.weighted:
            return [each | {WEIGHT_KEY: weights[row]} for row, each in share.items()]
        return list(share.values())

    def _measure(self, table: CandidateTable, kept: list[int], selection: Selection) -> None:
        self.metrics.count_step(Counter(table.sources), Counter(table.sources[row] for row in kept))
        self.metrics.count("non_finite", len(selection.non_finite))
        label_tokens = table.label_tokens
        share = float(label_tokens[kept].sum() / label_tokens.sum().clamp(min=1))
        self.metrics.measure("label_token_share", share)
        self.metrics.measure("matching_error", selection.matching_error)
