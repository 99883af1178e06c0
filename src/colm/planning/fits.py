"""Which methods of training in less memory fit into so much, for the model and lengths of a run.

A step trains on as many examples whatever the method; what changes is how many of them make a
micro-batch. Symbols: r examples of a micro-batch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from colm.planning.methods import CHECKPOINTED, MEMORY_METHODS, PRUNED, WHOLE, Method
from colm.planning.plan import tokens_of_an_example
from colm.planning.run_counter import Held, RunCounter
from colm.runs.arguments import SFTArguments, parse_arguments
from colm.training.optimizers import ZEROTH_ORDER, optimizer_name
from colm.training.papers import selects

#: Rows of a table; those that take the most time are left out.
MOST_FITS = 12
#: Options that change what is held between steps alone, not what a step counts.
_OF_STATE = ("optim", "optim_args", "optim_target_modules")


@dataclass(frozen=True)
class Fit:
    """A combination of methods, and the largest micro-batch at which it fits.

    Attributes:
        name: of its methods.
        settings: options that differ from those of the run, by name.
        micro_batch: r.
        micro_batches: of a step.
        total_bytes: weights, state, and the most that is alive in a step.
        flops: multiplications and additions in matrix products and attention of a step: forward,
            backward, what is computed again, and the look.
    """

    name: str
    settings: dict[str, Any]
    micro_batch: int
    micro_batches: int
    total_bytes: int
    flops: int


@dataclass(frozen=True)
class Fits:
    """What `find_fits` returns.

    Attributes:
        memory_bytes: to fit into.
        tokens: of each example.
        examples: that a step trains on.
        fits: the least time first, ``MOST_FITS`` at most.
        least: what needs the least memory of all; it is not looked for where something fits.
        left_out: why a method cannot be had, by its name.
    """

    memory_bytes: int
    tokens: int
    examples: int
    fits: list[Fit]
    least: Fit | None
    left_out: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return asdict(self)


def find_fits(
    words: Sequence[str],
    memory_bytes: int,
    tokens: int | None = None,
    *,
    accelerator: bool = False,
    used_tokens: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Fits:
    """Return the combinations of methods that fit into memory.

    What saves memory for more time, or another loss, is added to a method where it fits with
    micro-batches larger than without: a pruned vocabulary, checkpoints of activations, both.

    Args:
        words: options of the run, as ``colm.runs.arguments.parse_arguments`` takes them.
        memory_bytes: to fit into.
        tokens: of each example; ``max_length`` by default.
        accelerator: count the loss as an accelerator's kernels compute it, without one at hand.
        used_tokens: that the data use; without it no vocabulary is pruned.
        tell: is called with what is counted next.

    Raises:
        ValueError: an option, or a model that no method can be planned for, in one line.
    """
    own = parse_arguments(words)
    counting = _Counting(words, own, tokens, accelerator, used_tokens)
    fits: list[Fit] = []
    too_large: list[_Combination] = []
    left_out: dict[str, str] = {}
    for method in MEMORY_METHODS:
        largest = 0
        for name, added in _additions(method, used_tokens is not None):
            tell(name)
            try:
                one = counting.combination(name, method.options_for(own) | added)
                size = one.largest(memory_bytes)
            except ValueError as error:
                left_out[name] = str(error)
                continue
            if size is None:
                too_large.append(one)
            elif size > largest:
                fits.append(one.at(size))
                largest = size
            if largest == one.sizes[-1]:
                break
    if not fits and not too_large:
        raise ValueError(next(iter(left_out.values())))
    fits.sort(key=lambda fit: (fit.flops, fit.total_bytes))
    return Fits(
        memory_bytes=memory_bytes,
        tokens=counting.tokens,
        examples=own.training.per_device_train_batch_size
        * own.training.gradient_accumulation_steps,
        fits=fits[:MOST_FITS],
        least=None if fits else _least(too_large),
        left_out=left_out,
    )


def _additions(method: Method, has_rows: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """A method by itself, and with what saves more memory, by name; the cheapest first."""
    pruned = has_rows and method.has_rows
    yield method.name, WHOLE
    if pruned:
        yield f"{method.name}, pruned vocabulary", WHOLE | PRUNED
    if method.has_activations:
        yield f"{method.name}, gradient checkpointing", CHECKPOINTED
        if pruned:
            name = f"{method.name}, pruned vocabulary, gradient checkpointing"
            yield name, CHECKPOINTED | PRUNED


class _Counting:
    """Combinations of the same run; those that step alike are counted once."""

    def __init__(
        self,
        words: Sequence[str],
        own: SFTArguments,
        tokens: int | None,
        accelerator: bool,
        used_tokens: int | None,
    ) -> None:
        self.tokens = tokens_of_an_example(tokens, own.training.max_length)
        self._words = words
        self._said = {**vars(own.script), **vars(own.model), **vars(own.training)}
        self._given: dict[str, Any] = {"accelerator": accelerator, "used_tokens": used_tokens}
        self._counters: dict[str, RunCounter] = {}

    def combination(self, name: str, options: Mapping[str, Any]) -> "_Combination":
        """Return a combination of methods, given all that its options say of them."""
        arguments = parse_arguments(self._words, instead=options)
        shaping = {key: value for key, value in options.items() if key not in _OF_STATE}
        key = repr((optimizer_name(arguments.training) == ZEROTH_ORDER, sorted(shaping.items())))
        if key not in self._counters:
            self._counters[key] = RunCounter(arguments, self.tokens, **self._given)
        return _Combination(name, arguments, self._counters[key], self._changed(options))

    def _changed(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What a recipe must say beside what it says."""
        changed = {}
        for name, value in options.items():
            said = self._said[name]
            said = getattr(said, "value", said)
            if name != "activation_checkpointing" and value != said:
                changed[name] = value
        return changed


class _Combination:
    """Methods together, at any micro-batch of the step.

    Args:
        name: of the methods.
        arguments: options of such a run.
        counter: of its step.
        settings: what it says that the run does not.

    Attributes:
        sizes: r that make whole micro-batches and pools, ascending.
        least_bytes: what lies there however small a micro-batch is.
    """

    def __init__(
        self, name: str, arguments: SFTArguments, counter: RunCounter, settings: dict[str, Any]
    ) -> None:
        training = self._training = arguments.training
        self._name, self._counter, self._settings = name, counter, settings
        self._held: Held = counter.held(training)
        self._given = training.per_device_train_batch_size, training.gradient_accumulation_steps
        self._examples = self._given[0] * self._given[1]
        powers = [1 << power for power in range(self._examples.bit_length())]
        sizes = [size for size in powers if self._examples % size == 0 and self._is_whole(size)]
        self.sizes = sizes or [self._given[0]]
        held = self._held
        self.least_bytes = held.weight_bytes + held.gradient_bytes + (held.optimizer_bytes or 0)

    def largest(self, memory_bytes: int) -> int | None:
        """Return the largest r that fits, ``None`` where none does."""
        if self.least_bytes > memory_bytes:
            return None
        fitting, too_large = -1, len(self.sizes)
        tried = too_large - 1  # what fits as it is need not be counted again
        while too_large - fitting > 1:
            if self.at(self.sizes[tried]).total_bytes <= memory_bytes:
                fitting = tried
            else:
                too_large = tried
            tried = (fitting + too_large) // 2
        return None if fitting < 0 else self.sizes[fitting]

    def at(self, size: int) -> Fit:
        """Return what a step takes in micro-batches of ``size``."""
        micro_batches = self._examples // size
        drawn = round(size * self._training.candidate_ratio)
        look = self._counter.look(size, drawn, micro_batches)
        trained = size if selects(self._training) else drawn
        step = self._counter.step(trained, micro_batches, after_look=True)
        held = self._held
        settings = dict(self._settings)
        if (size, micro_batches) != self._given:
            settings["per_device_train_batch_size"] = size
            settings["gradient_accumulation_steps"] = micro_batches
        return Fit(
            name=self._name,
            settings=settings,
            micro_batch=size,
            micro_batches=micro_batches,
            total_bytes=held.weight_bytes
            + (held.optimizer_bytes or 0)
            + max(step.alive_bytes, look.alive_bytes),
            flops=step.flops + look.flops,
        )

    def _is_whole(self, size: int) -> bool:
        return float(size * self._training.candidate_ratio).is_integer()


def _least(combinations: Sequence[_Combination]) -> Fit:
    """Return what takes the least memory; what could not is not counted."""
    found: Fit | None = None
    for one in sorted(combinations, key=lambda each: each.least_bytes):
        if found is None or one.least_bytes < found.total_bytes:
            fit = one.at(one.sizes[0])
            if found is None or fit.total_bytes < found.total_bytes:
                found = fit
    assert found is not None
    return found
