"""Training with looks that do without some layers: what is looked at, and what is trained."""

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from colm import CoLMConfig, CoLMSFTTrainer

LAYERS = 6


@pytest.fixture
def deep_trainer(tiny_model_folder, dataset, tmp_path):
    """A trainer on a model of six layers; keyword arguments go to the configuration."""

    def make(**options):
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
        defaults = {
            "output_dir": str(tmp_path / "run"),
            "per_device_train_batch_size": 4,
            "max_steps": 2,
            "save_strategy": "no",
            "report_to": "none",
            "bf16": False,
            "use_cpu": True,
            "disable_tqdm": True,
            "gradient_checkpointing": False,
        }
        return CoLMSFTTrainer(
            LlamaForCausalLM(config),
            args=CoLMConfig(**(defaults | options)),
            train_dataset=dataset,
            processing_class=tokenizer,
        )

    return make


@pytest.mark.parametrize("selector", ["balanced_sampling", "gradient_matching", "colm", "top_loss"])
def test_looks_do_without_layers_and_training_has_all(deep_trainer, selector):
    trainer = deep_trainer(selector=selector, skipped_layers=0.3)
    ran = {True: set(), False: set()}
    for index, layer in enumerate(trainer.model.model.layers):
        layer.mlp.register_forward_hook(
            lambda module, *_, index=index: ran[module.training].add(index)
        )
    trainer.train()
    assert ran == {True: set(range(LAYERS)), False: set(range(LAYERS)) - {2, 3}}


def test_too_few_layers_are_refused_by_name(make_trainer, dataset):
    trainer = make_trainer(dataset, skipped_layers=0.5)
    with pytest.raises(ValueError, match=r"skipped_layers=0\.5: none of the 2 layers of Llama"):
        trainer.train()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.0, "skipped_layers must be at least 0 and below 1; got 1.0"),
        (-0.5, "skipped_layers must be a number at least 0; got -0.5"),
        ("half", "skipped_layers must be a number at least 0; got 'half'"),
    ],
)
def test_what_is_no_share_is_refused(tmp_path, value, message):
    with pytest.raises(ValueError, match=message):
        CoLMConfig(str(tmp_path), use_cpu=True, bf16=False, skipped_layers=value)


@pytest.fixture
def proxy_folder(tiny_model_folder, tmp_path):
    """Another model of the same tokenizer, narrower and with other weights."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    folder = tmp_path / "proxy"
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("selector", ["balanced_sampling", "gradient_matching", "top_loss"])
def test_a_proxy_is_looked_with_and_not_trained(
    make_trainer, dataset, proxy_folder, record_selections, selector
):
    trainer = make_trainer(
        dataset, selector=selector, selection_model=str(proxy_folder), normalization="rms"
    )
    modes = []
    trainer.model.model.layers[0].register_forward_hook(
        lambda module, *_: modes.append(module.training)
    )
    kept = record_selections(trainer)
    trainer.train()
    assert modes
    assert all(modes)
    proxy = trainer._selection._observe._observer.model
    fresh = LlamaForCausalLM.from_pretrained(proxy_folder)
    for found, expected in zip(proxy.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(found, expected)
        assert not found.requires_grad
    assert not proxy.training
    plain = make_trainer(dataset, selector=selector, normalization="rms")
    others = record_selections(plain)
    plain.train()
    assert kept != others


def test_a_proxy_of_another_tokenizer_is_refused(make_trainer, dataset, proxy_folder):
    path = proxy_folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"z"', '"zz"'))
    with pytest.raises(ValueError, match="has 1 tokens of the model in training under other"):
        make_trainer(dataset, selection_model=str(proxy_folder))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalization": "adam"}, "no part in the optimiser's steps"),
        ({"dimension_criterion": "weight"}, "goes by those in training"),
    ],
)
def test_what_a_proxy_cannot_do_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        CoLMConfig(str(tmp_path), use_cpu=True, bf16=False, selection_model="small", **options)
