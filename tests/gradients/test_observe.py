"""Losses, hidden states and gradients of one look against the model's own forward."""

import pytest
import torch
from transformers import Cache

from colm.gradients.batch import IGNORED_LABEL
from colm.gradients.decoder import find_layers
from colm.gradients.example_observer import ExampleObserver
from colm.gradients.value_gradients import ValueGradients
from tests.cases import quick_first
from tests.gradients.adapters import with_adapter
from tests.gradients.architectures import build
from tests.gradients.oracle import PROMPT_TOKENS, assert_close, examples, padded, padding_free
from tests.gradients.snapshot import Snapshot

ALL = ("gradients", "losses", "hidden", "prompt")
ESTIMATORS = ("exact", "directional", "zeroth_order")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def alone(model, tokens, labels):
    """Loss, mean hidden state and prompt's hidden state of each example in a forward of its own."""
    model.eval()
    rows = []
    with torch.no_grad():
        for ids, label in zip(tokens, labels, strict=True):
            output = model(input_ids=ids[None], labels=label[None], output_hidden_states=True)
            hidden = output.hidden_states[-1][0]
            rows.append((output.loss, hidden.mean(0), hidden[PROMPT_TOKENS - 1]))
    model.train()
    return [torch.stack(parts) for parts in zip(*rows, strict=True)]


def look(model, batch, needs=ALL, **options):
    observer = ExampleObserver(model, needs, **options)
    return observer(batch, observer.draw_directions(torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("layout", quick_first([padded, padding_free]))
@pytest.mark.parametrize("needs", [(), ALL], ids=["nothing", "all"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_equals_a_forward_of_each_example_alone(family, estimator, needs, layout):
    model = build(family)
    tokens, labels = examples()
    losses, hidden, prompt = alone(model, tokens, labels)
    found = look(model, layout(tokens, labels), needs or ("hidden", "prompt"), estimator=estimator)
    # The model's own loss is in float32.
    torch.testing.assert_close(found.losses, losses.double(), rtol=1e-6, atol=0)
    if family == "opt":
        return  # its last hidden state is that before the map to the embeddings' size
    assert_close(found.hidden, hidden)
    assert_close(found.prompt, prompt)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_are_those_of_the_features(estimator):
    model = with_adapter(build("llama"), "lora")
    batch = padded(*examples())
    features = ValueGradients(model, estimator, num_directions=2)
    directions = features.draw_directions(torch.Generator().manual_seed(1))
    found = look(model, batch, estimator=estimator, num_directions=2)
    assert torch.equal(found.gradients, features(batch, directions).features)


@pytest.mark.parametrize("needs", [(), ("losses",), ("hidden",), ("gradients",), ALL])
def test_shows_what_is_needed_and_losses_always(needs):
    found = look(build("llama"), padded(*examples()), needs)
    shown = {name for name in ALL if getattr(found, name) is not None}
    assert shown == {"losses", *needs}
    assert all(len(getattr(found, name)) == 4 for name in shown)


@pytest.mark.parametrize("needs", [("losses",), ALL])
def test_the_layers_run_once_whatever_is_needed(needs):
    model = build("llama")
    calls = []
    model.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    look(model, padded(*examples()), needs)
    assert len(calls) == 1


def test_losses_need_logits_at_labels_only():
    model = build("llama")
    rows = []
    model.lm_head.register_forward_hook(lambda _m, args, _o: rows.append(args[0].shape[-2]))
    tokens, labels = examples()
    look(model, padded(tokens, labels), ("losses",))
    assert sum(rows) == sum(int((label[1:] != IGNORED_LABEL).sum()) for label in labels)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "gemma3_text", "bloom"])
def test_nothing_is_kept_that_no_look_needs(family):
    """No cache of keys and values, and no states, attentions or choices of all layers."""
    model = build(family, attn_implementation="eager")
    batch = padded(*examples())
    expected = look(model, batch)
    asked = ("output_hidden_states", "output_attentions", "output_router_logits")
    for name in asked:
        setattr(model.config, name, True)
    model.config.use_cache = True
    outputs, caches = [], []
    model.get_decoder().register_forward_hook(lambda _m, _args, output: outputs.append(output))
    for layer in find_layers(model):
        layer.register_forward_pre_hook(
            lambda _m, args, kwargs: caches.extend(
                value for value in (*args, *kwargs.values()) if isinstance(value, Cache)
            ),
            with_kwargs=True,
        )
    found = look(model, batch)
    assert outputs
    for output in outputs:
        assert not {"hidden_states", "attentions", "router_logits", "past_key_values"} & {
            name for name, value in output.items() if value is not None
        }
    assert not caches
    assert all(getattr(model.config, name) for name in asked)
    for name in ALL:
        assert torch.equal(getattr(found, name), getattr(expected, name))


def test_without_labels_prompt_and_gradient_are_zero():
    model = build("llama")
    tokens, labels = examples()
    full = look(model, padded(tokens, labels))
    labels[1] = torch.full_like(labels[1], IGNORED_LABEL)
    found = look(model, padded(tokens, labels))
    for name in ("gradients", "losses", "prompt"):
        assert getattr(found, name)[1].abs().max() == 0
        assert_close(getattr(found, name)[[0, 2, 3]], getattr(full, name)[[0, 2, 3]])
    assert_close(found.hidden, full.hidden)


def test_a_row_of_padding_alone_has_zero_hidden_states():
    model = build("llama")
    batch = padded(*examples())
    batch["attention_mask"][2] = 0
    batch["labels"][2] = IGNORED_LABEL
    found = look(model, batch, ("hidden", "prompt"))
    assert found.hidden[2].abs().max() == 0
    assert found.hidden.isfinite().all()


def test_padding_on_the_left_or_by_more_changes_nothing():
    model = build("llama")
    tokens, labels = examples()
    right = look(model, padded(tokens, labels))
    wider = padded(tokens, labels)
    for key, value in (("input_ids", 0), ("labels", IGNORED_LABEL), ("attention_mask", 0)):
        wider[key] = torch.nn.functional.pad(wider[key], (0, 5), value=value)
    left = {key: batch.clone() for key, batch in padded(tokens, labels).items()}
    for row, ids in enumerate(tokens):
        for value in left.values():
            value[row] = value[row].roll(value.shape[1] - len(ids))
    left["position_ids"] = (left["attention_mask"].cumsum(1) - 1).clamp(min=0)
    for other in (wider, left):
        found = look(model, other)
        for name in ALL:
            # Rotary positions are rounded to float32.
            assert_close(getattr(found, name), getattr(right, name), 1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_micro_batches_change_nothing(estimator):
    model = build("phi3")
    tokens, labels = examples()
    whole = look(model, padded(tokens, labels), estimator=estimator)
    parts = [
        look(model, padded(tokens[part], labels[part]), estimator=estimator)
        for part in (slice(0, 1), slice(1, 4))
    ]
    tolerance = 1e-5 if estimator == "zeroth_order" else 1e-9
    for name in ALL:
        joined = torch.cat([getattr(part, name) for part in parts])
        assert_close(joined, getattr(whole, name), tolerance)


@pytest.mark.parametrize("needs", [("hidden",), ALL])
def test_the_model_is_left_as_it_was(needs):
    model = with_adapter(build("llama"), "dora")
    batch = padded(*examples())
    before = Snapshot(model)
    look(model, batch, needs)
    before.assert_same(Snapshot(model))


def test_hidden_states_of_a_half_precision_model_are_float32():
    found = look(build("llama").to(torch.bfloat16), padded(*examples()))
    for name in ALL:
        assert getattr(found, name).dtype == torch.float32


def test_directions_are_drawn_where_they_are_needed():
    model = build("llama")
    generator = torch.Generator().manual_seed(1)
    state = generator.get_state()
    assert ExampleObserver(model).draw_directions(generator) is None
    observer = ExampleObserver(model, ("losses",), estimator="directional")
    assert observer.draw_directions(generator) is None
    assert torch.equal(generator.get_state(), state)
    (direction,) = ExampleObserver(
        model, estimator="zeroth_order", num_directions=3
    ).draw_directions(generator)
    assert direction.shape == (3, 16, 32)


def test_weight_is_that_of_the_features():
    model = build("llama")
    expected = model.model.layers[-1].self_attn.v_proj.weight.flatten()
    assert torch.equal(ExampleObserver(model).weight(), expected.float())
    with pytest.raises(ValueError, match="has a weight"):
        ExampleObserver(model, ("losses",)).weight()


def test_without_gradients_no_projection_is_looked_for():
    """What has no place for gradients still has losses."""
    model = build("mixtral")
    with pytest.raises(ValueError, match="no 'mlp'"):
        ExampleObserver(model, projections=["mlp"])
    assert look(model, padded(*examples()), ("losses",), projections=["mlp"]).losses.shape == (4,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"needs": ("gradients", "logits")}, "gradients, losses, hidden, prompt; got 'logits'"),
        ({"needs": (), "estimator": "fourth_order"}, "exact, directional, zeroth_order"),
        ({"needs": (), "projections": ("w",)}, r"q, k, v, o, mlp; got \['w'\]"),
        ({"needs": (), "reduction": "median"}, "mean, sum"),
    ],
)
def test_unknown_choices_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ExampleObserver(build("llama"), **options)
