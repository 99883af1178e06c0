"""Shares of the draws that go by what training tells of each source, at no cost.

Half of the draws are even over sources, so that none is left out; the other half goes where the
loss still falls. How fast is told by a line through a source's losses so far, by the logarithm of
the examples seen: what as many examples again, times e, would take off the loss. A source in which
there is nothing to learn has a high loss that does not fall, and gets its even half alone.
Paper: after Jiang et al. 2024, "Adaptive Data Optimization: Dynamic Sample Selection with Scaling
Laws", which goes by the slope of a power law.  Deviates: a line, for want of data in a run of
fine-tuning, and no credit for shares before.

Losses of a step are known once it is over, and loaders draw ahead. So draws come in rounds of
several steps, and the shares of a round are those known when the round before it began: what is
drawn does not depend on how far ahead a loader is. Symbols: Q sources, N examples.
"""

import logging
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from colm.coreset.mixture import bounded_draws
from colm.training.step.shares import Round, settle

logger = logging.getLogger(__name__)

#: Part of the draws that is even over sources, whatever their losses: the floor of each.
EVEN_PART = 0.5
#: Steps of a round, more where loaders draw further ahead.
ROUND_STEPS = 8
#: What a round counts in a line, over the round after it; of older ones than the last
#: ``MOST_ROUNDS`` next to nothing is left.
ROUND_DECAY = 0.9
MOST_ROUNDS = 64
#: Rounds with losses of a source before its line is trusted.
LEAST_ROUNDS = 3

#: Where the state of draws is in that of the selector.
STATE_PREFIX = "draws."


class LossTrend:
    """How fast the loss of each source falls, by the losses of the rounds so far.

    Args:
        sources: Q.
    """

    def __init__(self, sources: int) -> None:
        # Of each round and source: examples seen until its end; sum of losses and label tokens.
        self._rounds = torch.zeros(0, 3, sources, dtype=torch.float64)
        self._open = torch.zeros(2, sources, dtype=torch.float64)
        self._seen = torch.zeros(sources, dtype=torch.float64)

    def observe(self, sums: Tensor) -> None:
        """Take in a step: ``[3, Q]`` sum of losses, label tokens, and examples."""
        # A loss that is no number would hide the others of its source as long as rounds count.
        self._open += sums[:2].where(sums[0].isfinite(), 0)
        self._seen += sums[2]

    @property
    def is_told(self) -> bool:
        """Whether any losses were observed."""
        return bool(self._seen.any())

    def close_round(self) -> None:
        """Take what was observed since this was last called as one round."""
        self._rounds = self._so_far()
        self._open = torch.zeros_like(self._open)

    def _so_far(self) -> Tensor:
        """The last rounds, what was observed since as the latest: ``[rounds, 3, Q]``."""
        if not self._open.any():
            return self._rounds
        latest = torch.cat([self._seen[None], self._open])[None]
        return torch.cat([self._rounds, latest])[-MOST_ROUNDS:]

    def falls(self) -> Tensor:
        """Return how fast the loss of each source falls, by the logarithm of examples seen.

        Returns:
            ``[Q]`` float64, 0 where it rises, NaN where too little is known of a source.
        """
        seen, losses, tokens = self._so_far().unbind(1)
        ages = torch.arange(len(seen) - 1, -1, -1, dtype=torch.float64)
        weight = tokens * ROUND_DECAY ** ages[:, None]
        total = weight.sum(0)
        places, loss = seen.clamp(min=1).log(), losses / tokens.clamp(min=1)
        places = places - (weight * places).sum(0) / total
        slope = (weight * places * loss).sum(0) / (weight * places**2).sum(0)
        known = (tokens > 0).sum(0) >= LEAST_ROUNDS
        return torch.where(known & slope.isfinite(), -slope, math.nan).clamp(min=0)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a resumed run needs."""
        return {"rounds": self._rounds, "open": self._open, "seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._rounds, self._open, self._seen = (
            state[name].clone() for name in ("rounds", "open", "seen")
        )


class AdaptivePlan:
    """Draws round by round, in shares that follow the losses of the steps before.

    What is drawn depends on seed, epoch and what steps told, so that every process that is told
    the same draws the same, and so does a resumed run.

    Args:
        sizes: examples of each source, N in all.
        draws: candidates of the whole run, in all processes.
        step_draws: candidates of a step, in all processes.
        round_steps: steps of a round; loaders must not draw further ahead.
        most_repeats: draws of an example in the run at most, on average over its source.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        draws: int,
        step_draws: int,
        round_steps: int = ROUND_STEPS,
        most_repeats: float = math.inf,
    ) -> None:
        self._sizes = dict(sorted(sizes.items()))
        self._draws, self._round_steps = draws, round_steps
        self._round_draws = round_steps * step_draws
        self._most = {name: most_repeats * size for name, size in self._sizes.items()}
        self._trend = LossTrend(len(sizes))
        self._epoch = self._step = self._steps_of_epoch = 0
        # Before the epoch: draws of each source, and what was due to it beyond them.
        self._drawn = dict.fromkeys(self._sizes, 0)
        self._due = dict.fromkeys(self._sizes, 0.0)
        # Shares as they were when the epoch began, and after each of its rounds that are over.
        self._known = [self._shares_now()]

    def draws_as(self, other: "AdaptivePlan") -> bool:
        """Tell whether another plan has the same sources and rounds."""
        settings = ("_sizes", "_draws", "_round_steps", "_round_draws", "_most")
        return all(getattr(self, name) == getattr(other, name) for name in settings)

    @property
    def sources(self) -> list[str]:
        """Return the names of the sources, in the order of what is taken in."""
        return list(self._sizes)

    @property
    def shares(self) -> Mapping[str, float]:
        """Return the share of the draws that each source gets, at the beginning of a run."""
        even = dict.fromkeys(self._sizes, 1.0)
        planned = bounded_draws(even, self._draws, self._most, self._sizes)
        return {name: count / self._draws for name, count in planned.items()}

    def rounds(self, epoch: int) -> Iterator[Round]:
        """Go through the rounds of an epoch; the shares of each are looked up as it begins."""
        drawn, due = dict(self._drawn), dict(self._due)
        for earlier in range(self._epoch, epoch):
            for _ in self._rounds_of(earlier, drawn, due):
                pass
        yield from self._rounds_of(epoch, drawn, due)

    def _rounds_of(
        self, epoch: int, drawn: dict[str, int], due: dict[str, float]
    ) -> Iterator[Round]:
        """Go through the rounds of an epoch, and count what they draw."""
        left, number = sum(self._sizes.values()), 0
        while left > 0:
            total = min(self._round_draws, left)
            # What a source has left is spread over what is left of the run.
            part = total / max(total, self._draws - sum(drawn.values()))
            limits = {name: part * max(0.0, self._most[name] - drawn[name]) for name in drawn}
            shares = dict(zip(self._sizes, self._shares_of(epoch, number), strict=True))
            counts = settle(due, bounded_draws(shares, total, limits, self._sizes), total)
            before = dict(drawn)
            for name, count in counts.items():
                drawn[name] += count
            yield {name: (before[name], counts[name]) for name in counts}
            left, number = left - total, number + 1

    def _shares_of(self, epoch: int, number: int) -> list[float]:
        """The shares of a round: those known when the round before it began."""
        if epoch > self._epoch:
            return self._shares_now()
        return self._known[min(max(0, number - 1), len(self._known) - 1)]

    def _shares_now(self) -> list[float]:
        """The shares by all that was taken in, before any bound; rounded, for machines differ."""
        falls = self._trend.falls()
        # Of whom little is known, as much is expected as of the others.
        falls = falls.nan_to_num(float(falls.nanmean().nan_to_num(1.0)))
        even = torch.full_like(falls, 1 / len(falls))
        by_fall = falls / falls.sum() if falls.sum() > 0 else even
        shares: list[float] = (EVEN_PART * even + (1 - EVEN_PART) * by_fall).tolist()
        return [round(share, 6) for share in shares]

    def take(self, epoch: int, step: int, sums: Tensor) -> None:
        """Take in what a step told.

        Args:
            epoch: that the step was in.
            step: its number in the run, from 1; one that was taken in already is passed over.
            sums: ``[3, Q]`` sum of losses, label tokens, and examples, over all processes.
        """
        if step <= self._step:
            return
        if epoch > self._epoch:
            known = self._shares_now()
            for earlier in range(self._epoch, epoch):
                for _ in self._rounds_of(earlier, self._drawn, self._due):
                    pass
            self._trend.close_round()
            self._known, self._epoch, self._steps_of_epoch = [known], epoch, 0
        self._trend.observe(sums)
        self._step, self._steps_of_epoch = step, self._steps_of_epoch + 1
        if self._steps_of_epoch % self._round_steps == 0:
            self._trend.close_round()
            self._known.append(self._shares_now())
            if not self._trend.is_told and len(self._known) == 2 and not self._epoch:
                logger.warning(
                    "candidate_sampling='adaptive': training told no losses so far, so draws are "
                    "even over sources, as with 'unimax'"
                )

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a resumed run needs, which all processes share."""
        place = (self._epoch, self._step, self._steps_of_epoch, self._round_steps)
        state = {
            "place": torch.tensor(place),
            "drawn": torch.tensor(list(self._drawn.values())),
            "due": torch.tensor(list(self._due.values()), dtype=torch.float64),
            "known": torch.tensor(self._known, dtype=torch.float64),
        } | self._trend.state_dict()
        return {STATE_PREFIX + name: value for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned; what else there is, is passed over.

        Raises:
            ValueError: it is not there, or is of other draws.
        """
        own = {
            name.removeprefix(STATE_PREFIX): value
            for name, value in state.items()
            if name.startswith(STATE_PREFIX)
        }
        if "place" not in own or len(own["drawn"]) != len(self._sizes):
            raise ValueError("the checkpoint does not have the state of these adaptive draws.")
        self._epoch, self._step, self._steps_of_epoch, round_steps = own["place"].tolist()
        if round_steps != self._round_steps:
            raise ValueError(
                f"candidate_sampling='adaptive' drew in rounds of {round_steps} steps, and would "
                f"in rounds of {self._round_steps}: set dataloader_num_workers and "
                "dataloader_prefetch_factor as they were, or start a new run."
            )
        self._drawn = dict(zip(self._sizes, own["drawn"].tolist(), strict=True))
        self._due = dict(zip(self._sizes, own["due"].tolist(), strict=True))
        self._known = own["known"].tolist()
        self._trend.load_state_dict(own)
