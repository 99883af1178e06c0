"""Cuts into runs against an exhaustive search, and how kept examples share micro-batches."""

import random
import time
from itertools import chain, combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colm.training.step.arrange import fewest_padded, split_kept
from colm.training.step.chunks import cheapest_runs, length_sorted_chunks

few_lengths = st.lists(st.integers(0, 30), min_size=1, max_size=8).map(
    lambda lengths: sorted(lengths, reverse=True)
)


def padded(run):
    return len(run) * max(1, run[0])


def every_cut(lengths):
    """All ways to cut a list into runs, none empty."""
    for cuts in range(len(lengths)):
        for inner in combinations(range(1, len(lengths)), cuts):
            bounds = [0, *inner, len(lengths)]
            yield [lengths[a:b] for a, b in pairwise(bounds)]


@given(few_lengths, st.integers(1, 100), st.integers(0, 40))
def test_no_other_cut_is_cheaper(lengths, most_tokens, run_tokens):
    def cost(cut):
        return sum(padded(run) + run_tokens for run in cut)

    found = [lengths[run] for run in cheapest_runs(lengths, most_tokens, run_tokens)]
    assert list(chain(*found)) == lengths
    allowed = [
        cut
        for cut in every_cut(lengths)
        if all(padded(run) <= most_tokens or len(run) == 1 for run in cut)
    ]
    assert found in allowed
    assert cost(found) == min(map(cost, allowed))


@given(few_lengths, st.integers(1, 8))
def test_no_other_cut_into_as_many_runs_pads_less(lengths, runs):
    runs = min(runs, len(lengths))
    most_tokens = -(-len(lengths) // runs) * max(1, lengths[0])
    found = [lengths[run] for run in fewest_padded(lengths, runs, most_tokens)]
    assert list(chain(*found)) == lengths
    allowed = [
        cut
        for cut in every_cut(lengths)
        if len(cut) == runs and all(padded(run) <= most_tokens for run in cut)
    ]
    assert found in allowed
    assert sum(map(padded, found)) == min(sum(map(padded, cut)) for cut in allowed)


@pytest.mark.parametrize(("number", "runs"), [(1000, 250), (999, 998), (1500, 1), (700, 333)])
def test_many_examples_in_many_runs_take_no_time_and_next_to_no_padding(number, runs):
    draw = random.Random(number)
    lengths = sorted((draw.randint(1, 512) for _ in range(number)), reverse=True)
    most_tokens = -(-number // runs) * lengths[0]
    began = time.process_time()
    found = [lengths[run] for run in fewest_padded(lengths, runs, most_tokens)]
    assert time.process_time() - began < 1
    assert list(chain(*found)) == lengths
    assert len(found) == runs
    assert max(map(padded, found)) <= most_tokens
    assert runs == 1 or sum(map(padded, found)) < 1.02 * sum(lengths)


def test_nothing_makes_no_runs():
    assert cheapest_runs([], 8, 2) == []
    assert length_sorted_chunks([], 8) == []


def test_a_dear_call_joins_what_a_cheap_one_keeps_apart():
    lengths = [10, 9, 2, 1]
    assert len(length_sorted_chunks(lengths, 100, call_tokens=0)) == 4
    assert len(length_sorted_chunks(lengths, 100, call_tokens=5)) == 2
    assert len(length_sorted_chunks(lengths, 100, call_tokens=100)) == 1


def examples_of(lengths):
    return [{"input_ids": [index] * length} for index, length in enumerate(lengths)]


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=40),
    st.integers(1, 9),
    st.booleans(),
    st.booleans(),
)
def test_micro_batches_hold_each_example_once_and_none_more_than_equal_numbers_would(
    lengths, parts, by_tokens, padding_free
):
    split = split_kept(examples_of(lengths), parts, by_tokens=by_tokens, padding_free=padding_free)
    assert len(split) == parts
    assert all(split)
    real = [each for part in split for each in part if "labels" not in each]
    assert sorted(each["input_ids"] for each in real) == sorted(
        each["input_ids"] for each in examples_of(lengths)
    )
    fillers = [each for part in split for each in part if "labels" in each]
    assert len(fillers) == max(0, parts - len(lengths))
    assert all(set(each["labels"]) == {-100} for each in fillers)
    longest_first = sorted(lengths, reverse=True)
    number = -(-len(lengths) // parts)
    for part in split:
        tokens = [len(each["input_ids"]) for each in part]
        if not by_tokens:
            assert len(part) <= number
        elif padding_free:
            assert sum(tokens) <= sum(longest_first[:number])
        else:
            assert len(part) * max(tokens) <= number * longest_first[0]


def test_short_examples_share_a_micro_batch_and_long_ones_do_not():
    split = split_kept(examples_of([3, 30, 4, 3, 29, 3, 4, 4]), 2)
    assert [[len(each["input_ids"]) for each in part] for part in split] == [
        [30, 29],
        [4, 4, 4, 3, 3, 3],
    ]


def test_rows_without_padding_are_about_equally_long():
    split = split_kept(examples_of([30, 20, 10, 9, 8, 7]), 2, padding_free=True)
    tokens = [sum(len(each["input_ids"]) for each in part) for part in split]
    assert sorted(tokens) == [42, 42] or max(tokens) - min(tokens) <= 10


@pytest.mark.parametrize("padding_free", [False, True])
def test_more_micro_batches_than_examples_are_filled_with_what_adds_nothing(padding_free):
    split = split_kept(examples_of([5, 2]), 4, padding_free=padding_free)
    assert [len(part) for part in split] == [1] * 4
    assert sorted(len(part[0]["input_ids"]) for part in split) == [2, 2, 2, 5]
