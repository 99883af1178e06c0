"""Directions of subspaces from gradients, as the trial makes them: against what is known."""

import pytest
import torch

from benchmarks.gradient_directions import (
    CHOICES,
    GradientSubspaceOptimizer,
    carry,
    find_directions,
)
from colm.memory.subspaces.subspaces import Subspaces
from tests.tiny_llama import tiny_llama

RANK = 3


def share(directions, matrix):
    """Of the squares of a matrix, what lies in the span of directions."""
    basis = torch.linalg.qr(directions.T).Q
    return float((matrix @ basis).square().sum() / matrix.square().sum())


@pytest.mark.parametrize("choice", CHOICES)
def test_directions_are_orthonormal_times_the_scale_of_random_ones(choice):
    made = find_directions(torch.randn(20, 12), 4, choice, 0)
    torch.testing.assert_close(made @ made.T, torch.eye(4) * 3, atol=1e-4, rtol=0)


def test_of_a_matrix_of_rank_r_the_first_hold_all_and_half_of_them_less():
    matrix = torch.randn(20, RANK) @ torch.randn(RANK, 12)
    assert share(find_directions(matrix, RANK, "top"), matrix) == pytest.approx(1, abs=1e-4)
    assert share(find_directions(matrix, RANK, "sampled", 0), matrix) == pytest.approx(1, abs=1e-4)
    assert share(find_directions(matrix, RANK, "mixed", 0), matrix) < 0.999


def test_carried_moments_stay_where_directions_do_and_follow_a_permutation():
    first, second = torch.randn(5, RANK), torch.rand(5, RANK)
    old = torch.linalg.qr(torch.randn(8, RANK)).Q.T * (8 / RANK) ** 0.5
    for order in ([0, 1, 2], [2, 0, 1]):
        state = {"exp_avg": first.clone(), "exp_avg_sq": second.clone()}
        carry(state, old, old[order])
        torch.testing.assert_close(state["exp_avg"], first[:, order])
        torch.testing.assert_close(state["exp_avg_sq"], second[:, order])


@pytest.mark.parametrize("moments", ["averaged", "carried"])
def test_every_inner_loop_has_the_directions_of_the_gradient_before_it(moments):
    ids = torch.randint(64, (4, 12), generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": ids, "labels": ids}
    model, plain = tiny_llama(), tiny_llama()
    subspaces = Subspaces(model, RANK)
    options = {"lr": 0.01, "inner_steps": 2, "choice": "top", "moments": moments}
    optimizer = GradientSubspaceOptimizer(subspaces, **options)
    for step in range(4):
        optimizer.look_at(lambda: model(**batch).loss)
        if step % 2 == 0:
            merged = subspaces.merged_state_dict(model.state_dict())
            plain.load_state_dict(merged)
            plain.zero_grad()
            plain(**batch).loss.backward()
            for name, module in subspaces.maps.items():
                if name.endswith("down_proj"):  # its directions are its own
                    gradient = plain.get_submodule(name).weight.grad
                    expected = find_directions(gradient, RANK, "top")
                    found = module.projection(like=gradient)
                    torch.testing.assert_close(found.abs(), expected.abs(), atol=1e-3, rtol=1e-3)
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not any(weight.requires_grad for weight in (m.weight for m in subspaces.maps.values()))
