"""Five kinds of training data, made from any mixture: as it is, repeated, wrong, redundant, noise.

What a kind of mini-batch is worth depends on the data. Each regime takes the training examples of
a mixture, records with ``prompt``, ``completion`` and ``source``, and returns others of the same
columns; held-out examples stay as they are. The same seed makes the same examples.
"""

import random
import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from datasets import Dataset

Record = dict[str, Any]

WRONG_SHARE = 0.4
WORDINGS = 5
REPEATED_EXAMPLES = 600
LEAST_OF_A_SOURCE = 4
#: The source of which nothing can be learned.
NOISE = "noise"

_FRAMES = ("{}", "Question: {}", "{}\nAnswer the question.", "Here is a task.\n{}", "Solve: {}")
_WORDS = (
    ("how many", "what number of"),
    ("find", "determine"),
    ("each", "every"),
    ("what is", "give"),
)


def as_it_is(records: list[Record], _seed: int) -> list[Record]:
    """Return the mixture itself, with large and small sources."""
    return records


def repeated(records: list[Record], seed: int, examples: int = REPEATED_EXAMPLES) -> list[Record]:
    """Return few of the examples, so that a run passes over them many times.

    Sources keep their proportions, but for a least number of each.
    """
    share = min(1.0, examples / len(records))
    chosen: list[Record] = []
    for source, own in _by_source(records).items():
        number = min(len(own), max(LEAST_OF_A_SOURCE, round(share * len(own))))
        chosen += random.Random(f"{seed} {source}").sample(own, number)
    return chosen


def wrong(records: list[Record], seed: int) -> list[Record]:
    """Swap the answers of 40 % of each source's examples among these, so that they are wrong.

    An answer that happens to be that of the other question stays right.
    """
    result: list[Record] = []
    for source, own in _by_source(records).items():
        order = random.Random(f"{seed} {source}").sample(range(len(own)), len(own))
        swapped = order[: round(WRONG_SHARE * len(own))]
        answers = {
            row: own[other]["completion"]
            for row, other in zip(swapped, swapped[1:] + swapped[:1], strict=True)
        }
        result += [
            each | {"completion": answers.get(row, each["completion"])}
            for row, each in enumerate(own)
        ]
    return result


def redundant(records: list[Record], _seed: int) -> list[Record]:
    """Give every example of a source larger than the average five times, in other words."""
    sources = _by_source(records)
    average = len(records) / len(sources)
    result: list[Record] = []
    for own in sources.values():
        wordings = WORDINGS if len(own) > average else 1
        result += [
            each | {"prompt": _reworded(each["prompt"], wording)}
            for each in own
            for wording in range(wordings)
        ]
    return result


def with_noise(records: list[Record], seed: int) -> list[Record]:
    """Add a source whose answers are drawn at random, so that nothing of it can be learned.

    It is as large as the average source, and is not among what is held out.
    """
    rng = random.Random(f"{seed} {NOISE}")
    result = list(records)
    for _ in range(len(records) // len(_by_source(records))):
        question = "Code of " + "".join(rng.choice("abcdefghij") for _ in range(8)) + "?"
        answer = "".join(rng.choice("0123456789") for _ in range(6))
        kinds = ("prompt", "user", question), ("completion", "assistant", answer)
        conversational = not isinstance(records[0]["prompt"], str)
        result.append(
            {"source": NOISE}
            | {
                part: [{"role": role, "content": text}] if conversational else text
                for part, role, text in kinds
            }
        )
    return result


REGIMES: dict[str, Callable[[list[Record], int], list[Record]]] = {
    "imbalanced": as_it_is,
    "repeated": repeated,
    "wrong": wrong,
    "redundant": redundant,
    "noise": with_noise,
}


def in_regime(dataset: Dataset, name: str, seed: int) -> Dataset:
    """Return training examples as a regime makes them, source after source.

    Args:
        dataset: with columns ``prompt``, ``completion`` and ``source``.
        name: one of ``REGIMES``.
        seed: decides what is drawn or swapped.
    """
    if name == "imbalanced":
        return dataset
    return Dataset.from_list(REGIMES[name](list(dataset), seed), features=dataset.features)


def _by_source(records: list[Record]) -> dict[str, list[Record]]:
    sources: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        sources[str(record["source"])].append(record)
    return dict(sorted(sources.items()))


def _reworded(prompt: Any, wording: int) -> Any:
    """Say a prompt in other words: a text, or messages of which the last is reworded."""
    if not isinstance(prompt, str):
        last = prompt[-1] | {"content": _reworded(prompt[-1]["content"], wording)}
        return [*prompt[:-1], last]
    if wording:
        said, instead = _WORDS[wording - 1]
        prompt = re.sub(rf"\b{said}\b", instead, prompt, flags=re.IGNORECASE)
    return _FRAMES[wording].format(prompt)
