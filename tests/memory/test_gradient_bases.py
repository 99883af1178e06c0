"""Bases of gradients: orthonormal, of the right side, and drawn as often as they should be."""

import pytest
import torch

from colm.memory.gradient_bases import BASES, find_basis, is_right, project, project_back

SHAPES = [(6, 9), (9, 6), (5, 5), (4, 1), (1, 4), (1, 1)]


def gradient(shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=dtype)


@pytest.mark.parametrize("choice", BASES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 3, 100])
def test_directions_are_orthonormal_and_projecting_twice_is_projecting_once(choice, shape, rank):
    g = gradient(shape)
    basis = find_basis(g, rank, choice, 0, "w")
    kept = min(rank, *shape)
    assert basis.shape == (min(shape), kept)
    torch.testing.assert_close(basis.T @ basis, torch.eye(kept, dtype=g.dtype))
    once = project_back(project(g, basis), basis, right=is_right(g))
    again = project_back(project(once, basis), basis, right=is_right(g))
    torch.testing.assert_close(once, again)
    if rank == 100:
        torch.testing.assert_close(once, g)


@pytest.mark.parametrize("shape", SHAPES)
def test_top_keeps_as_much_as_any_can(shape):
    """Eckart and Young: what is left is the tail of the singular values."""
    g = gradient(shape)
    for rank in range(1, min(shape) + 1):
        kept = project(g, find_basis(g, rank, "top"))
        sizes = torch.linalg.svdvals(g)
        torch.testing.assert_close(kept.norm(), sizes[:rank].norm())


def test_sampled_draws_singular_vectors_by_their_share():
    sizes = torch.tensor([4.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    g = torch.diag(sizes)
    drawn = sum(find_basis(g, 1, "sampled", seed).abs().flatten() for seed in range(2000)) / 2000
    torch.testing.assert_close(drawn, sizes / 8, atol=0.03, rtol=0)
    both = find_basis(g, 2, "sampled", 1).abs().round()
    assert both.sum() == 2
    assert (both.sum(1) <= 1).all()


def test_draws_follow_the_key_alone():
    g = gradient((6, 9))
    for choice in ("sampled", "random"):
        state = torch.get_rng_state()
        one, same, other = (find_basis(g, 2, choice, seed) for seed in (1, 1, 2))
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
    assert torch.equal(find_basis(g, 2, "random", 1), find_basis(2 * g + 1, 2, "random", 1))


def test_a_gradient_of_zeros_or_of_no_numbers_has_directions():
    for value in (0.0, float("nan"), float("inf")):
        for choice in BASES:
            basis = find_basis(torch.full((4, 6), value), 2, choice, 0)
            torch.testing.assert_close(basis.T @ basis, torch.eye(2))
