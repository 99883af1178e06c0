"""Models that are no causal language models: refused in one line where they would be looked at."""

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from colm import CoLMTrainer, CoLMTrainingArguments
from tests.training.test_renewal import SMALL, losses
from tests.training.test_tensor_examples import Rows, pad


class Bare(torch.nn.Module):
    """A module of one's own, without a configuration."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(64, 8)
        self.head = torch.nn.Linear(8, 64)

    def forward(self, input_ids, labels=None, attention_mask=None):
        logits = self.head(self.embedding(input_ids))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return {"loss": loss, "logits": logits}


def classifier():
    return LlamaForSequenceClassification(
        LlamaConfig(vocab_size=64, num_labels=2, pad_token_id=0, **SMALL)
    )


def encoder_decoder():
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=64,
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
            decoder_start_token_id=0,
        )
    )


class Classes(Rows):
    """Examples whose label is a class."""

    def __getitem__(self, index):
        return {**super().__getitem__(index), "labels": index % 2}


def pad_with_classes(examples):
    batch = pad([{"input_ids": each["input_ids"]} for each in examples])
    return {**batch, "labels": torch.tensor([each["labels"] for each in examples])}


MODELS = {
    "without a config": (Bare, Rows, pad),
    "classifier": (classifier, Classes, pad_with_classes),
    "encoder and decoder": (encoder_decoder, Rows, pad),
}


def make(kind, tmp_path, **options):
    build, data, collate = MODELS[kind]
    torch.manual_seed(0)
    args = CoLMTrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        max_steps=2,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    return CoLMTrainer(build(), args, train_dataset=data(list), data_collator=collate)


@pytest.mark.parametrize("options", [{}, {"selector": "colm"}, {"selector": "top_loss"}])
@pytest.mark.parametrize("kind", MODELS)
def test_it_is_refused_where_examples_are_looked_at(kind, options, tmp_path):
    with pytest.raises(ValueError, match="causal language model") as refused:
        make(kind, tmp_path, **options)
    assert "\n" not in str(refused.value)
    assert "candidate_ratio=1" in str(refused.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "options", [{"candidate_ratio": 1}, {"selector": "random"}, {"selector": "longest"}]
)
@pytest.mark.parametrize("kind", MODELS)
def test_it_trains_where_nothing_is_looked_at(kind, options, tmp_path):
    trainer = make(kind, tmp_path, **options)
    trainer.train()
    assert len(losses(trainer)) == 2
    assert all(torch.isfinite(torch.tensor(losses(trainer))))
    counted = [entry.get("colm/without_label_tokens", 0) for entry in trainer.state.log_history]
    assert not any(counted)
