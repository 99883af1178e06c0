"""As many sources as candidates cost hardly more than a few: work is counted, not timed."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from colm import CoresetSelector, available_selectors
from colm.coreset.registry import get_selector

CANDIDATES = 1000


class Work(TorchDispatchMode):
    """Counts operations on tensors, and the numbers that they result in."""

    def __init__(self):
        super().__init__()
        self.operations = self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.operations += 1
        self.numbers += result.numel() if isinstance(result, torch.Tensor) else 0
        return result


def work(selector, number, candidates=CANDIDATES, **options):
    """What a selection costs with so many sources, of which the data set has ten times as many."""
    sources = [f"source {row % number:05}" for row in range(candidates)]
    sizes = {f"source {index:05}": 10 for index in range(10 * number)}
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(candidates, 4, generator=generator)
    seen = {"gradients": features, "losses": features[:, 0], "hidden": features}
    from colm import Observed

    observed = Observed(**{name: seen[name] for name in get_selector(selector).needs})
    chooser = CoresetSelector(selector, source_sizes=sizes, **options)
    with Work() as counted:
        chosen = chooser.select(
            observed, candidates // 10, sources=sources, label_tokens=torch.arange(candidates)
        )
    assert len(chosen.indices) == (candidates if selector == "none" else candidates // 10)
    return counted


@pytest.mark.slow
@pytest.mark.parametrize("selector", available_selectors())
def test_many_sources_compute_no_more_numbers_than_few(selector):
    assert work(selector, CANDIDATES).numbers <= 2 * work(selector, 10).numbers


@pytest.mark.parametrize("allocation", ["proportional", "balanced"])
def test_work_grows_with_the_sources_that_get_a_share(allocation):
    """Twice as many sources, each with a share: twice the operations, and not four times."""
    half, whole = (
        work("colm", number, number, allocation=allocation)
        for number in (CANDIDATES // 2, CANDIDATES)
    )
    assert whole.operations <= 2.2 * half.operations
    assert whole.numbers <= 2.5 * half.numbers
