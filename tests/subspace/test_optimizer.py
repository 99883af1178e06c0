"""Adam in random subspaces against an oracle that writes W + B P out, and on convex problems."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from transformers import LlamaConfig

from colm.memory.subspaces.optimizer import MOMENTS, SubspaceOptimizer
from colm.memory.subspaces.projection import draw_projection
from colm.memory.subspaces.subspaces import Subspaces


def train(model, optimizer, batch, steps):
    losses = []
    for _ in range(steps):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


class WrittenOut:
    """W + B P as a plain parametrisation, trained by plain AdamW: what RSO does, the long way."""

    def __init__(self, model, rank, sampling, seed, lr, moments="reset", **options):
        self.model, self.rank, self.sampling, self.seed = model, rank, sampling, seed
        self.moments = moments
        self.weights = {
            name: parameter.detach().clone()
            for name, parameter in model.named_parameters()
            if ".layers." in name and parameter.ndim == 2
        }
        self.others = {
            name: parameter.detach().clone().requires_grad_(True)
            for name, parameter in model.named_parameters()
            if name not in self.weights
        }
        self.options = {"lr": lr, "weight_decay": 0.0} | options
        self.others_optimizer = torch.optim.AdamW(self.others.values(), **self.options)
        self.outer_step = -1
        self.next_subspace()

    def next_subspace(self):
        if self.outer_step >= 0:
            self.weights = {name: w.detach() for name, w in self.whole().items()}
        self.outer_step += 1
        self.p = {
            name: draw_projection(
                weight.shape[1],
                min(self.rank, weight.shape[1]),
                self.sampling,
                *(self.seed, "subspace", self.outer_step),
                *(name.removesuffix(".weight").rpartition(".")[0], weight.shape[1]),
                dtype=weight.dtype,
            )
            for name, weight in self.weights.items()
        }
        self.b = {
            name: weight.new_zeros(len(weight), len(self.p[name])).requires_grad_(True)
            for name, weight in self.weights.items()
        }
        before = getattr(self, "optimizer", None)
        self.optimizer = torch.optim.AdamW(self.b.values(), **self.options)
        if before is not None and self.moments != "reset":
            self.carry_moments(before)

    def carry_moments(self, before):
        olds = before.param_groups[0]["params"]
        for old, new in zip(olds, self.b.values(), strict=True):
            state = self.optimizer.state[new]
            state["step"] = before.state[old]["step"]
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = before.state[old][name]
            if self.moments == "averaged":
                state["exp_avg"] = torch.zeros_like(new)
                rows = [row.mean() for row in before.state[old]["exp_avg_sq"]]
                state["exp_avg_sq"] = torch.stack([row.repeat(new.shape[1]) for row in rows])

    def whole(self):
        return {name: w + self.b[name] @ self.p[name] for name, w in self.weights.items()}

    def step(self, batch, proximal=None):
        loss = functional_call(self.model, self.whole() | self.others, kwargs=batch).loss
        penalty = 0.0
        if proximal:
            penalty = sum(b.square().sum() for b in self.b.values()) / (2 * proximal)
        (loss + penalty).backward()
        for optimizer in (self.optimizer, self.others_optimizer):
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["gaussian", "haar"])
@pytest.mark.parametrize("rank", [3, 1000], ids=["low", "full"])
@pytest.mark.parametrize("proximal", [None, 0.5])
@pytest.mark.parametrize("moments", MOMENTS)
def test_the_trajectory_is_that_of_adam_in_the_same_parametrisation(
    model, batch, rank, sampling, proximal, moments
):
    """Three outer steps; at full rank this is plain Adam in other coordinates."""
    model = model.double()
    oracle = WrittenOut(copy.deepcopy(model), rank, sampling, 5, lr=1e-2, moments=moments)
    subspaces = Subspaces(model, rank, sampling=sampling, seed=5)
    optimizer = SubspaceOptimizer(
        subspaces,
        lr=1e-2,
        weight_decay=0.0,
        inner_steps=4,
        proximal=proximal,
        moments=moments,
    )
    expected = []
    for step in range(12):
        expected.append(oracle.step(batch, proximal))
        if step % 4 == 3:
            oracle.next_subspace()
    losses = train(model, optimizer, batch, 12)
    # Norms compute in float32 whatever the model's type.
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)
    assert losses[-1] < losses[0] - 0.5
    assert subspaces.outer_step == 3


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_along_the_axes_at_full_rank_it_is_plain_adam(model, batch, monkeypatch, weight_decay):
    """With P = I, B is what W has moved: through four merges the weights are those of AdamW."""

    def axes(inputs, rank, *_, device, dtype):
        assert rank == inputs
        return torch.eye(inputs, device=device, dtype=dtype)

    monkeypatch.setattr("colm.memory.subspaces.subspaces.draw_projection", axes)
    # Decay reaches W when it is merged: after every step, it is AdamW's.
    inner_steps = 1 if weight_decay else 3
    options = {"lr": 1e-2, "weight_decay": weight_decay}
    plain = copy.deepcopy(model.double())
    subspaces = Subspaces(model, 1000)
    optimizer = SubspaceOptimizer(subspaces, inner_steps=inner_steps, moments="kept", **options)
    adamw = torch.optim.AdamW(plain.parameters(), **options)
    losses, expected = train(model, optimizer, batch, 12), train(plain, adamw, batch, 12)
    # Norms compute in float32 whatever the model's type.
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)
    assert subspaces.outer_step == 12 // inner_steps
    assert losses[-1] < losses[0] - 0.5
    subspaces.detach()
    for own, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


def test_moments_are_reset_with_p_or_kept_or_averaged(model, batch):
    steps = {}
    for moments in MOMENTS:
        subspaces = Subspaces(copy.deepcopy(model), 4)
        optimizer = SubspaceOptimizer(subspaces, lr=1e-3, inner_steps=3, moments=moments)
        train(subspaces.model, optimizer, batch, 3)
        state = optimizer.state[next(subspaces.factors())]
        alike = bool((state["exp_avg_sq"] == state["exp_avg_sq"][:, :1]).all())
        steps[moments] = int(state["step"]), bool(state["exp_avg"].any()), alike
        norm = optimizer.state[subspaces.model.model.norm.weight]
        assert int(norm["step"]) == 3
    assert steps == {
        "reset": (0, False, True),
        "kept": (3, True, False),
        "averaged": (3, False, True),
    }


def test_weight_decay_takes_off_w_what_adamw_takes_off(model):
    """With gradients of zero, decay is all there is."""
    plain = copy.deepcopy(model)
    subspaces = Subspaces(model, 4)
    optimizer = SubspaceOptimizer(subspaces, lr=0.1, weight_decay=0.2, inner_steps=3)
    adamw = torch.optim.AdamW(plain.parameters(), lr=0.1, weight_decay=0.2)
    for _ in range(6):
        for own in (model, plain):
            for parameter in own.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        optimizer.step()
        adamw.step()
    subspaces.detach()
    for own, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own, other)


def test_a_closure_is_called_once_and_its_loss_returned(model, batch):
    subspaces = Subspaces(model, 4)
    optimizer = SubspaceOptimizer(subspaces, lr=1e-2, proximal=1.0)
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        calls.append(loss.item())
        return loss

    assert optimizer.step(closure).item() == calls[0]
    assert len(calls) == 1
    assert next(subspaces.factors()).any()


@pytest.mark.parametrize("stop", [2, 3, 4, 5])
def test_state_dicts_resume_bit_for_bit(model, batch, stop):
    """Stopped within an inner loop and at its end."""

    def start(own):
        subspaces = Subspaces(own, 4, seed=2)
        return subspaces, SubspaceOptimizer(subspaces, lr=1e-2, inner_steps=3)

    second = copy.deepcopy(model)
    subspaces, optimizer = start(model)
    train(model, optimizer, batch, stop)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    losses = train(model, optimizer, batch, 5)

    resumed, resumed_optimizer = start(second)
    second.load_state_dict(saved[0])
    resumed_optimizer.load_state_dict(saved[1])
    assert train(second, resumed_optimizer, batch, 5) == losses
    assert resumed.outer_step == subspaces.outer_step
    state = second.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


class LeastSquares(nn.Module):
    """A decoder of one linear layer, so that subspaces find it; ``||X W^T - Y||^2 / 2n``."""

    def __init__(self, inputs, outputs):
        super().__init__()
        layer = nn.ModuleDict({"map": nn.Linear(inputs, outputs, bias=False)})
        config = LlamaConfig(num_hidden_layers=1)
        self.config = config
        self.body = nn.Module()
        self.body.layers = nn.ModuleList([layer])

    def get_decoder(self):
        return self.body

    def get_input_embeddings(self):
        return None

    def get_output_embeddings(self):
        return None

    def forward(self, x, y):
        return (self.body.layers[0]["map"](x) - y).square().sum() / (2 * len(x))


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["gaussian", "haar"])
@pytest.mark.parametrize("proximal", [None, 10.0])
def test_a_convex_problem_ends_at_its_known_optimum(sampling, proximal):
    """Of rank 2 in 10 dimensions: no single subspace has the solution, many together do."""
    torch.manual_seed(0)
    x, y = torch.randn(50, 10, dtype=torch.float64), torch.randn(50, 4, dtype=torch.float64)
    optimum = torch.linalg.lstsq(x, y).solution.T
    model = LeastSquares(10, 4).double()
    best = (x @ optimum.T - y).square().sum() / 100
    subspaces = Subspaces(model, 2, sampling=sampling)
    optimizer = SubspaceOptimizer(
        subspaces, lr=0.1, weight_decay=0.0, inner_steps=20, proximal=proximal
    )
    steps = 1500
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.995**step)
    gaps = []
    for _ in range(steps):
        loss = model(x, y)
        gaps.append((loss - best).item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        decay.step()
    subspaces.detach()
    # The first subspace alone, 20 steps of it, leaves a gap.
    assert gaps[20] > 1e-2
    assert gaps[-1] < 1e-4
    torch.testing.assert_close(model.body.layers[0]["map"].weight, optimum, atol=1e-2, rtol=0)


@pytest.mark.slow
def test_it_trains_from_scratch_about_as_well_as_adamw(model, batch):
    """Not a claim about models: that steps along P add up to steps in the whole space."""
    plain = copy.deepcopy(model)
    adamw = train(plain, torch.optim.AdamW(plain.parameters(), lr=5e-3), batch, 60)
    optimizer = SubspaceOptimizer(Subspaces(model, 8), lr=5e-3, inner_steps=10)
    assert train(model, optimizer, batch, 60)[-1] < 1.5 * adamw[-1] + 0.1


def test_optimiser_states_are_of_the_size_of_b(model, batch):
    subspaces = Subspaces(model, 4, others=[])
    optimizer = SubspaceOptimizer(subspaces, lr=1e-3)
    train(model, optimizer, batch, 1)
    held = sum(
        value.numel()
        for state in optimizer.state.values()
        for value in state.values()
        if value.numel() > 1
    )
    assert held == 2 * sum(factor.numel() for factor in subspaces.factors())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inner_steps": 0}, "inner_steps.*whole.* 1.* 0"),
        ({"proximal": 0.0}, "proximal.* 0.*None.* 0.0"),
        ({"moments": "x"}, "moments.*averaged, reset, kept.* 'x'"),
    ],
)
def test_what_is_out_of_range_is_refused(model, change, message):
    with pytest.raises(ValueError, match=message):
        SubspaceOptimizer(Subspaces(model, 4), lr=1e-3, **change)
