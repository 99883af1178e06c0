"""Held-out loss against a twin that takes one example at a time, and what it leaves behind."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from colm.evaluation import held_out_loss
from colm.gradients.patching import evaluation_mode

VOCABULARY = 11


class TinyModel(nn.Module):
    """Logits from the running mean of embeddings; padding taken for tokens would change them."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, 6)
        self.head = nn.Linear(6, VOCABULARY)
        self.dropout = nn.Dropout(0.5)
        self.shapes: list[tuple[int, int]] = []
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        self.shapes.append(tuple(input_ids.shape))
        mask = attention_mask[..., None]
        hidden = (self.embedding(input_ids) * mask).cumsum(1) / mask.cumsum(1).clamp(min=1)
        return SimpleNamespace(logits=self.head(self.dropout(hidden)))


def example(length: int, first_label: int, source: str, seed: int) -> dict:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, VOCABULARY, (length,), generator=generator).tolist()
    labels = [-100] * first_label + tokens[first_label:]
    return {"input_ids": tokens, "labels": labels, "source": source}


EXAMPLES = [
    example(7, 3, "sums", 1),
    example(4, 1, "sums", 2),
    example(9, 8, "words", 3),
    example(5, 0, "sums", 4),
    example(6, 2, "dates", 5),
]


def slow_loss(model: TinyModel, one: dict) -> float:
    """The obviously right twin: one example, one position at a time."""
    logits = model(torch.tensor([one["input_ids"]]), torch.ones(1, len(one["input_ids"]))).logits[0]
    losses = [
        -logits[position - 1].log_softmax(0)[label].item()
        for position, label in enumerate(one["labels"])
        if position and label != -100
    ]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("batch_tokens", [1, 14, 10_000])
def test_equals_one_example_at_a_time(batch_tokens: int) -> None:
    model = TinyModel().eval()
    single = [slow_loss(model, one) for one in EXAMPLES]
    result = held_out_loss(model, EXAMPLES, batch_tokens=batch_tokens)
    assert result.by_source == pytest.approx(
        {"dates": single[4], "sums": (single[0] + single[1] + single[3]) / 3, "words": single[2]}
    )
    assert result.macro == pytest.approx(sum(result.by_source.values()) / 3)
    assert result.micro == pytest.approx(sum(single) / 5)
    assert result.macro != pytest.approx(result.micro, rel=1e-3)


def test_batches_stay_within_their_tokens() -> None:
    model = TinyModel()
    held_out_loss(model, EXAMPLES, batch_tokens=14)
    assert [rows * length for rows, length in model.shapes] == [10, 14, 9]


def test_order_does_not_matter() -> None:
    model = TinyModel()
    forwards, backwards = (held_out_loss(model, x) for x in (EXAMPLES, EXAMPLES[::-1]))
    assert forwards.by_source == pytest.approx(backwards.by_source)


def test_source_sizes_weight_micro_alone() -> None:
    model = TinyModel()
    sizes = {"sums": 100, "words": 0, "dates": 300, "never held out": 7}
    plain, weighted = (
        held_out_loss(model, EXAMPLES),
        held_out_loss(model, EXAMPLES, source_sizes=sizes),
    )
    assert weighted.macro == plain.macro
    expected = 0.25 * plain.by_source["sums"] + 0.75 * plain.by_source["dates"]
    assert weighted.micro == pytest.approx(expected)


def test_small_sources_have_their_own_mean() -> None:
    result = held_out_loss(TinyModel(), EXAMPLES, small_sources={"words", "dates", "absent"})
    assert result.small_sources == pytest.approx(
        (result.by_source["words"] + result.by_source["dates"]) / 2
    )
    assert held_out_loss(TinyModel(), EXAMPLES).small_sources is None


def test_examples_without_labels_are_skipped_and_counted() -> None:
    model = TinyModel()
    first_token_only = {"input_ids": [1, 2], "labels": [1, -100], "source": "sums"}
    nothing = {"input_ids": [3], "labels": [-100], "source": "silent"}
    result = held_out_loss(model, [*EXAMPLES, first_token_only, nothing])
    plain = held_out_loss(model, EXAMPLES)
    assert result.skipped == 2
    assert (result.by_source, result.macro) == (plain.by_source, plain.macro)
    with pytest.raises(ValueError, match="none of the 1 held-out examples has a label"):
        held_out_loss(model, [nothing])


def test_modes_are_restored_also_after_an_exception() -> None:
    model = TinyModel().train()
    model.dropout.eval()
    held_out_loss(model, EXAMPLES)
    modes = {name: module.training for name, module in model.named_modules()}
    assert modes == {"": True, "embedding": True, "head": True, "dropout": False}
    inside = []

    def fail() -> None:
        with evaluation_mode(model), torch.no_grad():
            inside.append((model.training, torch.is_grad_enabled()))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == [(False, False)]
    assert model.training
    assert not model.dropout.training
    assert torch.is_grad_enabled()


def test_a_loss_of_infinity_is_not_hidden() -> None:
    model = TinyModel()
    with torch.no_grad():
        model.head.bias[EXAMPLES[2]["labels"][-1]] = -math.inf
    assert held_out_loss(model, EXAMPLES).macro == math.inf
