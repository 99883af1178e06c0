"""Features of very many candidates: a random part of their dimensions, so that all fit in memory.

All n rows of d features meet on every process. Dimensions kept at random estimate every inner
product and distance, up to a factor that no selector sees, with a relative error of about one over
the root of their number; and unlike random mixtures they can still be normalised one by one, for
Adam or by their root mean square. How many are kept follows from n and d alone, never from the
number of processes. Symbols: n candidates, d features.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from colm.coreset.observed import Observed
from colm.gradients.example_observer import ExampleObserver
from colm.randomness import keyed_generator

#: Numbers in the features of all candidates of a step, 1 GiB in float32: up to 1,024 candidates
#: have all dimensions of even the largest features, 65,536 candidates 4,096.
MOST_NUMBERS = 2**28


class ThinnedObserver(ExampleObserver):
    """An `ExampleObserver` whose features have no more dimensions than fit.

    Args:
        most_dimensions: features with more keep so many of them at random, always the same.
        arguments: those of `ExampleObserver`.
        options: likewise.
    """

    def __init__(self, *arguments: Any, most_dimensions: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.most_dimensions = most_dimensions
        self._kept: Tensor | None = None

    def weight(self) -> Tensor:
        """Return the weight that the kept features are gradients of; see `ExampleObserver`."""
        return self._thinned(super().weight())

    def __call__(
        self,
        batch: Mapping[str, Any],
        directions: list[Tensor] | None = None,
        *,
        vocabulary: Tensor | None = None,
    ) -> Observed:
        """Look at a batch as `ExampleObserver` does, and keep what fits of its features."""
        seen = super().__call__(batch, directions, vocabulary=vocabulary)
        if seen.gradients is None:
            return seen
        return replace(seen, gradients=self._thinned(seen.gradients))

    def _thinned(self, features: Tensor) -> Tensor:
        """Return ``[..., d]`` with the dimensions kept."""
        size = features.shape[-1]
        if size <= self.most_dimensions:
            return features
        if self._kept is None:
            shuffled = torch.randperm(size, generator=keyed_generator("dimensions", size))
            self._kept = shuffled[: self.most_dimensions].sort().values
        return features[..., self._kept.to(features.device)]
