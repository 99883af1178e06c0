"""Every kind of adapter that PEFT can put on a small Llama: looked at as trained, or refused."""

import warnings
from contextlib import contextmanager

import peft
import pytest
import torch
from peft import get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch.nn import functional

from colm.coreset.candidates import OBSERVATIONS
from colm.gradients.batch import IGNORED_LABEL
from colm.gradients.block_gradients import BlockGradients
from colm.gradients.example_observer import ExampleObserver
from colm.gradients.patching import forward_hook, replaced_forward
from colm.gradients.per_example import example_gradients, trained_parameters
from colm.gradients.projections import find_projections
from colm.gradients.value_gradients import ValueGradients
from tests.gradients.architectures import build
from tests.gradients.oracle import assert_close, padded, padding_free
from tests.gradients.snapshot import Snapshot

ON_MAPS = {"target_modules": ["q_proj", "v_proj"]}
VIRTUAL = {"num_virtual_tokens": 5}
#: What the configuration of each kind is given; the other names are variants of LoRA.
KINDS = {
    "AdaLoraConfig": {"init_r": 4, "total_step": 100, **ON_MAPS},
    "AdamssConfig": {"r": 8, "num_subspaces": 2, "subspace_rank": 2, **ON_MAPS},
    "AdaptionPromptConfig": {"adapter_layers": 1, "adapter_len": 4},
    "BOFTConfig": {"boft_block_size": 4, **ON_MAPS},
    "BeftConfig": {},
    "C3AConfig": {"block_size": 8, **ON_MAPS},
    "CPTConfig": {"cpt_token_ids": [3], "cpt_mask": [1], "cpt_tokens_type_mask": [1]},
    "CartridgeConfig": VIRTUAL,
    "DeftConfig": {"r": 4, **ON_MAPS},
    "DeloraConfig": {"r": 4, **ON_MAPS},
    "FourierFTConfig": {"n_frequency": 20, **ON_MAPS},
    "FrodConfig": ON_MAPS,
    "GloraConfig": {"r": 4, **ON_MAPS},
    "GraloraConfig": {"r": 4, **ON_MAPS},
    "HRAConfig": {"r": 4, **ON_MAPS},
    "HiraConfig": {"r": 4, **ON_MAPS},
    "IA3Config": {"feedforward_modules": [], **ON_MAPS},
    "LNTuningConfig": {},
    "LilyConfig": {"r": 4, **ON_MAPS},
    "LoHaConfig": {"r": 4, **ON_MAPS},
    "LoKrConfig": {"r": 4, **ON_MAPS},
    "LoraConfig": {"r": 4, **ON_MAPS},
    "MissConfig": {"r": 4, **ON_MAPS},
    "MultitaskPromptTuningConfig": {"num_tasks": 2, **VIRTUAL},
    "OFTConfig": {"oft_block_size": 4, **ON_MAPS},
    "OSFConfig": ON_MAPS,
    "PeanutConfig": {"r": 4, **ON_MAPS},
    "PolyConfig": {"r": 4, "n_tasks": 2, **ON_MAPS},
    "PrefixTuningConfig": VIRTUAL,
    "PromptEncoderConfig": {"encoder_hidden_size": 16, **VIRTUAL},
    "PromptTuningConfig": VIRTUAL,
    "PsoftConfig": {"r": 4, **ON_MAPS},
    "PveraConfig": {"r": 4, **ON_MAPS},
    "RandLoraConfig": {"r": 4, **ON_MAPS},
    "RoadConfig": {"group_size": 8, **ON_MAPS},
    "ShadowConfig": {"r": 4, **ON_MAPS},
    "ShiraConfig": {"r": 4, **ON_MAPS},
    "SupertuningConfig": ON_MAPS,
    "TinyLoraConfig": {"r": 2, "u": 4, **ON_MAPS},
    "TrainableTokensConfig": {"token_indices": [3, 4, 5, 6]},
    "UniLoraConfig": {"r": 4, "theta_d_length": 64, **ON_MAPS},
    "VBLoRAConfig": {"r": 4, "num_vectors": 16, "vector_length": 8, "topk": 2, **ON_MAPS},
    "VeraConfig": {"r": 4, **ON_MAPS},
    "WaveFTConfig": {"n_frequency": 20, **ON_MAPS},
    "activated": {"alora_invocation_tokens": [5]},
    "block-diagonal A": {"bd": "target_modules_bd_a"},
    "block-diagonal B": {"bd": "target_modules_bd_b"},
    "with bias": {"lora_bias": True},
    "kasa": {"kasa_config": peft.KasaConfig()},
    "monteclora": {"monteclora_config": peft.MontecloraConfig()},
    "quantisation-aware": {"use_qalora": True, "qalora_group_size": 4},
    "velora": {"velora_config": peft.VeloraConfig()},
    "on every map": {"target_modules": "all-linear"},
    "on embeddings": {"target_modules": ["v_proj", "embed_tokens", "lm_head"]},
    "and tokens": {"trainable_token_indices": [3, 4, 5, 6]},
    "and V whole": {"target_modules": ["q_proj"], "modules_to_save": ["v_proj"]},
    "and attention whole": {"target_modules": ["down_proj"], "modules_to_save": ["self_attn"]},
    "and head whole": {"modules_to_save": ["lm_head", "embed_tokens"]},
}
REFUSED = {
    "AdaptionPromptConfig": "ADAPTION_PROMPT",
    "CPTConfig": "CPT",
    "LilyConfig": "LILY",
    "ShadowConfig": "SHADOW",
}
#: Those that apply a weight which they make of the map's.
OWN_WEIGHTS = ("FrodConfig", "GloraConfig", "HRAConfig", "HiraConfig", "ShiraConfig")
NOT_LINEAR = ("PeanutConfig",)
IN_FLOAT32 = ("AdamssConfig", "C3AConfig", "DeftConfig")
VIRTUAL_KINDS = ("PromptTuningConfig", "PromptEncoderConfig", "MultitaskPromptTuningConfig")


def adapted(kind):
    """A small Llama under an adapter, moved away from where training starts."""
    options = dict(KINDS[kind])
    if "bd" in options:
        options = {
            "use_bdlora": peft.BdLoraConfig(nblocks=2, **{options["bd"]: ["q_proj", "v_proj"]})
        }
    if not kind.endswith("Config"):
        options = {"r": 4, **ON_MAPS, **options}
    config_class = getattr(peft, kind if kind.endswith("Config") else "LoraConfig")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(
            build("llama").float(), config_class(task_type="CAUSAL_LM", **options)
        )
    torch.manual_seed(1)
    # Some keep the type that they were made in to themselves.
    model = model if kind == "AdamssConfig" else model.double()
    for parameter in trained_parameters(model):
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def given(kind, lengths=(7, 12, 3, 9)):
    """A batch in which the first tokens of some examples have labels, and the rows of it alone."""
    generator = torch.Generator().manual_seed(2)
    tokens = [torch.randint(6, 60, (length,), generator=generator) for length in lengths]
    for row in tokens:
        row[1] = 5
    labels = [row.clone() for row in tokens]
    labels[1][:4] = IGNORED_LABEL
    tasks = torch.arange(len(lengths)) % 2
    takes_tasks = kind in ("MultitaskPromptTuningConfig", "PolyConfig")
    more = {"task_ids": tasks} if takes_tasks else {}
    alone = [
        {
            "input_ids": row[None],
            "attention_mask": torch.ones_like(row)[None],
            "labels": label[None],
            **({"task_ids": tasks[index : index + 1]} if takes_tasks else {}),
        }
        for index, (row, label) in enumerate(zip(tokens, labels, strict=True))
    ]
    return padded(tokens, labels) | more, alone


def trained(model, example):
    """The loss that training takes of an example, and the hidden state of each position."""
    seen = []
    norm = model.get_base_model().model.norm
    with forward_hook(norm, lambda _module, _args, output: seen.append(output[0])):
        logits = model(**{k: v for k, v in example.items() if k != "labels"}).logits[0]
    before = len(logits) - example["labels"].shape[1]
    labels = functional.pad(example["labels"][0], (before, 0), value=IGNORED_LABEL)
    loss = functional.cross_entropy(logits[:-1], labels[1:], ignore_index=IGNORED_LABEL)
    return loss, seen[0], labels


@contextmanager
def applied_weight(wrapper):
    """Let a wrapper be a plain linear map, and give the weight that it applies."""
    with torch.no_grad():
        bias = wrapper(torch.zeros(1, wrapper.in_features).double())
        weight = (wrapper(torch.eye(wrapper.in_features).double()) - bias).T
    weight.requires_grad_()
    with replaced_forward(wrapper, lambda x, **_: functional.linear(x, weight, bias[0])):
        yield weight


@contextmanager
def weight_of(projection, kind):
    """The weight whose gradient the features are."""
    if kind in OWN_WEIGHTS:
        with applied_weight(projection.wrapper or projection.modules[0]) as weight:
            yield weight
        return
    weight = projection.modules[0].weight
    was_trained = weight.requires_grad
    yield weight.requires_grad_()
    weight.requires_grad_(was_trained)


def test_every_kind_of_adapter_is_tried():
    kinds = {config.__name__ for config in PEFT_TYPE_TO_CONFIG_MAPPING.values()}
    assert kinds <= {*KINDS, "XLoraConfig"}


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in REFUSED])
def test_a_look_sees_what_training_sees(kind):
    model = adapted(kind)
    batch, alone = given(kind)
    tolerance = 1e-4 if kind in IN_FLOAT32 else 1e-9
    before = Snapshot(model)
    seen = ExampleObserver(model, OBSERVATIONS)(batch)
    before.assert_same(Snapshot(model))
    (projection,) = ValueGradients(model).projections
    model.eval()
    with weight_of(projection, kind) as weight:
        for row, example in enumerate(alone):
            loss, hidden, labels = trained(model, example)
            first = next(i for i in range(1, len(labels)) if labels[i] != IGNORED_LABEL)
            own = hidden[-example["labels"].shape[1] :]
            assert_close(seen.losses[row], loss, tolerance)
            assert_close(seen.prompt[row], hidden[first - 1], tolerance)
            assert_close(seen.hidden[row], own.mean(0), tolerance)
            if kind not in NOT_LINEAR:
                (gradient,) = torch.autograd.grad(loss, [weight])
                assert_close(seen.gradients[row], gradient.flatten(), tolerance)


@pytest.mark.parametrize("kind", ["HRAConfig", "ShiraConfig", "PrefixTuningConfig", *VIRTUAL_KINDS])
def test_what_else_looks_at_examples_sees_the_same(kind):
    model = adapted(kind)
    batch, alone = given(kind)
    exact = ValueGradients(model)(batch).features
    for estimator in ("directional", "zeroth_order"):
        features = ValueGradients(model, estimator, perturbation_scale=1e-4)
        directions = features.draw_directions(torch.Generator().manual_seed(1))
        z = directions[0].flatten(1).double()
        assert_close(features(batch, directions).features, (exact @ z.T) @ z, 1e-3)
    # No map of the last block is passed over: q and v are as alive as those without an adapter.
    spread = ExampleObserver(model, layers="spread")
    parts = spread(batch).gradients.split([sketch.size for sketch in spread.gradients._sketches], 1)
    assert all(part.abs().max() > 0 for part in parts)
    model.eval()
    for (*found,), example in zip(example_gradients(model, [batch]), alone, strict=True):
        loss, _, _ = trained(model, example)
        expected = torch.autograd.grad(loss, trained_parameters(model))
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_look_cannot_see_is_refused_by_name(kind):
    model = adapted(kind)
    for look in (ExampleObserver, ValueGradients, BlockGradients):
        with pytest.raises(ValueError, match=REFUSED[kind]):
            look(model)


def test_mixed_adapters_are_looked_at_as_trained():
    model = get_peft_model(
        build("llama"), peft.LoHaConfig(r=4, target_modules=["v_proj"]), mixed=True
    )
    model.add_adapter("second", peft.LoraConfig(r=4, target_modules=["v_proj", "q_proj"]))
    model.set_adapter(["default", "second"])
    model.double()
    for parameter in trained_parameters(model):
        parameter.data += 0.05 * torch.randn_like(parameter)
    batch, alone = given("LoHaConfig")
    features = ValueGradients(model)
    found = features(batch)
    assert features.projection.is_adapter
    model.eval()
    for row, example in enumerate(alone):
        loss = model(**example).loss
        (gradient,) = torch.autograd.grad(loss, [features.projection.modules[0].weight])
        assert_close(found.features[row], gradient.flatten(), 1e-5)


def test_adapters_by_example_are_refused():
    model = adapted("LoraConfig")
    batch, _ = given("LoraConfig")
    with pytest.raises(ValueError, match="adapter_names"):
        ValueGradients(model)(batch | {"adapter_names": ["default"] * 4})


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig", "activated"])
def test_one_row_of_several_examples_is_refused_where_the_row_is_adapted(kind):
    tokens = [torch.arange(6, 12), torch.arange(7, 10)]
    with pytest.raises(ValueError, match="padding_free"):
        ExampleObserver(adapted(kind), ("losses",))(padding_free(tokens, tokens))


def test_virtual_tokens_do_not_hide_v_in_a_fused_map():
    """Which rows are V is found with a lone token, which must attend to itself alone."""
    plain = find_projections(build("gpt2"))[0].rows
    config = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    found = find_projections(get_peft_model(build("gpt2"), config))[0].rows
    assert torch.equal(found, plain)
