"""Gradient features against looped autograd, the twin that anyone can check by eye."""

import pytest
import torch

from colm.gradients.batch import IGNORED_LABEL
from colm.gradients.value_gradients import ValueGradients, last_value_gradients
from tests.cases import quick_first
from tests.gradients.adapters import with_adapter
from tests.gradients.architectures import VOCABULARY, build
from tests.gradients.oracle import (
    FLOAT32_ATTENTION,
    assert_close,
    examples,
    looped,
    padded,
    padding_free,
)
from tests.gradients.snapshot import Snapshot

FAMILIES = (
    *("llama", "qwen2", "phi", "phi3", "gpt2", "gpt_neox", "gemma2", "stablelm", "opt", "mixtral"),
)
# With all experts at work, no step changes which they are.
SMOOTH = {"mixtral": {"num_local_experts": 2}}
FLOAT32_NORMS = ("llama", "qwen2", "phi3", "gemma2", "mixtral")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("layout", quick_first([padded, padding_free]))
@pytest.mark.parametrize("adapter", ["none", "lora", "dora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_exact_features_are_those_of_looped_autograd(family, adapter, layout):
    model = with_adapter(build(family), adapter)
    tokens, labels = examples()
    features = ValueGradients(model)
    expected = looped(model, features.projections, tokens, labels)
    assert features.projection.is_adapter == (adapter != "none")
    tolerance = FLOAT32_ATTENTION if family == "gemma2" else 1e-9
    # Twice: DoRA caches in evaluation mode, and a stale cache would show in the second call.
    assert_close(features(layout(tokens, labels)).features, expected, tolerance)
    assert_close(features(layout(tokens, labels)).features, expected, tolerance)


def test_a_model_without_attention_falls_back_and_says_so():
    model = build("mamba")
    with pytest.warns(UserWarning, match="no value projection.*out_proj"):
        features = ValueGradients(model)
    tokens, labels = examples()
    expected = looped(model, features.projections, tokens, labels)
    assert_close(features(padded(tokens, labels)).features, expected)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reduction_of_an_examples_loss(reduction):
    model = build("llama")
    tokens, labels = examples()
    features = ValueGradients(model, reduction=reduction)
    expected = looped(model, features.projections, tokens, labels, reduction)
    assert_close(features(padded(tokens, labels)).features, expected)


def test_losses_are_those_of_the_model():
    model = build("llama").eval()
    tokens, labels = examples()
    losses = ValueGradients(model)(padded(tokens, labels)).losses
    for ids, label, loss in zip(tokens, labels, losses, strict=True):
        expected = model(input_ids=ids[None], labels=label[None]).loss
        torch.testing.assert_close(loss, expected.double(), rtol=1e-6, atol=0)


def test_an_example_without_labels_has_a_zero_row():
    model = build("llama")
    tokens, labels = examples()
    full = last_value_gradients(model, padded(tokens, labels))
    labels[1] = torch.full_like(labels[1], IGNORED_LABEL)
    features = last_value_gradients(model, padded(tokens, labels))
    assert features[1].abs().max() == 0
    assert_close(features[[0, 2, 3]], full[[0, 2, 3]])


def test_logits_in_chunks_change_nothing(monkeypatch):
    model = build("gemma2")
    batch = padded(*examples())
    whole = last_value_gradients(model, batch)
    monkeypatch.setattr("colm.gradients.label_loss.LOGITS_PER_CHUNK", 3 * VOCABULARY)
    assert_close(last_value_gradients(model, batch), whole)


@pytest.mark.parametrize("adapter", quick_first(["none", "lora"]))
@pytest.mark.parametrize("family", FAMILIES)
def test_directional_is_the_product_with_z(family, adapter):
    model = with_adapter(build(family), adapter)
    batch = padded(*examples())
    exact = last_value_gradients(model, batch)
    estimator = ValueGradients(model, "directional", num_directions=3)
    directions = estimator.draw_directions(torch.Generator().manual_seed(1))
    z = torch.cat([part.flatten(1) for part in directions], dim=1).double()
    assert_close(estimator(batch, directions).features, (exact @ z.T) @ z / len(z))


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["none", "lora", "dora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_spsa_converges_to_the_directional_derivative(family, adapter):
    """The error falls with eps: as its square, or at a kink of a ReLU as itself."""
    model = with_adapter(build(family, **SMOOTH.get(family, {})), adapter)
    batch = padded(*examples())

    def estimate(estimator, scale=1e-3):
        generator = torch.Generator().manual_seed(1)
        return last_value_gradients(
            model, batch, estimator=estimator, generator=generator, perturbation_scale=scale
        )

    directional = estimate("directional")
    # RMSNorm of transformers rounds to float32, which a smaller step would only magnify.
    smallest, tolerance = (1e-3, 1e-2) if family in FLOAT32_NORMS else (1e-6, 1e-6)
    far, near = (
        float((estimate("zeroth_order", scale) - directional).abs().max())
        for scale in (3e-2, smallest)
    )
    assert near < far / 10
    assert near < tolerance * directional.abs().max()


def test_directions_come_from_the_generator_alone():
    model = build("llama")
    batch = padded(*examples())

    def features(seed):
        generator = torch.Generator().manual_seed(seed)
        return last_value_gradients(model, batch, estimator="directional", generator=generator)

    torch.testing.assert_close(features(1), features(1), rtol=0, atol=0)
    assert not torch.allclose(features(1), features(2))


@pytest.mark.parametrize("estimator", ["exact", "directional", "zeroth_order"])
@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_restored_also_after_an_exception(estimator, fails, monkeypatch):
    model = with_adapter(build("phi3"), "dora")
    model.base_model.model.model.embed_tokens.eval()  # a mode of its own must survive
    batch = padded(*examples())
    before = Snapshot(model)
    if fails:
        head = model.get_output_embeddings()
        calls = []

        def failing(*args, **kwargs):
            calls.append(args)
            if len(calls) > 1:
                raise RuntimeError("out of memory")
            return type(head).forward(head, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(head, "forward", failing)
            with pytest.raises(RuntimeError, match="out of memory"):
                _estimate(model, batch, estimator)
    else:
        _estimate(model, batch, estimator)
    before.assert_same(Snapshot(model))


def _estimate(model, batch, estimator):
    generator = torch.Generator().manual_seed(0)
    return last_value_gradients(model, batch, estimator=estimator, generator=generator)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "fourth_order"}, "exact, directional, zeroth_order"),
        ({"reduction": "median"}, "mean, sum"),
        ({"estimator": "directional"}, "generator"),
        ({"projections": ["v", "w"]}, r"distinct ones of q, k, v, o, mlp; got \['v', 'w'\]"),
        ({"projections": ["v", "v"]}, r"distinct .* got \['v', 'v'\]"),
        ({"projections": []}, r"distinct .* got \[\]"),
    ],
)
def test_unknown_choices_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        last_value_gradients(build("llama"), padded(*examples()), **options)


def test_a_batch_without_labels_is_refused():
    batch = padded(*examples())
    del batch["labels"]
    with pytest.raises(ValueError, match="'labels'"):
        last_value_gradients(build("llama"), batch)
