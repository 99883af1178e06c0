"""Pools, chunks and parts: the small steps between data loader and model."""

import pickle
from collections import Counter

import pytest
import torch
from accelerate.utils import send_to_device
from hypothesis import given
from hypothesis import strategies as st

from colm.training.example import Pool, PoolCollator, label_token_count
from colm.training.step.arrange import even_parts
from colm.training.step.chunks import length_sorted_chunks
from colm.training.step.record import SelectionMetrics
from tests.training.conftest import SIZES


@given(st.lists(st.integers(1, 40)), st.integers(1, 60))
def test_chunks_hold_every_example_once_within_the_bound(lengths, most_tokens):
    chunks = length_sorted_chunks(lengths, most_tokens)
    assert sorted(index for chunk in chunks for index in chunk) == list(range(len(lengths)))
    for chunk in chunks:
        padded = len(chunk) * max(lengths[index] for index in chunk)
        assert padded <= most_tokens or len(chunk) == 1
    longest = [max(lengths[index] for index in chunk) for chunk in chunks]
    assert longest == sorted(longest, reverse=True)


@given(st.integers(1, 30), st.integers(1, 30))
def test_parts_are_even_and_in_order(items, parts):
    if items < parts:
        with pytest.raises(ValueError, match="cannot fill"):
            even_parts(list(range(items)), parts)
        return
    split = even_parts(list(range(items)), parts)
    assert [item for part in split for item in part] == list(range(items))
    assert len(split) == parts
    assert max(map(len, split)) - min(map(len, split)) <= 1


@pytest.mark.parametrize(
    ("example", "count"),
    [
        ({"input_ids": [4, 5, 6], "labels": [-100, 5, 6]}, 2),
        # The first token is predicted from nothing: its label does not count.
        ({"input_ids": [4, 5, 6], "labels": [4, -100, 6]}, 1),
        ({"input_ids": [4, 5, 6], "labels": [-100] * 3}, 0),
        ({"input_ids": [4, 5, 6]}, 2),
        ({"input_ids": []}, 0),
    ],
)
def test_label_tokens_are_those_predicted(example, count):
    assert label_token_count(example) == count


def test_accelerate_leaves_a_pool_alone():
    pool = Pool([{"input_ids": [1]}])
    assert send_to_device(pool, "cpu") is pool


def test_metrics_are_means_over_the_steps_since_the_last_log():
    metrics = SelectionMetrics()
    metrics.count_step(Counter(a=3, b=1), Counter(a=1, b=1))
    metrics.count_step(Counter(a=4), Counter(a=2))
    metrics.count("non_finite", 1)
    metrics.measure("matching_error", 0.5)
    metrics.measure("matching_error", float("nan"))
    assert metrics.drain() == {
        "colm/candidates": 4.0,
        "colm/candidates/a": 3.5,
        "colm/candidates/b": 0.5,
        "colm/kept": 2.0,
        "colm/kept/a": 1.5,
        "colm/kept/b": 0.5,
        "colm/non_finite": 0.5,
        "colm/matching_error": 0.5,
    }
    assert metrics.drain() == {}


def test_a_loader_of_pools_can_be_inspected_as_one_of_batches(make_trainer, dataset):
    trainer = make_trainer(dataset)
    pool = next(iter(trainer.get_train_dataloader()))
    plain = trainer.data_collator([dict(row) for row in trainer.train_dataset.select([0])])
    assert set(pool.keys()) == set(plain)
    assert len(pool) == len(pool["input_ids"]) == len(pool["labels"]) == 8
    assert {name: value.shape for name, value in pool.items()}["labels"] == pool["labels"].shape
    assert pool[0]["source"] in SIZES
    assert torch.isfinite(trainer.model(**pool).loss)
    with pytest.raises(KeyError, match="tokens"):
        pool["tokens"]


def test_a_pool_from_another_process_says_how_to_see_a_batch(make_trainer, dataset):
    trainer = make_trainer(dataset, dataloader_num_workers=1)
    pool = next(iter(trainer.get_train_dataloader()))
    assert len(list(pool)) == 8
    with pytest.raises(TypeError, match="data_collator"):
        pool["input_ids"]


def test_what_makes_pools_can_be_sent_to_workers_without_the_trainer():
    collator = pickle.loads(pickle.dumps(PoolCollator(lambda examples: examples)))
    pool = pickle.loads(pickle.dumps(collator([{"input_ids": [1, 2]}])))
    assert list(pool) == [{"input_ids": [1, 2]}]
