"""Draws that go by the losses that training has told of each example, where examples repeat.

Every example's last loss is stored, the mean over its label tokens when it was last trained on, and
its first. When an epoch begins, one of the rules decides by them which examples are drawn in it;
what has not been trained on yet is drawn in any case, and first. Looks cost nothing, but are stale.
Symbols: N examples in the data set, k of them that a rule decides on.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from colm.randomness import keyed_generator
from colm.training.example import ROW_KEY, WEIGHT_KEY, Example
from colm.training.options import option_checks
from colm.training.step.draw import check_draws_by_number
from colm.training.step.token_losses import can_read_losses

#: Part of a run, at its end, in which InfoBatch leaves nothing out.
WHOLE_PART = 1 / 8
#: Ways to draw that go through the examples in turn, in shares that stay.
_IN_PASSES = ("uniform", "unimax", "temperature", "weights")
#: Where the state of stored losses is in that of the selector.
_PREFIX = "stored."


@dataclass(frozen=True)
class Chosen:
    """What a rule draws of k examples.

    Attributes:
        drawn: ``[k]`` bool.
        weighed: ``[k]`` bool, those that stand for others that were left out.
    """

    drawn: Tensor
    weighed: Tensor


def hard(last: Tensor, share: float) -> Chosen:
    """Draw the share of examples with the highest last losses.

    Paper: Sahayam et al. 2023, "Can we learn better with hard samples?".  Deviates: it keeps whole
    mini-batches, which are the same in every epoch, and decides after each pass; here examples are
    kept, and an epoch is decided when it begins.

    Args:
        last: ``[k]`` losses, NaN where there is none yet.
        share: delta, above 0 and below 1.

    Example:
        >>> hard(torch.tensor([0.5, 2.0, math.nan, 1.0]), 0.5).drawn.tolist()
        [False, True, True, False]
    """
    number = math.ceil(share * len(last))
    ranked = last.nan_to_num(math.inf).argsort(descending=True, stable=True)
    drawn = last.isnan()
    drawn[ranked[:number]] = True
    return Chosen(drawn, torch.zeros_like(drawn))


def infobatch(last: Tensor, share: float, generator: torch.Generator) -> Chosen:
    """Leave out, at random, a share of the examples below the mean loss; the others of them weigh.

    Those weigh 1 / (1 - share), so that the gradient to be expected is that of all.  Paper: Qin et
    al. 2023, "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning".

    Args:
        last: ``[k]`` losses, NaN where there is none yet.
        share: r, above 0 and below 1.
        generator: decides who is left out.
    """
    below = last < last.double().nanmean()
    left_out = below & (torch.rand(len(last), generator=generator) < share)
    if bool(left_out.all()):  # all are alike, and the mean was rounded up
        left_out[:] = False
    return Chosen(~left_out, below & ~left_out)


def tailsft(first: Tensor, last: Tensor, share: float) -> Chosen:
    """Leave out the share of examples whose loss has fallen most since they were first trained on.

    Known as TailSFT. Nothing is left out that has not improved, so the second pass is whole, too:
    after the first, an example's first loss is its last.

    Args:
        first: ``[k]`` losses, NaN where there is none yet.
        last: ``[k]`` likewise.
        share: gamma, above 0 and below 1.

    Example:
        >>> first, last = torch.tensor([3.0, 3.0, 2.0, 1.0]), torch.tensor([1.0, 2.5, 2.0, 2.0])
        >>> tailsft(first, last, 0.5).drawn.tolist()
        [False, False, True, True]
    """
    improved = (first - last).nan_to_num(-math.inf)
    most_first = improved.argsort(descending=True, stable=True)[: math.floor(share * len(last))]
    drawn = torch.ones(len(last), dtype=torch.bool)
    drawn[most_first[improved[most_first] > 0]] = False
    return Chosen(drawn, torch.zeros_like(drawn))


def choose(
    rule: str, first: Tensor, last: Tensor, share: float, generator: torch.Generator
) -> Chosen:
    """Return what a rule draws.

    Args:
        rule: its name, as in the options.
        first: ``[k]`` losses, NaN where there is none yet.
        last: ``[k]`` likewise.
        share: of the rule.
        generator: for rules that draw at random.
    """
    match rule:
        case option_checks.HARD:
            return hard(last, share)
        case option_checks.INFOBATCH:
            return infobatch(last, share, generator)
        case _:
            return tailsft(first, last, share)


def check_stored_losses(trainer: Any) -> None:
    """Refuse to draw by stored losses where there are none, or draws are not in passes.

    Args:
        trainer: built, not yet trained.

    Raises:
        ValueError: such data, draws or training, in one line that names the option.
    """
    args, dataset = trainer.args, trainer.train_dataset
    if args.stored_losses is None:
        return
    option = f"stored_losses={args.stored_losses!r}"
    check_draws_by_number(option, args, dataset, instead="stored_losses=None")
    if args.candidate_sampling not in _IN_PASSES:
        raise ValueError(
            f"{option} needs draws that go through the examples in turn; candidate_sampling is "
            f"{args.candidate_sampling!r}: set it to {', '.join(_IN_PASSES)}."
        )
    if getattr(args, "packing", False):
        raise ValueError(f"{option} needs examples one by one, which packing=True joins: set one.")
    if not can_read_losses(trainer):
        raise ValueError(
            f"{option} needs the losses of examples, and this trainer's loss is one of its own: do "
            "without either."
        )


class StoredLosses:
    """The first and the last loss of each example, and those by which an epoch was decided.

    Holds 16 N bytes. The same on every process, and in a checkpoint.

    Args:
        number: N.
    """

    def __init__(self, number: int) -> None:
        self._first = torch.full((number,), math.nan)
        self._last = self._first.clone()
        self._epoch = -1
        self._decided_by = (self._first, self._last)

    def __len__(self) -> int:
        """Return N."""
        return len(self._last)

    def store(self, rows: Tensor, losses: Tensor) -> None:
        """Store losses of examples; one that is no number changes nothing.

        Args:
            rows: ``[k]`` of the data set; of one that comes twice the later loss counts.
            losses: ``[k]`` means over label tokens.
        """
        for row, loss in zip(rows.long().tolist(), losses.tolist(), strict=True):
            if math.isfinite(loss):
                self._last[row] = loss
                if self._first[row].isnan():
                    self._first[row] = loss

    def decide(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the first and last losses that decide an epoch: as they were when it began."""
        if epoch != self._epoch:
            self._epoch, self._decided_by = epoch, (self._first.clone(), self._last.clone())
        return self._decided_by

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a resumed run needs, also in the middle of an epoch."""
        first, last = self._decided_by
        state = {
            "first": self._first,
            "last": self._last,
            "epoch": torch.tensor(self._epoch),
            "decided_by_first": first,
            "decided_by_last": last,
        }
        return {_PREFIX + name: value.clone() for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned, from among other state.

        Raises:
            ValueError: it is not there, or of other data.
        """
        own = {key.removeprefix(_PREFIX): value for key, value in state.items()}
        if len(own.get("last", ())) != len(self):
            raise ValueError(
                f"the checkpoint has no stored losses of {len(self)} training examples: resume "
                "with the stored_losses and the data that it was written with."
            )
        self._first, self._last = own["first"].clone(), own["last"].clone()
        self._epoch = int(own["epoch"])
        self._decided_by = own["decided_by_first"].clone(), own["decided_by_last"].clone()


class StoredLossDraws:
    """Orders the draws of an epoch by a rule: pass after pass over what it chooses.

    Args:
        losses: of all examples.
        rule: by which it chooses.
        share: of the rule.
        seed: of the run's data.
        draws: candidates of the whole run, in all processes.
    """

    def __init__(
        self, losses: StoredLosses, rule: str, share: float, seed: int, draws: int
    ) -> None:
        self._losses = losses
        self._rule = rule
        self._share = share
        self._seed = seed
        self._whole_from = (1 - WHOLE_PART) * draws if rule == option_checks.INFOBATCH else math.inf

    def order(self, name: str, own: Tensor, count: int, epoch: int) -> Tensor:
        """Return what an epoch draws of a group of examples, in order.

        Args:
            name: of the group, which keys the randomness.
            own: ``[k]`` rows of the data set.
            count: draws.
            epoch: counted from 0.

        Returns:
            ``[count]`` rows, each with N added where it is to be weighed; see `WithRows`.
        """
        number = len(self._losses)
        first, last = (losses[own] for losses in self._losses.decide(epoch))
        # The epoch may reach into the part of the run that is whole.
        by_rule = round(count * min(1.0, max(0.0, self._whole_from / number - epoch)))
        parts, drawn = [own[:0]], 0
        while drawn < count:
            generator = keyed_generator(self._seed, epoch, name, "pass", len(parts))
            rows = own
            if drawn < by_rule:
                chosen = choose(self._rule, first, last, self._share, generator)
                rows = (own + number * chosen.weighed)[chosen.drawn]
            rows = rows[torch.randperm(len(rows), generator=generator)]
            if len(parts) == 1:
                # What has not been trained on comes before anything comes again.
                unseen = self._losses.decide(epoch)[1][rows % number].isnan()
                rows = torch.cat([rows[unseen], rows[~unseen]])
            rows = rows[: (by_rule if drawn < by_rule else count) - drawn]
            parts.append(rows)
            drawn += len(rows)
        return torch.cat(parts)


class WithRows(Dataset[Example]):
    """A data set whose examples tell their row, and their weight.

    An index of N or more is that of an example that is to be weighed, N added: so a sampler says
    both, whatever lies between it and the data.

    Args:
        dataset: with a length, whose examples are mappings.
        weight: of those that are to be weighed.
    """

    def __init__(self, dataset: Any, weight: float) -> None:
        self._dataset = dataset
        self._weight = weight

    def __len__(self) -> int:
        """Return N."""
        return len(self._dataset)

    def __getitem__(self, index: int) -> Example:
        """Return an example."""
        return self._marked(self._dataset[index % len(self)], index)

    def __getitems__(self, indices: list[int]) -> list[Example]:
        """Return several, read at once where the data set can."""
        rows = [index % len(self) for index in indices]
        read = getattr(self._dataset, "__getitems__", None)
        examples = read(rows) if read is not None else [self._dataset[row] for row in rows]
        return [self._marked(each, index) for each, index in zip(examples, indices, strict=True)]

    def _marked(self, example: Mapping[str, Any], index: int) -> Example:
        row = {ROW_KEY: index % len(self)}
        return {**example, **row, **({WEIGHT_KEY: self._weight} if index >= len(self) else {})}
