"""A mixture of generated problems, for trying the method where no data set can be fetched.

Twelve kinds of problem from ``reasoning-gym`` are the sources. Their sizes have the shape of the
instruction-tuning mixtures that the method is made for: four large sources hold four fifths of the
examples, the smallest has a fiftieth of the largest. Prompts and answers are short, so that a
small model on a laptop's CPU makes visible progress within minutes, and every source brings its
own scorer.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from datasets import Dataset

from colm.data.prompts import chat_prompt, plain_prompt
from colm.data.sources import SOURCE_COLUMN, Split

Problem: TypeAlias = dict[str, Any]

#: Short on purpose: without one, chat templates insert a default several times as long.
SYSTEM_MESSAGE = "Give only the answer."


@dataclass(frozen=True)
class GeneratedSource:
    """How many training examples a source has, and how hard its generator makes them."""

    examples: int
    options: Mapping[str, Any] = field(default_factory=dict)


#: The mixture, of problems easy enough for a model of 135 million parameters to make progress.
SOURCES: Mapping[str, GeneratedSource] = {
    "chain_sum": GeneratedSource(2400, {"max_terms": 2, "max_digits": 2}),
    "letter_counting": GeneratedSource(1500, {"max_words": 7}),
    "gcd": GeneratedSource(1100, {"max_value": 100}),
    "decimal_chain_sum": GeneratedSource(
        900, {"max_terms": 2, "max_digits": 1, "max_decimal_places": 1}
    ),
    "complex_arithmetic": GeneratedSource(
        300, {"min_real": 1, "min_imag": 1, "operations_weights": [0.5, 0.5, 0.0, 0.0]}
    ),
    "spell_backward": GeneratedSource(260, {"max_word_len": 5}),
    "time_intervals": GeneratedSource(220, {"task_types": ["time", "time_seconds"]}),
    "word_sequence_reversal": GeneratedSource(190, {"max_words": 4}),
    "number_filtering": GeneratedSource(160, {"max_numbers": 4, "max_decimals": 1}),
    "prime_factorization": GeneratedSource(130, {"max_value": 200}),
    "calendar_arithmetic": GeneratedSource(90),
    "coin_flip": GeneratedSource(48, {"max_trials": 10}),
}


class GeneratedMixture(NamedTuple):
    """Training and held-out records; the latter carry the generator's own ``entry`` as well."""

    train: list[Problem]
    held_out: list[Problem]

    def to_split(self) -> Split:
        """Return both parts as data sets, without the entries, which only scorers need.

        Returns:
            Data sets with the columns ``prompt``, ``completion`` and ``source``.
        """
        bare = [{key: r[key] for key in self.train[0]} for r in self.held_out]
        return Split(Dataset.from_list(self.train), Dataset.from_list(bare))


def generate_mixture(
    seed: int = 0, held_out_per_source: int = 10, *, conversational: bool = True
) -> GeneratedMixture:
    """Return a reproducible mixture of twelve sources, with as many held-out examples of each.

    Every record has the columns ``prompt``, ``completion`` and ``source``. No question occurs
    twice, neither within a part nor in both. Takes a few seconds.

    Args:
        seed: The same seed gives the same records; different seeds give unrelated ones.
        held_out_per_source: Held-out examples of each source, small or large.
        conversational: Whether the tokenizer has a chat template; else prompts are plain text.

    Returns:
        The training records in a shuffled order, the held-out records source by source.

    Raises:
        ModuleNotFoundError: ``reasoning-gym`` is not installed.
        ValueError: ``held_out_per_source`` is below 1, or more than a generator can give.

    Example:
        >>> mixture = generate_mixture(seed=3, held_out_per_source=2)
        >>> mixture.held_out[0]["source"], len(mixture.held_out)
        ('chain_sum', 24)
    """
    if held_out_per_source < 1:
        raise ValueError(f"held_out_per_source must be at least 1; got {held_out_per_source}.")
    train: list[Problem] = []
    held_out: list[Problem] = []
    for name, source in SOURCES.items():
        entries = _distinct_entries(name, held_out_per_source + source.examples, seed)
        for position, entry in enumerate(entries):
            record = _record(name, entry, conversational)
            if position < held_out_per_source:
                held_out.append({**record, "entry": entry})
            else:
                train.append(record)
    random.Random(f"{seed}/order").shuffle(train)
    return GeneratedMixture(train, held_out)


def score(answer: str, record: Problem) -> float:
    """Return what the record's own generator says of an answer: 0.0 (wrong) to 1.0 (right).

    Some generators give partial credit, for instance to a number close to the right one.

    Args:
        answer: What the model wrote.
        record: A held-out record of ``generate_mixture``.

    Returns:
        The score; 0.0 also where the generator cannot read the answer at all.

    Raises:
        KeyError: The record carries no ``entry``: it is not a held-out record.
    """
    entry = record["entry"]
    generator = _generator(record["source"], size=1, seed=0)
    try:
        return float(generator.score_answer(answer, entry))
    except (ValueError, ArithmeticError):
        return 0.0


def _distinct_entries(name: str, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield ``count`` entries of a source, no question twice."""
    stream = random.Random(f"{seed}/{name}").getrandbits(40)
    questions: set[str] = set()
    for entry in _generator(name, size=20 * count, seed=stream):
        if entry["question"] not in questions:
            questions.add(entry["question"])
            yield entry
        if len(questions) == count:
            return
    raise ValueError(
        f"held_out_per_source is too large: {name} has {len(questions)} different questions, "
        f"{count} were asked for."
    )


def _generator(name: str, size: int, seed: int) -> Any:
    """The ``reasoning-gym`` data set of one source."""
    return _reasoning_gym().create_dataset(name, size=size, seed=seed, **SOURCES[name].options)


def _reasoning_gym() -> Any:
    """The package of generators; an error says how to install it."""
    try:
        import reasoning_gym
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the generated mixture needs reasoning-gym: pip install reasoning-gym"
        ) from error
    return reasoning_gym


def _record(name: str, entry: Mapping[str, Any], conversational: bool) -> Problem:
    """A generated problem as a prompt-completion record."""
    question, answer = entry["question"].strip(), entry["answer"]
    if not conversational:
        prompt = plain_prompt(question, system=SYSTEM_MESSAGE)
        return {"prompt": prompt, "completion": answer, SOURCE_COLUMN: name}
    return {
        "prompt": chat_prompt(question, system=SYSTEM_MESSAGE),
        "completion": [{"role": "assistant", "content": answer}],
        SOURCE_COLUMN: name,
    }
