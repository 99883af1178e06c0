"""Gradient features against looped autograd, the twin that anyone can check by eye."""

import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from colm.gradients.batch import IGNORED_LABEL
from colm.gradients.decoder import Projection
from colm.gradients.features import ValueGradients, last_value_gradients
from tests.gradients.architectures import FAMILIES, LAYOUTS, VOCABULARY, build

LENGTHS = (7, 12, 3, 9)
PROMPT_TOKENS = 2
FLOAT32_NORMS = ("llama", "qwen2", "phi3", "gemma2", "mixtral")
ATTENTION_MAPS = "q_proj|k_proj|v_proj|o_proj|out_proj|qkv_proj|c_attn|query_key_value|dense"
ATTENTION = rf".*(attn|attention)\.({ATTENTION_MAPS})"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def examples():
    """Token ids of a few examples; the first two are a prompt without labels."""
    tokens = [torch.randint(3, VOCABULARY, (length,)) for length in LENGTHS]
    labels = [
        torch.cat([torch.full((PROMPT_TOKENS,), IGNORED_LABEL), t[PROMPT_TOKENS:]]) for t in tokens
    ]
    return tokens, labels


def padded(tokens, labels):
    return {
        "input_ids": pad_sequence(tokens, batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED_LABEL),
        "attention_mask": pad_sequence([torch.ones_like(t) for t in tokens], batch_first=True),
    }


def padding_free(tokens, labels):
    collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    rows = [
        {"input_ids": t.tolist(), "labels": label.tolist()}
        for t, label in zip(tokens, labels, strict=True)
    ]
    return collator(rows)


def with_adapter(model: PreTrainedModel, adapter: str):
    """Wrap in LoRA or DoRA on every attention, with B away from the zero it starts at."""
    if adapter == "none":
        return model
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        lora_dropout=0.3,
        target_modules=ATTENTION,
        use_dora=adapter == "dora",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
        wrapped = get_peft_model(model, config).double().train()
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return wrapped


def looped(model, projection: Projection, tokens, labels, reduction="mean"):
    """Gradient of each example alone, by autograd in the whole weight; then its rows of V."""
    model.eval()
    rows = []
    weights = [module.weight for module in projection.modules]
    frozen = [not weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_()
    for ids, label in zip(tokens, labels, strict=True):
        logits = model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None]).logits[0]
        loss = functional.cross_entropy(
            logits[:-1], label[1:], ignore_index=IGNORED_LABEL, reduction=reduction
        )
        gradients = torch.autograd.grad(loss, weights)
        parts = []
        for module, gradient in zip(projection.modules, gradients, strict=True):
            as_linear = gradient.T if type(module).__name__ == "Conv1D" else gradient
            taken = as_linear if projection.rows is None else as_linear[projection.rows]
            parts.append(taken.flatten())
        rows.append(torch.cat(parts))
    for weight, was_frozen in zip(weights, frozen, strict=True):
        weight.requires_grad_(not was_frozen)
    model.train()
    return torch.stack(rows)


def assert_close(actual, expected, tolerance=1e-9):
    assert actual.shape == expected.shape
    assert expected.abs().max() > 0
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("layout", [padded, padding_free])
@pytest.mark.parametrize("adapter", ["none", "lora", "dora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_exact_features_are_those_of_looped_autograd(family, adapter, layout):
    model = with_adapter(build(family), adapter)
    tokens, labels = examples()
    features = ValueGradients(model)
    expected = looped(model, features.projection, tokens, labels)
    assert features.projection.is_adapter == (adapter != "none")
    # Twice: DoRA caches in evaluation mode, and a stale cache would show in the second call.
    assert_close(features(layout(tokens, labels)).features, expected)
    assert_close(features(layout(tokens, labels)).features, expected)


@pytest.mark.parametrize("family", [name for name in LAYOUTS if name != "mamba"])
def test_exact_features_in_other_layouts_of_v(family):
    model = build(family)
    tokens, labels = examples()
    features = ValueGradients(model)
    expected = looped(model, features.projection, tokens, labels)
    # MPT takes its softmax in float32, and padding changes how it rounds.
    tolerance = 1e-6 if family == "mpt" else 1e-9
    assert_close(features(padded(tokens, labels)).features, expected, tolerance)


ROWS_OF_V = {
    "llama": None,
    "phi3": range(48, 64),
    "gpt2": range(64, 96),
    "gpt_neox": [row for head in range(4) for row in range(24 * head + 16, 24 * head + 24)],
    "bloom": [row for head in range(4) for row in range(24 * head + 16, 24 * head + 24)],
    "falcon": range(40, 48),
    "codegen": [row for part in range(4) for row in range(24 * part + 8, 24 * part + 16)],
    "mpt": range(64, 96),
    "deepseek_v3": [row for head in range(4) for row in range(16 * head + 6, 16 * head + 16)],
}


@pytest.mark.parametrize("family", ROWS_OF_V)
def test_v_is_found_in_every_layout(family):
    """The places are those of transformers' own code, read off its reshapes and splits."""
    rows = ValueGradients(build(family)).projection.rows
    expected = ROWS_OF_V[family]
    assert (rows is None) == (expected is None)
    if rows is not None:
        assert rows.tolist() == list(expected)


def test_v_is_found_in_bfloat16_too():
    model = build("gpt_neox").to(torch.bfloat16)
    assert ValueGradients(model).projection.rows.tolist() == ROWS_OF_V["gpt_neox"]


def test_a_model_without_attention_falls_back_and_says_so():
    model = build("mamba")
    with pytest.warns(UserWarning, match="no value projection.*out_proj"):
        features = ValueGradients(model)
    assert not features.projection.is_value
    tokens, labels = examples()
    expected = looped(model, features.projection, tokens, labels)
    assert_close(features(padded(tokens, labels)).features, expected)


def test_where_v_carries_no_adapter_its_weight_serves():
    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(build("llama"), config).double().train()
    features = ValueGradients(model)
    assert not features.projection.is_adapter
    tokens, labels = examples()
    expected = looped(model, features.projection, tokens, labels)
    assert_close(features(padded(tokens, labels)).features, expected)
    assert not features.projection.modules[0].weight.requires_grad


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reduction_of_an_examples_loss(reduction):
    model = build("llama")
    tokens, labels = examples()
    result = ValueGradients(model, reduction=reduction)(padded(tokens, labels))
    projection = ValueGradients(model).projection
    assert_close(result.features, looped(model, projection, tokens, labels, reduction))


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


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_directional_is_the_product_with_z(family, adapter):
    model = with_adapter(build(family), adapter)
    batch = padded(*examples())
    exact = last_value_gradients(model, batch)
    estimator = ValueGradients(model, "directional", num_directions=3)
    directions = estimator.draw_directions(torch.Generator().manual_seed(1))
    z = torch.cat([part.flatten(1) for part in directions], dim=1).double()
    assert_close(estimator(batch, directions).features, (exact @ z.T) @ z / len(z))


@pytest.mark.parametrize("adapter", ["none", "lora", "dora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_spsa_converges_to_the_directional_derivative(family, adapter):
    """The error falls with eps: as its square, or at a kink of a ReLU as itself."""
    model = with_adapter(build(family), adapter)
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


class Snapshot:
    """All that a call must leave as it was."""

    def __init__(self, model):
        self.modes = [module.training for module in model.modules()]
        self.hooks = [
            (len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in m.__dict__)
            for m in model.modules()
        ]
        self.requires_grad = [parameter.requires_grad for parameter in model.parameters()]
        self.gradients = [parameter.grad is None for parameter in model.parameters()]
        self.weights = [parameter.detach().clone() for parameter in model.parameters()]
        self.random = torch.random.get_rng_state()
        self.grad_mode = torch.is_grad_enabled()

    def assert_same(self, other):
        for name in ("modes", "hooks", "requires_grad", "gradients", "grad_mode"):
            assert getattr(self, name) == getattr(other, name), name
        assert torch.equal(self.random, other.random)
        assert all(map(torch.equal, self.weights, other.weights))


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


def test_bfloat16_zeroth_order_warns():
    model = build("llama").to(torch.bfloat16)
    with pytest.warns(UserWarning, match="zeroth_order.*bfloat16"):
        _estimate(model, padded(*examples()), "zeroth_order")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "fourth_order"}, "exact, directional, zeroth_order"),
        ({"reduction": "median"}, "mean, sum"),
        ({"estimator": "directional"}, "generator"),
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
