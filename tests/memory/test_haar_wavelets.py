"""Haar's transform: exactly inverted, of the same length, and what it says on paper."""

import math

import pytest
import torch

from colm.memory.haar_wavelets import inverse, spread, transform


@pytest.mark.parametrize("columns", [*range(1, 10), 64, 65, 67])
@pytest.mark.parametrize("levels", range(5))
def test_the_inverse_is_exact_for_odd_and_even_lengths(columns, levels):
    generator = torch.Generator().manual_seed(columns)
    matrix = torch.randn(3, columns, generator=generator, dtype=torch.float64)
    approximation, details = transform(matrix, levels)
    assert approximation.shape == (3, math.ceil(columns / 2**levels))
    assert [each.shape[1] for each in details] == [
        math.ceil(columns / 2**level) for level in range(1, levels + 1)
    ]
    torch.testing.assert_close(inverse(approximation, details, columns), matrix)
    parts = sum(part.square().sum() for part in (approximation, *details))
    torch.testing.assert_close(parts, matrix.square().sum())


def test_means_and_differences_of_neighbours():
    approximation, (first, second) = transform(torch.tensor([[1.0, 3.0, 5.0, 9.0]]), 2)
    torch.testing.assert_close(approximation, torch.tensor([[9.0]]))
    torch.testing.assert_close(first, torch.tensor([[-2.0, -4.0]]) / math.sqrt(2))
    torch.testing.assert_close(second, torch.tensor([[-5.0]]))


def test_columns_in_another_order_have_other_means():
    """Neighbours matter: what is alike but far apart is not averaged."""
    row = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    torch.testing.assert_close(transform(row, 1)[0].norm(), row.norm())
    assert transform(row[:, [0, 2, 1, 3]], 1)[0].norm() == 0


@pytest.mark.parametrize("columns", [1, 5, 6, 7, 8])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_values_are_spread_over_the_details_under_them(columns, levels):
    approximation, details = transform(torch.zeros(1, columns), levels)
    places = torch.arange(approximation.shape[1]).unsqueeze(0)
    for level, detail in enumerate(details, start=1):
        times = 2 ** (levels - level)
        expected = [place // times for place in range(detail.shape[1])]
        assert spread(places, detail.shape[1]).flatten().tolist() == expected
