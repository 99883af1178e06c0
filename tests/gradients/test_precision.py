"""Features in half precision against those in float32, as training has them."""

import warnings
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from colm.gradients import zeroth_order
from colm.gradients.exact import token_gradients
from colm.gradients.patching import in_float32
from colm.gradients.value_gradients import ESTIMATORS, ValueGradients
from tests.gradients.adapters import with_adapter
from tests.gradients.architectures import build
from tests.gradients.oracle import assert_close, correlation, examples, padded
from tests.gradients.snapshot import Snapshot

LENGTHS = (7, 12, 3, 9, 10, 5)
# How weights are kept, and whether the forward runs under autocast.
SETTINGS = {
    "float32 weights, autocast": (torch.float32, torch.float32, True),
    "bfloat16 weights": (torch.bfloat16, torch.bfloat16, False),
    "bfloat16 weights, autocast": (torch.bfloat16, torch.bfloat16, True),
    "bfloat16 base, float32 adapter, autocast": (torch.bfloat16, torch.float32, True),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@contextmanager
def autocast(enabled):
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        yield


def half_model(family, base, adapter, **changes):
    """A model under LoRA, its weights in these types."""
    model = with_adapter(build(family, **changes), "lora").to(base)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(adapter)
    return model


def estimates(model, estimator, batch, is_autocast, num_directions=8):
    """Slopes along fixed directions and features: here, and with the same weights in float32."""
    features = ValueGradients(model, estimator, num_directions=num_directions)
    directions = features.draw_directions(torch.Generator().manual_seed(1))
    with autocast(is_autocast):
        half = features.slopes(batch, directions)[0], features(batch, directions).features
    model.float()
    return half, reference(model, batch, directions, estimator)


def reference(model, batch, directions, estimator):
    along = ValueGradients(model, "directional")
    exact = ValueGradients(model) if estimator == "exact" else along
    return along.slopes(batch, directions)[0], exact(batch, directions).features


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "gemma2"])
def test_half_precision_correlates_with_float32(family, setting, estimator):
    *dtypes, is_autocast = SETTINGS[setting]
    model = half_model(family, *dtypes)
    half, full = estimates(model, estimator, padded(*examples(LENGTHS)), is_autocast)
    for found, expected in zip(half, full, strict=True):
        assert found.dtype == torch.float32
        assert correlation(found, expected) > 0.99


@pytest.mark.parametrize("setting", SETTINGS)
def test_differences_in_half_precision_are_noise(setting, monkeypatch):
    """What the float32 replay is for, and that the test above can tell."""
    *dtypes, is_autocast = SETTINGS[setting]
    monkeypatch.setattr(
        zeroth_order,
        "_replay_in_full_precision",
        lambda stack, replay, _device: stack.enter_context(replay.replaying()),
    )
    monkeypatch.setattr(zeroth_order, "_warn_of_noise", lambda _why: None)
    model = half_model("gpt2", *dtypes)
    half, full = estimates(model, "zeroth_order", padded(*examples(LENGTHS)), is_autocast)
    assert correlation(half[0], full[0]) < 0.9


@pytest.mark.parametrize("num_directions", [0, 2])
def test_sums_over_tokens_are_in_float32_also_under_autocast(num_directions):
    model = build("llama").float()
    batch = padded(*examples((60, 64)))
    estimator = "directional" if num_directions else "exact"
    features = ValueGradients(model, estimator, num_directions=max(num_directions, 1))
    directions = features.draw_directions(torch.Generator().manual_seed(1))
    with autocast(True):
        found = features(batch, directions).features
        calls, _, _ = token_gradients(model, features.projections, batch, "mean")
    (call,) = calls[0]
    expected = torch.einsum("nto,nti->noi", call.outputs.double(), call.inputs.double()).flatten(1)
    if num_directions:
        z = directions[0].flatten(1).double()
        expected = (expected @ z.T) @ z / num_directions
    assert_close(found.double(), expected, 1e-6)


@pytest.fixture
def precisions():
    """What may stand in for float32 inside products: read it, and it is reset after the test."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    yield lambda: [torch.backends.fp32_precision, *(each.fp32_precision for each in backends)]
    for each in (torch.backends, *backends):
        each.fp32_precision = "none"


@pytest.mark.parametrize("scope", ["all", "products"])
def test_float32_means_float32_where_users_allow_less(scope, precisions, monkeypatch):
    """With tf32=True the trainer lets products round their inputs as coarsely as half precision."""
    setting = torch.backends if scope == "all" else torch.backends.cuda.matmul
    setting.fp32_precision = "tf32"
    before = precisions()
    assert "tf32" in before
    seen = []

    def perturbed(*_):
        seen.append(precisions()[1:])
        return torch.zeros(4)

    monkeypatch.setattr(zeroth_order, "_perturbed", perturbed)
    features = ValueGradients(build("llama"), "zeroth_order")
    features(padded(*examples()), features.draw_directions(torch.Generator()))
    assert seen == [["ieee", "ieee"]] * 2
    assert precisions() == before
    torch.backends.fp32_precision = "ieee"
    assert precisions()[2] == "ieee"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("fails", [False, True])
def test_the_weights_are_the_models_own_again(dtype, fails, monkeypatch):
    model = half_model("phi3", dtype, dtype, tie_word_embeddings=True)
    features = ValueGradients(model, "zeroth_order")
    directions = features.draw_directions(torch.Generator().manual_seed(1))
    batch = padded(*examples())
    before = Snapshot(model)
    if fails:
        monkeypatch.setattr(zeroth_order, "_perturbed", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            features(batch, directions)
    else:
        features(batch, directions)
    before.assert_same(Snapshot(model))


def test_float32_copies_of_tied_weights_are_tied():
    model = build("llama", tie_word_embeddings=True).to(torch.bfloat16)
    with in_float32(model.modules()):
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
        assert model.model.layers[0].self_attn.v_proj.weight.dtype == torch.float32
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_layers_that_do_not_run_again_are_not_copied(monkeypatch):
    model = build("llama", num_hidden_layers=4).to(torch.bfloat16)
    seen = []

    @contextmanager
    def watched(modules):
        seen.extend(modules)
        yield

    monkeypatch.setattr(zeroth_order, "in_float32", watched)
    monkeypatch.setattr(zeroth_order, "_perturbed", lambda *_: torch.zeros(4))
    features = ValueGradients(model, "zeroth_order")
    features(padded(*examples()), features.draw_directions(torch.Generator()))
    layers = model.model.layers
    assert layers[3].mlp.up_proj in seen
    assert model.lm_head in seen
    assert not any(module in seen for layer in layers[:3] for module in layer.modules())


class Sharded(nn.Parameter):
    """Stands for a weight that another library holds in its own way."""


ODD_WEIGHTS = {
    "int8": lambda: nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False),
    "bfloat16": lambda: nn.Parameter(torch.zeros(0, dtype=torch.bfloat16)),
    "float16": lambda: Sharded(torch.zeros(2, dtype=torch.float16)),
}


@pytest.mark.parametrize("name", ODD_WEIGHTS)
def test_weights_that_cannot_be_copied_are_said(name):
    model = build("llama").float()
    model.model.layers[-1].mlp.extra = ODD_WEIGHTS[name]()
    features = ValueGradients(model, "zeroth_order")
    directions = features.draw_directions(torch.Generator().manual_seed(1))
    batch = padded(*examples())
    with pytest.warns(UserWarning, match=rf"'zeroth_order' .*\({name}\) .*: expect noise"):
        features(batch, directions)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ValueGradients(model)(batch)
        ValueGradients(model, "directional")(batch, directions)


def test_a_model_that_insists_on_half_precision_is_said():
    model = build("llama").float()
    model.model.norm.register_forward_hook(lambda _module, _args, output: output.bfloat16())
    model.lm_head.register_forward_pre_hook(lambda _module, args: (args[0].float(),))
    features = ValueGradients(model, "zeroth_order")
    directions = features.draw_directions(torch.Generator().manual_seed(1))
    with pytest.warns(UserWarning, match="the model computes in bfloat16: expect noise"):
        features(padded(*examples()), directions)


def test_float32_weights_of_another_kind_need_no_copy():
    model = build("llama").float()
    model.model.layers[-1].mlp.extra = Sharded(torch.zeros(0))
    features = ValueGradients(model, "zeroth_order")
    features(padded(*examples()), features.draw_directions(torch.Generator().manual_seed(1)))
