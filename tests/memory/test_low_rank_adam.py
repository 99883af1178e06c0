"""Low-rank Adam against twins that write each step out, PyTorch's AdamW, and galore-torch."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from colm.memory.gradient_bases import find_basis
from colm.memory.low_rank_adam import SUBSPACES, LowRankAdam, state_numbers

SMALL = {"rank": 3, "refresh": 4, "levels": 2, "sparsity": 2}
SHAPES = [(6, 9), (9, 6), (7, 7), (5, 1), (1, 5)]


def parameters(dtype=torch.float64, shapes=(*SHAPES, (6,))):
    generator = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in shapes]


def gradients(steps, dtype=torch.float64, shapes=(*SHAPES, (6,))):
    generator = torch.Generator().manual_seed(5)
    return [
        [torch.randn(s, generator=generator, dtype=dtype) for s in shapes] for _ in range(steps)
    ]


def train(optimizer, weights, steps):
    for step in steps:
        for weight, gradient in zip(weights, step, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()
    return [weight.detach().clone() for weight in weights]


def haar_matrix(n, levels):
    """The transform of a row as a matrix [n', n], A_L first; every length is even here."""
    if levels == 0:
        return np.eye(n)
    half = n // 2
    one = np.zeros((n, n))
    for i in range(half):
        one[i, 2 * i] = one[i, 2 * i + 1] = one[half + i, 2 * i] = 1 / math.sqrt(2)
        one[half + i, 2 * i + 1] = -1 / math.sqrt(2)
    rest = np.eye(n)
    rest[:half, :half] = haar_matrix(half, levels - 1)
    return rest @ one


class Twin:
    """One matrix, in numpy: the formulas of the papers, line by line."""

    def __init__(self, weight, lr, scale=0.25, decay=0.0, eps=1e-8):
        self.w, self.lr, self.scale, self.decay, self.eps = weight.copy(), lr, scale, decay, eps
        self.m = self.v = 0.0
        self.t = 0

    def moments(self, small):
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * small
        self.v = 0.999 * self.v + 0.001 * small**2
        return self.m / (np.sqrt(self.v) + self.eps)

    def move(self, direction):
        rate = self.lr * math.sqrt(1 - 0.999**self.t) / (1 - 0.9**self.t)
        self.w = self.w * (1 - self.lr * self.decay) - rate * self.scale * direction


@pytest.mark.parametrize("subspace", ["top", "sampled", "random"])
@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_ten_steps_along_bases_are_those_of_the_twin(subspace, shape):
    (weight,), steps = parameters(shapes=[shape]), gradients(10, shapes=[shape])
    twin = Twin(weight.detach().numpy(), 0.1, decay=0.5)
    for t, (gradient,) in enumerate(steps):
        if t % 4 == 0:
            key = (7, "low_rank_adam", t // 4, 0)
            q = find_basis(gradient, 3, subspace, *key).numpy()
        g = gradient.numpy()
        if shape[0] >= shape[1]:
            twin.move(twin.moments(g @ q) @ q.T)
        else:
            twin.move(q @ twin.moments(q.T @ g))
    options = {"lr": 0.1, "weight_decay": 0.5, "seed": 7, "subspace": subspace}
    optimizer = LowRankAdam([weight], **options, **SMALL)
    (trained,) = train(optimizer, [weight], steps)
    np.testing.assert_allclose(trained.numpy(), twin.w, rtol=1e-10)


def test_ten_steps_of_wavelets_are_those_of_the_twin():
    """Four rows of eight in two levels: two columns of state; the limiter binds at first."""
    (weight,), steps = parameters(shapes=[(4, 8)]), gradients(10, shapes=[(4, 8)])
    twin, haar, before, bound = Twin(weight.detach().numpy(), 0.1), haar_matrix(8, 2), None, []
    for (gradient,) in steps:
        image = gradient.numpy() @ haar.T  # A_2, D_2, D_1 side by side: 2, 2 and 4 columns
        small = twin.moments(image[:, :2])
        root = np.sqrt(twin.v) + twin.eps
        image = np.hstack((small, image[:, 2:4] / root, image[:, 4:] / root.repeat(2, 1)))
        length = np.linalg.norm(small)
        shorter = 1.0 if before is None else max(length / before / 1.01, 1.0)
        bound.append(shorter > 1)
        before = length / shorter
        twin.move(image / shorter @ haar)
    optimizer = LowRankAdam([weight], lr=0.1, weight_decay=0, subspace="wavelet", levels=2)
    (trained,) = train(optimizer, [weight], steps)
    assert True in bound
    assert False in bound[1:]
    np.testing.assert_allclose(trained.numpy(), twin.w, rtol=1e-10)


def test_wavelets_of_no_level_are_adam():
    options = {"lr": 0.1, "eps": 1e-14, "weight_decay": 0.3}
    mine, plain = parameters(), parameters()
    no_limit = {"levels": 0, "growth": 1e9, "scale": 1.0}
    low = train(LowRankAdam(mine, subspace="wavelet", **no_limit, **options), mine, gradients(10))
    adam = train(torch.optim.AdamW(plain, **options), plain, gradients(10))
    for one, other in zip(low, adam, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_of_full_rank_sampled_is_top_and_moves_as_adam_does_in_rotated_coordinates():
    shape, weights = (6, 4), {}
    for subspace in ("top", "sampled"):
        (weight,) = parameters(shapes=[shape])
        options = {"rank": 99, "subspace": subspace, "refresh": 100, "scale": 1.0}
        optimizer = LowRankAdam([weight], lr=0.1, eps=1e-14, weight_decay=0, **options)
        (weights[subspace],) = train(optimizer, [weight], gradients(10, shapes=[shape]))
        basis = optimizer.state[weight]["basis"]
    assert torch.equal(weights["top"], weights["sampled"])
    (weight,) = parameters(shapes=[shape])
    rotated = nn.Parameter(weight.detach() @ basis)
    steps = [[gradient @ basis] for (gradient,) in gradients(10, shapes=[shape])]
    adam = torch.optim.AdamW([rotated], lr=0.1, eps=1e-14, weight_decay=0)
    (rotated,) = train(adam, [rotated], steps)
    torch.testing.assert_close(weights["top"], rotated @ basis.T, rtol=1e-9, atol=1e-11)


def test_of_full_rank_along_the_axes_it_is_adam():
    """A gradient whose singular vectors are the axes."""
    diagonal = torch.diag(torch.arange(4.0, 0, -1, dtype=torch.float64))
    mine, plain = nn.Parameter(torch.ones(4, 4).double()), nn.Parameter(torch.ones(4, 4).double())
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    steps = [[diagonal], [noise], [noise.T]]
    options = {"lr": 0.1, "eps": 1e-14, "weight_decay": 0.1}
    low = LowRankAdam([mine], rank=4, scale=1.0, **options)
    (one,), (other,) = (
        train(optimizer, [weight], steps)
        for optimizer, weight in ((low, mine), (torch.optim.AdamW([plain], **options), plain))
    )
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This implementation of AdamW is deprecated")
def test_the_trajectory_of_top_is_that_of_galore_torch():
    galore = pytest.importorskip("galore_torch")
    mine, theirs = parameters(torch.float32), parameters(torch.float32)
    own = {"rank": 3, "update_proj_gap": 4, "scale": 0.25, "proj_type": "std"}
    groups = [{"params": theirs[:-1], **own}, {"params": theirs[-1:]}]
    options = {"lr": 0.05, "eps": 1e-6, "weight_decay": 0.0}
    steps = gradients(13, torch.float32)
    expected = train(galore.GaLoreAdamW(groups, **options), theirs, steps)
    found = train(LowRankAdam(mine, rank=3, refresh=4, **options), mine, steps)
    for one, other in zip(found[:-1], expected[:-1], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("subspace", SUBSPACES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stopped_and_resumed_it_is_as_uninterrupted(subspace, dtype, tmp_path):
    options = {"lr": 0.1, "subspace": subspace, "seed": 2, **SMALL}
    whole, steps = parameters(dtype), gradients(11, dtype)
    expected = train(LowRankAdam(whole, **options), whole, steps)
    first = parameters(dtype)
    optimizer = LowRankAdam(first, **options)
    train(optimizer, first, steps[:6])
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    second = [nn.Parameter(weight.detach().clone()) for weight in first]
    resumed = LowRankAdam(second, **options)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt"))
    for one, other in zip(train(resumed, second, steps[6:]), expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("subspace", SUBSPACES)
def test_the_state_is_as_large_as_is_counted(subspace):
    weights = parameters(torch.float32, SHAPES)
    optimizer = LowRankAdam(weights, lr=0.1, subspace=subspace, **SMALL)
    train(optimizer, weights, gradients(2, torch.float32, SHAPES))
    sizes = {"rank": 3, "levels": 2, "sparsity": 2}
    for weight in weights:
        state = dict(optimizer.state[weight])
        assert state.pop("step") == 2
        held = sum(part.numel() for part in state.values())
        assert held == state_numbers(*weight.shape, subspace, **sizes)


@pytest.mark.slow
@pytest.mark.parametrize("subspace", SUBSPACES)
def test_least_squares_are_found_whatever_the_subspace(subspace):
    """A regression of rank 2, with a learning rate that falls."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 8, generator=generator)
    target = x @ torch.randn(8, 2, generator=generator) @ torch.randn(2, 6, generator=generator)
    weight = nn.Parameter(torch.zeros(8, 6))
    options = SMALL | {
        "subspace": subspace,
        "levels": 1,
        "refresh": 10,
        "scale": 1.0,
        "weight_decay": 0,
    }
    optimizer = LowRankAdam([weight], lr=0.1, **options)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 250)
    losses = []
    for _ in range(250):
        loss = (x @ weight - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_others_are_trained_by_pytorchs_adamw_to_the_bit():
    mine, plain = parameters(torch.float32), parameters(torch.float32)
    options = {"lr": 0.1, "weight_decay": 0.2}
    low = LowRankAdam(mine, **options, targets=mine[:1], **SMALL)
    found = train(low, mine, gradients(5, torch.float32))
    expected = train(torch.optim.AdamW(plain, **options), plain, gradients(5, torch.float32))
    assert not torch.equal(found[0], expected[0])
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert torch.equal(one, other)


def test_gradients_stay_and_a_weight_without_one_is_left_alone():
    weights = parameters(torch.float32)
    before = weights[0].detach().clone()
    optimizer = LowRankAdam(weights, lr=0.1, **SMALL)
    (step,) = gradients(1, torch.float32)
    for weight, gradient in list(zip(weights, step, strict=True))[1:]:
        weight.grad = gradient.clone()
    optimizer.step()
    assert torch.equal(weights[0], before)
    for weight, gradient in list(zip(weights, step, strict=True))[1:]:
        assert torch.equal(weight.grad, gradient)


@pytest.mark.parametrize("subspace", SUBSPACES)
def test_zeros_do_no_harm_and_what_is_no_number_shows(subspace):
    weight = nn.Parameter(torch.ones(6, 9))
    optimizer = LowRankAdam([weight], lr=0.1, weight_decay=0, subspace=subspace, **SMALL)
    train(optimizer, [weight], [[torch.zeros(6, 9)]] * 2)
    assert torch.equal(weight.detach(), torch.ones(6, 9))
    train(optimizer, [weight], gradients(4, torch.float32, [(6, 9)]))
    assert weight.isfinite().all()
    assert not torch.equal(weight.detach(), torch.ones(6, 9))
    train(optimizer, [weight], [[torch.full((6, 9), math.nan)]] * 4)
    assert weight.isnan().any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subspace": "x"}, "subspace must be one of top, sampled, random, wavelet, sketched"),
        ({"rank": 0}, "rank must be a whole number at least 1; got 0"),
        ({"refresh": 0}, "refresh must be"),
        ({"sparsity": 0}, "sparsity must be"),
        ({"levels": -1}, "levels must be"),
        ({"scale": 0}, "scale must be"),
        ({"growth": 1}, "growth must be"),
        ({"targets": [nn.Parameter(torch.zeros(3))]}, "targets must be a matrix"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        LowRankAdam(parameters(), **options)
    assert "\n" not in str(error.value)


def test_weights_in_parts_are_refused_by_name():
    weight = nn.Parameter(torch.zeros(2, 2))
    weight.ds_id = 1
    with pytest.raises(ValueError, match="whole weights, and DeepSpeed shards them"):
        LowRankAdam([weight])
