"""Balanced sampling: what it refuses; as a selector, order, steps and what an example counts."""

import math

import pytest
import torch

from colm import CoresetSelector
from colm.coreset.balanced_sampling import balanced_sampling
from colm.randomness import keyed_generator
from tests.coreset.test_balanced_sampling import features, seeded


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.ones(3)}, "features must be a matrix"),
        ({"features": [[1.0]]}, "features must be a matrix"),
        ({"features": torch.full((3, 2), torch.nan)}, "features.*finite"),
        ({"features": torch.full((3, 2), torch.inf)}, "features.*finite"),
        ({"budget": 4}, "budget.* 1 .* 3.* 4"),
        ({"budget": 0}, "budget.* 1 "),
        ({"budget": 1.5}, "budget.* 1 "),
        ({"noise": -1.0}, "noise.*negative"),
        ({"noise": math.nan}, "noise must be a number"),
        ({"target": torch.tensor([1.0, 0, 1])}, "target must have 3 positive entries"),
        ({"target": torch.tensor([1.0, math.inf, 1])}, "target must have 3 positive entries"),
        ({"target": torch.ones(2)}, r"target must be \[3\]"),
        ({"generator": None}, "generator must be"),
        ({"generator": 3}, "generator must be"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"features": torch.rand(3, 2), "budget": 1, "generator": seeded(0)} | change
    with pytest.raises(ValueError, match=message) as caught:
        balanced_sampling(**arguments)
    assert "\n" not in str(caught.value)


def selected(order, keys=None, step=None, seed=0, **options):
    """Rows that the selector keeps of ten candidates that come in some order."""
    rows = features(9, 10, 4).float()
    tokens = torch.arange(1, 11) ** 2
    selector = CoresetSelector("balanced_sampling", normalization="rms", seed=seed, **options)
    selection = selector.select(
        rows[order],
        4,
        label_tokens=tokens[order],
        keys=None if keys is None else [keys[row] for row in order.tolist()],
        step=step,
    )
    assert selection.weights.tolist() == [1.0] * 4
    return sorted(order[selection.indices].tolist())


@pytest.mark.parametrize("keys", [None, "jihgfedcba"], ids=["by content", "by key"])
def test_the_order_of_candidates_plays_no_part(keys):
    whole = torch.arange(10)
    for step in range(5):
        expected = selected(whole, keys, step)
        for seed in range(3):
            order = torch.randperm(10, generator=seeded(seed))
            assert selected(order, keys, step) == expected


def test_every_step_and_seed_draws_anew():
    whole = torch.arange(10)
    kept = {tuple(selected(whole, step=step, seed=s)) for step in range(5) for s in range(4)}
    assert len(kept) > 10
    assert selected(whole, step=3, seed=2) == selected(whole, step=3, seed=2)


@pytest.mark.parametrize("example_weights", ["equal", "label_tokens"])
def test_label_tokens_decide_what_is_balanced(example_weights):
    rows = features(9, 10, 4).float()
    scaled = rows / rows.square().mean(0).sqrt()
    target = torch.arange(1, 11) ** 2 if example_weights == "label_tokens" else None
    found = []
    for step in range(8):
        # Keys in the order of the rows, so that both see them in the same.
        kept = selected(torch.arange(10), "abcdefghij", step=step, example_weights=example_weights)
        generator = keyed_generator(0, step, "select")
        wanted = balanced_sampling(scaled, 4, target=target, generator=generator)
        assert kept == wanted.indices.tolist()
        found.append(kept)
    other = "equal" if target is not None else "label_tokens"
    others = [selected(torch.arange(10), "abcdefghij", s, example_weights=other) for s in range(8)]
    assert found != others


def test_it_is_not_weighted_and_keeps_no_source_whole():
    sources = ["large"] * 30 + ["small"] * 2
    kept = [
        CoresetSelector("balanced_sampling")
        .select(torch.randn(32, 3, generator=seeded(step)), 8, sources=sources, step=step)
        .indices
        for step in range(20)
    ]
    assert any((rows < 30).all() for rows in kept)
