"""Training by losses alone, against loops that anyone can check, and torch's own optimisers."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from colm.memory.random_directions import DIRECTIONS
from colm.memory.step_log import log_of, replay_log
from colm.memory.zeroth_order_optimizer import ZerothOrderOptimizer
from colm.memory.zeroth_order_options import SLOPE_ESTIMATORS, UPDATES, TakenStep
from colm.planning.tally import Tally
from tests.tiny_llama import tiny_llama

#: Standard errors that a mean over directions may be off.
ERRORS = 5


class Quadratic(nn.Module):
    """L(W) = 1/2 sum (A W - C)^2, so that differences of losses to both sides are exact."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def normal(*shape):
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        self.weight, self.bias = nn.Parameter(normal(5, 4)), nn.Parameter(normal(4))
        self.a, self.c = normal(6, 5), normal(6, 4)

    def forward(self):
        return 0.5 * (self.a @ self.weight + self.bias - self.c).square().sum()


def weights_of(model):
    return [weight.detach().clone() for weight in model.parameters()]


def gradient_of(model):
    return torch.autograd.grad(model(), list(model.parameters()))


def directions_of(optimizer):
    """z ``[q]`` of the step that is next, of each weight."""
    found = []
    for name, weight in optimizer.model.named_parameters():
        found.append([])
        for number in range(optimizer.options.directions):
            z = torch.empty_like(weight)
            for rows, values in optimizer._changes(name, weight, {number: 1.0}):
                z[rows] = values
            found[-1].append(z.detach())
    return found


def small_model(attention="eager"):
    return tiny_llama(
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        tie_word_embeddings=True,
        attn_implementation=attention,
    ).double()


def loss_of(model):
    ids = torch.randint(64, (2, 6), generator=torch.Generator().manual_seed(1))
    return model(input_ids=ids, labels=ids).loss


@pytest.mark.parametrize("estimator", SLOPE_ESTIMATORS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_slopes_are_those_of_the_loss(estimator, direction):
    model = Quadratic()
    optimizer = ZerothOrderOptimizer(
        model, estimator=estimator, direction=direction, directions=2, rank=2, epsilon=1e-2
    )
    gradient, z = gradient_of(model), directions_of(optimizer)
    loss = optimizer.measure(model)
    for number, slope in enumerate(optimizer.slopes):
        exact = sum((g * of[number]).sum() for g, of in zip(gradient, z, strict=True))
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for weight, of in zip(moved.parameters(), z, strict=True):
                weight.add_(of[number], alpha=1e-2)
            ahead = (moved() - model()) / 1e-2
        assert slope == pytest.approx(float(ahead if estimator == "one_sided" else exact))
    if estimator != "central":
        assert loss == model().item()


@pytest.mark.slow
@pytest.mark.parametrize("estimator", SLOPE_ESTIMATORS)
def test_the_estimate_is_the_gradient_on_average(estimator):
    """Over q directions; of a normal z, an entry's variance is the gradient's square norm and its
    own square, so that the squares of standard errors have mean 1."""
    model = Quadratic()
    q, rate = 1000, 1e-3
    optimizer = ZerothOrderOptimizer(
        model, lr=rate, directions=q, estimator=estimator, epsilon=1e-6
    )
    gradient, before = gradient_of(model), weights_of(model)
    optimizer.step(model)
    _check_mean(gradient, before, weights_of(model), q, rate)


@pytest.mark.slow
def test_a_model_with_shared_weights_has_its_gradient_on_average():
    model = small_model()
    q, rate = 100, 1e-3
    optimizer = ZerothOrderOptimizer(model, lr=rate, directions=q, epsilon=1e-4)
    gradient = torch.autograd.grad(loss_of(model), list(model.parameters()))
    before = weights_of(model)
    optimizer.step(lambda: loss_of(model))
    _check_mean(gradient, before, weights_of(model), q, rate)


def _check_mean(gradient, before, after, q, rate):
    gradient = torch.cat([g.flatten() for g in gradient])
    moved = [(b - a).flatten() / rate for b, a in zip(before, after, strict=True)]
    error = ((gradient.square().sum() + gradient.square()) / q).sqrt()
    off = (torch.cat(moved) - gradient) / error
    assert off.abs().max() < ERRORS
    # All share the slopes, so the mean of squares is off by what their few thousand are.
    assert off.square().mean().item() == pytest.approx(1, abs=0.6)


@pytest.mark.slow
def test_within_a_subspace_the_estimate_is_the_projected_gradient_on_average():
    model = Quadratic()
    model.bias.requires_grad_(False)
    q = 500
    optimizer = ZerothOrderOptimizer(
        model, lr=1.0, direction="subspace", rank=2, directions=q, estimator="forward_gradient"
    )
    (gradient,) = torch.autograd.grad(model(), model.weight)
    left = optimizer._directions._kept_factor("weight", "rows", model.weight, 0)
    right = optimizer._directions.right("weight", model.weight, 0)
    expected = left.T @ left @ gradient @ right.T @ right
    before = model.weight.detach().clone()
    optimizer.step(model)
    assert (before - model.weight - expected).norm() < 0.5 * expected.norm()


def test_steps_of_a_low_rank_period_add_up_in_one_space():
    """W changes by (sum of slope x U) V^T / sqrt(r), as of LOZO."""
    model = Quadratic()
    optimizer = ZerothOrderOptimizer(model, lr=1e-3, direction="low_rank", rank=2, refresh=3)
    before, total = weights_of(model)[0], 0
    for step in range(3):
        left = optimizer._directions.left("weight", model.weight, step, {0: 1.0})
        optimizer.step(model)
        total = total + optimizer.steps[-1].slopes[0] * left
    right = optimizer._directions.right("weight", model.weight, 2)
    torch.testing.assert_close(model.weight.detach(), before - 1e-3 * total @ right)


OWN = {
    "sgd": lambda weights: torch.optim.SGD(weights, lr=1e-2),
    "momentum": lambda weights: torch.optim.SGD(weights, lr=1e-2, momentum=0.9),
    "adam": lambda weights: torch.optim.AdamW(weights, lr=1e-2, weight_decay=0.1),
}


@pytest.mark.parametrize("update", OWN)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("q", [1, 3])
def test_updates_are_those_of_torch_with_the_estimate_as_gradient(update, direction, q):
    model = Quadratic()
    decay = 0.1 if update == "adam" else 0.0
    optimizer = ZerothOrderOptimizer(
        model, lr=1e-2, update=update, direction=direction, directions=q, rank=2, weight_decay=decay
    )
    twin = [nn.Parameter(weight) for weight in weights_of(model)]
    own = OWN[update](twin)
    for _ in range(6):
        z = directions_of(optimizer)
        optimizer.step(model)
        for weight, of in zip(twin, z, strict=True):
            slopes = optimizer.steps[-1].slopes
            weight.grad = sum(slope * each for slope, each in zip(slopes, of, strict=True)) / q
        own.step()
        torch.testing.assert_close(weights_of(model), [weight.detach() for weight in twin])


def test_momentum_of_low_rank_directions_is_small_and_goes_on_in_the_next_space():
    """A whole heavy ball, of which only what the new rows span is left when they are drawn."""
    model = Quadratic()
    options = {"update": "momentum", "direction": "low_rank", "rank": 2, "refresh": 3}
    optimizer = ZerothOrderOptimizer(model, lr=1e-3, **options)
    ball = torch.zeros_like(model.weight)
    for step in range(8):
        before, z = weights_of(model)[0], directions_of(optimizer)[0][0]
        right = optimizer._directions.right("weight", model.weight, step)
        optimizer.step(model)
        rows = torch.linalg.pinv(right) @ right
        ball = 0.9 * ball @ rows + optimizer.steps[-1].slopes[0] * z
        torch.testing.assert_close(weights_of(model)[0], before - 1e-3 * ball)
    assert optimizer.state[model.weight]["momentum"].shape == (5, 2)
    assert optimizer.state[model.bias]["momentum"].shape == (4,)


def test_the_sign_of_the_estimate_and_decay_beside_it():
    model = Quadratic()
    optimizer = ZerothOrderOptimizer(model, lr=1e-2, update="sign", weight_decay=0.5)
    before, z = weights_of(model), directions_of(optimizer)
    optimizer.step(model)
    slope = optimizer.steps[-1].slopes[0]
    expected = [
        weight * (1 - 1e-2 * 0.5) - 1e-2 * torch.sign(slope * of[0])
        for weight, of in zip(before, z, strict=True)
    ]
    torch.testing.assert_close(weights_of(model), expected)


@pytest.mark.parametrize("estimator", SLOPE_ESTIMATORS)
@pytest.mark.parametrize("rate", [1e-3, 0.1, 10.0])
def test_a_conservative_step_is_the_best_of_three(estimator, rate):
    model = Quadratic()
    optimizer = ZerothOrderOptimizer(
        model, lr=rate, update="conservative", estimator=estimator, directions=2
    )
    signs = set()
    for _ in range(5):
        before, z = weights_of(model), directions_of(optimizer)
        optimizer.step(model)
        slopes = optimizer.steps[-1].slopes
        losses = {}
        for sign in (0, 1, -1):
            tried = copy.deepcopy(model)
            with torch.no_grad():
                for weight, was, of in zip(tried.parameters(), before, z, strict=True):
                    estimate = (slopes[0] * of[0] + slopes[1] * of[1]) / 2
                    weight.copy_(was - sign * rate * estimate)
                losses[sign] = tried().item()
        assert model().item() == pytest.approx(min(losses.values()))
        assert optimizer.steps[-1].sign == min(losses, key=losses.get)
        signs.add(optimizer.steps[-1].sign)
    assert signs == ({0} if rate == 10.0 else {1}) or rate == 0.1


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("estimator", ["central", "one_sided"])
def test_a_batch_in_parts_is_the_batch(update, estimator):
    """Losses of parts add up to that of the whole, and so do slopes."""
    whole, parts = Quadratic(), Quadratic()
    options = {"lr": 1e-2, "update": update, "estimator": estimator, "directions": 2}
    one, other = (ZerothOrderOptimizer(model, **options) for model in (whole, parts))

    def rows(start):
        residual = parts.a[start::2] @ parts.weight + parts.bias - parts.c[start::2]
        return 0.5 * residual.square().sum()

    for _ in range(3):
        loss = one.step(whole)
        assert other.measure(lambda: rows(0)) + other.measure(lambda: rows(1)) == pytest.approx(
            loss
        )
        other.step()
        torch.testing.assert_close(weights_of(parts), weights_of(whole))


@pytest.mark.slow
def test_the_norm_of_the_gradient_is_that_of_slopes():
    model = Quadratic()
    optimizer = ZerothOrderOptimizer(model, directions=300, estimator="forward_gradient")
    optimizer.measure(model)
    norm = torch.cat([g.flatten() for g in gradient_of(model)]).norm()
    # A square of a slope varies by sqrt(2) of its mean.
    assert optimizer.gradient_norm == pytest.approx(float(norm), rel=ERRORS / (2 * 300) ** 0.5)


def test_measuring_leaves_no_trace():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    optimizer = ZerothOrderOptimizer(model, directions=2)
    before, seen = weights_of(model), []

    def loss():
        value = model(torch.ones(3, 4)).sum()
        seen.append((value.requires_grad, value.grad_fn, model.training, model[1].training))
        return value

    state = torch.get_rng_state()
    optimizer.measure(loss)
    with pytest.raises(ZeroDivisionError):
        optimizer.measure(lambda: (model(torch.ones(3, 4)), 1 / 0))
    assert set(seen) == {(False, None, False, False)}
    assert all(map(torch.equal, before, weights_of(model)))
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    assert model.training
    assert model[1].training
    assert torch.equal(state, torch.get_rng_state())


def test_a_step_takes_the_memory_of_a_forward_and_of_a_modules_weights():
    """Nothing is kept for a backward, and no direction is ever whole."""
    model = small_model("sdpa").float()
    batch = torch.randint(64, (8, 32), generator=torch.Generator().manual_seed(1))

    def loss():
        return model(input_ids=batch, labels=batch).loss

    with torch.no_grad(), Tally() as forward:
        loss()
    optimizer = ZerothOrderOptimizer(model)
    with Tally() as step:
        optimizer.step(loss)
    with Tally() as trained:
        loss().backward()
    largest = max(weight.nbytes for weight in model.parameters())
    # Of a weight there may be its direction, the sum of directions, and what comes of them.
    assert step.peak_bytes <= forward.peak_bytes + 6 * largest
    assert trained.peak_bytes > 2 * step.peak_bytes


def bfloat16_model():
    torch.manual_seed(0)
    return nn.Linear(6, 4, bias=False).bfloat16()


@pytest.mark.slow
def test_a_thousand_steps_in_bfloat16_are_made_again_from_their_log():
    check_replay(steps=1000, lr=1e-3)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_way_of_training_is_made_again_from_its_log(update, direction):
    check_replay(steps=8, lr=1e-2, update=update, direction=direction, rank=2, refresh=3)


def check_replay(steps, **options):
    model = bfloat16_model()
    first, x = copy.deepcopy(model), torch.randn(16, 6).bfloat16()
    optimizer = ZerothOrderOptimizer(model, weight_decay=0.01, directions=2, **options)
    before = (model(x).float() - 1).square().mean()
    for _ in range(steps):
        optimizer.step(lambda: (model(x).float() - 1).square().mean())
    written = json.loads(json.dumps(log_of(optimizer)))
    again = replay_log(first, written)
    assert all(map(torch.equal, weights_of(first), weights_of(model)))
    assert log_of(again) == log_of(optimizer)
    assert (model(x).float() - 1).square().mean() < before


def test_the_pages_loop_runs():
    page = Path(__file__).parents[2] / "docs" / "memory.md"
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S)
    (block,) = (each for each in blocks if "ZerothOrderOptimizer" in each)
    exec(block, {})


@pytest.mark.slow
def test_a_thousand_steps_without_a_slope_leave_every_bit():
    model = bfloat16_model()
    before = weights_of(model)
    optimizer = ZerothOrderOptimizer(model, lr=1e-2)
    for _ in range(1000):
        optimizer.step(lambda: 0 * model(torch.ones(1, 6).bfloat16()).sum())
    assert all(map(torch.equal, weights_of(model), before))


def test_small_updates_of_bfloat16_weights_add_up():
    """Each is less than a hundredth of the distance to the next number."""
    model = nn.Linear(1000, 1, bias=False).bfloat16()
    with torch.no_grad():
        model.weight.fill_(1.0)
    optimizer = ZerothOrderOptimizer(model, lr=1e-2, weight_decay=1e-3)
    for _ in range(100):
        optimizer.take(TakenStep(slopes=(0.0,), rates=(1e-2,)))
    assert (1 - model.weight.float()).mean().item() == pytest.approx(100 * 1e-5, rel=0.3)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_stopped_loop_goes_on_as_if_it_had_not_stopped(update, dtype, tmp_path):
    options = {"lr": 1e-2, "update": update, "direction": "low_rank", "rank": 2, "refresh": 3}
    whole = Quadratic(dtype)
    optimizer = ZerothOrderOptimizer(whole, **options)
    for step in range(8):
        if step == 4:
            torch.save([whole.state_dict(), optimizer.state_dict()], tmp_path / "saved")
        optimizer.step(whole)
    weights, state = torch.load(tmp_path / "saved", weights_only=True)
    resumed = Quadratic(dtype)
    resumed.load_state_dict(weights)
    other = ZerothOrderOptimizer(resumed, **options)
    other.load_state_dict(state)
    for _ in range(4):
        other.step(resumed)
    assert all(map(torch.equal, weights_of(resumed), weights_of(whole)))
    assert other.steps == optimizer.steps


def test_weights_that_are_frozen_stay_and_groups_have_rates_of_their_own():
    model = Quadratic()
    groups = [{"params": [model.bias], "lr": 0.0}, {"params": [model.weight]}]
    optimizer = ZerothOrderOptimizer(model, groups, lr=1e-2)
    before = weights_of(model)
    optimizer.step(model)
    assert torch.equal(model.bias, before[1])
    assert not torch.equal(model.weight, before[0])
    assert optimizer.steps[0].rates == (0.0, 1e-2)
    model.bias.requires_grad_(False)
    assert list(ZerothOrderOptimizer(model).names.values()) == ["weight"]


def test_kernels_without_forward_derivatives_are_named():
    model = small_model("sdpa")
    optimizer = ZerothOrderOptimizer(model, estimator="forward_gradient")
    with pytest.raises(ValueError, match=r"attn_implementation='eager'.*attention") as error:
        optimizer.step(lambda: loss_of(model))
    assert "\n" not in str(error.value)


def test_a_weight_that_the_loss_does_not_read_is_named():
    model = nn.ModuleDict({"used": nn.Linear(2, 1), "idle": nn.Linear(2, 1)})
    optimizer = ZerothOrderOptimizer(model)
    with pytest.raises(ValueError, match=r"does not read idle\.bias .* 2 weights"):
        optimizer.step(lambda: model["used"](torch.ones(1, 2)).sum())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "x"}, "estimator .* central, one_sided, forward_gradient.*'x'"),
        ({"update": "x"}, "update .* sgd, sign, momentum, conservative, adam.*'x'"),
        ({"direction": "x"}, "direction .* gaussian, subspace, low_rank.*'x'"),
        ({"directions": 0}, "directions must be a whole number at least 1; got 0"),
        ({"epsilon": 0.0}, r"epsilon must be a number above 0; got 0\.0"),
        ({"rank": 1.5}, r"rank must be a whole number at least 1; got 1\.5"),
        ({"momentum": 1}, "momentum must be a number at least 0 and below 1; got 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ZerothOrderOptimizer(Quadratic(), **options)


def test_what_cannot_be_trained_so_is_refused():
    with pytest.raises(ValueError, match="weight is in float16, where small updates are lost"):
        ZerothOrderOptimizer(nn.Linear(2, 2).half())
    with pytest.raises(ValueError, match="a weight that is not the model's"):
        ZerothOrderOptimizer(nn.Linear(2, 2), nn.Linear(2, 2).parameters())
    with pytest.raises(ValueError, match="needs a closure, or measure"):
        ZerothOrderOptimizer(nn.Linear(2, 2)).step()
    log = log_of(ZerothOrderOptimizer(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match=r"another model: this one has no weight"):
        replay_log(nn.Sequential(nn.Linear(2, 2)), log)
    with pytest.raises(ValueError, match="format 'colm zeroth order 1'; got 'x'"):
        replay_log(nn.Linear(2, 2), log | {"format": "x"})
