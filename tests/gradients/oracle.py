"""Looped autograd: the gradient of each example alone, which anyone can check by eye."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from colm.gradients.applied_weights import Projection
from colm.gradients.batch import IGNORED_LABEL
from tests.gradients.architectures import VOCABULARY

LENGTHS = (7, 12, 3, 9)
PROMPT_TOKENS = 2


def examples(lengths: Sequence[int] = LENGTHS) -> tuple[list[Tensor], list[Tensor]]:
    """Token ids and labels of a few examples; the first two tokens are a prompt without labels."""
    tokens = [torch.randint(3, VOCABULARY, (length,)) for length in lengths]
    prompt = torch.full((PROMPT_TOKENS,), IGNORED_LABEL)
    return tokens, [torch.cat([prompt, row[PROMPT_TOKENS:]]) for row in tokens]


def padded(tokens: list[Tensor], labels: list[Tensor]) -> dict[str, Tensor]:
    return {
        "input_ids": pad_sequence(tokens, batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED_LABEL),
        "attention_mask": pad_sequence([torch.ones_like(t) for t in tokens], batch_first=True),
    }


def padding_free(tokens: list[Tensor], labels: list[Tensor]) -> dict[str, Tensor]:
    collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    rows = [
        {"input_ids": t.tolist(), "labels": label.tolist()}
        for t, label in zip(tokens, labels, strict=True)
    ]
    return collator(rows)


def looped(
    model: nn.Module,
    projections: Sequence[Projection],
    tokens: list[Tensor],
    labels: list[Tensor],
    reduction: str = "mean",
    *,
    evaluate: bool = True,
) -> Tensor:
    """Gradient of each example in the whole weights, then the rows that the features are of."""
    model.train(not evaluate)
    weights = [projection.modules[0].weight for projection in projections]
    frozen = [weight for weight in weights if not weight.requires_grad]
    for weight in weights:
        weight.requires_grad_()
    rows = []
    for ids, label in zip(tokens, labels, strict=True):
        logits = model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None]).logits[0]
        loss = functional.cross_entropy(
            logits[:-1].to(torch.promote_types(logits.dtype, torch.float32)),
            label[1:],
            ignore_index=IGNORED_LABEL,
            reduction=reduction,
        )
        found = torch.autograd.grad(loss, weights)
        rows.append(torch.cat(list(map(_as_features, projections, found))))
    for weight in frozen:
        weight.requires_grad_(False)
    model.train()
    return torch.stack(rows)


def _as_features(projection: Projection, gradient: Tensor) -> Tensor:
    """Lay a weight's gradient out as that of ``nn.Linear``, and keep the projection's rows."""
    is_transposed = type(projection.modules[0]).__name__ == "Conv1D"
    as_linear = gradient.T if is_transposed else gradient
    return (as_linear if projection.rows is None else as_linear[projection.rows]).flatten()


#: Of a softmax in float32, whose last bits depend on the shape of a batch on some processors; so
#: attention is computed in Gemma 2, whatever the type of its weights.
FLOAT32_ATTENTION = 1e-6


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    """Compare relative to the largest entry of all, which must not be zero."""
    assert actual.shape == expected.shape
    assert expected.abs().max() > 0
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's correlation of all entries."""
    return float(
        torch.corrcoef(torch.stack([one.double().flatten(), other.double().flatten()]))[0, 1]
    )
