"""The candidates of a step as they pass through the data loader: raw, and opaque to it.

Accelerate moves whatever it recognises to the device, element by element; a pool is no tensor, list
or mapping, so it passes untouched. Symbols: n candidates, r kept.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from colm.gradients.batch import IGNORED_LABEL

Example = dict[str, Any]
Collate = Callable[[Sequence[Example]], Mapping[str, Any]]
#: Where an example has its weight in the loss, from the draw or the selection to the collator.
WEIGHT_KEY = "colm_weight"
#: Where it has the name of its source, for whoever records its loss.
SOURCE_KEY = "colm_source"
#: Where it has its row of the training data, for whoever stores its loss.
ROW_KEY = "colm_row"
#: Where it has what the frozen layers of a model with a side block put out for it.
TRUNK_KEY = "colm_trunk"
#: What no collator is shown.
OWN_KEYS = frozenset({WEIGHT_KEY, SOURCE_KEY, ROW_KEY, TRUNK_KEY})


class Pool:
    """Raw examples of the data set, in the order drawn.

    For whoever looks into a training loader, it also answers as a batch of all of them would.

    Args:
        examples: raw.
        collate: makes a batch of them, when it is asked for one.
    """

    def __init__(self, examples: Sequence[Example], collate: Collate | None = None) -> None:
        self._examples = tuple(examples)
        self._collate = collate

    def __getstate__(self) -> dict[str, Any]:
        """Leave the collator behind: a worker would send it along with every pool."""
        return {"_examples": self._examples, "_collate": None}

    def __getitem__(self, key: str | int) -> Any:
        """Return an input of the model, of all candidates; or a raw example, by its number.

        Raises:
            KeyError: the collator makes no such input.
            TypeError: the pool comes from another process, which has the collator.
        """
        return self._examples[key] if isinstance(key, int) else self._collated()[key]

    def keys(self) -> Iterable[str]:
        """Return the names of the model's inputs."""
        return self._collated().keys()

    def items(self) -> Iterable[tuple[str, Any]]:
        """Return the model's inputs with their names."""
        return self._collated().items()

    def _collated(self) -> Mapping[str, Any]:
        if self._collate is None:
            raise TypeError(
                f"these are {len(self)} raw candidates, of which training collates those it keeps: "
                "trainer.data_collator(list(pool)) makes a batch of all, without their source, "
                "and with dataloader_num_workers=0 pool['input_ids'] is answered."
            )
        return self._collate(self._examples)

    def __len__(self) -> int:
        """Return how many examples it holds."""
        return len(self._examples)

    def __iter__(self) -> Iterator[Example]:
        """Go through the examples in the order drawn."""
        return iter(self._examples)


class PoolCollator:
    """The collator of a loader of pools: it collates nothing until a pool is asked for a batch.

    Args:
        collate: the real one.
    """

    def __init__(self, collate: Collate | None = None) -> None:
        self._collate = collate

    def __call__(self, examples: Sequence[Example]) -> Pool:
        """Return examples as a pool."""
        return Pool(examples, self._collate)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the real collator behind, and the trainer with it, where workers are started."""
        return {"_collate": None}


def without_own_keys(example: Example) -> Example:
    """Return an example as the model's collator takes it."""
    return {key: value for key, value in example.items() if key not in OWN_KEYS}


def token_count(example: Example) -> int:
    """Return the number of tokens of an example."""
    return len(example["input_ids"])


def whole_numbers(values: Any) -> list[int]:
    """Return token ids or labels as a list, whatever a data set holds them in; none of ``None``."""
    if values is None:
        return []
    # Arrays and tensors, of any library and on any device, are slow to go through one by one.
    plain = values.tolist() if hasattr(values, "tolist") else values
    return [int(value) for value in (plain if isinstance(plain, Sequence) else [plain])]


def label_token_count(example: Example) -> int:
    """Return how many tokens of an example are predicted: labels not ignored, but the first."""
    labels = example.get("labels")
    if labels is None:
        return max(0, token_count(example) - 1)
    if np.ndim(labels) == 0:
        return 1  # a class, for the example
    return sum(label != IGNORED_LABEL for label in whole_numbers(labels)[1:])


def without_labels(example: Example) -> Example:
    """Return an example that adds nothing to the loss: it fills a micro-batch left empty."""
    return {**example, "labels": filled_like(example["input_ids"], IGNORED_LABEL)}


def filled_like(tokens: Any, number: int) -> Any:
    """Return as many tokens, all of one number, in what collators find the others in.

    Example:
        >>> filled_like(torch.tensor([5, 6]), 1)
        tensor([1, 1])
        >>> filled_like([5, 6], 1)
        [1, 1]
    """
    if isinstance(tokens, Tensor):
        return torch.full_like(tokens, number, dtype=torch.int64)
    if isinstance(tokens, np.ndarray):
        return np.full_like(tokens, number, dtype=np.int64)
    return [number] * len(tokens)
