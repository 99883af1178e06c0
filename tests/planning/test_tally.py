"""What a tally counts, against sums done by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from colm.planning.tally import SavedBytes, Tally, storage_bytes

FLOAT = 4
N, D, H = 5, 7, 11


@pytest.fixture
def weights():
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape, generator=generator, requires_grad=True) for shape in ((D, H), (H, D))
    ]


def forward(x, weights):
    return ((x @ weights[0]).relu() @ weights[1]).sum()


def test_saved_bytes_count_each_storage_once_and_no_weights(weights):
    x = torch.ones(N, D)
    with SavedBytes(weights) as saved:
        loss = forward(x, weights)
    # x, and the output of relu, which relu and the second product both save.
    assert saved.bytes == saved.peak_bytes == FLOAT * (N * D + N * H)
    loss.backward()
    assert saved.bytes == 0
    assert saved.peak_bytes == FLOAT * (N * D + N * H)


def test_a_copy_of_a_weight_is_counted(weights):
    x = torch.ones(N, D, requires_grad=True)
    with SavedBytes([*weights, x]) as saved:
        loss = (x @ weights[0].double().float()).sum()
    assert saved.bytes == FLOAT * D * H
    del loss
    assert saved.bytes == 0


def test_peak_is_of_what_is_saved_at_one_time(weights):
    with SavedBytes(weights) as saved:
        for rows in (N, 3 * N, 2 * N):
            forward(torch.ones(rows, D), weights).backward()
    assert saved.bytes == 0
    assert saved.peak_bytes == FLOAT * 3 * N * (D + H)


def test_counting_changes_no_gradient(weights):
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(1))
    found = []
    for counted in (False, True):
        for weight in weights:
            weight.grad = None
        with SavedBytes(weights) if counted else torch.enable_grad():
            loss = checkpoint(forward, x, weights, use_reentrant=False) + forward(x.exp(), weights)
            loss.backward()
        found.append([weight.grad.clone() for weight in weights])
    assert all(map(torch.equal, *found))


def test_checkpointing_saves_less(weights):
    x = torch.ones(N, D)
    with SavedBytes(weights) as saved:
        loss = checkpoint(forward, x, weights, use_reentrant=False)
    assert saved.bytes <= FLOAT * N * D
    loss.backward()


def test_tally_counts_what_lives():
    old = torch.ones(100)
    with Tally([old]) as tally:
        first = torch.ones(10)
        assert tally.bytes == FLOAT * 10
        second = first + 1
        view = second.view(2, 5)
        second.mul_(2)
        old.add_(1)
        assert tally.bytes == FLOAT * 20
        del first
        assert tally.bytes == FLOAT * 10
        del second
        assert tally.bytes == FLOAT * 10
        del view
    assert tally.bytes == 0
    assert tally.peak_bytes == FLOAT * 20


def test_tally_sees_gradients_and_what_backward_makes(weights):
    with Tally(weights) as tally:
        forward(torch.ones(N, D), weights).backward()
    assert tally.bytes == FLOAT * 2 * D * H
    assert tally.peak_bytes > tally.bytes


def test_flops_of_products_and_attention():
    heads, tokens, width = 2, 6, 8
    query = torch.ones(N, heads, tokens, width, requires_grad=True)
    with Tally() as tally:
        torch.ones(N, D) @ torch.ones(D, H)
    assert tally.flops == 2 * N * D * H
    with Tally() as tally:
        functional.scaled_dot_product_attention(query, query, query, is_causal=True)
    assert tally.flops == 2 * 2 * N * heads * tokens * tokens * width


def test_backward_of_a_linear_layer_does_twice_its_forward():
    layer = nn.Linear(D, H, bias=False)
    x = torch.ones(N, D, requires_grad=True)
    with Tally() as tally:
        loss = layer(x).sum()
        ahead = tally.flops
        loss.backward()
    assert ahead == 2 * N * D * H
    assert tally.flops == 3 * ahead


def test_storage_bytes_count_an_object_once():
    one = torch.ones(3)
    assert storage_bytes([one, one, torch.ones(2, dtype=torch.int64)]) == 3 * FLOAT + 16
    assert storage_bytes([]) == 0
