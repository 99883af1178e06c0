"""Micro-batches of kept examples: however they are formed, the same is learnt, and no more done."""

import pytest
import torch
from peft import LoraConfig
from transformers import DataCollatorWithFlattening

from colm import CoLMTrainer, CoLMTrainingArguments
from colm.training.step import arrange
from colm.training.step.arrange import averages_over_step
from tests.training.conftest import on_keep
from tests.training.test_streaming import PLAIN, Sized


def run(trainer, record_selections):
    """What a short run keeps, its losses and its weights."""
    kept = record_selections(trainer)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return kept, losses, [p.detach().clone() for p in trainer.model.parameters()]


def assert_same_run(first, second):
    """Equal up to rounding."""
    assert first[0] == second[0]
    assert first[1] == pytest.approx(second[1], rel=1e-5)
    for one, other in zip(first[2], second[2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def padded_tokens(batches):
    return sum(batch["input_ids"].numel() for batch in batches)


# SGD: Adam's first steps would blow rounding of tiny gradients up to whole steps.
SGD = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 3, "max_length": None}
SELECTIONS = [
    {"selector": "balanced_sampling"},
    {"selector": "importance_sampling"},
    {"selector": "gradient_matching"},
    {"selector": "colm", "normalization": "none", "weighted": True},
    {"selector": "colm", "normalization": "none"},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", SELECTIONS)
def test_padding_free_learns_what_padded_does(make_trainer, dataset, record_selections, options):
    runs = [
        run(make_trainer(dataset, padding_free=free, **SGD, **options), record_selections)
        for free in (False, True)
    ]
    assert_same_run(*runs)


def test_a_padding_free_step_holds_no_padding(make_trainer, dataset):
    trainer = make_trainer(dataset, padding_free=True, max_length=None)
    pools = iter(trainer.get_train_dataloader())
    kept = []
    on_keep(trainer, lambda chosen: kept.extend(chosen.examples))
    batches, _ = trainer.get_batch_samples(pools, 2, trainer.args.device)
    rows = [batch["input_ids"].shape for batch in batches]
    assert [row[0] for row in rows] == [1, 1]
    assert padded_tokens(batches) == sum(len(example["input_ids"]) for example in kept)
    longest = max(len(example["input_ids"]) for example in kept)
    assert abs(rows[0][1] - rows[1][1]) <= longest


@pytest.mark.slow
def test_flattened_batches_of_the_trainer_of_transformers(make_trainer, record_selections):
    runs = []
    for collator in (PLAIN["trainer_options"]["data_collator"], DataCollatorWithFlattening()):
        trainer = make_trainer(
            Sized(),
            trainer_class=CoLMTrainer,
            config_class=CoLMTrainingArguments,
            trainer_options={"data_collator": collator},
            **{name: value for name, value in SGD.items() if name != "max_length"},
        )
        runs.append(run(trainer, record_selections))
    assert_same_run(*runs)


@pytest.mark.slow
@pytest.mark.parametrize("options", SELECTIONS)
def test_a_split_by_tokens_pads_less_and_learns_the_same(
    make_trainer, dataset, record_selections, monkeypatch, options
):
    options = options | SGD | {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}
    runs, tokens = [], []
    for by_tokens in (False, True):
        monkeypatch.setattr(arrange, "averages_over_step", lambda _: by_tokens)  # noqa: B023
        trainer = make_trainer(dataset, **options)
        pools = iter(trainer.get_train_dataloader())
        batches, _ = trainer.get_batch_samples(pools, 3, trainer.args.device)
        tokens.append((padded_tokens(batches), max(b["input_ids"].numel() for b in batches)))
        runs.append(run(make_trainer(dataset, **options), record_selections))
    assert tokens[1][0] < tokens[0][0]
    assert tokens[1][1] <= tokens[0][1]
    assert_same_run(*runs)


def test_losses_that_are_no_mean_over_the_step_keep_equal_numbers(make_trainer, dataset):
    assert averages_over_step(make_trainer(dataset))
    own_loss = make_trainer(dataset, weighted=False)
    own_loss.compute_loss_func = lambda outputs, labels, num_items_in_batch: outputs.logits.mean()
    uncounted = make_trainer(dataset, weighted=False)
    uncounted.model_accepts_loss_kwargs = False
    for trainer in (own_loss, uncounted):
        assert not averages_over_step(trainer)
        pools = iter(trainer.get_train_dataloader())
        batches, _ = trainer.get_batch_samples(pools, 2, trainer.args.device)
        assert [len(batch["input_ids"]) for batch in batches] == [4, 4]


@pytest.mark.slow
@pytest.mark.parametrize("selector", ["balanced_sampling", "gradient_matching", "colm", "top_loss"])
@pytest.mark.parametrize("adapter", [False, True])
def test_a_look_never_pays_for_gradient_checkpointing(make_trainer, dataset, selector, adapter):
    """Attention of the first layer runs once for a look, but twice for a kept micro-batch."""
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    counts = []
    for checkpointing in (False, True):
        trainer = make_trainer(
            dataset,
            gradient_checkpointing=checkpointing,
            selector=selector,
            selection_tokens=100,
            max_steps=2,
            trainer_options={"peft_config": lora} if adapter else {},
        )
        calls = {True: 0, False: 0}

        def count(module, _inputs, _output, calls=calls):
            calls[module.training] += 1

        for layer in trainer.model.get_decoder().layers:
            layer.self_attn.register_forward_hook(count)
        trainer.train()
        counts.append(calls)
    without, with_it = counts
    assert without[False] == with_it[False] > 0
    assert with_it[True] == 2 * without[True] == 2 * 2 * 2 * 2
