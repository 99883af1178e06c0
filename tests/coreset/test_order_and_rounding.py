"""What every selector keeps depends neither on the order of the batch nor on rounding."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from colm import CoresetSelector, available_selectors
from colm.coreset.candidates import Observed

SELECTORS = available_selectors()
NOISE = 1e-6

pytestmark = pytest.mark.filterwarnings("ignore:.*small sources")

every_selector = pytest.mark.parametrize("name", SELECTORS)
seeds = st.integers(0, 10**6)


class Batch:
    """Candidates with keys, observed once exactly and, later, with an error."""

    def __init__(self, features, seed):
        n = len(features)
        generator = torch.Generator().manual_seed(seed)
        self.features = features
        self.losses = features.square().sum(1)
        self.sources = [f"source {i}" for i in torch.randint(0, 3, (n,), generator=generator)]
        self.label_tokens = torch.randint(1, 4, (n,), generator=generator)
        self.keys = [f"row {i}" for i in torch.randperm(n, generator=generator).tolist()]

    def observed(self, order, noise=0.0, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def blurred(values):
            error = 2 * torch.rand(values.shape, generator=generator) - 1
            return (values * (1 + noise * error))[order]

        return Observed(
            blurred(self.features),
            blurred(self.losses),
            blurred(self.features.flip(1)),
            blurred(self.features * 3),
        )

    def kept(self, name, budget, order=None, *, keyed=True, noise=0.0, seed=0, **options):
        """Rows of this batch that are kept of it in another order, and their weights."""
        tolerance = options.pop("tie_tolerance", "default")
        selector = CoresetSelector(name, seed=7, **options)
        if tolerance != "default":
            selector.options = replace(selector.options, tie_tolerance=tolerance)
        order = torch.arange(len(self.features)) if order is None else order
        rows = order.tolist()
        selection = selector.select(
            self.observed(order, noise, seed),
            budget,
            sources=[self.sources[row] for row in rows],
            label_tokens=self.label_tokens[order],
            keys=[self.keys[row] for row in rows] if keyed else None,
        )
        return dict(zip(order[selection.indices].tolist(), selection.weights.tolist(), strict=True))

    def contents(self, kept):
        """The same without rows, for those that nothing but a key tells apart."""
        return Counter(
            (self.sources[row], int(self.label_tokens[row]), *self.features[row].tolist(), weight)
            for row, weight in kept.items()
        )


def rows_of_kind(kind, n, d, seed):
    """Rows full of ties (whole numbers, copies), or with those alone of mutual neighbours."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "whole numbers":
        return torch.randint(-2, 3, (n, d), generator=generator).float()
    rows = 1 + torch.randn(n, d, generator=generator)
    if kind == "copies":
        rows = rows[torch.randint(0, n, (n,), generator=generator)]
    return rows


kinds = st.sampled_from(["whole numbers", "copies", "neighbours"])
shapes = st.integers(1, 14).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@pytest.mark.slow
@every_selector
@given(kind=kinds, shape=shapes, d=st.integers(1, 4), seed=seeds, keyed=st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_order_of_the_batch_plays_no_part(name, kind, shape, d, seed, keyed):
    n, budget = shape
    batch = Batch(rows_of_kind(kind, n, d, seed), seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed + 1))
    kept = batch.kept(name, budget, keyed=keyed)
    again = batch.kept(name, budget, order, keyed=keyed)
    if keyed:
        assert again == kept
    else:
        assert batch.contents(again) == batch.contents(kept)


@pytest.mark.parametrize("name", [name for name in SELECTORS if name != "none"])
def test_selectors_go_by_what_they_see(name):
    """The test above would pass for one that keeps the lowest keys."""
    kept = {tuple(Batch(rows_of_kind("x", 9, 3, s), 0).kept(name, 4)) for s in range(30)}
    looks = name not in ("random", "small_random", "longest")
    assert len(kept) > 5 if looks else len(kept) == 1


@pytest.mark.slow
@every_selector
@pytest.mark.parametrize("kind", ["copies", "neighbours"])
@pytest.mark.parametrize("normalization", ["adam", "none"])
def test_rounding_changes_nothing(name, kind, normalization):
    for seed in range(25):
        batch = Batch(rows_of_kind(kind, 24, 1 + seed % 5, seed), seed)
        order = torch.randperm(24, generator=torch.Generator().manual_seed(seed))
        kept = batch.kept(name, 11, normalization=normalization)
        again = batch.kept(name, 11, order, noise=NOISE, seed=seed, normalization=normalization)
        assert set(again) == set(kept)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("colm", {}),
        ("colm", {"normalization": "none", "distance": "cosine"}),
        ("ssm", {"normalization": "adam", "allocation": "none", "distance": "l2"}),
        ("ssm", {"normalization": "adam", "kept_dimensions": 2}),
        ("mean_matching", {}),
        ("hidden_facility_location", {}),
    ],
)
def test_what_rounding_would_change_without_a_tolerance(name, options):
    """Ties of mutual nearest neighbours, of equal steps of Adam, of equally large dimensions."""
    changed = Counter()
    for seed in range(25):
        batch = Batch(rows_of_kind("neighbours", 24, 1 + seed % 5, seed), seed)
        for tie_tolerance in (0.0, "default"):
            with_ties = options | {"small_sources": "none", "tie_tolerance": tie_tolerance}
            kept = batch.kept(name, 11, **with_ties)
            again = batch.kept(name, 11, noise=NOISE, seed=seed, **with_ties)
            changed[tie_tolerance] += set(again) != set(kept)
    assert changed[0.0] >= 5
    assert changed["default"] == 0


@pytest.mark.parametrize("distance", ["l1", "l2", "cosine"])
def test_candidates_that_are_all_but_alike_are_all_tied(distance):
    """Nothing but rounding tells them apart: the first by key are kept, whatever it says."""
    batch = Batch(
        (1 + torch.rand(1, 5, generator=torch.Generator().manual_seed(0))).repeat(12, 1), 0
    )
    batch.sources = ["one"] * 12
    first = sorted(range(12), key=batch.keys.__getitem__)[:4]
    for seed in range(10):
        for name in ("colm", "mean_matching", "top_loss", "middle_perplexity", "gradient_norm"):
            kept = batch.kept(name, 4, noise=NOISE, seed=seed, distance=distance)
            assert list(kept) == first, name


def test_the_published_behaviour_depends_on_the_order():
    batch = Batch(rows_of_kind("neighbours", 24, 3, 0), 0)
    backwards = torch.arange(23, -1, -1)
    options = {"reference_behaviour": True, "small_sources": "none"}
    assert set(batch.kept("colm", 11, **options)) != set(
        batch.kept("colm", 11, backwards, **options)
    )
