"""Clusters that serve as sources: what k-means is fed, what it finds, what resuming keeps."""

import itertools
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.utils import DistributedType
from datasets import Dataset

from colm.training import clusters, limits
from colm.training.checkpoints.selector_state import SELECTOR_FILE, save_state
from colm.training.clusters import (
    CLUSTER_COLUMN,
    k_means,
    load_clusters,
    mean_hidden_states,
)
from tests.cases import quick_first
from tests.training.conftest import StopAt, build_trainer, make_records
from tests.training.processes import run_in_processes

LARGE, SMALL = 60, 12


def two_kinds(seed=0):
    """Numbers in digits, and fewer words in letters, shuffled; no source column."""
    rng = random.Random(seed)
    records = [
        {"prompt": "".join(rng.choices(symbols, k=24)), "completion": "".join(rng.choices(symbols))}
        for symbols, size in (("1234", LARGE), ("abcd", SMALL))
        for _ in range(size)
    ]
    rng.shuffle(records)
    return records


@pytest.fixture
def kinds():
    return Dataset.from_list(two_kinds())


def is_number(trainer):
    """Which of the examples of a trainer are numbers: their first token stands for a digit."""
    digits = set(trainer.processing_class("1234")["input_ids"])
    return torch.tensor([row["input_ids"][0] in digits for row in trainer.train_dataset])


def squares(points, labels, number):
    """Sum of squared distances to the means of the clusters."""
    means = torch.stack([points[labels == label].mean(0) for label in range(number)])
    return float((points - means[labels]).square().sum())


@pytest.mark.slow
@pytest.mark.parametrize("number", quick_first([2, 3]))
def test_k_means_finds_the_best_of_all_partitions(number):
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        points = torch.randn(7, 2, generator=generator) * 3 + 5
        best = min(
            squares(points, torch.tensor(labels), number)
            for labels in itertools.product(range(number), repeat=7)
            if len(set(labels)) == number
        )
        assert squares(points, k_means(points, number, seed=0), number) <= best * 1.001


def test_clusters_are_numbered_by_size_and_do_not_follow_the_order():
    points = torch.tensor([[5.0], [1.0], [5.1], [1.1], [5.2], [9.0], [9.1]])
    expected = torch.tensor([0, 1, 0, 1, 0, 2, 2])
    for seed in range(5):
        assert torch.equal(k_means(points, 3, seed), expected)
    order = torch.tensor([5, 6, 1, 3, 4, 0, 2])
    # Of two clusters of a size, the first is the one with the first point.
    assert k_means(points[order], 3, 0).tolist() == [1, 1, 2, 2, 0, 0, 0]


def test_the_same_seed_gives_the_same_clusters_and_global_random_state_is_left_alone():
    points = torch.randn(200, 6, generator=torch.Generator().manual_seed(3))
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = k_means(points, 5, seed=1)
    np.random.seed(7)  # noqa: NPY002
    assert torch.equal(k_means(points, 5, seed=1), first)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert len({tuple(k_means(points, 5, seed=seed).tolist()) for seed in range(8)}) > 1


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.tensor([[1.0], [float("nan")], [2.0], [3.0]]), "not finite"),
        (torch.tensor([[1.0], [2.0]]), "source_clusters=3 is more than there are examples: 2"),
        (torch.tensor([[1.0], [2.0], [1.0], [2.0]]), "source_clusters=3 .* different examples: 2"),
    ],
)
def test_what_has_no_clusters_is_refused(points, message):
    with pytest.raises(ValueError, match=message) as caught:
        k_means(points, 3, seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change", quick_first([{}, {"selection_tokens": 50}, {"padding_free": True}])
)
def test_hidden_states_are_those_of_each_example_alone(make_trainer, kinds, monkeypatch, change):
    monkeypatch.setattr(clusters, "_BLOCK_EXAMPLES", 25)
    trainer = make_trainer(kinds, source_clusters=2, max_length=None, **change)
    bare = trainer._remove_unused_columns(trainer.train_dataset, "Training")
    trainer.model.train()
    state = torch.random.get_rng_state()
    hidden = mean_hidden_states(
        bare, trainer.args, trainer._selection.observer.access, trainer._group
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert trainer.model.training
    assert all(p.grad is None for p in trainer.model.parameters())
    trainer.model.eval()
    with torch.no_grad():
        expected = torch.cat(
            [
                trainer.model.model(torch.tensor([row["input_ids"]])).last_hidden_state.mean(1)
                for row in trainer.train_dataset
            ]
        )
    torch.testing.assert_close(hidden, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_kinds_of_text_become_two_sources_and_the_smaller_is_kept(make_trainer, kinds):
    trainer = make_trainer(kinds, source_clusters=2, selector="colm", max_steps=9)
    trainer.train()
    assert torch.equal(trainer._clusters, (~is_number(trainer)).long())
    assert set(trainer.train_dataset[CLUSTER_COLUMN]) == {"cluster 0", "cluster 1"}
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    drawn = [entry.get("colm/candidates/cluster 1", 0) for entry in steps]
    assert sum(drawn) >= SMALL
    assert [entry.get("colm/kept/cluster 1", 0) for entry in steps] == drawn
    assert all(entry["colm/kept/cluster 0"] < entry["colm/candidates/cluster 0"] for entry in steps)


def test_clusters_go_before_a_source_column_that_nobody_named(make_trainer, kinds):
    named = kinds.add_column("source", ["one"] * len(kinds))
    trainer = make_trainer(named, source_clusters=2, max_steps=1)
    trainer.train()
    logged = {key for key in trainer.state.log_history[0] if key.startswith("colm/candidates/")}
    assert logged <= {"colm/candidates/cluster 0", "colm/candidates/cluster 1"}


@pytest.mark.slow
@pytest.mark.parametrize(("sampling", "steps"), [("inverse_source_size", 20), ("unimax", 4)])
def test_clusters_can_be_drawn_equally_often(make_trainer, kinds, sampling, steps):
    trainer = make_trainer(
        kinds,
        source_clusters=2,
        candidate_sampling=sampling,
        selector="random",
        max_steps=steps,
    )
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    share = sum(e.get("colm/candidates/cluster 1", 0) for e in steps) / (
        sum(e["colm/candidates"] for e in steps)
    )
    assert 0.35 < share < 0.65


@pytest.mark.slow
def test_a_resumed_run_has_the_clusters_of_its_checkpoint(make_trainer, tmp_path, monkeypatch):
    options = {
        "source_clusters": 3,
        "small_sources": "none",
        "max_steps": 8,
        "save_strategy": "steps",
        "save_steps": 1,
    }

    def run(folder, stop=None, resume=None):
        folder = str(tmp_path / folder)
        trainer = make_trainer(Dataset.from_list(make_records()), output_dir=folder, **options)
        if stop is not None:
            trainer.add_callback(StopAt(stop))
        if resume is not None:
            # As one who resumes from the checkpoint's model: these weights cluster otherwise.
            with torch.no_grad():
                trainer.model.get_input_embeddings().weight.normal_()
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run("whole")
    run("broken", stop=3)

    def refuse(*arguments):
        raise AssertionError("clusters were found anew")

    monkeypatch.setattr("colm.training.trainer.find_clusters", refuse)
    second = run("broken", resume=True)
    assert torch.equal(second._clusters, whole._clusters)
    assert len(set(whole._clusters.tolist())) == 3
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_must_hold_the_clusters_of_the_same_data(tmp_path):
    file = tmp_path / SELECTOR_FILE
    with pytest.raises(ValueError, match=r"colm_selector\.safetensors has no clusters"):
        load_clusters(tmp_path, 3)
    save_state(file, {"step": torch.tensor(0)}, {})
    with pytest.raises(ValueError, match=r"colm_selector\.safetensors has no clusters"):
        load_clusters(tmp_path, 3)
    save_state(file, {"clusters": torch.tensor([1, 0, 0])}, {})
    assert load_clusters(tmp_path, 3).tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match="clusters of 3 training examples, but there are 4"):
        load_clusters(tmp_path, 4)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda data: data.to_iterable_dataset(), {}, r"takes a datasets\.Dataset; got Iterable"),
        (
            lambda data: data,
            {
                "packing": True,
                "packing_strategy": "wrapped",
                "max_length": 32,
                "selector": "random",
            },
            "packing=True",
        ),
        (lambda data: data, {"source_clusters": 73}, "more than there are training examples: 72"),
        (lambda data: data, {"small_sources": ["cluster 2"]}, "its sources are cluster 0, cluster"),
        (lambda data: data, {"source_column": "prompt"}, "source_column='prompt' names others"),
    ],
)
def test_what_cannot_be_clustered_is_refused(make_trainer, kinds, change, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_trainer(change(kinds), **({"source_clusters": 2} | options))
    assert "\n" not in str(caught.value)


def test_a_missing_library_and_a_spread_model_are_named(make_trainer, kinds, monkeypatch):
    trainer = make_trainer(kinds, source_clusters=2)
    sharded = SimpleNamespace(distributed_type=DistributedType.FSDP)
    with pytest.raises(ValueError, match="which FSDP shards"):
        limits.check_clusters(trainer.args, trainer.train_dataset, sharded)
    monkeypatch.setattr(limits.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'colm\[clusters\]'"):
        make_trainer(kinds, source_clusters=2)


def clusters_of_each(model_folder, folder):
    """In each of two processes: the clusters that the run has."""
    trainer = build_trainer(
        model_folder,
        Dataset.from_list(two_kinds()),
        output_dir=str(folder),
        source_clusters=2,
        max_steps=1,
    )
    trainer.train()
    return trainer._clusters, is_number(trainer)


@pytest.mark.slow
def test_processes_find_the_same_clusters_together(tiny_model_folder, tmp_path):
    results = run_in_processes(clusters_of_each, tmp_path, tiny_model_folder, tmp_path / "run")
    for found, numbers in results:
        assert torch.equal(found, (~numbers).long())
