"""Small sources and shares of the budget: examples by hand, then properties."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from colm.coreset.mixture import (
    ALLOCATIONS,
    allocate,
    bounded_draws,
    inverse_size_weights,
    small_sources,
    source_codes,
)

counts_and_budget = st.tuples(st.lists(st.integers(0, 40), max_size=8), st.integers(0, 200))


@pytest.mark.parametrize(
    ("counts", "small"),
    [
        ({}, set()),
        ({"one": 5}, set()),
        ({"a": 3, "b": 3}, set()),
        ({"a": 3, "b": 4}, {"a"}),
        ({"a": 1, "b": 2, "c": 3}, {"a"}),
        ({"a": 50, "b": 1, "c": 0}, {"b", "c"}),
    ],
)
def test_small_is_below_the_average(counts: dict[str, int], small: set[str]) -> None:
    assert small_sources(counts) == small


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=3), st.integers(0, 10**12), min_size=1))
def test_the_largest_source_is_never_small(counts: dict[str, int]) -> None:
    assert max(counts, key=counts.__getitem__) not in small_sources(counts)


@pytest.mark.parametrize("scale", [2, 10**15])
def test_small_is_a_matter_of_proportion(scale: int) -> None:
    counts = {"a": 7, "b": 90, "c": 33, "d": 2}
    scaled = {name: count * scale for name, count in counts.items()}
    assert small_sources(scaled) == small_sources(counts) == {"a", "d"}


@pytest.mark.parametrize(
    ("counts", "budget", "shares"),
    [
        ([6, 8, 6, 6, 6], 22, [5, 5, 4, 4, 4]),
        ([16, 22, 17, 12, 14], 44, [9, 11, 9, 7, 8]),
        ([16, 18, 15, 21], 20, [5, 5, 4, 6]),
        ([5, 4, 3, 2], 4, [1, 1, 1, 1]),
        ([0, 3, 1], 3, [0, 2, 1]),
        ([100, 1], 100, [99, 1]),
        ([2, 2], 9, [2, 2]),
        ([0, 0], 3, [0, 0]),
        ([], 3, []),
    ],
)
def test_proportional_by_hand(counts: list[int], budget: int, shares: list[int]) -> None:
    assert allocate(counts, budget) == allocate(counts, budget, "proportional") == shares


@pytest.mark.parametrize(
    ("counts", "budget", "shares"),
    [
        ([9, 9, 9], 9, [3, 3, 3]),
        ([9, 9, 9], 10, [3, 3, 4]),
        ([9, 1, 9], 10, [4, 1, 5]),
        ([30, 2, 10, 0], 20, [9, 2, 9, 0]),
        ([2, 2], 9, [2, 2]),
        ([], 3, []),
    ],
)
def test_balanced_by_hand(counts: list[int], budget: int, shares: list[int]) -> None:
    assert allocate(counts, budget, "balanced") == shares


@given(counts_and_budget, st.sampled_from(["proportional", "balanced"]))
def test_shares_use_the_budget_up_and_no_source_is_overdrawn(drawn, allocation: str) -> None:
    counts, budget = drawn
    shares = allocate(counts, budget, allocation)
    assert sum(shares) == min(budget, sum(counts))
    assert all(0 <= share <= count for share, count in zip(shares, counts, strict=True))


@given(counts_and_budget)
def test_proportional_is_within_one_of_the_exact_share(drawn) -> None:
    counts, budget = drawn
    total = sum(counts)
    for share, count in zip(allocate(counts, budget), counts, strict=True):
        exact = min(budget, total) * count / total if total else 0
        assert exact - 1 < share <= exact + 1


@given(counts_and_budget)
def test_balanced_differs_by_more_than_one_only_from_an_exhausted_source(drawn) -> None:
    counts, budget = drawn
    shares = allocate(counts, budget, "balanced")
    most = max(shares, default=0)
    for share, count in zip(shares, counts, strict=True):
        assert share == count or share >= most - 1


@given(counts_and_budget)
def test_none_pools_the_sources(drawn) -> None:
    counts, budget = drawn
    assert allocate(counts, budget, "none") == [min(budget, sum(counts))]


def test_an_unknown_allocation_is_refused_with_the_choices() -> None:
    message = rf"^allocation.*{', '.join(ALLOCATIONS)}.* 'equal'\.$"
    with pytest.raises(ValueError, match=message):
        allocate([1], 1, "equal")


@pytest.mark.parametrize(("counts", "budget"), [([1, -1], 1), ([1, 1], -1)])
def test_negative_numbers_are_refused(counts: list[int], budget: int) -> None:
    with pytest.raises(ValueError, match="negative"):
        allocate(counts, budget)


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=30))
def test_every_source_is_as_likely_and_each_of_its_examples(sources) -> None:
    weights = inverse_size_weights(sources)
    assert weights.dtype == torch.float64
    for name in set(sources):
        mine = weights[[row for row, source in enumerate(sources) if source == name]]
        assert mine.sum().item() == pytest.approx(1 / len(set(sources)))
        assert len(set(mine.tolist())) == 1
    assert torch.equal(inverse_size_weights(torch.tensor([ord(s) for s in sources])), weights)


def test_sources_are_drawn_equally_often() -> None:
    """12,000 draws from sources of 1, 10, 100 and 1,000: within 5 standard deviations of 3,000."""
    sources = [
        name for name, size in zip("abcd", (1, 10, 100, 1000), strict=True) for _ in range(size)
    ]
    drawn = torch.multinomial(
        inverse_size_weights(sources),
        12_000,
        replacement=True,
        generator=torch.Generator().manual_seed(0),
    )
    counts = Counter(sources[row] for row in drawn.tolist())
    assert all(abs(counts[name] - 3000) < 5 * math.sqrt(12_000 / 4 * 3 / 4) for name in "abcd")


def test_no_examples_have_no_weights() -> None:
    assert inverse_size_weights([]).tolist() == []


@given(st.lists(st.text(max_size=2), max_size=9), st.randoms())
def test_codes_follow_the_alphabet_wherever_a_source_stands(names, random) -> None:
    codes = dict(zip(names, source_codes(names).tolist(), strict=True))
    assert [codes[name] for name in sorted(codes)] == list(range(len(codes)))
    shuffled = random.sample(names, len(names))
    assert source_codes(shuffled).tolist() == [codes[name] for name in shuffled]


def level(sizes: dict[str, int], draws: float, most: float) -> dict[str, float]:
    """The same height for all, up to where each is full, found by halving."""
    low, high = 0.0, draws + 1
    for _ in range(200):
        middle = (low + high) / 2
        poured = sum(min(middle, most * size) for size in sizes.values())
        low, high = (middle, high) if poured <= draws else (low, middle)
    return {name: min(low, most * size) for name, size in sizes.items()}


def unimax_draws(sizes: dict[str, int], draws: float, most: float) -> dict[str, float]:
    """Equal weights, and limits of so many times each size."""
    limits = {name: most * size for name, size in sizes.items()}
    return bounded_draws(dict.fromkeys(sizes, 1.0), draws, limits, sizes)


source_sizes = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 10**6), min_size=1)


@given(source_sizes, st.integers(0, 10**7), st.sampled_from([1, 2.5, 4]))
def test_unimax_draws_are_equal_up_to_the_bound(sizes, draws, most) -> None:
    found = unimax_draws(sizes, draws, most)
    assert list(found) == list(sizes)
    assert sum(found.values()) == pytest.approx(draws)
    if draws <= most * sum(sizes.values()):
        assert found == pytest.approx(level(sizes, draws, most), rel=1e-6, abs=1e-6)
        assert all(found[name] <= most * size * (1 + 1e-9) for name, size in sizes.items())
    else:
        total = sum(sizes.values())
        expected = {name: draws * size / total for name, size in sizes.items()}
        assert found == pytest.approx(expected)


@given(source_sizes, st.integers(1, 10**6))
def test_unimax_draws_of_sources_that_are_large_enough_are_the_same(sizes, draws) -> None:
    whole = dict.fromkeys(sizes, draws)
    assert unimax_draws(whole, draws, 4) == pytest.approx(dict.fromkeys(sizes, draws / len(sizes)))


@given(source_sizes, st.integers(1, 10**6), st.randoms())
def test_unimax_draws_do_not_depend_on_the_order_of_sources(sizes, draws, random) -> None:
    shuffled = dict(random.sample(list(sizes.items()), len(sizes)))
    assert unimax_draws(shuffled, draws, 4) == pytest.approx(unimax_draws(sizes, draws, 4))


@pytest.mark.parametrize(
    ("draws", "expected"),
    [
        (30, {"web": 10, "books": 10, "code": 10}),
        (300, {"web": 110, "books": 110, "code": 80}),
        (1000, {"web": 600, "books": 320, "code": 80}),
        (4000, {"web": 3600, "books": 320, "code": 80}),
        (8000, {"web": 7200, "books": 640, "code": 160}),
    ],
)
def test_unimax_draws_by_hand(draws: int, expected: dict[str, float]) -> None:
    assert unimax_draws({"web": 900, "books": 80, "code": 20}, draws, 4) == pytest.approx(expected)


weighted_sources = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.tuples(st.floats(0.01, 100), st.integers(1, 10**4), st.floats(0, 10**5)),
    min_size=1,
)


@given(weighted_sources, st.integers(0, 10**5))
def test_bounded_draws_are_in_proportion_up_to_the_limits(sources, draws) -> None:
    weights, sizes, limits = (
        {name: each[part] for name, each in sources.items()} for part in range(3)
    )
    found = bounded_draws(weights, draws, limits, sizes)
    assert sum(found.values()) == pytest.approx(draws)
    if draws > sum(limits.values()):
        beyond = {name: found[name] - limits[name] for name in sizes}
        level = (draws - sum(limits.values())) / sum(sizes.values())
        expected = {name: level * size for name, size in sizes.items()}
        assert beyond == pytest.approx(expected, rel=1e-6, abs=1e-4)
        return
    # Those below their limits get the same for each unit of weight, and nobody gets more for it.
    rates = {name: found[name] / weights[name] for name in sizes}
    free = [rates[name] for name in sizes if found[name] < limits[name] * (1 - 1e-9) - 1e-6]
    for rate in free:
        assert rate == pytest.approx(max(rates.values()), rel=1e-6, abs=1e-6)
    assert all(found[name] <= limits[name] + 1e-6 for name in sizes)


@pytest.mark.parametrize(
    ("weights", "draws", "expected"),
    [
        # No limit in reach: as the weights say, in any scale.
        ((3, 1, 0), 80, (60, 20, 0)),
        ((0.3, 0.1, 0.0), 80, (60, 20, 0)),
        # The second is full at 40; what it leaves goes to the first, and none to the third.
        ((1, 3, 0), 100, (60, 40, 0)),
        # All are full but that which is never drawn, which stays so.
        ((1, 3, 0), 550, (500, 50, 0)),
        # What is left is shared by weight, not by size.
        ((1, 8, 1), 100, (50, 40, 10)),
    ],
)
def test_bounded_draws_by_hand(weights, draws, expected) -> None:
    names, sizes = ("web", "books", "code"), (100, 10, 5)
    by_name = [dict(zip(names, values, strict=True)) for values in (weights, sizes, expected)]
    limits = {"web": 400, "books": 40, "code": 10}
    assert bounded_draws(by_name[0], draws, limits, by_name[1]) == pytest.approx(by_name[2])
