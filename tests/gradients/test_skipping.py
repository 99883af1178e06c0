"""Looks that pass some layers by against models that never had those layers."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from colm.gradients.decoder import find_decoder, find_layers
from colm.gradients.example_observer import ExampleObserver
from colm.gradients.skipping import FIRST_KEPT, LayerSkipping, middle_layers
from tests.gradients.adapters import with_adapter
from tests.gradients.architectures import VOCABULARY, build
from tests.gradients.oracle import assert_close, examples, padded, padding_free
from tests.gradients.snapshot import Snapshot

ALL = ("gradients", "losses", "hidden", "prompt")
LAYERS = 6
TYPES = ["sliding_attention", "full_attention"] * 3
# Layers that return a tensor, a tuple or a list; that differ in kind of attention, by index or by
# class; that have experts, a rotary of their own, or a state instead of attention.
FAMILIES = {
    "llama": {"num_hidden_layers": LAYERS},
    "gpt2": {"n_layer": LAYERS},
    "openai-gpt": {"n_layer": LAYERS},
    "bloom": {"n_layer": LAYERS},
    "gpt_neox": {"num_hidden_layers": LAYERS},
    "opt": {"num_hidden_layers": LAYERS},
    "phi": {"num_hidden_layers": LAYERS},
    "gemma2": {"num_hidden_layers": LAYERS, "layer_types": TYPES, "sliding_window": 8},
    "gemma3_text": {"num_hidden_layers": LAYERS, "layer_types": TYPES, "sliding_window": 8},
    "mixtral": {"num_hidden_layers": LAYERS},
    "deepseek_v3": {"num_hidden_layers": LAYERS},
    "qwen3_next": {
        "num_hidden_layers": LAYERS,
        "layer_types": ["linear_attention", "full_attention"] * 3,
    },
    "mamba2": {"num_hidden_layers": LAYERS},
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def look(model, batch, needs=ALL, **options):
    observer = ExampleObserver(model, needs, **options)
    return observer(batch, observer.draw_directions(torch.Generator().manual_seed(1)))


def llama(num_layers=LAYERS, **changes):
    return build("llama", num_hidden_layers=num_layers, **changes)


def without(model, gone):
    """A copy whose list of layers is shorter, and whose configuration says so."""
    model = copy.deepcopy(model)
    layers = find_layers(model)
    kept = [index for index in range(len(layers)) if index not in gone]
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if child is layers:
                setattr(module, name, nn.ModuleList([layers[index] for index in kept]))
    for config in {id(c): c for c in (model.config, find_decoder(model).config)}.values():
        config.num_hidden_layers = len(kept)
        if len(getattr(config, "layer_types", None) or ()) == len(layers):
            config.layer_types = [config.layer_types[index] for index in kept]
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_a_model_that_never_had_the_layers(family):
    model = build(family, **FAMILIES[family])
    # No row has more padding than a window is wide.
    batch = padded(*examples((7, 12, 9, 10)))
    options = {"layers": "spread", "depth": 0.17} if family == "mamba2" else {}
    observer = ExampleObserver(model, ALL, skipped_layers=1 / 3, **options)
    assert observer._skipping.indices == (2, 3)
    found, whole = observer(batch), look(model, batch, **options)
    shorter = look(without(model, (2, 3)), batch, **options)
    for name in ALL:
        assert_close(getattr(found, name), getattr(shorter, name), 1e-6)
        assert not torch.allclose(getattr(found, name), getattr(whole, name), rtol=1e-5)


@pytest.mark.parametrize("estimator", ["exact", "directional", "zeroth_order"])
@pytest.mark.parametrize("layout", [padded, padding_free])
def test_every_estimator_and_layout(estimator, layout):
    model = with_adapter(llama(), "lora")
    tokens, labels = examples()
    options = {"estimator": estimator, "projections": ["q", "v"]}
    found = look(model, layout(tokens, labels), skipped_layers=0.4, **options)
    shorter = look(without(model, (2, 3)), padded(tokens, labels), **options)
    for name in ALL:
        assert_close(getattr(found, name), getattr(shorter, name), 1e-6)


def test_blocks_and_a_small_vocabulary():
    """The blocks that features come from are those of the whole model, and run."""
    model = llama(12)
    vocabulary = torch.arange(VOCABULARY)
    batch = padded(*examples())
    options = {"layers": "spread", "depth": 0.34, "vocabulary": "batch"}
    observer = ExampleObserver(model, skipped_layers=0.5, **options)
    assert observer.gradients.layers == ExampleObserver(model, **options).gradients.layers
    assert max(observer._skipping.indices) < observer.gradients.layers[0]
    shorter = without(model, observer._skipping.indices)
    expected = ExampleObserver(shorter, **options)
    assert len(observer.gradients.projections) == len(expected.gradients.projections)
    found = observer(batch, vocabulary=vocabulary)
    assert_close(found.losses, expected(batch, vocabulary=vocabulary).losses)
    assert found.gradients.abs().max() > 0


def test_none_skipped_is_the_same_to_the_last_bit():
    model, batch = with_adapter(llama(), "lora"), padded(*examples())
    before, after = look(model, batch), look(model, batch, skipped_layers=0.0)
    for name in ALL:
        assert torch.equal(getattr(before, name), getattr(after, name))


def test_the_layers_left_out_are_not_computed():
    model = llama(12)
    ran = []
    for index, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_hook(lambda *_, index=index: ran.append(index))
    observer = ExampleObserver(model, skipped_layers=0.5)
    ran.clear()
    observer(padded(*examples()))
    assert ran == [0, 1, 2, 9, 10, 11]


@pytest.mark.parametrize(
    ("num_layers", "share", "before", "expected"),
    [
        (30, 0.5, 26, range(6, 21)),
        (30, 1 / 3, 26, range(9, 19)),
        (32, 0.01, 31, None),
        (6, 0.4, 5, (2, 3)),
        (6, 0.5, 5, (2, 3, 4)),
        (6, 0.5, 3, None),
        (2, 0.5, 1, None),
    ],
)
def test_which_layers(num_layers, share, before, expected):
    model = AutoModelForCausalLM.from_config(config(num_layers))
    if expected is None:
        with pytest.raises(ValueError, match=f"^skipped_layers={share}.* of LlamaForCausalLM"):
            middle_layers(model, share, before)
        return
    found = middle_layers(model, share, before)
    assert found == tuple(expected)
    assert min(found) >= FIRST_KEPT
    assert max(found) < before


def config(num_layers):
    sizes = dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size"), 8)
    return LlamaConfig(**sizes, num_hidden_layers=num_layers, num_attention_heads=2)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=f"skipped_layers must be at least 0.*; got {share}"):
        ExampleObserver(llama(2), (), skipped_layers=share)


def test_a_model_whose_layers_need_each_other_is_named():
    model = build(
        "gemma3n_text",
        num_hidden_layers=LAYERS,
        layer_types=TYPES,
        num_kv_shared_layers=1,
    )
    before = Snapshot(model)
    with pytest.raises(ValueError, match="Gemma3nForCausalLM cannot run without its middle"):
        ExampleObserver(model, ("losses",), skipped_layers=0.5)
    before.assert_same(Snapshot(model))


def test_too_little_memory_is_not_taken_for_a_model_that_cannot():
    model = llama()

    def fill(*_):
        raise torch.OutOfMemoryError

    model.model.layers[-1].register_forward_hook(fill)
    with pytest.raises(torch.OutOfMemoryError):
        LayerSkipping(model, 0.3, 5)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails):
    model, batch = with_adapter(llama(), "dora"), padded(*examples())
    observer = ExampleObserver(model, ALL, skipped_layers=0.3)
    plain = look(model, batch).gradients
    breaks = []
    find_layers(model)[-1].register_forward_hook(lambda *_: breaks[0])
    breaks.append(None)
    before = Snapshot(model)
    if fails:
        breaks.clear()
        with pytest.raises(IndexError):
            observer(batch)
        breaks.append(None)
    else:
        observer(batch)
    before.assert_same(Snapshot(model))
    assert torch.equal(plain, look(model, batch).gradients)
