"""Sketches: sparse rows are found again, and the pursuit does what it says, entry by entry."""

import pytest
import torch

from colm.memory.sparse_sketches import draw_sketch, keep_largest, recover, sketch_size


def sparse_rows(rows, columns, sparsity):
    generator = torch.Generator().manual_seed(rows)
    dense = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return keep_largest(dense, sparsity)


@pytest.mark.parametrize(("columns", "sparsity"), [(40, 1), (60, 3), (200, 5)])
def test_sparse_rows_are_found_again(columns, sparsity):
    rows = sparse_rows(20, columns, sparsity)
    sketch = draw_sketch(columns, sparsity, 0).double()
    torch.testing.assert_close(sketch.norm(dim=0), torch.ones(columns).double())
    assert len(sketch) == sketch_size(columns, sparsity) < columns
    found = recover(rows @ sketch.T, sketch, sparsity)
    exact = (found - rows).norm(dim=1) < 1e-9 * rows.norm(dim=1)
    assert exact.double().mean() >= 0.8


def one_by_one(target, sketch, sparsity):
    """Orthogonal matching pursuit of one row, as textbooks have it."""
    places, left = [], target
    for _ in range(sparsity):
        likeness = (sketch.T @ left).abs()
        likeness[places] = -1
        places.append(int(likeness.argmax()))
        chosen = sketch[:, places]
        entries = torch.linalg.pinv(chosen) @ target
        left = target - chosen @ entries
    row = torch.zeros(sketch.shape[1], dtype=target.dtype)
    row[places] = entries
    return row


def test_the_pursuit_is_that_of_textbooks():
    generator = torch.Generator().manual_seed(9)
    sketch = draw_sketch(30, 4, 2).double()
    targets = torch.randn(6, len(sketch), generator=generator, dtype=torch.float64)
    found = recover(targets, sketch, 4)
    for row, target in zip(found, targets, strict=True):
        torch.testing.assert_close(row, one_by_one(target, sketch, 4))


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_short_rows_are_kept_whole(columns):
    rows = sparse_rows(4, columns, 8)
    sketch = draw_sketch(columns, 8, 1).double()
    torch.testing.assert_close(recover(rows @ sketch.T, sketch, 8), rows)
