"""From the candidates of a step to the examples that are trained on: a split, a look, a choice.

`ExampleSelection.split` puts the candidates of all processes that select together into a table and
settles which need no comparison; the others are looked at; `ExampleSelection.keep` chooses among
them, and hands each process its share. Symbols: n candidates, m of them with labels, r kept.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from colm.coreset.coreset_selector import CoresetSelector
from colm.coreset.selection import Contested, Selection
from colm.training.example import SOURCE_KEY, TRUNK_KEY, WEIGHT_KEY, Example
from colm.training.options.selection_arguments import SelectionArguments
from colm.training.processes.candidate_table import CandidateTable, tabulate
from colm.training.processes.dealing import share_out
from colm.training.processes.exchange import Exchange
from colm.training.processes.packets import packed
from colm.training.step.draw import DrawnCandidates
from colm.training.step.look import CandidateObserver, Seen


@dataclass(frozen=True)
class SplitCandidates:
    """The candidates of a step, and which of them are to be compared.

    Attributes:
        step: the optimiser step.
        own: this process's candidates, those of the rows ``table.own``.
        table: the candidates of all processes that select together.
        rows: ``[m]`` int64 rows of the table that there is something to learn from.
        contested: among ``rows``, those kept whole and those to choose among.
    """

    step: int
    own: Sequence[Example]
    table: CandidateTable
    rows: Tensor
    contested: Contested

    @property
    def to_see(self) -> Tensor:
        """The rows of the table to look at, ``[k]`` int64."""
        return self.rows[self.contested.rows]


@dataclass(frozen=True)
class Kept:
    """What a step keeps of its candidates.

    Attributes:
        split: the candidates.
        selection: of the rows ``split.rows``, by all processes together.
        weights: what each row of the table that is kept weighs in the loss, in the order picked.
        examples: those that this process trains on, at least one. Each has its source under
            ``SOURCE_KEY``, and with the option ``weighted`` its weight under ``WEIGHT_KEY``, times
            that with which it was drawn.
    """

    split: SplitCandidates
    selection: Selection
    weights: dict[int, float]
    examples: list[Example]


class ExampleSelection:
    """Selects among raw examples; what is kept goes to the trainer, the rest costs no backward.

    The same candidates give the same selection whatever their order, their chunks and padding, and
    the processes that hold them; nothing is drawn from global random state. Every process of the
    exchange calls `split`, looks and calls `keep` at the same time.

    Args:
        args: the options.
        selector: the selector, with its state.
        observer: looks at candidates with the model.
        source_column: column that names the source, ``None`` for none.
        exchange: the processes that select together.
    """

    def __init__(
        self,
        args: SelectionArguments,
        selector: CoresetSelector,
        observer: CandidateObserver,
        source_column: str | None,
        exchange: Exchange,
    ) -> None:
        self.args = args
        self.selector = selector
        self.observer = observer
        self.source_column = source_column
        self.exchange = exchange
        self._warned_unlabelled = False

    def split(self, drawn: DrawnCandidates, budget: int, step: int) -> SplitCandidates:
        """Settle which candidates need no comparison.

        Args:
            drawn: this process's candidates.
            budget: r, of this process; all processes together keep the sum of theirs.
            step: the optimiser step, which keys the randomness.
        """
        own = drawn.examples
        if own and self.exchange.num_processes > 1:
            # What cannot be sent is refused at the first step, not when it has to be sent.
            packed({0: own[0]})
        table = tabulate(own, drawn.sources, self.exchange)
        rows = self._labeled(table)
        contested = self.selector.split(
            int(self.exchange.total(torch.tensor(budget))),
            sources=[table.sources[row] for row in rows.tolist()],
            label_tokens=table.label_tokens[rows],
            keys=table.keys[rows].tolist(),
            step=step,
        )
        return SplitCandidates(step, own, table, rows, contested)

    def keep(self, split: SplitCandidates, seen: Seen) -> Kept:
        """Choose among what was looked at, and share out what is kept.

        Args:
            split: the candidates.
            seen: of the rows ``split.to_see``.

        Returns:
            What is kept. Under a global scope, a process's share of it may come from others.

        Raises:
            FloatingPointError: no candidate has a finite loss and gradient.
        """
        if seen.of_other_weights:
            self.selector.forget_moments()
        chosen = self.selector.choose(split.contested, seen.observed, weight=seen.weight)
        # All had the same to go by, but unlike accelerators may break a tie in unlike ways.
        selection = replace(
            chosen,
            indices=self.exchange.of_first(chosen.indices).cpu(),
            weights=self.exchange.of_first(chosen.weights).cpu(),
        )
        rows = split.rows[selection.indices].tolist()
        if len(rows) == 0:
            raise FloatingPointError(
                f"No candidate of step {split.step} has a finite gradient: the model has diverged."
            )
        share = {
            row: {**each, SOURCE_KEY: split.table.sources[row]}
            | ({TRUNK_KEY: seen.trunk[row]} if row in seen.trunk else {})
            for row, each in self._share(rows, split).items()
        }
        if not self.args.weighted:
            return Kept(split, selection, dict.fromkeys(rows, 1.0), list(share.values()))
        weights = dict(zip(rows, selection.weights.tolist(), strict=True))
        weighted = [
            each | {WEIGHT_KEY: weights[row] * each.get(WEIGHT_KEY, 1.0)}
            for row, each in share.items()
        ]
        return Kept(split, selection, weights, weighted)

    def _share(self, rows: list[int], split: SplitCandidates) -> dict[int, Example]:
        """What this process trains on of what all keep, by row of the table."""
        if self.exchange.num_processes == 1:
            return {row: split.own[row] for row in rows}
        return share_out(rows, split.own, split.table, self.exchange)

    def look_anew(self) -> None:
        """Look for the projections again, after the model's modules have changed."""
        self.observer.look_anew()
        self.selector.forget_moments()

    def _labeled(self, table: CandidateTable) -> Tensor:
        """Rows with label tokens, or all where there are none."""
        labelled = table.label_tokens.nonzero().flatten()
        number = len(table) - len(labelled)
        if number and not self._warned_unlabelled:
            self._warned_unlabelled = True
            warnings.warn(
                f"{number} candidates have no label tokens: they are skipped and counted in "
                "colm/without_label_tokens. This is said once.",
                stacklevel=2,
            )
        return labelled if len(labelled) else torch.arange(len(table))
