"""Features over a 4-bit or 8-bit base, as bitsandbytes makes it, on the CPU."""

import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from colm.gradients.value_gradients import ValueGradients
from tests.gradients.architectures import build
from tests.gradients.oracle import assert_close, correlation, examples, looped, padded

pytest.importorskip("bitsandbytes", reason="4-bit and 8-bit weights need bitsandbytes")

KINDS = {
    "4-bit": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": torch.float32,
    },
    "8-bit": {"load_in_8bit": True},
}


@pytest.fixture(params=KINDS)
def model(request, tmp_path):
    torch.manual_seed(0)
    build("llama", hidden_size=64, head_dim=16).float().save_pretrained(tmp_path)
    return AutoModelForCausalLM.from_pretrained(
        tmp_path,
        quantization_config=BitsAndBytesConfig(**KINDS[request.param]),
        device_map={"": "cpu"},
    )


def with_lora(model, targets):
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=targets, lora_alpha=8)).train()
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return wrapped


def test_adapters_equal_looped_autograd(model):
    model = with_lora(model, ["q_proj", "v_proj"])
    features = ValueGradients(model, projections=("v", "q"))
    assert all(projection.is_adapter for projection in features.projections)
    tokens, labels = examples()
    found = features(padded(tokens, labels)).features
    # In training mode: on some CPUs evaluation repacks 4-bit weights and ends their gradients.
    expected = looped(model, features.projections, tokens, labels, evaluate=False)
    # 8-bit maps round their inputs, too, where a last bit can turn the rounding.
    is_8bit = model.config.quantization_config.load_in_8bit
    assert_close(found, expected, 2e-2 if is_8bit else 1e-5)


def test_features_leave_the_base_fit_to_train(model):
    model = with_lora(model, ["v_proj"])
    batch = padded(*examples())
    ValueGradients(model)(batch)
    model(**batch).loss.backward()
    assert ValueGradients(model).projection.modules[0].weight.grad.abs().max() > 0


def test_a_quantised_projection_itself_has_features(model):
    """Its gradient needs its inputs and outputs alone, and moves it without writing to it."""
    batch = padded(*examples())
    features = ValueGradients(model, "directional", projections=("v", "o"), num_directions=4)
    directions = features.draw_directions(torch.Generator().manual_seed(1))
    assert [direction.shape[1:] for direction in directions] == [(32, 64), (64, 64)]
    slopes, _, _ = features.slopes(batch, directions)
    differences = ValueGradients(
        model, "zeroth_order", projections=("v", "o"), num_directions=4, perturbation_scale=1e-2
    )
    with pytest.warns(UserWarning, match="expect noise"):
        found, _, _ = differences.slopes(batch, directions)
    assert correlation(slopes, found) > 0.99


def test_a_quantised_weight_cannot_be_read(model):
    with pytest.raises(ValueError, match=r"'self_attn\.v_proj' is quantised"):
        ValueGradients(model).weight()


def test_a_quantised_base_is_silent_otherwise(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ValueGradients(model)(padded(*examples()))
