"""Many candidates: features with fewer dimensions, and selections part by part.

That processes agree on them is the matter of ``test_global_scope.py``.
"""

from dataclasses import replace

import pytest
import torch

from colm.coreset import registry
from colm.coreset.candidates import Candidates, Choice, SelectionOptions
from colm.coreset.registry import Selector, available_selectors, get_selector
from colm.gradients.example_observer import ExampleObserver
from colm.training.processes.exchange import Exchange
from colm.training.processes.parts import in_parts
from colm.training.step.look import ThinnedObserver
from tests.training.conftest import make_records, select_among

LIMITED = [name for name in available_selectors() if get_selector(name).most_together]


class Gathering(Exchange):
    """Process ``process_index`` of several that all run here, one after the other."""

    def __init__(self, num_processes, process_index):
        super().__init__(num_processes, process_index)
        self.others = []
        self.told = None

    def rows(self, own):
        self.told = own
        return torch.cat([*self.others, own])


def make_candidates(n, d=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    # Features lie far from zero and differ in scale, as gradients do.
    scale = torch.rand(d, generator=generator) * 3
    features = 5 + scale * torch.randn(n, d, generator=generator)
    tokens = torch.randint(1, 50, (n,), generator=generator)
    options = SelectionOptions(example_weights="label_tokens")
    sources = torch.randint(3, (n,), generator=generator)
    return Candidates(sources, options, features=features, gradients=features, label_tokens=tokens)


def limited(monkeypatch, most):
    for name in LIMITED:
        limited = replace(get_selector(name), most_together=most)
        monkeypatch.setitem(registry._SELECTORS, name, limited)


def chosen(name, candidates, budget, exchange=None):
    selector = in_parts(get_selector(name), exchange or Exchange())
    return selector.choose(candidates, budget, torch.Generator().manual_seed(0))


def test_few_candidates_are_chosen_from_as_ever(monkeypatch):
    limited(monkeypatch, 40)
    candidates = make_candidates(40)
    for name in LIMITED:
        if name == "hidden_facility_location":
            continue
        expected = get_selector(name).choose(candidates, 9, torch.Generator().manual_seed(0))
        expected = expected if isinstance(expected, Choice) else Choice(expected)
        choice = chosen(name, candidates, 9)
        assert torch.equal(choice.rows, expected.rows)
        assert torch.equal(choice.counts, expected.counts)


def test_each_part_gets_its_share_and_matches_its_own_mean(monkeypatch):
    limited(monkeypatch, 32)
    candidates = make_candidates(100)
    choice = chosen("gradient_matching", candidates, 42)
    assert len(set(choice.rows.tolist())) == 42
    shares = candidates.target / candidates.target.sum()
    kept = choice.counts * shares[choice.rows]
    for start, stop in ((0, 25), (25, 50), (50, 75), (75, 100)):
        inside = (choice.rows >= start) & (choice.rows < stop)
        assert 10 <= inside.sum() <= 11
        # What a part's examples count for together is what the whole part counts for.
        torch.testing.assert_close(kept[inside].sum(), shares[start:stop].sum())
        part = candidates.take(torch.arange(start, stop))
        alone = chosen("gradient_matching", part, int(inside.sum()))
        assert torch.equal(alone.rows + start, choice.rows[inside])
        assert torch.equal(alone.counts, choice.counts[inside])


def test_the_mean_of_all_is_matched(monkeypatch):
    candidates = make_candidates(200, d=60)
    shares = candidates.target / candidates.target.sum()
    mean = shares @ candidates.features

    def error(rows, counts):
        kept = counts * shares[rows]
        return float((kept / kept.sum() @ candidates.features[rows] - mean).norm())

    generator = torch.Generator().manual_seed(0)
    by_chance = [
        error(torch.randperm(200, generator=generator)[:80], torch.ones(80)) for _ in range(50)
    ]
    whole = chosen("gradient_matching", candidates, 80)
    limited(monkeypatch, 50)
    divided = chosen("gradient_matching", candidates, 80)
    assert not torch.equal(divided.rows, whole.rows)
    assert error(divided.rows, divided.counts) < 0.6 * sum(by_chance) / 50


def test_a_balanced_draw_in_parts_is_closer_to_the_mean_than_a_plain_one(monkeypatch):
    limited(monkeypatch, 20)
    # Fewer dimensions than a part has candidates, so that there is something to balance.
    candidates = make_candidates(100, d=4)
    shares = candidates.target / candidates.target.sum()
    mean = shares @ candidates.features
    selector = in_parts(get_selector("balanced_sampling"), Exchange())
    generator = torch.Generator().manual_seed(0)
    errors = {"balanced": 0.0, "plain": 0.0}
    for _ in range(20):
        rows = selector.choose(candidates, 40, generator).rows
        assert len(set(rows.tolist())) == 40
        assert torch.bincount(rows // 20).tolist() == [8] * 5
        for name, kept in (
            ("balanced", rows),
            ("plain", torch.randperm(100, generator=generator)[:40]),
        ):
            weights = shares[kept] / shares[kept].sum()
            errors[name] += float((weights @ candidates.features[kept] - mean).square().sum())
    assert errors["balanced"] < 0.5 * errors["plain"]


@pytest.mark.parametrize("name", ["mean_matching", "balanced_sampling"])
def test_processes_share_the_parts(monkeypatch, name):
    limited(monkeypatch, 16)
    candidates = make_candidates(90)
    expected = chosen(name, candidates, 40)
    for number in (2, 4, 9):
        group = [Gathering(number, index) for index in range(number)]
        for exchange in group[:-1]:
            chosen(name, candidates, 40, exchange)
        group[-1].others = [exchange.told for exchange in group[:-1]]
        choice = chosen(name, candidates, 40, group[-1])
        assert torch.equal(choice.rows, expected.rows)
        # Six parts of 15: nobody solved them all.
        assert max(len(exchange.told) for exchange in group) <= 7 * -(-6 // number)


def test_parts_draw_apart():
    def draw(candidates, budget, generator):
        return torch.randperm(len(candidates), generator=generator)[:budget]

    selector = in_parts(Selector("drawing", draw, most_together=10), Exchange())
    choice = selector.choose(make_candidates(30), 9, torch.Generator().manual_seed(0))
    first, second, _third = choice.rows.split(3)
    assert set((first % 10).tolist()) != set((second % 10).tolist())
    again = selector.choose(make_candidates(30), 9, torch.Generator().manual_seed(0))
    other = selector.choose(make_candidates(30), 9, torch.Generator().manual_seed(1))
    assert torch.equal(again.rows, choice.rows)
    assert not torch.equal(other.rows, choice.rows)


@pytest.mark.parametrize("name", ["gradient_matching", "balanced_sampling"])
def test_a_budget_smaller_than_the_parts_leaves_some_out(monkeypatch, name):
    limited(monkeypatch, 2)
    choice = chosen(name, make_candidates(20), 3)
    assert len(set((choice.rows // 2).tolist())) == 3


def test_selectors_that_compare_nothing_stay_whole():
    for name in ("random", "top_loss", "gradient_norm"):
        assert in_parts(get_selector(name), Exchange()) is get_selector(name)


def test_features_keep_the_same_dimensions_in_every_batch(make_trainer, dataset):
    trainer = make_trainer(dataset)
    options = {"projections": ("v", "o")}
    whole = ExampleObserver(trainer.model, **options)
    rows = list(trainer.train_dataset)[:3]
    batches = [trainer._prepare_inputs(trainer.data_collator([row])) for row in rows]
    size = whole(batches[0]).gradients.shape[1]
    thinned = ThinnedObserver(trainer.model, most_dimensions=10, **options)
    seen = torch.cat([thinned(batch).gradients for batch in batches])
    everything = torch.cat([whole(batch).gradients for batch in batches])
    assert seen.shape == (3, 10)
    places = (everything.T.unsqueeze(0) == seen.T.unsqueeze(1)).all(2).nonzero()
    kept = [places[places[:, 0] == column, 1] for column in range(10)]
    assert all(len(place) for place in kept)
    # Spread over all of them, not the first ten; and the weight goes with them.
    assert max(int(place.min()) for place in kept) > size // 2
    weight = whole.weight()
    for value, place in zip(thinned.weight(), kept, strict=True):
        assert value in weight[place]
    ample = ThinnedObserver(trainer.model, most_dimensions=size, **options)
    assert torch.equal(ample(batches[0]).gradients, whole(batches[0]).gradients)
    assert ThinnedObserver(trainer.model, ("losses",), most_dimensions=1)(batches[0]).losses.shape


def test_how_many_dimensions_follows_from_the_batch_alone(make_trainer, dataset, monkeypatch):
    """The last pool of an epoch is smaller; Adam's moments are of the same dimensions still."""
    monkeypatch.setattr("colm.training.step.look.MOST_NUMBERS", 160)
    trainer = make_trainer(dataset, selector="mean_matching", small_sources=["none"])
    rows = list(trainer.train_dataset)
    assert len(rows) == len(make_records())
    for step, count in enumerate((16, 5)):
        assert len(select_among(trainer._selection, rows[:count], 2, step).examples) == 2
    # Four examples in each of two micro-batches, two candidates for each: 16.
    assert len(trainer._selection.selector.state_dict()["moments.exp_avg"]) == 10
