"""Drawing candidates: sources equally often, the same in every process, and on after a stop."""

import shutil
from collections import Counter

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import RandomSampler

from colm.training.step.samplers import InverseSizeSampler
from tests.training.conftest import SIZES, StopAt, build_trainer, make_records, note_candidates
from tests.training.processes import run_in_processes

FALSE_ALARM = 1e-6


def chance(counts, expected):
    """Probability of draws at least as uneven as these (Pearson's chi-square test)."""
    counts, expected = (torch.tensor(v, dtype=torch.float64) for v in (counts, expected))
    statistic = ((counts - expected).square() / expected).sum()
    return float(torch.special.gammaincc((len(counts) - 1) / torch.tensor(2.0), statistic / 2))


def sources_of_sizes(*sizes):
    return [f"source {i}" for i, size in enumerate(sizes) for _ in range(size)]


def draws(sampler, epochs):
    rows = []
    for epoch in range(epochs):
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        rows += list(sampler)
    return rows


def test_the_chi_square_test_knows_its_tables():
    # 95 % quantiles of chi-square with 1 and 2 degrees of freedom: 3.841, 5.991.
    assert chance([60, 40], [50, 50]) == pytest.approx(0.0455, abs=1e-4)
    assert chance([45.5, 54.5, 50.0], [50, 50, 50]) == pytest.approx(0.667, abs=1e-3)


@pytest.mark.parametrize("sizes", [(900, 90, 10), (1, 2000), (50, 49, 1, 1, 200)])
def test_sources_are_drawn_equally_often_and_so_are_the_examples_of_each(sizes):
    sources = sources_of_sizes(*sizes)
    rows = draws(InverseSizeSampler(sources, seed=0), 30)
    assert len(rows) == 30 * len(sources)
    by_source = Counter(sources[row] for row in rows)
    counts = [by_source[name] for name in dict.fromkeys(sources)]
    assert chance(counts, [len(rows) / len(sizes)] * len(sizes)) > FALSE_ALARM
    by_row = Counter(rows)
    for name, count in by_source.items():
        own = [by_row[row] for row, source in enumerate(sources) if source == name]
        if len(own) > 1:
            assert chance(own, [count / len(own)] * len(own)) > FALSE_ALARM


def test_uniform_sampling_would_not_pass():
    sources = sources_of_sizes(900, 90, 10)
    torch.manual_seed(0)
    rows = draws(RandomSampler(range(1000)), 30)
    counts = Counter(sources[row] for row in rows)
    assert chance(list(counts.values()), [10_000] * 3) < FALSE_ALARM


def test_draws_are_with_replacement():
    rows = list(InverseSizeSampler(sources_of_sizes(2, 98), seed=1))
    assert sum(row < 2 for row in rows) > 20


def test_draws_follow_seed_and_epoch_alone():
    sources = sources_of_sizes(30, 3)
    torch.manual_seed(1)
    sampler = InverseSizeSampler(sources, seed=5)
    first = list(sampler)
    state = torch.random.get_rng_state()
    assert list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    again = InverseSizeSampler(sources, seed=5)
    again.set_epoch(1)
    assert list(again) == second
    other = InverseSizeSampler(sources, seed=6)
    assert len({tuple(first), tuple(second), tuple(other)}) == 3


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.integers(0, 5))
def test_every_draw_is_an_example(sources, seed):
    sampler = InverseSizeSampler(sources, seed)
    rows = list(sampler)
    assert len(rows) == len(sampler) == len(sources)
    assert set(rows) <= set(range(len(sources)))


def test_there_must_be_examples():
    with pytest.raises(ValueError, match="no examples"):
        InverseSizeSampler([], seed=0)


OPTIONS = {"candidate_sampling": "inverse_source_size", "selector": "random"}
by_source = pytest.mark.parametrize("sampling", ["inverse_source_size", "unimax"])


@pytest.mark.slow
def test_the_trainer_draws_small_sources_as_often_as_large_ones(make_trainer, dataset):
    trainer = make_trainer(dataset, **OPTIONS, max_steps=60)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    counts = [sum(step.get(f"colm/candidates/{name}", 0) for step in steps) for name in SIZES]
    assert sum(counts) == 10 * sum(SIZES.values())
    assert chance(counts, [sum(counts) / 3] * 3) > FALSE_ALARM


def test_selection_off_leaves_the_sampling_on(make_trainer, dataset):
    trainer = make_trainer(dataset, **OPTIONS, candidate_ratio=1, max_steps=1)
    loader = trainer.get_train_dataloader()
    rows = list(loader.batch_sampler.sampler)
    rare = [row for row in rows if trainer.train_dataset[row]["source"] == "rare"]
    assert len(rare) > 12
    trainer.train()


@pytest.mark.slow
@by_source
def test_a_resumed_run_draws_on_as_if_it_had_not_stopped(make_trainer, tmp_path, sampling):
    """84 examples make 6 steps of an epoch: a stop in its middle, at its end, and after it."""
    options = {"candidate_sampling": sampling, "selector": "random"}
    options |= {"max_steps": 11, "save_strategy": "steps"}

    def run(folder, stop=None, save_steps=1):
        trainer = make_trainer(
            Dataset.from_list(make_records()),
            output_dir=str(tmp_path / folder),
            save_steps=save_steps,
            **options,
        )
        drawn = note_candidates(trainer)
        if stop is not None:
            trainer.add_callback(StopAt(stop))
        trainer.train(resume_from_checkpoint=any((tmp_path / folder).glob("checkpoint-*")))
        return drawn, trainer.model.state_dict()

    whole, expected = run("whole")
    assert len(whole) == 11
    assert whole[0] != whole[6]
    first, _ = run("stopped at 6", stop=6)
    assert first == whole[:6]
    # The whole run left what runs that stop elsewhere would have left.
    for stop in (3, 8):
        name = f"checkpoint-{stop}"
        shutil.copytree(tmp_path / "whole" / name, tmp_path / f"stopped at {stop}" / name)
    for stop in (3, 6, 8):
        second, got = run(f"stopped at {stop}", save_steps=20)
        assert second == whole[stop:]
        assert all(torch.equal(value, got[name]) for name, value in expected.items())


def train_and_resume(model_folder, folder, sampling):
    """In each of two processes: the candidates of a run, and of its resumed second part."""
    drawn = []
    for resume in (None, str(folder / "checkpoint-8")):
        trainer = build_trainer(
            model_folder,
            Dataset.from_list(make_records()),
            output_dir=str(folder),
            candidate_sampling=sampling,
            selector="random",
            gradient_accumulation_steps=1,
            max_steps=10,
            save_strategy="steps",
            save_steps=8,
        )
        drawn.append(note_candidates(trainer))
        trainer.train(resume_from_checkpoint=resume)
        drawn.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
    return drawn


@by_source
@pytest.mark.slow
def test_processes_share_the_draws_of_one(tiny_model_folder, make_trainer, tmp_path, sampling):
    """Each step of two processes takes what one draws for twice the batch; also when resumed."""
    folder = tmp_path / "two"
    folder.mkdir()
    ranks = run_in_processes(train_and_resume, folder, tiny_model_folder, folder / "run", sampling)
    for whole, weights, resumed, resumed_weights in ranks:
        assert len(whole) == 10
        # Six steps are an epoch: the stop was in the middle of the second.
        assert resumed == whole[8:]
        assert all(torch.equal(value, resumed_weights[name]) for name, value in weights.items())
    assert ranks[0][0] != ranks[1][0]

    alone = make_trainer(
        Dataset.from_list(make_records()),
        candidate_sampling=sampling,
        selector="random",
        gradient_accumulation_steps=1,
        per_device_train_batch_size=8,
        max_steps=10,
    )
    drawn = note_candidates(alone)
    alone.train()
    shared = [
        sorted(first + second) for first, second in zip(ranks[0][0], ranks[1][0], strict=True)
    ]
    # The last step of an epoch is filled up where several processes share it.
    full = [step for step in range(10) if len(drawn[step]) == 16]
    assert len(full) >= 8
    assert [shared[step] for step in full] == [sorted(drawn[step]) for step in full]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda data: data.to_iterable_dataset(), {}, "streamed data does not allow"),
        (
            lambda data: data.remove_columns("source"),
            {},
            "needs the source of each example: set source_column.*the columns are",
        ),
        (lambda data: data, {"train_sampling_strategy": "group_by_length"}, "'group_by_length'"),
        (lambda data: data, {"train_sampling_strategy": "sequential"}, "'sequential'"),
        (
            lambda data: data,
            {"packing": True, "packing_strategy": "wrapped", "max_length": 32},
            "needs the source of each example",
        ),
    ],
)
def test_what_cannot_be_drawn_by_source_is_refused(make_trainer, dataset, change, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_trainer(change(dataset), **OPTIONS, **options)
    assert "candidate_sampling='inverse_source_size'" in str(caught.value)
    assert "\n" not in str(caught.value)
