"""A forward at moved weights against that of a model which has them."""

import copy

import pytest
import torch
from torch import nn
from trl.trainer import add_fused_lm_head

from colm.memory.moved_weights import MovedWeights
from tests.tiny_llama import tiny_llama


def noise(name, weight):
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    return weight + 0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)


def names_of(model):
    return {id(weight): name for name, weight in model.named_parameters()}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_a_loss_is_that_of_a_model_with_such_weights(tied, fused):
    """TRL's fused head reads the head's weight beside its module, a slice at a time."""
    model = tiny_llama(tie_word_embeddings=tied)
    written = copy.deepcopy(model)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for name, weight in written.named_parameters():
            weight.copy_(noise(name, weight))
    ids = torch.randint(64, (3, 9), generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": ids, "labels": ids}
    if fused:
        batch["fused_lm_head"] = True
        for each in (model, written):
            add_fused_lm_head(each)
    with torch.no_grad(), MovedWeights(names_of(model), noise) as moved:
        loss = model(**batch).loss
    with torch.no_grad():
        assert torch.equal(loss, written(**batch).loss)
        assert not torch.equal(loss, model(**batch).loss)
    assert moved.read == {name for name, _ in model.named_parameters()}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class _Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        return x @ weight.T

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError


@pytest.mark.parametrize(
    "read",
    [
        lambda x, w: x @ w.T,
        lambda x, w: x @ w.data.T,
        lambda x, w: x @ w.detach().t(),
        lambda x, w: nn.functional.linear(x, weight=w),
        lambda x, w: x @ torch.cat([w, w])[: len(w)].T,
        lambda x, w: x @ torch.cat((w[:1], w[1:])).T,
        _Own.apply,
        lambda x, w: torch.vmap(lambda row: w @ row)(x),
    ],
)
def test_however_a_weight_is_read(read):
    torch.manual_seed(0)
    weight, x = nn.Parameter(torch.randn(3, 4)), torch.randn(5, 4)
    with torch.no_grad():
        with MovedWeights({id(weight): "w"}, lambda _, w: 3 * w):
            moved = read(x, weight)
        torch.testing.assert_close(moved, 3 * (x @ weight.T))


def test_one_module_at_a_time_is_held_and_asked_for_once():
    asked, alive = [], []

    def move(name, weight):
        asked.append(name)
        alive.append(len(mode._made))
        return weight.clone()

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad(), MovedWeights(names_of(model), move) as mode:
        model(torch.ones(1, 4))
        for _ in range(3):
            torch.ones(1, 4) @ model[1].weight
    assert asked == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert alive == [0, 1, 0, 1]
    assert not mode._made


def test_what_tells_of_a_weight_moves_nothing():
    weight = nn.Parameter(torch.ones(2, 3))
    with MovedWeights({id(weight): "w"}, lambda *_: pytest.fail("moved")) as moved:
        told = (weight.shape, weight.dtype, weight.size(0), weight.dim(), weight.requires_grad)
        assert told == ((2, 3), torch.float32, 2, 2, True)
        assert weight.is_contiguous()
        assert weight.device.type == "cpu"
        assert weight.grad is None
    assert not moved.read


def test_after_an_exception_weights_are_read_as_they_are():
    weight = nn.Parameter(torch.ones(2))
    mode = MovedWeights({id(weight): "w"}, lambda _, w: 2 * w)
    with pytest.raises(ZeroDivisionError), mode:
        (weight + 0).sum() / 0 if weight.sum() == 2 else 1 / 0
    assert not mode._made
    assert torch.equal(weight + 0, torch.ones(2))
