"""What processes hand to each other: packets hold what was put in, shares are even, moves are few.

What several processes do with it is the matter of ``test_global_scope.py``.
"""

import pickle
from collections import Counter
from datetime import date

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from colm.training.processes.dealing import deal
from colm.training.processes.exchange import Exchange
from colm.training.processes.packets import packed, unpacked

VALUES = {
    "token ids": [0, 5, 49151],
    "ignored labels": [-100, -100, 7],
    "small and large": [-(2**31) - 1, 2**63 - 1],
    "huge": [2**70, 1],
    "no tokens": [],
    "floats": [0.1, -1e300, float("inf")],
    "mixed": [1, 2.0],
    "booleans": [True, False],
    "a number": 3,
    "a large number": 2**70,
    "a float": 0.1,
    "nothing": None,
    "text": 'ü "quoted"\n\ud800',
    "nested": [[1, 2], [], [3.5, None, "a"]],
    "messages": [{"role": "user", "content": "1+1="}],
    "truth": True,
}
ARRAYS = {
    "array": np.arange(6, dtype=np.int16).reshape(2, 3),
    "tensor": torch.arange(6, dtype=torch.int64).reshape(3, 2),
    "half": torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16),
    "scalar": torch.tensor(4.0),
    "turned": torch.arange(6).reshape(3, 2).T,
    "mask": torch.tensor([True, False]),
    "empty": torch.empty(0, 3),
}


def same_types(first, second):
    """Whether values and the types of all parts are the same."""
    if type(first) is not type(second):
        return False
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same_types, first, second))
    return first == second


def test_a_packet_gives_back_what_it_was_given():
    examples = {7: VALUES, 2**62: {"input_ids": [1, 2, 3]}, 0: {}}
    again = unpacked(packed(examples))
    assert list(again) == list(examples)
    assert again == examples
    for column, value in VALUES.items():
        assert same_types(again[7][column], value), column


def test_arrays_and_tensors_keep_type_and_shape():
    again = unpacked(packed({1: ARRAYS}))[1]
    for column, value in ARRAYS.items():
        assert type(again[column]) is type(value)
        assert again[column].dtype == value.dtype
        assert again[column].shape == value.shape
        assert (again[column] == value).all(), column
        again[column][...] = 0  # in memory of its own, that can be written to
    assert unpacked(packed({1: {"number": np.int64(3)}})) == {1: {"number": 3}}


@given(
    st.dictionaries(
        st.integers(0, 2**63 - 1),
        st.dictionaries(
            st.text(),
            st.one_of(
                st.lists(st.integers()),
                st.lists(st.floats(allow_nan=False)),
                st.recursive(
                    st.none() | st.booleans() | st.integers() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
                    max_leaves=5,
                ),
            ),
            max_size=3,
        ),
        max_size=3,
    )
)
def test_any_plain_example_comes_back(examples):
    assert unpacked(packed(examples)) == examples


def test_a_packet_is_small():
    example = {"input_ids": list(range(1000)), "labels": list(range(1000))}
    assert len(packed({0: example})) < 2 * 4 * 1000 + 200


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"raw", "bytes"),
        (object(), "object"),
        ([[1, {2}]], "set"),
        ((1, 2), "tuple"),
        ({1: "number as a key"}, "dict"),
        ({"deep": [date(2024, 7, 27)]}, "date"),
        (np.array([object()]), "ndarray"),
        (torch.tensor([1j]), "Tensor"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_name(value, kind):
    with pytest.raises(ValueError, match=rf"column 'image' holds a {kind}, .*'local'\.$"):
        packed({0: {"input_ids": [1], "image": value}})


def test_packets_are_not_pickles(monkeypatch):
    def fail(*_arguments, **_options):
        raise AssertionError("pickled")

    for name in ("loads", "load", "dumps", "dump", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, fail)
    assert unpacked(packed({1: VALUES}))[1]["text"] == VALUES["text"]


@st.composite
def kept(draw):
    processes = draw(st.integers(1, 6))
    lengths = draw(st.lists(st.integers(0, 500), max_size=40))
    owner = st.integers(0, processes - 1)
    owners = draw(st.lists(owner, min_size=len(lengths), max_size=len(lengths)))
    return lengths, owners, processes


def loads(lengths, shares, processes):
    return [
        sum(n for n, share in zip(lengths, shares, strict=True) if share == process)
        for process in range(processes)
    ]


@given(kept())
def test_shares_are_even(drawn):
    lengths, owners, processes = drawn
    shares = deal(lengths, owners, processes)
    counts = Counter(shares)
    assert len(shares) == len(lengths)
    assert set(shares) <= set(range(processes))
    assert max(counts.values(), default=0) - min(counts[rank] for rank in range(processes)) <= 1
    load = loads(lengths, shares, processes)
    # No process is ahead by more than the longest example.
    assert max(load) - min(load) <= max(lengths, default=0)


@given(kept())
def test_of_equal_examples_only_the_surplus_moves(drawn):
    _lengths, owners, processes = drawn
    held = Counter(owners)
    least, larger = divmod(len(owners), processes)
    fullest = sorted(range(processes), key=lambda process: -held[process])
    surplus = sum(
        max(0, held[process] - least - (place < larger)) for place, process in enumerate(fullest)
    )
    shares = deal([7] * len(owners), owners, processes)
    assert sum(a != b for a, b in zip(shares, owners, strict=True)) == surplus


def test_even_shares_stay_where_they_are():
    assert deal([5, 9, 9, 5], [1, 1, 0, 0], 2) == [1, 1, 0, 0]
    assert deal([9, 9, 5, 5], [1, 1, 0, 0], 2) != [1, 1, 0, 0]


def test_tokens_are_even_where_there_are_many_examples():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(20, 600, (512,), generator=generator).tolist()
    owners = torch.randint(8, (512,), generator=generator).tolist()
    shares = deal(lengths, owners, 8)
    load = loads(lengths, shares, 8)
    assert max(load) - min(load) <= 0.05 * sum(load) / 8
    moved = sum(a != b for a, b in zip(shares, owners, strict=True))
    # Dealing anew, without a thought of who holds what, moves seven of eight.
    assert moved < 512 / 4


def test_a_process_on_its_own_tells_nobody():
    exchange = Exchange()
    rows = torch.ones(2, 3)
    assert exchange.rows(rows) is rows
    assert exchange.total(rows) is rows
    assert exchange.of_first(rows) is rows
    assert exchange.union(torch.tensor([3, 1, 3])).tolist() == [1, 3]
    assert exchange.names(["a"]) == ["a"]
    assert exchange.examples({0: {1: {"input_ids": [2]}}}) == {1: {"input_ids": [2]}}
    assert exchange.examples({}) == {}
    assert not exchange.received_bytes
