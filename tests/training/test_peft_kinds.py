"""Adapters of PEFT that change more than the layers, in training with selection."""

import peft
import pytest
import torch

from colm import CoLMTrainer, CoLMTrainingArguments
from colm.training.example import WEIGHT_KEY
from tests.training.conftest import build_trainer

ON_MAPS = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
VIRTUAL = {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"}
TRAINED = {
    "hra": lambda _tokens: peft.HRAConfig(**ON_MAPS),
    "shira": lambda _tokens: peft.ShiraConfig(**ON_MAPS),
    "prompt": lambda _tokens: peft.PromptTuningConfig(**VIRTUAL),
    "prefix": lambda _tokens: peft.PrefixTuningConfig(**VIRTUAL),
    "p-tuning": lambda _tokens: peft.PromptEncoderConfig(encoder_hidden_size=8, **VIRTUAL),
    "activated": lambda tokens: peft.LoraConfig(alora_invocation_tokens=tokens, **ON_MAPS),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("selector", ["colm", "gradient_matching"])
@pytest.mark.parametrize("kind", TRAINED)
def test_selection_trains_under_every_way_to_adapt(make_trainer, dataset, kind, selector):
    # The activated kind sets in where these tokens are.
    invocation = make_trainer(dataset).train_dataset[0]["input_ids"][:1]
    trainer = make_trainer(
        dataset,
        selector=selector,
        match_every=1,
        max_steps=2,
        trainer_options={"peft_config": TRAINED[kind](invocation)},
    )
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    assert trainer.state.global_step == 2
    changed = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert changed <= {n for n, p in trainer.model.named_parameters() if p.requires_grad}


def test_an_adapter_that_no_look_sees_is_refused_before_training(make_trainer, dataset):
    adapter = peft.LilyConfig(**ON_MAPS)
    with pytest.raises(ValueError, match="LILY"):
        make_trainer(dataset, selector="colm", trainer_options={"peft_config": adapter})
    trainer = make_trainer(
        dataset, selector="random", max_steps=1, trainer_options={"peft_config": adapter}
    )
    trainer.train()
    assert trainer.state.global_step == 1


def test_weights_find_their_examples_behind_virtual_tokens(tiny_model_folder, dataset, tmp_path):
    """Weights of 1 leave the model's own loss as it is, and those of 3 are three times it."""
    ready = build_trainer(tiny_model_folder, dataset, output_dir=str(tmp_path))
    trainer = CoLMTrainer(
        peft.get_peft_model(ready.model, TRAINED["prompt"](None)),
        CoLMTrainingArguments(output_dir=str(tmp_path), use_cpu=True, weighted=True),
        train_dataset=ready.train_dataset,
        data_collator=ready.data_collator,
    )
    batch = ready.data_collator([dict(row) for row in ready.train_dataset.select(range(4))])
    items = (batch["labels"] != -100).sum()
    with torch.no_grad():
        plain = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=items)
        for weight in (1.0, 3.0):
            weighed = {**batch, WEIGHT_KEY: torch.full((4, 1), weight)}
            loss = trainer.compute_loss(trainer.model, weighed, num_items_in_batch=items)
            torch.testing.assert_close(loss, weight * plain)
