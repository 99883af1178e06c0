"""Running training steps and looks on tensors without values, and counting what they hold and do.

Symbols: n examples, t tokens each, v tokens of a vocabulary.
"""

from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from colm.gradients.example_observer import ExampleObserver
from colm.memory.side_block import SideBlock
from colm.memory.zeroth_order_optimizer import ZerothOrderOptimizer
from colm.memory.zeroth_order_options import TakenStep
from colm.planning.fake_tensors import DEVICE, valueless, without_values
from colm.planning.held import trained_weights, weight_tensors
from colm.planning.skeleton import training_loss
from colm.planning.tally import SavedBytes, Tally, Work, storage_bytes

# Distinct tokens among N of natural text, by Heaps' law: a N^b.
HEAPS_FACTOR, HEAPS_POWER = 10, 0.6


@dataclass
class Counted:
    """What a piece of work holds and does.

    Attributes:
        saved_bytes: most that are saved for backward at one time.
        alive_bytes: most that are alive at one time of what the work itself makes.
        work: how often each kind of operation runs.
    """

    saved_bytes: int = 0
    alive_bytes: int = 0
    work: Counter[Work] = field(default_factory=Counter)

    @property
    def flops(self) -> int:
        """Multiplications and additions in matrix products, attention and convolutions."""
        return sum(work.flops * times for work, times in self.work.items())


class StepCounter:
    """Counts what training and looking take with a model.

    Args:
        model: on the meta device, ready to train; it has values no more than before.
        compute_dtype: of autocast, ``None`` for none.
        tokens: t.
        updates_in_backward: whether a gradient is let go of as soon as it is there.

    Attributes:
        model: the model.
        weights: all that its weights lie in.
    """

    def __init__(
        self,
        model: nn.Module,
        compute_dtype: torch.dtype | None,
        tokens: int,
        updates_in_backward: bool = False,
    ) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.model = without_values(model, self._mode)
        with self._mode:
            self.weights = weight_tensors(model)
        self._compute_dtype = compute_dtype
        self._tokens = tokens
        for weight in trained_weights(self.model) if updates_in_backward else ():
            weight.register_post_accumulate_grad_hook(_let_go)

    def train(self, examples: int, micro_batches: int, reused: SideBlock | None = None) -> Counted:
        """Count the forwards and backwards of an optimiser step.

        Args:
            examples: in a micro-batch.
            micro_batches: that accumulate; all but the first find gradients to add to.
            reused: the block whose trunk a look has run already, and of which it held the outputs.
        """
        self.model.zero_grad(set_to_none=True)
        saved, tally = SavedBytes(self.weights), Tally(self.weights)
        ran = min(2, micro_batches)
        with self._valueless(tally), saved:
            for _ in range(ran):
                outputs = [] if reused is None else self._outputs(reused, examples)
                with self._autocast(), reused.trunk.given(outputs) if reused else nullcontext():
                    loss = training_loss(self.model, self._batch(examples))
                loss.backward()
        self.model.zero_grad(set_to_none=True)
        work = Counter({one: times * micro_batches // ran for one, times in tally.work.items()})
        # Those of all micro-batches wait, without padding, for their turn.
        waiting_bytes = micro_batches * storage_bytes(outputs)
        return Counted(saved.peak_bytes, tally.peak_bytes + waiting_bytes, work)

    def measure(
        self, optimizer: ZerothOrderOptimizer, examples: int, micro_batches: int
    ) -> Counted:
        """Count the forwards of a step by losses alone, and its update.

        Args:
            optimizer: of the model.
            examples: in a micro-batch.
            micro_batches: that are measured for a step.
        """

        def loss() -> float:
            with self._autocast():
                training_loss(self.model, self._batch(examples))
            return 0.0  # no slope: where a step goes changes nothing of what it takes

        rates = tuple(float(group["lr"]) for group in optimizer.param_groups)
        with self._valueless():
            # The first step makes what is kept between steps.
            optimizer.take(TakenStep((0.0,) * optimizer.options.directions, rates))
        kept = [each for state in optimizer.state.values() for each in state.values()]
        measuring, updating = (Tally([*self.weights, *kept]) for _ in range(2))
        with self._valueless(measuring):
            optimizer.measure(loss)
        with self._valueless(updating):
            optimizer.step()
        work = Counter({one: times * micro_batches for one, times in measuring.work.items()})
        return Counted(0, max(measuring.peak_bytes, updating.peak_bytes), work + updating.work)

    def look(
        self,
        observer: ExampleObserver,
        candidates: int,
        most_tokens: int,
        reused: SideBlock | None = None,
    ) -> Counted:
        """Count a look at candidates.

        Args:
            observer: what looks.
            candidates: at which.
            most_tokens: of a chunk.
            reused: the block for which the outputs of its trunk are held.
        """
        rows = min(candidates, max(1, most_tokens // self._tokens))
        chunks = Counter({rows: candidates // rows})
        chunks[candidates % rows] += 1
        del chunks[0]
        vocabulary = self._vocabulary(observer, candidates)
        directions = observer.draw_directions(torch.Generator().manual_seed(0))
        whole = Counted()
        for size, times in chunks.items():
            saved, tally = SavedBytes(self.weights), Tally(self.weights)
            recording: Any = reused.trunk.recording() if reused is not None else nullcontext([])
            with self._valueless(tally), saved, self._autocast(), recording as forwards:
                seen = observer(self._batch(size), directions, vocabulary=vocabulary)
            # The first forward of a look is of the whole model.
            parts = [*vars(seen).values(), *(forwards[0] if forwards else ())]
            seen_bytes = storage_bytes(part for part in parts if part is not None)
            # What was seen of earlier chunks stays; in the end all of it is joined.
            others = seen_bytes // size * (candidates - size)
            alive = max(tally.peak_bytes + others, 2 * seen_bytes // size * candidates)
            whole.saved_bytes = max(whole.saved_bytes, saved.peak_bytes)
            whole.alive_bytes = max(whole.alive_bytes, alive)
            whole.work.update({one: times * ran for one, ran in tally.work.items()})
        return whole

    def _batch(self, examples: int) -> dict[str, Tensor]:
        """Token ids and labels ``[n, t]``, made anew, as collators do."""
        ids = torch.zeros((examples, self._tokens), dtype=torch.int64, device=DEVICE)
        return {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}

    def _outputs(self, block: SideBlock, examples: int) -> list[Tensor]:
        """What a trunk put out for the examples of a micro-batch, k of ``[n, t, d]``."""
        dtype = next(block.trunk.decoder.parameters()).dtype
        shape = (examples, self._tokens, block.width)
        return [torch.zeros(shape, dtype=dtype, device=DEVICE) for _ in block.trunk.read]

    def _vocabulary(self, observer: ExampleObserver, candidates: int) -> Tensor | None:
        """Tokens ``[v]`` that the softmax of the look is over, as many as text would have."""
        if observer.vocabulary == "full":
            return None
        size = round(HEAPS_FACTOR * (candidates * self._tokens) ** HEAPS_POWER)
        head: Any = getattr(observer.model, "get_base_model", lambda: observer.model)()
        return torch.arange(min(size, len(head.get_output_embeddings().weight)))

    def _valueless(self, *tallies: Tally) -> AbstractContextManager[None]:
        return valueless(self._mode, self._tokens, *tallies)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._compute_dtype is None:
            return nullcontext()
        return torch.autocast(DEVICE.type, dtype=self._compute_dtype)


def _let_go(weight: Tensor) -> None:
    weight.grad = None
