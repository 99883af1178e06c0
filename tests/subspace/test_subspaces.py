"""A model in subspaces: the same function, fewer bytes for backward, and the plain model back."""

import copy
import gc
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from colm.gradients.decoder import linear_shape
from colm.memory.subspaces.linear import draw_directions
from colm.memory.subspaces.subspaces import OTHERS, Subspaces


def fill(subspaces, scale=0.3):
    for number, factor in enumerate(subspaces.factors()):
        nn.init.normal_(factor, std=scale, generator=torch.Generator().manual_seed(number))


def saved_bytes(model, batch):
    """Bytes of all tensors kept for backward, each storage once, weights and P left out."""
    held = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held |= {p.untyped_storage().data_ptr() for p in draw_directions(model)}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**batch).loss
    total = sum(kept.values())
    loss.backward()
    return total


def inputs_kept(model, batch):
    """Names of maps whose whole input is kept for backward."""
    storages, kept, hooks = {}, set(), []
    for name, module in model.named_modules():
        if hasattr(module, "subspace"):
            hooks.append(
                module.register_forward_pre_hook(
                    lambda _, args, name=name: storages.setdefault(name, args[0])
                )
            )

    def keep(tensor):
        kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**batch)
    for hook in hooks:
        hook.remove()
    return {name for name, x in storages.items() if x.untyped_storage().data_ptr() in kept}


def test_nothing_changes_at_first(model, batch):
    with torch.no_grad():
        before = model(**batch).logits
        Subspaces(model, 4)
        assert torch.equal(model(**batch).logits, before)


def transposed_model():
    """GPT-2, whose weights have their outputs in columns."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=64,
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_positions=32,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("sampling", ["gaussian", "haar"])
def test_merging_leaves_the_function_unchanged(model, sampling, transposed):
    model = (transposed_model() if transposed else model).double()
    subspaces = Subspaces(model, 4, sampling=sampling)
    fill(subspaces)
    maps = list(subspaces.maps.values())
    assert all(isinstance(module, Conv1D if transposed else nn.Linear) for module in maps)
    x = {m: torch.randn(5, linear_shape(m)[1], dtype=torch.float64) for m in maps}
    before = {module: module(values) for module, values in x.items()}
    subspaces.detach()
    for module, values in x.items():
        torch.testing.assert_close(module(values), before[module], rtol=1e-12, atol=1e-12)


def test_the_weights_after_merging_are_w_plus_b_p(model):
    before = copy.deepcopy(model.state_dict())
    subspaces = Subspaces(model, 4, seed=3)
    fill(subspaces)
    name, module = next(iter(subspaces.maps.items()))
    update = module.subspace.weight.detach() @ module.projection(like=module.weight)
    subspaces.merge()
    torch.testing.assert_close(module.weight, before[f"{name}.weight"] + update)
    assert not module.subspace.weight.any()


def test_the_model_is_a_plain_one_again(model, batch):
    kinds = {name: type(module) for name, module in model.named_modules()}
    names = list(model.state_dict())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    subspaces = Subspaces(model, 4, others=["norms"])
    assert subspaces.detach() is model
    assert {name: type(module) for name, module in model.named_modules()} == kinds
    assert list(model.state_dict()) == names
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trained
    assert not any(hasattr(module, "directions") for module in model.modules())


def test_every_trained_map_of_the_layers_has_a_subspace(model):
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    subspaces = Subspaces(model, 4)
    assert len(subspaces.maps) == 2 * 7 - 1
    assert all(".layers." in name for name in subspaces.maps)
    assert not any("lm_head" in name for name in subspaces.maps)
    subspaces.detach()
    assert not model.model.layers[0].mlp.up_proj.weight.requires_grad


@pytest.mark.parametrize("others", [[], ["norms"], ["embeddings"], ["head"], list(OTHERS)])
def test_what_else_is_trained_is_an_option(model, others):
    Subspaces(model, 4, others=others)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert ("model.embed_tokens.weight" in trained) == ("embeddings" in others)
    assert ("lm_head.weight" in trained) == ("head" in others)
    assert ("model.norm.weight" in trained) == ("norms" in others)
    assert sum(name.endswith("subspace.weight") for name in trained) == 14


def test_backward_keeps_x_p_and_nothing_else_of_adapted_layers(model, batch):
    """Of each x four numbers a token more than where maps are frozen, to the byte.

    A layer has four: that of queries, keys and values, that of the output, and two of the
    feed-forward part.
    """
    frozen = copy.deepcopy(model)
    for name, parameter in frozen.named_parameters():
        parameter.requires_grad_("proj" not in name)
    plain = saved_bytes(copy.deepcopy(model), batch)
    Subspaces(model, 4)
    model(**batch)  # draws P
    tokens = batch["input_ids"].numel()
    projected = tokens * 4 * 4 * (2 * 4)
    assert saved_bytes(model, batch) == saved_bytes(frozen, batch) + projected
    assert saved_bytes(model, batch) < plain


def test_no_whole_input_of_an_adapted_layer_is_kept(model, batch):
    """That they would be found: a map whose weight is trained keeps its input."""
    # Fused attention keeps its own output, whatever follows it.
    model.set_attn_implementation("eager")
    subspaces = Subspaces(model, 4)
    assert inputs_kept(model, batch) == set()
    name, module = next(iter(subspaces.maps.items()))
    module.weight.requires_grad_(True)
    assert name in inputs_kept(model, batch)


def test_no_p_is_held_after_the_next_is_drawn(model, batch):
    subspaces = Subspaces(model, 4)
    model(**batch)
    old = [weakref.ref(p) for p in draw_directions(model)]
    subspaces.redraw()
    model(**batch)
    gc.collect()
    assert all(reference() is None for reference in old)
    subspaces.detach()


def test_x_p_is_shared_only_where_it_is_the_same(model):
    subspaces = Subspaces(model.double(), 4)
    fill(subspaces)
    attention = model.model.layers[0].self_attn
    q, v = attention.q_proj, attention.v_proj

    def expected(module, x):
        weight = module.weight + module.subspace.weight @ module.projection(like=x)
        return x @ weight.T

    x = torch.randn(5, 32, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        q(x)
    # Made without gradients, x P would give none to x.
    (gradient,) = torch.autograd.grad(v(x).sum(), x)
    (right,) = torch.autograd.grad(expected(v, x).sum(), x)
    torch.testing.assert_close(gradient, right)
    y = torch.randn(5, 32, dtype=torch.float64)
    q(y)
    y.mul_(2)
    torch.testing.assert_close(v(y), expected(v, y))
    q(y)
    subspaces.redraw()
    torch.testing.assert_close(v(y), expected(v, y))
    model.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = torch.randn(5, 32)
        assert q(z).dtype == torch.bfloat16
    assert v(z).dtype == torch.float32


def test_x_p_goes_with_x(model, batch):
    subspaces = Subspaces(model, 4)
    with torch.no_grad():
        model(**batch)
    gc.collect()
    shared = {module.directions for module in subspaces.maps.values()}
    assert all(directions._last._projected is None for directions in shared)


def test_p_is_drawn_again_at_every_outer_step_and_the_same_for_the_same(model):
    subspaces = Subspaces(model, 4, seed=7)
    module = next(iter(subspaces.maps.values()))
    first = module.projection(like=module.weight)
    subspaces.redraw()
    assert subspaces.outer_step == 1
    assert not torch.equal(module.projection(like=module.weight), first)
    subspaces.redraw(0)
    assert torch.equal(module.projection(like=module.weight), first)


def test_maps_of_a_module_share_p_and_modules_do_not(model):
    """Attention has one P for 32 inputs, the feed-forward part one for 32 and one for 48."""
    subspaces = Subspaces(model, 4)
    directions = draw_directions(model)
    assert [tuple(p.shape) for p in directions] == [(4, 32), (4, 32), (4, 48)] * 2
    assert not any(torch.equal(directions[0], other) for other in (directions[1], directions[3]))
    attention = model.model.layers[0].self_attn
    assert attention.q_proj.directions is attention.v_proj.directions
    subspaces.detach()
    assert draw_directions(model) == []


def test_the_merged_state_is_that_after_merging(model):
    subspaces = Subspaces(model.bfloat16(), 4)
    fill(subspaces)
    merged = subspaces.merged_state_dict(model.state_dict())
    subspaces.detach()
    assert merged.keys() == model.state_dict().keys()
    assert all(torch.equal(merged[name], value) for name, value in model.state_dict().items())


def test_the_exact_state_is_what_the_merged_one_lacks(model):
    subspaces = Subspaces(model, 4)
    assert subspaces.exact_state(model.state_dict()) == {}
    fill(subspaces)
    state = copy.deepcopy(model.state_dict())
    exact = subspaces.exact_state(state)
    model.load_state_dict(subspaces.merged_state_dict(state), strict=False)
    model.load_state_dict(exact, strict=False)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_b_is_float32_in_a_model_of_half_precision(model, batch):
    subspaces = Subspaces(model.bfloat16(), 4)
    assert {factor.dtype for factor in subspaces.factors()} == {torch.float32}
    loss = model(**batch).loss
    loss.backward()
    assert all(factor.grad.dtype == torch.float32 for factor in subspaces.factors())
    assert model.model.layers[0].mlp.up_proj(torch.ones(1, 32).bfloat16()).dtype == torch.bfloat16


def test_merging_in_bfloat16_loses_no_update_on_average(model):
    """Updates of a tenth of the distance between weights, which rounding to the nearest drops."""
    moved = {}
    for rounding in ("stochastic", "nearest"):
        own = copy.deepcopy(model).bfloat16()
        subspaces = Subspaces(own, 32, sampling="haar", rounding=rounding)
        module = next(iter(subspaces.maps.values()))
        with torch.no_grad():
            module.weight.fill_(1.0)
            # B P is 2^-7 / 10 everywhere: haar of full rank is a rotation.
            p = module.projection(like=module.weight).float()
            wanted = torch.full_like(module.weight, 2**-7 / 10, dtype=torch.float32)
            module.subspace.weight.copy_(wanted @ torch.linalg.inv(p))
        subspaces.merge()
        moved[rounding] = (module.weight.float() - 1).mean().item()
    assert moved["nearest"] == 0
    assert moved["stochastic"] == pytest.approx(2**-7 / 10, rel=0.2)


def test_a_rank_above_the_inputs_is_all_of_them(model):
    subspaces = Subspaces(model, 1000)
    ranks = {module.subspace.in_features for module in subspaces.maps.values()}
    assert ranks == {32, 48}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "rank.*whole.* 1.* 0"),
        ({"sampling": "x"}, "sampling.*haar, gaussian.* 'x'"),
        ({"rounding": "x"}, "rounding.*stochastic, nearest.* 'x'"),
        ({"others": ["x"]}, "others.*norms, embeddings, head, rest.* 'x'"),
    ],
)
def test_what_is_out_of_range_is_refused_and_the_model_stays(model, change, message):
    names = list(model.state_dict())
    with pytest.raises(ValueError, match=message):
        Subspaces(model, **{"rank": 4} | change)
    assert list(model.state_dict()) == names


def test_quantised_weights_are_refused(model, tmp_path):
    pytest.importorskip("bitsandbytes", reason="4-bit weights need bitsandbytes")
    model.save_pretrained(tmp_path)
    in_four_bits = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(load_in_4bit=True)
    )
    with pytest.raises(ValueError, match="LlamaForCausalLM has quantised weights"):
        Subspaces(in_four_bits, 4)


def test_adapters_and_models_without_trained_maps_are_refused(model):
    frozen = copy.deepcopy(model).requires_grad_(False)
    with pytest.raises(ValueError, match="LlamaForCausalLM has no linear map that is trained"):
        Subspaces(frozen, 4)
    adapted = get_peft_model(model, LoraConfig(target_modules=["v_proj"]))
    with pytest.raises(ValueError, match="LlamaForCausalLM has adapters"):
        Subspaces(adapted, 4)
