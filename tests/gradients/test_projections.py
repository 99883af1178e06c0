"""Where projections are found, and features of several of them."""

import pytest
import torch

from colm.gradients.applied_weights import weight_rows
from colm.gradients.projections import find_projections
from colm.gradients.value_gradients import ValueGradients
from tests.cases import quick_first
from tests.gradients.adapters import with_adapter
from tests.gradients.architectures import build
from tests.gradients.oracle import assert_close, examples, looped, padded
from tests.gradients.snapshot import Snapshot


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def rows(*ranges):
    return [row for start, stop in ranges for row in range(start, stop)]


def thirds(head, number, *order):
    """Rows of each part where every head's rows follow one another, part by part."""
    parts = {name: index * head for index, name in enumerate(order)}
    return {
        name: rows(*((3 * head * i + at, 3 * head * i + at + head) for i in range(number)))
        for name, at in parts.items()
    }


# Four heads of eight, with two or one for keys and values where a family shares them. The places
# are those of transformers' own code, read off its reshapes and splits.
IN_A_ROW = {"q": rows((0, 32)), "k": rows((32, 64)), "v": rows((64, 96))}
ONE_KEY = {"q": rows((0, 32)), "k": rows((32, 40)), "v": rows((40, 48))}
FUSED = {
    "gpt2": ({}, IN_A_ROW),
    "mpt": ({}, IN_A_ROW),
    "phi3": ({}, {"q": rows((0, 32)), "k": rows((32, 48)), "v": rows((48, 64))}),
    "falcon": ({}, ONE_KEY),
    "gpt_bigcode": ({}, ONE_KEY),
    "gpt_neox": ({}, thirds(8, 4, "q", "k", "v")),
    "bloom": ({}, thirds(8, 4, "q", "k", "v")),
    "persimmon": ({}, thirds(8, 4, "q", "k", "v")),
    "codegen": ({}, thirds(8, 4, "q", "v", "k")),
    "jetmoe": ({}, {"k": rows((0, 16)), "v": rows((16, 32))}),
    "deepseek_v3": (
        {},
        {
            "k": rows(*((16 * head, 16 * head + 6) for head in range(4))),
            "v": rows(*((16 * head + 6, 16 * head + 16) for head in range(4))),
        },
    ),
}
GROUPED_FALCON = (
    {"new_decoder_architecture": True, "num_kv_heads": 2},
    {
        "q": rows((0, 16), (32, 48)),
        "k": rows((16, 24), (48, 56)),
        "v": rows((24, 32), (56, 64)),
    },
)
LAYOUTS = [(family, *layout) for family, layout in FUSED.items()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("family", "changes", "places"), [*LAYOUTS, ("falcon", *GROUPED_FALCON)])
def test_rows_are_found_in_every_fused_layout(family, changes, places, dtype):
    model = build(family, **changes).to(dtype)
    before = Snapshot(model)
    found = find_projections(model, list(places))
    before.assert_same(Snapshot(model))
    assert len({id(projection.modules[0]) for projection in found}) == 1
    for projection, expected in zip(found, places.values(), strict=True):
        assert projection.rows.tolist() == expected


def test_rows_are_found_where_heads_are_large():
    """With the magnitudes of a real model: heads of 64, weights that have been trained."""
    model = build("phi3", hidden_size=256, num_attention_heads=4, head_dim=64)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    q, k, v = find_projections(model, ("q", "k", "v"))
    assert q.rows.tolist() == rows((0, 256))
    assert k.rows.tolist() == rows((256, 384))
    assert v.rows.tolist() == rows((384, 512))


def test_a_map_of_its_own_counts_whole():
    for projection in find_projections(build("llama"), ("q", "k", "v", "o", "mlp")):
        assert projection.rows is None


def test_names_of_what_is_found():
    found = find_projections(build("llama"), ("mlp", "o", "q", "k"))
    assert [projection.name for projection in found] == [
        *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
        *("self_attn.o_proj", "self_attn.q_proj", "self_attn.k_proj"),
    ]


def test_experts_are_left_out_and_what_all_tokens_see_is_not():
    found = find_projections(build("deepseek_v3"), ["mlp"])
    assert [projection.name for projection in found] == [
        f"mlp.shared_experts.{name}" for name in ("gate_proj", "up_proj", "down_proj")
    ]


@pytest.mark.parametrize("adapter", ["none", "lora", "dora"])
@pytest.mark.parametrize("family", quick_first(["phi3", "gpt2", "gpt_neox", "llama"]))
def test_features_are_joined_in_the_order_asked_for(family, adapter):
    model = with_adapter(build(family), adapter)
    batch = padded(*examples())
    both = ValueGradients(model, projections=("k", "v", "q"))
    parts = [ValueGradients(model, projections=[name]) for name in ("k", "v", "q")]
    assert_close(both(batch).features, torch.cat([part(batch).features for part in parts], dim=1))
    assert torch.equal(both.weight(), torch.cat([part.weight() for part in parts]))
    assert all(part.is_adapter == (adapter != "none") for part in both.projections)


@pytest.mark.parametrize("adapter", ["none", "dora"])
@pytest.mark.parametrize("family", ["phi3", "gpt2", "llama"])
def test_directional_and_zeroth_order_take_several_projections(family, adapter):
    model = with_adapter(build(family), adapter)
    batch = padded(*examples())
    names = ("q", "v", "k", "mlp")
    exact = ValueGradients(model, projections=names)(batch).features
    directional = ValueGradients(model, "directional", projections=names, num_directions=2)
    directions = directional.draw_directions(torch.Generator().manual_seed(1))
    z = torch.cat([direction.flatten(1) for direction in directions], dim=1).double()
    expected = (exact @ z.T) @ z / 2
    assert_close(directional(batch, directions).features, expected)
    zeroth = ValueGradients(
        model, "zeroth_order", projections=names, num_directions=2, perturbation_scale=1e-4
    )
    assert_close(zeroth(batch, directions).features, expected, 1e-2)


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("family", ["gpt2", "phi3", "gpt_neox"])
def test_weight_is_laid_out_as_the_features(family, adapter):
    """A weight that holds its own gradient reads as the features."""
    model = with_adapter(build(family), adapter).eval()
    tokens, labels = examples((9,))
    projections = find_projections(model, ("v", "k"))
    model.requires_grad_(True)
    model(input_ids=tokens[0][None], labels=labels[0][None]).loss.double().backward()
    gradients = looped(model, projections, tokens, labels)[0]
    for projection in projections:
        module = projection.modules[0]
        module.weight.data = module.weight.grad
    weight = torch.cat([weight_rows(projection) for projection in projections])
    assert_close(weight.double(), gradients, 1e-5)


def test_a_shared_weight_counts_wherever_it_is_applied():
    """Zamba applies one attention in several layers, and a replay must start at the first."""
    model = build("zamba2")
    (projection,) = find_projections(model)
    assert projection.first_layer == 1
    assert len(projection.modules) == 2
    batch = padded(*examples())
    estimates = []
    for estimator in ("directional", "zeroth_order"):
        features = ValueGradients(model, estimator, perturbation_scale=1e-3)
        directions = features.draw_directions(torch.Generator().manual_seed(1))
        estimates.append(features(batch, directions).features)
    assert_close(estimates[1], estimates[0], 1e-2)


def test_layers_that_share_keys_and_values_are_replayed_whole():
    model = build("gemma3n_text")
    (projection,) = find_projections(model)
    assert projection.first_layer == 1
    batch = padded(*examples())
    estimates = []
    for estimator in ("directional", "zeroth_order"):
        features = ValueGradients(model, estimator, perturbation_scale=1e-4)
        directions = features.draw_directions(torch.Generator().manual_seed(1))
        estimates.append(features(batch, directions).features)
    assert_close(estimates[1], estimates[0], 1e-2)


@pytest.mark.parametrize("estimator", ["exact", "zeroth_order"])
def test_a_projection_that_does_not_run_is_named(estimator):
    model = build("llama")
    layer = model.model.layers[-1]
    layer.mlp = torch.nn.Sequential(torch.nn.Identity())
    layer.mlp.add_module("idle", torch.nn.Linear(32, 32).double())
    layer.mlp.forward = lambda hidden: hidden
    features = ValueGradients(model, estimator, projections=["mlp"])
    directions = features.draw_directions(torch.Generator().manual_seed(1))
    with pytest.raises(RuntimeError, match=r"'mlp\.idle' took no part in the model's forward"):
        features(padded(*examples()), directions)
