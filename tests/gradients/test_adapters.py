"""Features under adapters, and in the states that models are trained in."""

import warnings

import pytest
import torch
from peft import LoraConfig

from colm.gradients.value_gradients import ValueGradients
from tests.cases import quick_first
from tests.gradients.adapters import ADAPTERS, LORA_KINDS, with_adapter
from tests.gradients.architectures import build
from tests.gradients.oracle import FLOAT32_ATTENTION, assert_close, examples, looped, padded

NAMES = ("v", "q", "mlp")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def assert_equals_looped(model, projections=("v",), lengths=(7, 12, 3, 9), tolerance=1e-9):
    features = ValueGradients(model, projections=projections)
    tokens, labels = examples(lengths)
    expected = looped(model, features.projections, tokens, labels)
    assert_close(features(padded(tokens, labels)).features, expected, tolerance)
    return features


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("family", quick_first(["llama", "phi3", "gpt2"]))
def test_every_adapter_is_located_and_equals_looped_autograd(family, adapter):
    model = with_adapter(build(family), adapter)
    features = assert_equals_looped(model, NAMES)
    value, *_ = features.projections
    assert value.is_adapter == (adapter in LORA_KINDS)
    if adapter in LORA_KINDS:
        assert value.modules[0].weight.requires_grad
        assert value.shape[1] <= 8


@pytest.mark.parametrize("adapter", ["adalora", "ia3"])
def test_the_weight_serves_where_an_adapter_has_no_factor_worth_differentiating(adapter):
    model = with_adapter(build("llama"), adapter)
    (value,) = ValueGradients(model).projections
    assert value.shape == (16, 32)
    assert not value.modules[0].weight.requires_grad


def test_where_v_carries_no_adapter_its_weight_serves():
    model = with_adapter(build("llama"), "lora", ["q_proj"])
    features = assert_equals_looped(model, ("v", "q"))
    assert [projection.is_adapter for projection in features.projections] == [False, True]
    assert not features.projections[0].modules[0].weight.requires_grad


def test_a_frozen_adapter_is_passed_over():
    model = with_adapter(build("llama"), "lora")
    model.requires_grad_(False)
    assert not assert_equals_looped(model).projection.is_adapter


def test_every_active_adapter_counts():
    model = with_adapter(build("llama"), "lora")
    model.add_adapter("second", LoraConfig(r=2, target_modules=["v_proj"]))
    model.base_model.set_adapter(["default", "second"])
    model.double()
    features = assert_equals_looped(model)
    assert [projection.shape for projection in features.projections] == [(16, 4), (16, 2)]


@pytest.mark.parametrize("estimator", ["directional", "zeroth_order"])
def test_the_identity_that_dora_sends_through_b_is_no_batch(estimator):
    """Its size is that of the input, and here the batch has as many tokens."""
    model = with_adapter(build("llama"), "dora")
    features = assert_equals_looped(model, lengths=(8, 8, 8, 8))
    batch = padded(*examples((8, 8, 8, 8)))
    exact = features(batch).features
    estimate = ValueGradients(model, estimator, perturbation_scale=1e-4)
    directions = estimate.draw_directions(torch.Generator().manual_seed(1))
    z = directions[0].flatten(1).double()
    assert_close(estimate(batch, directions).features, (exact @ z.T) @ z, 1e-3)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("adapter", ["none", "lora", "dora"])
def test_gradient_checkpointing_changes_nothing(adapter, reentrant):
    model = with_adapter(build("llama"), adapter)
    batch = padded(*examples())
    plain = ValueGradients(model)(batch).features
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    for estimator in ("exact", "zeroth_order"):
        features = ValueGradients(model, estimator)
        found = features(batch, features.draw_directions(torch.Generator())).features
        if estimator == "exact":
            assert torch.equal(found, plain)
    # Training goes on as before: its backward still reaches what is trained.
    model.train()
    model(**batch).loss.backward()
    assert ValueGradients(model).projection.modules[0].weight.grad.abs().max() > 0


def test_tied_embeddings():
    model = build("llama", tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert_equals_looped(model, NAMES)


def test_soft_capped_logits():
    capped = build("gemma2", final_logit_softcapping=0.5, attn_logit_softcapping=0.5)
    features = assert_equals_looped(capped, NAMES, tolerance=FLOAT32_ATTENTION)
    batch = padded(*examples())
    softly = features(batch).features
    capped.config.final_logit_softcapping = None
    assert not torch.allclose(features(batch).features, softly, rtol=0.01)
