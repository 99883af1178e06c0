"""The even split: as many of each source, nothing in both parts, small sources spared."""

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from colm.data.sources import split_evenly


def mixture(counts: dict[str, int]) -> Dataset:
    sources = [source for source, count in counts.items() for _ in range(count)]
    order = sorted(range(len(sources)), key=lambda row: (row * 7) % 11)
    return Dataset.from_dict({"source": [sources[row] for row in order], "row": order})


@pytest.mark.slow
@given(
    counts=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 40), min_size=1),
    per_source=st.integers(1, 12),
    seed=st.integers(0, 3),
)
def test_every_record_is_in_one_part(counts: dict[str, int], per_source: int, seed: int) -> None:
    if max(counts.values()) < 2:
        return
    dataset = mixture(counts)
    split = split_evenly(dataset, per_source, seed=seed)
    assert sorted([*split.train["row"], *split.held_out["row"]]) == sorted(dataset["row"])
    for source, count in counts.items():
        held_out = sum(s == source for s in split.held_out["source"])
        assert held_out == min(per_source, max(count // 5, 1), count - 1)


def test_the_seed_decides_which() -> None:
    dataset = mixture({"a": 50, "b": 50})
    one, same, other = (split_evenly(dataset, 5, seed=s).held_out["row"][:] for s in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize(
    ("dataset", "per_source", "column", "complaint"),
    [
        (mixture({"a": 5}), 0, "source", "at least 1.* 0"),
        (mixture({"a": 5}), 1, "origin", "no source column 'origin'; the columns are source, row"),
        (mixture({"a": 1, "b": 1}), 1, "source", "no source has two records"),
    ],
)
def test_what_cannot_be_is_said(
    dataset: Dataset, per_source: int, column: str, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        split_evenly(dataset, per_source, column)
