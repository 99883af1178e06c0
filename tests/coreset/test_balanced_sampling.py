"""Balanced sampling against a slow twin, its probabilities, and what it is for: less error."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from colm.coreset.balanced_sampling import balanced_sampling
from colm.coreset.gradient_matching import gradient_matching
from colm.coreset.gram import centered_gram
from colm.coreset.gram_schmidt_walk import _DOWNDATES, _Norms

FALSE_ALARM = 1e-6
# What the walk adds to squared norms, relative to their mean.
RIDGE = 1e-7


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def features(seed, n=12, d=5):
    """Rows of very different lengths, far from zero."""
    generator = seeded(seed)
    heavy = torch.rand(n, 1, generator=generator, dtype=torch.float64) ** -1
    return 3 + heavy * torch.randn(n, d, generator=generator, dtype=torch.float64)


def drawn(rows, budget, seed, **options):
    return balanced_sampling(rows, budget, generator=seeded(seed), **options).indices.tolist()


def least_change(quadratic, at):
    """The change of least norm that moves one by 1 and the sum by 0, its equations solved whole."""
    n = len(quadratic)
    ends = torch.zeros(2, n, dtype=torch.float64)
    ends[0, at], ends[1] = 1, 1
    matrix = torch.cat([quadratic, ends.T], 1)
    matrix = torch.cat([matrix, torch.cat([ends, torch.zeros(2, 2)], 1)])
    wanted = torch.zeros(n + 2, dtype=torch.float64)
    wanted[n] = 1
    return torch.linalg.solve(matrix, wanted)[:n].tolist()


def slow_walk(rows, budget, noise, target, generator):
    """The walk as its module describes it, one number after the other."""
    n = len(rows)
    counts = target.double() / target.sum()
    vectors = n * counts[:, None] * (rows - counts @ rows)
    squares = vectors.square().sum(1)
    norms = vectors @ vectors.T + torch.diag(noise * squares + RIDGE * squares.mean())
    chances = dict.fromkeys(range(n), budget / n)
    undecided, pivot = list(chances), None
    while len(undecided) > 1:
        if pivot not in undecided:
            pivot = undecided[int(torch.randint(len(undecided), (1,), generator=generator))]
        change = least_change(norms[undecided][:, undecided], undecided.index(pivot))
        moves = dict(zip(undecided, change, strict=True))
        up = min(((u > 0) - chances[i]) / u for i, u in moves.items() if u)
        down = min((chances[i] - (u < 0)) / u for i, u in moves.items() if u)
        luck = float(torch.rand((), generator=generator, dtype=torch.float64))
        step = up if luck < down / (up + down) else -down
        for row, move in moves.items():
            chances[row] += step * move
        undecided = [row for row in undecided if 1e-6 < chances[row] < 1 - 1e-6]
    return [row for row, chance in chances.items() if chance > 0.5]


@pytest.mark.parametrize("by_tokens", [False, True], ids=["equal", "by tokens"])
@pytest.mark.parametrize("noise", [0.0, 0.1, 3.0])
def test_the_walk_is_that_of_a_slow_twin(noise, by_tokens):
    """Target, noise and sum go into every step; one of them wrong, and other rows come out."""
    for seed in range(12):
        n = 5 + seed
        rows, budget = features(seed, n, 1 + seed % 6), 1 + seed % 4
        target = torch.arange(1, n + 1) if by_tokens else torch.ones(n)
        expected = slow_walk(rows, budget, noise, target, seeded(seed))
        assert drawn(rows, budget, seed, noise=noise, target=target) == expected


def chance(count, draws, probability):
    """A bound on the probability of a count as far from its mean (Chernoff, both sides)."""
    share = count / draws
    pairs = [(share, probability), (1 - share, 1 - probability)]
    divergence = sum(a * math.log(a / b) for a, b in pairs if a)
    return min(1.0, 2 * math.exp(-draws * divergence))


@pytest.mark.slow
@pytest.mark.parametrize(("n", "budget"), [(6, 3), (8, 2), (5, 3)])
def test_every_row_has_the_same_probability(n, budget):
    """However unlike the rows are; a right walk fails once in a million."""
    rows = features(1, n, 3)
    rows[0] *= 100
    rows[1] = rows[2]
    target = torch.arange(1, n + 1)
    generator, draws = seeded(0), 600
    counts = torch.zeros(n, dtype=torch.int64)
    for _ in range(draws):
        counts[balanced_sampling(rows, budget, target=target, generator=generator).indices] += 1
    assert min(chance(c, draws, budget / n) for c in counts.tolist()) > FALSE_ALARM / n


def test_the_bound_knows_a_wrong_probability():
    assert chance(250, 500, 0.5) == 1
    assert chance(310, 500, 0.5) < FALSE_ALARM
    # Above the exact tail, 2 * 0.5^10.
    assert 2 * 0.5**10 <= chance(10, 10, 0.5) < 0.01


def differences(keep, batches=150):
    """Mean over the kept less that over all, ``[batches, 2]``, of what features do not see."""
    generator, found = seeded(3), []
    for _ in range(batches):
        heavy = torch.rand(8, 1, generator=generator, dtype=torch.float64) ** -0.5
        rows = heavy * torch.randn(8, 4, generator=generator, dtype=torch.float64)
        luck = torch.rand(8, 1, generator=generator, dtype=torch.float64)
        unseen = torch.cat([heavy.log(), luck], 1)
        chosen = keep(rows, generator)
        weights = getattr(chosen, "weights", torch.ones(2)).double()
        kept = weights @ unseen[chosen.indices] / weights.sum()
        found.append(kept - unseen.mean(0))
    return torch.stack(found)


def standard_errors(found):
    return found.mean(0).abs() / (found.std(0) / math.sqrt(len(found)))


def test_what_features_do_not_see_is_right_on_average():
    """5 standard errors of two means: a false alarm in 10^6. A choice by features alone fails."""
    sampled = differences(lambda rows, g: balanced_sampling(rows, 2, generator=g))
    assert (standard_errors(sampled) < 5).all()
    matched = differences(lambda rows, _: gradient_matching(rows, 2))
    assert standard_errors(matched)[0] > 8


def mean_square(rows, budget, draws=60, **options):
    errors = [
        balanced_sampling(rows, budget, generator=seeded(seed), **options).error
        for seed in range(draws)
    ]
    return sum(error**2 for error in errors) / draws


def by_chance(rows, budget):
    """Mean squared error of a plain random draw without replacement."""
    n = len(rows)
    variance = (rows - rows.mean(0)).square().sum() / (n - 1)
    return float((1 - budget / n) * variance / budget)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [6, 12])
def test_far_closer_to_the_mean_than_a_plain_draw(budget):
    """24 rows that differ in three directions, and a little in 20."""
    generator = seeded(5)
    rows = torch.randn(24, 3, generator=generator) @ torch.randn(3, 20, generator=generator)
    rows += 0.05 * torch.randn(24, 20, generator=generator)
    plain = by_chance(rows, budget)
    assert mean_square(rows, budget) < 0.3 * plain
    # With next to nothing seen, it is a plain draw.
    assert 0.7 * plain < mean_square(rows, budget, noise=1e9) < 1.4 * plain


def test_the_error_is_that_of_the_mean_of_what_is_kept():
    rows, target = features(2), torch.arange(1, 13)
    for weights in (None, target):
        found = balanced_sampling(rows, 5, generator=seeded(1), target=weights)
        counts = torch.ones(12) if weights is None else weights.double()
        kept = counts[found.indices].double()
        mean = kept @ rows[found.indices] / kept.sum()
        all_of_them = counts.double() @ rows / counts.sum()
        assert found.error == pytest.approx(float((mean - all_of_them).norm()), rel=1e-9)


@pytest.mark.parametrize("by_tokens", [False, True], ids=["equal", "by tokens"])
def test_one_is_kept_of_each_two_that_are_alike(by_tokens):
    """Nothing else keeps the sum where all pairs differ in more directions than there are."""
    rows = features(6, 6, 8).repeat(2, 1)
    target = torch.arange(1, 7).repeat(2) if by_tokens else None
    kept = {tuple(drawn(rows, 6, seed, noise=0.0, target=target)) for seed in range(20)}
    assert all(sorted(row % 6 for row in rows) == [*range(6)] for rows in kept)
    assert len(kept) > 10


def test_rows_alike_but_for_their_tokens_do_not_stand_for_each_other():
    rows = features(6, 6, 8).repeat(2, 1)
    target = torch.cat([torch.ones(6), torch.full((6,), 5.0)])
    kept = [drawn(rows, 6, seed, noise=0.0, target=target) for seed in range(20)]
    assert any(len({row % 6 for row in rows}) < 6 for rows in kept)


KINDS = {
    "any": lambda rows: rows,
    "copies": lambda rows: rows[torch.arange(len(rows)) // 3],
    "all alike": torch.ones_like,
    "zeros": torch.zeros_like,
    "half zeros": lambda rows: rows * (torch.arange(len(rows)) % 2)[:, None],
    "one huge": lambda rows: torch.cat([rows[:1] * 1e12, rows[1:]]),
    "one huge among zeros": lambda rows: torch.cat([rows[:1] * 1e12, 0 * rows[1:]]),
    "tiny": lambda rows: rows * 1e-30,
}
shapes = st.integers(1, 16).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@given(
    shape=shapes,
    d=st.integers(0, 5),
    kind=st.sampled_from(sorted(KINDS)),
    noise=st.sampled_from([0, 0.0, 0.1, 1e6]),
    seed=st.integers(0, 10**6),
    single=st.booleans(),
    uneven=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_as_many_as_the_budget_always(shape, d, kind, noise, seed, single, uneven):
    n, budget = shape
    rows = KINDS[kind](features(seed, n, d)).to(torch.float32 if single else torch.float64)
    target = 10.0 ** (torch.arange(n) % 7) if uneven else None
    found = balanced_sampling(rows, budget, generator=seeded(seed), noise=noise, target=target)
    kept = found.indices
    assert kept.dtype == torch.int64
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert len(kept) == budget
    assert set(kept.tolist()) <= set(range(n))
    assert found.error >= 0
    if budget == n:
        spread = float((rows.double() - rows.double().mean(0)).norm())
        rounding = 1e-12 * float(rows.double().norm())
        assert found.error <= 1e-6 * spread + rounding + 1e-30


@given(st.integers(0, 10**6), st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_neither_scale_nor_place_of_features_plays_a_part(seed, budget):
    rows = features(seed)
    assert drawn(rows * 3 + 7, budget, seed) == drawn(rows, budget, seed)
    assert drawn(rows * 1e-6, budget, seed) == drawn(rows, budget, seed)


def test_the_unit_of_the_target_plays_no_part():
    rows, target = features(3), torch.arange(1, 13)
    assert drawn(rows, 5, 0, target=target * 100) == drawn(rows, 5, 0, target=target)
    assert drawn(rows, 5, 0, target=torch.full((12,), 9)) == drawn(rows, 5, 0)


def test_the_generator_alone_decides_and_no_other_moves():
    rows = features(4)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = drawn(rows, 5, 3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert drawn(rows, 5, 3) == first
    assert len({tuple(drawn(rows, 5, seed)) for seed in range(30)}) > 15
    generator = seeded(3)
    pair = [balanced_sampling(rows, 5, generator=generator).indices.tolist() for _ in range(2)]
    assert pair[0] == first != pair[1]


def test_inverses_do_not_lose_digits():
    """After 250 of 300 rows are gone, some of them alike and none with noise."""
    rows = features(7, 300, 20)
    rows[::3] = rows[1::3]
    gram = centered_gram(rows)
    norms = _Norms(gram / gram.diagonal().mean(), 0.0)
    order = torch.randperm(300, generator=seeded(0))
    for start in range(0, 250, 5):
        norms.keep(~torch.isin(norms.rows, order[start : start + 5]))
        assert norms._since_inverted <= _DOWNDATES
    assert sorted(norms.rows.tolist()) == sorted(order[250:].tolist())
    direct = torch.linalg.inv(norms.quadratic[norms.rows][:, norms.rows])
    assert (norms.inverse - direct).norm() < 1e-4 * direct.norm()
    pivot = int(norms.rows[17])
    change = norms.least(pivot)
    assert float(change[17]) == pytest.approx(1, abs=1e-9)
    assert abs(float(change.sum())) < 1e-9 * float(change.abs().sum())


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_of_many_as_many_as_the_budget(noise):
    rows = features(8, 300, 40)
    rows[::4] = rows[1::4]
    kept = drawn(rows, 130, 0, noise=noise)
    assert len(set(kept)) == len(kept) == 130
    assert kept == sorted(kept)
