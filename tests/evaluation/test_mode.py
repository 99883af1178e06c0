"""Evaluation mode leaves nothing behind, not even what an adapter caches for evaluation."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from colm.gradients.patching import evaluation_mode


def test_a_second_evaluation_sees_what_dora_learned_since_the_first(tiny_model_folder, monkeypatch):
    monkeypatch.setattr("peft.tuners.lora.dora.ENABLE_DORA_CACHING", True)
    config = LoraConfig(r=4, use_dora=True, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_folder), config).train()
    tokens = torch.arange(3, 15)[None]

    def evaluated():
        with evaluation_mode(model), torch.no_grad():
            return model(input_ids=tokens).logits

    before = evaluated()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
        after = evaluated()
        expected = model(input_ids=tokens).logits  # in training mode, where nothing is cached
    assert not torch.allclose(before, expected)
    torch.testing.assert_close(after, expected)
