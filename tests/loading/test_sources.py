"""The source column, and what is held out of every source."""

import json
from collections import Counter
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import example, given, settings
from hypothesis import strategies as st

from colm.data import add_source, read_file, source_counts, split_held_out


def rows_of(*sources: str) -> Dataset:
    return Dataset.from_dict({"row": list(range(len(sources))), "source": list(sources)})


@pytest.mark.parametrize("streamed", [False, True])
def test_a_missing_column_is_added_and_an_existing_one_kept(streamed: bool) -> None:
    bare = Dataset.from_dict({"text": ["a", "b"]})
    named = Dataset.from_dict({"text": ["a", "b"], "source": ["x", "y"]})
    if streamed:
        bare, named = bare.to_iterable_dataset(), named.to_iterable_dataset()

    def sources(dataset) -> list[str]:
        return [row["source"] for row in dataset]

    assert sources(add_source(bare, "source", "s")) == ["s", "s"]
    assert sources(add_source(named, "source", "s")) == ["x", "y"]
    assert sources(add_source(named, "source", "s", replace=True)) == ["s", "s"]
    assert sources(add_source(named, "source", "s", required=True)) == ["x", "y"]
    with pytest.raises(ValueError, match="no source column 'source'; the columns are text"):
        add_source(bare, "source", "s", required=True)


def test_sources_become_text() -> None:
    numbers = Dataset.from_dict({"source": [3, 1, 3]})
    labels = Dataset.from_dict(
        {"source": [1, 0]}, features=Features({"source": ClassLabel(names=["a", "b"])})
    )
    assert add_source(numbers, "source", "s")["source"][:] == ["3", "1", "3"]
    labelled = add_source(labels, "source", "s")
    assert labelled["source"][:] == ["b", "a"]
    assert labelled.features["source"] == Value("string")


def test_sources_of_several_types_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    values = [1, "a", 2.5, "05", 1, True]
    path.write_text("\n".join(json.dumps({"text": "x", "source": value}) for value in values))
    named = add_source(read_file(path), "source", "s")
    assert named["source"][:] == ["1", "a", "2.5", "05", "1", "True"]
    assert source_counts(named)["1"] == 2
    for value in (None, {"a": 1}, [1]):
        path.write_text("\n".join(json.dumps({"source": source}) for source in ("a", 1, value)))
        with pytest.raises(ValueError, match="source column 'source'"):
            add_source(read_file(path), "source", "s")


def test_a_source_of_nan_is_none(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    Dataset.from_dict({"source": [1.0, float("nan")]}).to_parquet(path)
    with pytest.raises(ValueError, match="'source' is empty in 1 of 2 records"):
        add_source(read_file(path), "source", "s")


def test_sources_must_be_one_name_each() -> None:
    with pytest.raises(ValueError, match="'source' is empty in 2 of 3 records"):
        add_source(Dataset.from_dict({"source": [None, "a", None]}), "source", "s")
    with pytest.raises(ValueError, match="'source' must hold one name a record"):
        add_source(Dataset.from_dict({"source": [["a"]]}), "source", "s")


def test_counts_go_from_large_to_small() -> None:
    dataset = rows_of("b", "a", "c", "c", "b", "c")
    assert list(source_counts(dataset).items()) == [("c", 3), ("b", 2), ("a", 1)]
    assert source_counts(dataset.select([0, 1, 4])) == {"b": 2, "a": 1}
    with pytest.raises(ValueError, match="no source column 'kind'; the columns are row, source"):
        source_counts(dataset, "kind")


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    share=st.floats(0.01, 0.9),
    seed=st.integers(0, 3),
)
@example(counts=[1, 1, 1, 1, 7], share=0.5, seed=0)
def test_every_source_is_held_out_in_proportion(counts: list[int], share: float, seed: int) -> None:
    names = [f"s{place}" for place, count in enumerate(counts) for _ in range(count)]
    dataset = rows_of(*names)
    # Of two records three quarters are both.
    if sum(counts) == len(counts) or round(share * len(names)) == len(names):
        with pytest.raises(ValueError, match="cannot hold out"):
            split_held_out(dataset, size=share, seed=seed)
        return
    split = split_held_out(dataset, size=share, seed=seed)
    train, held_out = split.train["row"][:], split.held_out["row"][:]
    assert sorted(train + held_out) == list(range(len(names)))
    assert train == sorted(train)
    assert held_out == sorted(held_out)
    kept, left = Counter(split.train["source"]), Counter(split.held_out["source"])
    for place, count in enumerate(counts):
        name = f"s{place}"
        assert kept[name] >= 1
        assert left[name] >= min(1, count - 1)
        assert left[name] <= max(1, share * count + 2)
    wanted = round(share * len(names))
    least = sum(count > 1 for count in counts)
    # What sources of one record would give is not taken from others.
    not_given = share * (len(counts) - least)
    assert len(held_out) >= min(wanted, len(names) - len(counts)) - least - not_given
    assert len(held_out) <= max(wanted, least)


def test_a_number_of_records_is_met_where_shares_allow() -> None:
    dataset = rows_of(*["a"] * 60, *["b"] * 30, *["c"] * 10)
    for size in (3, 7, 10, 33, 50):
        assert len(split_held_out(dataset, size=size).held_out) == size
    assert source_counts(split_held_out(dataset, size=10).held_out) == {"a": 6, "b": 3, "c": 1}
    assert source_counts(split_held_out(dataset, size=1).held_out) == {"a": 1, "b": 1, "c": 1}


def test_the_seed_decides_what_is_held_out() -> None:
    dataset = rows_of(*["a"] * 50, *["b"] * 50)
    held_out = [split_held_out(dataset, size=0.2, seed=s).held_out["row"][:] for s in (0, 0, 1)]
    assert held_out[0] == held_out[1] != held_out[2]
    assert held_out[0] != list(range(10)) + list(range(50, 60))


@pytest.mark.parametrize("size", [0, -1, -0.5, float("nan"), 10, 11, 0.99])
def test_a_size_must_leave_something(size: float) -> None:
    with pytest.raises(ValueError, match="cannot hold out"):
        split_held_out(rows_of(*["a"] * 10), size=size)
