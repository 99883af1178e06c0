"""The directions of zeroth-order training against the moments that they must have."""

import pytest
import torch

from colm.memory import random_directions
from colm.memory.random_directions import DIRECTIONS, RandomDirections

DRAWS = 2000
#: Standard errors that a mean over the draws may be off; of the hundreds here none is by chance.
ERRORS = 5


def direction(directions, weight, step=0, number=0, name="w"):
    whole = torch.empty_like(weight)
    for rows, values in directions.combined(name, weight, step, {number: 1.0}):
        whole[rows] = values
    return whole


def drawn(kind, shape, rank, refresh):
    """Directions of as many steps as are drawn, ``[draws, entries]``."""
    directions = RandomDirections(kind, rank=rank, refresh=refresh)
    weight = torch.empty(shape, dtype=torch.float64)
    return torch.stack([direction(directions, weight, step).flatten() for step in range(DRAWS)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "shape", "rank"),
    [("gaussian", (3, 4), 1), ("subspace", (3, 4), 2), ("low_rank", (3, 4), 2)],
)
def test_entries_are_uncorrelated_and_of_variance_one(kind, shape, rank):
    """So that the estimate slope x z is the gradient on average, whatever draws z."""
    z = drawn(kind, shape, rank, refresh=1)
    products = z[:, :, None] * z[:, None, :]
    off = (products.mean(0) - torch.eye(12, dtype=z.dtype)) / (products.std(0) / DRAWS**0.5)
    assert off.abs().max() < ERRORS
    assert (z.mean(0) / (z.std(0) / DRAWS**0.5)).abs().max() < ERRORS


@pytest.mark.slow
def test_a_subspace_of_full_rank_draws_as_a_gaussian_does():
    """Kept or not, U and V are rotations then, and a rotated normal matrix is one."""
    z = drawn("subspace", (3, 3), rank=3, refresh=DRAWS)
    moments = {2: 1, 4: 3}
    for power, expected in moments.items():
        values = z**power
        assert ((values.mean(0) - expected) / (values.std(0) / DRAWS**0.5)).abs().max() < ERRORS
    products = z[:, :, None] * z[:, None, :]
    off = (products.mean(0) - torch.eye(9, dtype=z.dtype)) / (products.std(0) / DRAWS**0.5)
    assert off.abs().max() < ERRORS


@pytest.mark.parametrize("kind", ["subspace", "low_rank"])
def test_rows_stay_in_a_space_of_few_dimensions_until_it_is_drawn_anew(kind):
    directions = RandomDirections(kind, rank=2, refresh=3)
    weight = torch.empty(6, 5, dtype=torch.float64)
    steps = [direction(directions, weight, step) for step in range(6)]
    assert torch.linalg.matrix_rank(torch.cat(steps[:3])) == 2
    assert torch.linalg.matrix_rank(torch.cat(steps[2:4])) == 4
    columns = torch.cat([step.T for step in steps[:3]])
    # Of LOZO's factors one alone is kept.
    assert torch.linalg.matrix_rank(columns) == (2 if kind == "subspace" else 6)
    assert torch.linalg.matrix_rank(steps[0]) == 2


@pytest.mark.parametrize("kind", DIRECTIONS)
def test_directions_are_functions_of_their_key_alone(kind):
    weight = torch.empty(6, 5)
    one, other = (RandomDirections(kind, rank=2, refresh=2, seed=1) for _ in range(2))
    backwards = [direction(other, weight, step) for step in (3, 2, 1, 0)]
    for step, z in enumerate(reversed(backwards)):
        assert torch.equal(direction(one, weight, step), z)
    first = direction(one, weight)
    assert not torch.equal(first, direction(one, weight, name="v"))
    assert not torch.equal(first, direction(one, weight, number=1))
    assert not torch.equal(first, direction(one, weight, step=1))
    reseeded = RandomDirections(kind, rank=2, refresh=2, seed=2)
    assert not torch.equal(first, direction(reseeded, weight))


@pytest.mark.parametrize("kind", DIRECTIONS)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (5, 1), (1, 4), (6, 5), (2, 3, 4)])
def test_a_sum_of_directions_is_that_of_each(kind, shape, monkeypatch):
    monkeypatch.setattr(random_directions, "PIECE_ELEMENTS", 10)
    directions = RandomDirections(kind, rank=3)
    weight = torch.empty(shape, dtype=torch.float64)
    whole = torch.full_like(weight, torch.nan)
    for rows, values in directions.combined("w", weight, 4, {0: 2.0, 5: -3.0}):
        whole[rows] = values
    each = [direction(directions, weight, 4, number) for number in (0, 5)]
    torch.testing.assert_close(whole, 2 * each[0] - 3 * each[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "x"}, "direction .* gaussian, subspace, low_rank.*'x'"),
        ({"rank": 0}, "rank must be a whole number at least 1; got 0"),
        ({"refresh": 0.5}, r"refresh must be a whole number at least 1; got 0\.5"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RandomDirections(**options)
