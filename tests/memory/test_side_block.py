"""A side block against a plain model written out by hand, and what it leaves of the model."""

import copy
import json
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
)

from colm import attach_side_block, load_side_block, save_side_block, side_block_of
from colm.planning.tally import SavedBytes

VOCABULARY = 40
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
CONFIGS = {
    "llama": (LlamaConfig, SIZES | {"num_key_value_heads": 1}),
    "gpt2": (GPT2Config, {"n_embd": 16, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}),
    "gpt_neox": (GPTNeoXConfig, SIZES),
    "gemma2": (Gemma2Config, SIZES | {"num_key_value_heads": 1, "head_dim": 8}),
    "mixtral": (MixtralConfig, SIZES | {"num_key_value_heads": 1, "num_local_experts": 2}),
}


def make_model(kind="llama", layers=4, dtype=torch.float64, **options):
    config_class, sizes = CONFIGS[kind]
    config = config_class(
        vocab_size=VOCABULARY,
        pad_token_id=0,
        **sizes | {"n_layer" if kind == "gpt2" else "num_hidden_layers": layers} | options,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def make_tokens(rows=3, length=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCABULARY, (rows, length), generator=generator)


@torch.no_grad()
def trained(block, seed=0):
    """A block with no weight at its first value."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in block.parameters():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator).to(parameter) + 0.1)
    return block


def hooks_of(model):
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, name)) for module in model.modules() for name in hooks)


def norm_by_hand(vector, norm):
    centered = vector - vector.mean()
    scaled = centered / (centered.square().mean() + norm.eps).sqrt()
    return scaled * norm.weight + norm.bias


def token_by_hand(block, outputs):
    """x of one token, of k outputs [d]: the formula as it stands in the module's docstring."""
    narrow = [
        norm_by_hand(down.map.weight @ output + down.map.bias, down.norm)
        for down, output in zip(block.down, outputs, strict=True)
    ]
    *others, guide = narrow
    shares = []
    for one in others:
        cosines = [one @ other / (one.norm() * other.norm()) for other in others]
        redundancy = sum(max(cosine, cosine.new_zeros(())) for cosine in cosines)
        shares.append(torch.relu(block.weigh.weight[0] @ (one * guide)) / redundancy)
    total = sum(shares)
    mixed = torch.zeros_like(guide)
    if total > 0:
        mixed = sum(share / total * one for share, one in zip(shares, others, strict=True))
    widened = block.up.map.weight @ torch.relu(mixed + guide) + block.up.map.bias
    return norm_by_hand(widened, block.up.norm) + (1 + block.gate) * outputs[-1]


def loss_by_hand(plain, block, tokens, read):
    """The loss of a Llama whose last layer is given what the block makes of the hidden states."""
    hidden = plain(tokens, output_hidden_states=True).hidden_states
    outputs = torch.stack([hidden[number].detach() for number in read])
    rows, length = tokens.shape
    entering = torch.stack(
        [
            torch.stack([token_by_hand(block, outputs[:, row, at]) for at in range(length)])
            for row in range(rows)
        ]
    )
    positions = plain.model.rotary_emb(entering, torch.arange(length).unsqueeze(0))
    mask = torch.full((1, 1, length, length), float("-inf"), dtype=entering.dtype).triu(1)
    leaving = plain.model.layers[-1](entering, attention_mask=mask, position_embeddings=positions)
    return loss_of(plain.lm_head(plain.model.norm(leaving)), tokens)


def loss_of(logits, tokens):
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


@pytest.mark.parametrize(("layers", "every"), [(2, 1), (4, 1), (4, 2), (4, 3)])
def test_loss_and_gradient_are_those_of_a_model_written_out(layers, every):
    plain = make_model(layers=layers, attn_implementation="eager")
    model = copy.deepcopy(plain)
    block = trained(attach_side_block(model, 3, every=every))
    assert block.trunk.read == {(2, 1): (0, 1), (4, 1): (0, 1, 2, 3), (4, 2): (1, 3)}.get(
        (layers, every), (0, 3)
    )
    tokens = make_tokens()
    loss = loss_of(model(tokens).logits, tokens)
    expected = loss_by_hand(plain, block, tokens, block.trunk.read)
    torch.testing.assert_close(loss, expected)
    parameters = dict(block.named_parameters())
    found = torch.autograd.grad(loss, parameters.values())
    wanted = torch.autograd.grad(expected, parameters.values())
    for name, one, other in zip(parameters, found, wanted, strict=True):
        torch.testing.assert_close(one, other, msg=name)
        # Of a single output, the share is 1 whatever it is weighed by.
        assert one.any() or (name == "weigh.weight" and len(block.trunk.read) == 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", CONFIGS)
def test_at_first_the_model_computes_what_it_did_to_the_bit(kind, dtype):
    """In training mode, too: what is frozen has no dropout."""
    model = make_model(kind, dtype=dtype).eval()
    tokens, mask = make_tokens(), torch.ones(3, 7, dtype=torch.int64)
    mask[0, 4:] = 0
    before = model(tokens, attention_mask=mask).logits
    state = torch.get_rng_state()
    block = attach_side_block(model, 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.dtype == torch.float32 for parameter in block.parameters())
    model.train()
    logits = model(tokens, attention_mask=mask).logits
    assert torch.equal(logits, before)
    logits.float().sum().backward()
    assert block.up.norm.weight.grad.any()
    assert all(weight.grad is None for weight in set(model.parameters()) - set(block.parameters()))


def test_a_block_depends_on_its_seed_alone():
    first, again, other = (attach_side_block(make_model(), 4, seed=seed) for seed in (0, 0, 1))
    for name, one in first.state_dict().items():
        assert torch.equal(one, again.state_dict()[name])
    assert not torch.equal(first.up.map.weight, other.up.map.weight)


def test_layers_that_are_not_read_keep_nothing_for_backward():
    """Three outputs of three layers or of seven take as much; a whole backward takes far more."""
    tokens = make_tokens(4, 16)
    saved = {}
    for layers, every in ((3, 1), (7, 3), (7, None)):
        model = make_model(layers=layers)
        if every is not None:
            assert len(attach_side_block(model, 4, every=every).trunk.read) == 3
        with SavedBytes(model.parameters()) as counted:
            loss = model(tokens, labels=tokens).loss
        loss.backward()
        saved[layers, every] = counted.peak_bytes
    assert saved[3, 1] == saved[7, 3]
    assert saved[7, 3] < saved[7, None] / 2


@pytest.mark.parametrize("kind", CONFIGS)
def test_generation_with_a_cache_is_as_without(kind):
    model = make_model(kind, dtype=torch.float32).eval()
    trained(attach_side_block(model, 2))
    tokens = make_tokens()
    how = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assert torch.equal(
        model.generate(tokens, use_cache=True, **how),
        model.generate(tokens, use_cache=False, **how),
    )


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_was_recorded_takes_the_place_of_the_layers(kind):
    model = make_model(kind, dtype=torch.float32).train()
    block = trained(attach_side_block(model, 4))
    tokens = make_tokens()
    with block.trunk.recording() as forwards:
        loss = model(tokens, labels=tokens).loss
    loss.backward()
    gradients = [parameter.grad.clone() for parameter in block.parameters()]
    model.zero_grad()
    (outputs,) = forwards
    assert not any(output.requires_grad for output in outputs)
    assert block.trunk.can_be_given

    def runs(*_):
        raise AssertionError("a layer of the trunk runs")

    inside = next(iter(block.trunk.decoder.children()))
    first = next(m for m in block.trunk.decoder.modules() if isinstance(m, nn.ModuleList))[0]
    handles = [m.register_forward_hook(runs) for m in first.children() if m is not inside]
    with block.trunk.given(outputs):
        again = model(tokens, labels=tokens).loss
    again.backward()
    assert torch.equal(again, loss)
    for parameter, gradient in zip(block.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)
    with pytest.raises(AssertionError, match="a layer of the trunk runs"):
        model(tokens)
    for handle in handles:
        handle.remove()
    model(tokens)


def test_detached_the_model_is_the_plain_one():
    model = make_model("gpt2").train()
    model.transformer.wte.weight.requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    names, logits = list(model.state_dict()), make_model("gpt2").eval()(make_tokens()).logits
    block = trained(attach_side_block(model, 4))
    assert hooks_of(model) > 0
    assert not any(module.training for module in model.transformer.modules())
    assert block.detach() is model
    assert side_block_of(model) is None
    assert hooks_of(model) == 0
    assert all(module.training for module in model.modules())
    assert [parameter.requires_grad for parameter in model.parameters()] == before
    assert list(model.state_dict()) == names
    assert torch.equal(model.eval()(make_tokens()).logits, logits)


def test_an_error_leaves_nothing_behind():
    model = make_model()
    block = attach_side_block(model, 4)
    read = []

    def fail(_module, _args, output):
        read.append(weakref.ref(output))
        if len(read) == 2:
            raise RuntimeError("out of memory")

    handles = [layer.register_forward_hook(fail) for layer in model.model.layers[:2]]
    tokens = make_tokens()
    with pytest.raises(RuntimeError, match="out of memory"), block.trunk.recording() as forwards:
        model(tokens)
    assert forwards == []
    for handle in handles:
        handle.remove()
    assert all(reference() is None for reference in read)
    with block.trunk.recording() as forwards:
        logits = model(tokens).logits
    with pytest.raises(KeyError), block.trunk.given(forwards[0]):
        raise KeyError
    assert not any("forward" in vars(layer) for layer in model.model.layers)
    assert torch.equal(model(tokens).logits, logits)


def test_a_copy_has_a_block_of_its_own():
    model = make_model()
    block = attach_side_block(model, 4)
    twin = copy.deepcopy(model)
    trained(block)
    tokens = make_tokens()
    assert torch.equal(twin(tokens).logits, make_model().eval()(tokens).logits)
    side_block_of(twin).detach()
    assert hooks_of(twin) == 0
    assert not torch.equal(model(tokens).logits, twin(tokens).logits)


def test_a_block_is_saved_by_itself_and_loaded_beside_the_same_model(tmp_path):
    model, tokens = make_model(), make_tokens()
    trained(attach_side_block(model, 4, every=2))
    save_side_block(model, tmp_path / "block")
    assert sorted(path.name for path in (tmp_path / "block").iterdir()) == [
        "colm_side_block.json",
        "colm_side_block.safetensors",
    ]
    other = make_model()
    block = load_side_block(other, tmp_path / "block")
    assert (block.reduction, block.trunk.every) == (4, 2)
    assert torch.equal(other(tokens).logits, model(tokens).logits)
    attached = trained(side_block_of(other), seed=1)
    assert load_side_block(other, tmp_path / "block") is attached
    assert torch.equal(other(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda: make_model(layers=5), "does not fit this LlamaForCausalLM: layers is 4 there"),
        (lambda: make_model(hidden_size=32), "does not fit this LlamaForCausalLM: .*size mismatch"),
        (lambda: attach_side_block(make_model(), 2).trunk.model, "reduction is 4 there, and 2"),
    ],
)
def test_a_block_of_another_model_is_refused(prepare, message, tmp_path):
    model = make_model()
    attach_side_block(model, 4)
    save_side_block(model, tmp_path)
    other = prepare()
    had = side_block_of(other)
    with pytest.raises(ValueError, match=message) as error:
        load_side_block(other, tmp_path)
    assert "\n" not in str(error.value)
    assert side_block_of(other) is had


def test_a_folder_without_a_block_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no colm_side_block\.json"):
        load_side_block(make_model(), tmp_path)
    (tmp_path / "colm_side_block.json").write_text(json.dumps({"format": "x"}))
    with pytest.raises(ValueError, match="cannot be read"):
        load_side_block(make_model(), tmp_path)
    with pytest.raises(ValueError, match="has no side block to save"):
        save_side_block(make_model(), tmp_path)


@pytest.mark.parametrize(
    ("prepare", "options", "message"),
    [
        (make_model, {"reduction": 0}, "reduction must be a whole number at least 1; got 0"),
        (make_model, {"reduction": 17}, "reduction must be at most the hidden size, 16; got 17"),
        (make_model, {"every": 4}, "every must be at most 3 with 4 layers"),
        (lambda: make_model(layers=1), {}, "1 layers of its own in 1 places"),
        (
            lambda: get_peft_model(make_model(), LoraConfig(target_modules=["v_proj"])),
            {},
            "LlamaForCausalLM has adapters",
        ),
        (lambda: attach_side_block(make_model(), 4).trunk.model, {}, "has a side block already"),
    ],
)
def test_what_takes_no_block_is_refused_and_left_as_it_was(prepare, options, message):
    model = prepare()
    before = hooks_of(model), [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(ValueError, match=message) as error:
        attach_side_block(model, **{"reduction": 4} | options)
    assert "\n" not in str(error.value)
    after = hooks_of(model), [parameter.requires_grad for parameter in model.parameters()]
    assert after == before
