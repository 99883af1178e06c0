"""Weighted losses: the gradient is the weighted one, and equal weights change nothing at all."""

from itertools import islice

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import DataCollatorForLanguageModeling

from colm import Choice, CoLMTrainer, CoLMTrainingArguments, register_selector
from colm.coreset import registry
from colm.training.example import WEIGHT_KEY
from colm.training.step.weigh import collate_weighted
from tests.training.conftest import StopAt, build_trainer, make_records, on_keep, select_among
from tests.training.processes import run_in_processes


@pytest.fixture
def uneven():
    """A selector that keeps the first r and weighs them 1, 2, 3, ..."""

    @register_selector("uneven", needs=())
    def choose(candidates, budget, generator):
        return Choice(torch.arange(budget), torch.arange(budget) + 1.0)

    yield "uneven"
    del registry._SELECTORS["uneven"]


def tokenised(dataset):
    """Prompt-completion data as ``Trainer`` takes it, labels included."""
    rows = []
    for row in dataset:
        prompt, completion = ([5 + ord(c) % 90 for c in row[k]] for k in ("prompt", "completion"))
        labels = [-100] * len(prompt) + completion
        rows.append({"input_ids": prompt + completion, "labels": labels, "source": row["source"]})
    return Dataset.from_list(rows)


def pad(examples):
    """The collator of ``Trainer``'s runs: right padding."""
    longest = max(len(example["input_ids"]) for example in examples)
    filled = {
        "input_ids": [e["input_ids"] + [0] * (longest - len(e["input_ids"])) for e in examples],
        "labels": [e["labels"] + [-100] * (longest - len(e["labels"])) for e in examples],
        "attention_mask": [
            [1] * len(e["input_ids"]) + [0] * (longest - len(e["input_ids"])) for e in examples
        ],
    }
    return {name: torch.tensor(rows) for name, rows in filled.items()}


PLAIN = {
    "trainer_class": CoLMTrainer,
    "config_class": CoLMTrainingArguments,
    "trainer_options": {"data_collator": pad},
}
KINDS = {
    "sft": ({}, lambda data: data),
    "sft, padding-free": ({"padding_free": True, "max_length": None}, lambda data: data),
    "plain": (PLAIN, tokenised),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def weighted_gradient(model, examples, weights):
    """The gradient of sum_i w_i sum_t l_it / sum_i w_i c_i, example by example."""
    numerator, denominator = 0.0, 0.0
    for example, weight in zip(examples, weights, strict=True):
        ids, labels = (torch.tensor(example[k]) for k in ("input_ids", "labels"))
        logits = model(input_ids=ids.unsqueeze(0)).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, labels[1:], reduction="none")
        numerator = numerator + weight * losses.sum()
        denominator += weight * int((labels[1:] != -100).sum())
    loss = numerator / denominator
    return loss.item(), torch.autograd.grad(loss, list(model.parameters()))


@each_kind
def test_the_gradient_is_the_weighted_mean_over_label_tokens(make_trainer, dataset, uneven, kind):
    options, prepare = KINDS[kind]
    trainer = make_trainer(prepare(dataset), selector=uneven, weighted=True, **options)
    trainer.model.double()
    pools = list(islice(trainer.get_train_dataloader(), 2))
    kept = {}
    on_keep(trainer, lambda chosen: kept.update(examples=chosen.examples))
    batches, items = trainer.get_batch_samples(iter(pools), 2, trainer.args.device)
    weights = [example[WEIGHT_KEY] for example in kept["examples"]]
    assert sorted(weights) == [1, 2, 3, 4, 5, 6, 7, 8]
    trainer.current_gradient_accumulation_steps = len(batches)
    loss = sum(trainer.training_step(trainer.model, batch, items) for batch in batches)

    expected_loss, expected = weighted_gradient(trainer.model, kept["examples"], weights)
    assert float(loss) == pytest.approx(expected_loss, rel=1e-5)
    for parameter, gradient in zip(trainer.model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-7)
    # Unweighted would be something else.
    _, unweighted = weighted_gradient(trainer.model, kept["examples"], [1.0] * 8)
    assert any(
        not torch.allclose(a, b, rtol=1e-2) for a, b in zip(expected, unweighted, strict=True)
    )


def trained(trainer):
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, {n: p.detach().clone() for n, p in trainer.model.named_parameters()}


@pytest.mark.slow
@each_kind
def test_equal_weights_change_no_bit(make_trainer, dataset, kind):
    options, prepare = KINDS[kind]

    def equal(value):
        @register_selector(f"equal {value}", needs=())
        def choose(candidates, budget, generator):
            rows = torch.randperm(len(candidates), generator=generator)[:budget]
            return Choice(rows, torch.full((budget,), value))

        try:
            trainer = make_trainer(
                prepare(dataset), selector=f"equal {value}", weighted=True, **options
            )
            return trained(trainer)
        finally:
            del registry._SELECTORS[f"equal {value}"]

    losses, weights = trained(make_trainer(prepare(dataset), selector="random", **options))
    for value in (1.0, 3.0, 0.7):
        equal_losses, equal_weights = equal(value)
        assert equal_losses == losses
        assert all(torch.equal(weights[name], p) for name, p in equal_weights.items())


@pytest.mark.slow
def test_medoids_weigh_by_the_candidates_they_stand_for(make_trainer, dataset):
    trainer = make_trainer(dataset, selector="colm", weighted=True)
    pools = list(islice(trainer.get_train_dataloader(), 2))
    examples = [example for pool in pools for example in pool]
    kept = select_among(trainer._selection, examples, 8).examples
    assert sum(example[WEIGHT_KEY] for example in kept) == len(examples)
    trainer.train()
    plain = make_trainer(dataset, selector="colm")
    plain.train()
    assert any(
        not torch.equal(a, b)
        for a, b in zip(trainer.model.parameters(), plain.model.parameters(), strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "plain"])
def test_no_model_sees_a_weight_and_evaluation_has_none(make_trainer, dataset, uneven, kind):
    options, prepare = KINDS[kind]
    data = prepare(dataset)
    options = options | {
        "trainer_options": options.get("trainer_options", {}) | {"eval_dataset": data}
    }
    trainer = make_trainer(data, selector=uneven, weighted=True, **options)
    seen = set()
    trainer.model.register_forward_pre_hook(
        lambda module, args, inputs: seen.update(inputs), with_kwargs=True
    )
    before = trainer.evaluate()["eval_loss"]
    hooks = len(trainer.model._forward_hooks)
    trainer.train()
    assert WEIGHT_KEY not in seen
    assert len(trainer.model._forward_hooks) == hooks
    assert trainer.compute_loss_func is None
    assert 0 < trainer.evaluate()["eval_loss"] < before


@pytest.mark.slow
def test_a_resumed_run_weighs_on(make_trainer, tmp_path):
    lora = LoraConfig(r=4, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM")
    options = {
        "selector": "colm",
        "weighted": True,
        "max_steps": 8,
        "save_strategy": "steps",
        "save_steps": 1,
        "trainer_options": {"peft_config": lora},
    }

    def run(folder, stop=None, resume=None):
        folder = str(tmp_path / folder)
        trainer = make_trainer(Dataset.from_list(make_records()), output_dir=folder, **options)
        if stop is not None:
            trainer.add_callback(StopAt(stop))
        trainer.train(resume_from_checkpoint=resume)
        return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}

    whole = run("whole")
    run("broken", stop=3)
    second = run("broken", resume=True)
    assert all(torch.equal(value, second[name]) for name, value in whole.items())


def step_of_each(model_folder, folder):
    """In each of two processes: the gradient of a weighted step and what it was made of."""

    @register_selector("uneven", needs=())
    def choose(candidates, budget, generator):
        return Choice(torch.arange(budget), torch.arange(budget) + 1.0)

    trainer = build_trainer(
        model_folder,
        Dataset.from_list(make_records()),
        output_dir=str(folder),
        selector="uneven",
        weighted=True,
        max_steps=1,
        max_grad_norm=0,
        optim="sgd",
        learning_rate=1.0,
        lr_scheduler_type="constant",
    )
    kept = []
    on_keep(trainer, lambda chosen: kept.extend(chosen.examples))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    moved = [b - p.detach() for b, p in zip(before, trainer.model.parameters(), strict=True)]
    return kept, moved


@pytest.mark.slow
def test_processes_count_weighted_tokens_together(tiny_model_folder, make_trainer, tmp_path):
    """One step of SGD at a rate of 1 moves by the gradient of all processes' examples."""
    (first, moved), (second, same) = run_in_processes(
        step_of_each, tmp_path, tiny_model_folder, tmp_path / "run"
    )
    assert all(torch.equal(a, b) for a, b in zip(moved, same, strict=True))
    model = make_trainer(Dataset.from_list(make_records())).model
    examples = first + second
    weights = [example[WEIGHT_KEY] for example in examples]
    assert len(examples) == 16
    _, expected = weighted_gradient(model, examples, weights)
    for a, b in zip(moved, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*is deprecated")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_type": "dft"}, "loss_type='dft'"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1"),
        (
            {"trainer_options": {"compute_loss_func": lambda *a, **k: None}},
            "a compute_loss_func",
        ),
    ],
)
def test_losses_that_are_no_mean_over_tokens_are_refused(make_trainer, dataset, options, message):
    with pytest.raises(ValueError, match=f"weighted=True .*{message} is not") as caught:
        make_trainer(dataset, weighted=True, **options)
    assert "\n" not in str(caught.value)
    make_trainer(dataset, weighted=True, candidate_ratio=1, **options)


def test_models_with_a_loss_of_their_own_are_refused(make_trainer, dataset, monkeypatch):
    from transformers import LlamaConfig, LlamaForCausalLM

    monkeypatch.setattr(LlamaForCausalLM, "accepts_loss_kwargs", False, raising=False)
    with pytest.raises(ValueError, match="the loss of LlamaForCausalLM"):
        make_trainer(dataset, weighted=True)
    monkeypatch.setattr(LlamaForCausalLM, "accepts_loss_kwargs", True)
    monkeypatch.setattr(LlamaConfig, "output_router_logits", True, raising=False)
    with pytest.raises(ValueError, match="output_router_logits=True outside SFTTrainer"):
        make_trainer(tokenised(dataset), weighted=True, **PLAIN)


def test_collators_must_make_labels_and_rows_that_can_be_told_apart():
    examples = [{"input_ids": [1, 2, 3], WEIGHT_KEY: 1.0}, {"input_ids": [4, 5], WEIGHT_KEY: 2.0}]
    with pytest.raises(ValueError, match="'labels'"):
        collate_weighted([examples], lambda part: {"input_ids": torch.zeros(2, 3)}, lambda x: x)
    for rows, tokens in ((3, 3), (1, 4)):
        with pytest.raises(ValueError, match=f"2 examples apart in a batch of {rows} x {tokens}"):
            collate_weighted(
                [examples], lambda part, s=(rows, tokens): {"labels": torch.zeros(s)}, lambda x: x
            )


def test_labels_that_the_collator_makes_are_counted(make_trainer, dataset, uneven):
    trainer = make_trainer(
        tokenised(dataset).remove_columns("labels"),
        trainer_class=CoLMTrainer,
        config_class=CoLMTrainingArguments,
        selector=uneven,
        weighted=True,
    )
    trainer.data_collator = DataCollatorForLanguageModeling(trainer.processing_class, mlm=False)
    pools = list(islice(trainer.get_train_dataloader(), 2))
    batches, items = trainer.get_batch_samples(iter(pools), 2, trainer.args.device)
    counted = sum(((batch["labels"][:, 1:] != -100) * batch[WEIGHT_KEY]).sum() for batch in batches)
    assert float(counted) == pytest.approx(float(items), rel=1e-6)
