"""UniMax draws: sources equally often as far as no example comes again too often."""

import math
from collections import Counter

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from colm.coreset.mixture import bounded_draws
from colm.training.step.samplers import MixtureSampler
from colm.training.step.shares import MOST_REPEATS, FixedPlan, rows_by_source
from tests.training.conftest import SIZES, make_records, note_candidates
from tests.training.test_sampling import draws, sources_of_sizes


def unimax_sampler(sources, seed, draws, most_repeats=MOST_REPEATS):
    rows = rows_by_source(sources)
    sizes = {name: len(own) for name, own in rows.items()}
    limits = {name: most_repeats * size for name, size in sizes.items()}
    planned = bounded_draws(dict.fromkeys(sizes, 1), draws, limits, sizes) if sizes else {}
    return MixtureSampler(rows, seed, FixedPlan(planned, len(sources)))


def in_a_random_order(sources, seed=0):
    order = torch.randperm(len(sources), generator=torch.Generator().manual_seed(seed))
    return [sources[row] for row in order.tolist()]


@pytest.mark.parametrize(
    ("sizes", "epochs", "expected"),
    [
        # Nobody meets the bound: all are equal.
        ((500, 400, 300), 1, (400, 400, 400)),
        ((60, 40), 2, (100, 100)),
        # Ten examples 4 times; 90 would take 480 draws, and get 4 times 90; the rest is large.
        ((900, 90, 10), 1, (600, 360, 40)),
        ((900, 90, 10), 2, (1600, 360, 40)),
        ((1, 2000), 1, (4, 1997)),
        ((1, 2000), 4, (4, 8000)),
        # All meet it, so each goes on in proportion to its size.
        ((70, 20, 10), 5, (350, 100, 50)),
        ((7,), 3, (21,)),
    ],
)
def test_sources_are_drawn_equally_often_up_to_a_bound(sizes, epochs, expected):
    sources = in_a_random_order(sources_of_sizes(*sizes))
    rows = draws(unimax_sampler(sources, seed=0, draws=epochs * len(sources)), epochs)
    counts = Counter(sources[row] for row in rows)
    assert [counts[f"source {i}"] for i in range(len(sizes))] == list(expected)


def test_a_short_run_is_what_is_counted():
    """200 draws of 1,000: two sources share them, although an epoch would be too much for one."""
    sources = in_a_random_order(sources_of_sizes(970, 30))
    rows = list(unimax_sampler(sources, seed=1, draws=200))
    assert len(rows) == 1000
    small = sum(sources[row] == "source 1" for row in rows[:200])
    assert abs(small - 100) <= 3
    cut = list(unimax_sampler(sources, seed=1, draws=200, most_repeats=2))[:200]
    assert abs(sum(sources[row] == "source 1" for row in cut) - 60) <= 3


mixtures = st.lists(st.integers(1, 30), min_size=1, max_size=5)


@given(sizes=mixtures, epochs=st.integers(1, 6), seed=st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_no_example_comes_again_before_all_others_of_its_source(sizes, epochs, seed):
    sources = in_a_random_order(sources_of_sizes(*sizes), seed)
    n = len(sources)
    sampler = unimax_sampler(sources, seed, draws=epochs * n)
    rows = draws(sampler, epochs)
    assert len(rows) == epochs * len(sampler) == epochs * n
    for name, size in Counter(sources).items():
        own = [row for row in rows if sources[row] == name]
        passes = [own[start : start + size] for start in range(0, len(own), size)]
        assert all(len(set(each)) == len(each) for each in passes)
        # So each is drawn as often as any other, or once more.
        counts = Counter(own)
        often = {counts[row] for row, source in enumerate(sources) if source == name}
        assert often <= {len(own) // size, math.ceil(len(own) / size)}
        # Draws of an epoch are whole numbers.
        assert len(own) < max(MOST_REPEATS, epochs) * size + epochs
        assert len(own) > epochs * min(n / len(sizes), size) - epochs


def unevenness(names, window):
    """Most that a source has in any run of draws beyond, or short of, its share."""
    share = Counter(names)
    worst = 0.0
    for start in range(len(names) - window + 1):
        found = Counter(names[start : start + window])
        worst = max(worst, *(abs(found[s] - window * share[s] / len(names)) for s in share))
    return worst


def test_every_batch_holds_nearly_the_same_of_each():
    """Up to any time, draws of a source and of all are within 1, and within 3, of their shares."""
    sources = in_a_random_order(sources_of_sizes(300, 200, 100))
    names = [sources[row] for row in unimax_sampler(sources, seed=2, draws=600)]
    assert unevenness(names, 24) <= 2 + 2 * 3 / 3
    assert unevenness(in_a_random_order(names), 24) > 4


def test_places_are_drawn_at_random():
    """No step has the same sources in the same order as the one before."""
    sources = sources_of_sizes(300, 300, 300)
    names = [sources[row] for row in unimax_sampler(sources, seed=3, draws=900)]
    assert len({tuple(names[start : start + 9]) for start in range(0, 900, 9)}) > 80


def test_draws_follow_seed_and_epoch_alone():
    sources = in_a_random_order(sources_of_sizes(30, 3))

    def rows(seed, epoch):
        torch.manual_seed(epoch)
        state = torch.random.get_rng_state()
        sampler = unimax_sampler(sources, seed, draws=99)
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert list(sampler) == drawn
        assert torch.equal(torch.random.get_rng_state(), state)
        return tuple(drawn)

    assert len({rows(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9
    torch.rand(3)
    assert rows(5, 1) == rows(5, 1)


def test_orders_differ_from_pass_to_pass_and_source_to_source():
    sources = sources_of_sizes(20, 20)
    rows = draws(unimax_sampler(sources, seed=0, draws=80), 2)
    first, second = ([row % 20 for row in rows if row // 20 == number] for number in (0, 1))
    assert len({tuple(own[at : at + 20]) for own in (first, second) for at in (0, 20)}) == 4


def test_there_must_be_examples():
    with pytest.raises(ValueError, match="no examples"):
        unimax_sampler([], seed=0, draws=5)


@pytest.mark.parametrize(
    ("options", "rare"),
    [
        # 4 steps of 16 candidates: a third would be 21, 4 times each are 16; of 84, 21.
        ({"max_steps": 4}, 21),
        ({"max_steps": 4, "gradient_accumulation_steps": 1, "candidate_ratio": 4}, 21),
        ({"max_steps": 100}, 4),
        ({"max_steps": 3, "num_train_epochs": 9}, 28),
        ({"max_steps": -1, "num_train_epochs": 0.5}, 28),
        ({"max_steps": -1, "num_train_epochs": 1}, 16),
        ({"max_steps": -1, "num_train_epochs": 2}, 8),
        ({"max_steps": -1, "num_train_epochs": 5}, 4),
    ],
)
def test_the_trainer_counts_the_draws_of_the_whole_run(make_trainer, dataset, options, rare):
    trainer = make_trainer(dataset, selector="balanced_sampling", **options)
    rows = list(trainer.get_train_dataloader().batch_sampler.sampler)
    names = [trainer.train_dataset[row]["source"] for row in rows]
    assert len(names) == sum(SIZES.values())
    assert names.count("rare") == rare
    assert abs(names.count("adding") - names.count("copying")) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [False, True], ids=["steps", "epochs"])
def test_a_run_draws_the_same_of_each_step_by_step(make_trainer, epochs):
    length = {"max_steps": -1, "num_train_epochs": 2} if epochs else {"max_steps": 4}
    data = Dataset.from_list(make_records())
    trainer = make_trainer(data, selector="random", candidate_sampling="unimax", **length)
    candidates = note_candidates(trainer)
    trainer.train()
    source = {tuple(row["input_ids"]): row["source"] for row in trainer.train_dataset}
    drawn = [example for step in candidates for example in step]
    counts = Counter(source[example] for example in drawn)
    assert len(drawn) == (168 if epochs else 64)
    assert abs(counts["rare"] - 16) <= 2
    assert abs(counts["adding"] - counts["copying"]) <= 4
    records = Counter(tuple(row["input_ids"]) for row in trainer.train_dataset)
    # Four times each on average; records of this source may be alike.
    often = Counter(example for example in drawn if source[example] == "rare")
    assert all(count <= 5 * records[example] for example, count in often.items())
    if not epochs:
        shares = [Counter(source[example] for example in step)["rare"] for step in candidates]
        assert max(shares) - min(shares) <= 4


UNSAMPLED = [
    (lambda data: data.remove_columns("source"), {}),
    (lambda data: data, {"packing": True, "packing_strategy": "wrapped", "max_length": 32}),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "options"),
    UNSAMPLED,
    ids=["no sources", "packed"],
)
def test_where_there_is_one_source_all_are_drawn_as_ever(make_trainer, dataset, change, options):
    runs = []
    for sampling in ("unimax", "uniform"):
        trainer = make_trainer(
            change(dataset),
            selector="random",
            candidate_sampling=sampling,
            max_steps=2,
            **options,
        )
        runs.append(note_candidates(trainer))
        trainer.train()
    assert len(runs[0]) == 2
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("change", "options", "named"),
    [
        (lambda data: data.to_iterable_dataset(), {}, "streamed"),
        (lambda data: data, {"train_sampling_strategy": "sequential"}, "train_sampling_strategy"),
        (lambda data: data, {"train_sampling_strategy": "group_by_length"}, "group_by_length"),
    ],
    ids=["streamed", "sequential", "by length"],
)
@pytest.mark.parametrize(
    "selection",
    [
        {"selector": "balanced_sampling"},
        {"candidate_ratio": 1, "candidate_sampling": "unimax"},
    ],
    ids=["brought", "given"],
)
def test_what_cannot_be_drawn_by_source_is_refused(
    make_trainer, dataset, change, options, named, selection
):
    with pytest.raises(ValueError, match=r"candidate_sampling='unimax'") as caught:
        make_trainer(change(dataset), **selection, **options)
    assert named in str(caught.value)
    assert ("selector='balanced_sampling'" in str(caught.value)) == ("selector" in selection)
    assert "\n" not in str(caught.value)


def test_otherwise_they_differ(make_trainer, dataset):
    """What the test above compares is not the same anyway."""
    runs = []
    for sampling in ("unimax", "uniform"):
        trainer = make_trainer(dataset, selector="random", candidate_sampling=sampling, max_steps=2)
        runs.append(note_candidates(trainer))
        trainer.train()
    assert runs[0] != runs[1]


def test_what_a_selector_draws_by_is_drawn_without_selection_too(make_trainer, dataset):
    def rare(**options):
        trainer = make_trainer(dataset, max_steps=-1, num_train_epochs=1, **options)
        rows = list(trainer.get_train_dataloader().batch_sampler.sampler)
        return [trainer.train_dataset[row]["source"] for row in rows].count("rare")

    assert rare(selector="balanced_sampling") == 16
    assert rare(selector="balanced_sampling", candidate_sampling="uniform") == 4
    assert rare(selector="balanced_sampling", candidate_ratio=1) == 16
    assert rare(candidate_ratio=1, candidate_sampling="unimax") == 16
    assert rare(selector="gradient_matching") == rare(selector="colm") == rare() == 4
