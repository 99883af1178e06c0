"""The trainers: classes of runs that must share one trajectory, and what a step reports."""

import math

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import DataCollatorForLanguageModeling
from trl import SFTConfig, SFTTrainer

from colm import CoLMConfig, CoLMTrainer, CoLMTrainingArguments, register_selector
from colm.coreset import registry
from colm.training.step.record import EXAMPLES_KEY
from tests.cases import quick_first
from tests.training.conftest import SIZES, SaveAt, StopAt, make_records, on_keep


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert different == []


@pytest.mark.parametrize("adapter", quick_first([False, True]))
def test_ratio_one_as_drawn_is_bit_identical_to_the_plain_trainer(make_trainer, dataset, adapter):
    lora = LoraConfig(r=4, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM")
    options = {"peft_config": lora} if adapter else {}
    ours = make_trainer(dataset, candidate_ratio=1, arrange="as_drawn", trainer_options=options)
    ours.train()
    plain = make_trainer(
        dataset, trainer_class=SFTTrainer, config_class=SFTConfig, trainer_options=options
    )
    before = weights(plain)
    plain.train()
    assert_same_weights(weights(ours), weights(plain))
    assert any(not torch.equal(before[name], value) for name, value in weights(plain).items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "stops"),
    [
        # The one that carries moments from step to step is stopped everywhere.
        ({"selector": "colm"}, (1, 3, 5, 6, 9)),
        ({"selector": "balanced_sampling"}, (3, 6)),
        ({"selector": "importance_sampling"}, (3, 6)),
        ({"selector": "gradient_matching"}, (3, 6)),
        ({"selector": "mean_matching", "gradient": "directional"}, (3, 6)),
        ({"selector": "random"}, (3, 6)),
    ],
    ids=["colm", "balanced", "importance", "gradient-matching", "mean-matching", "random"],
)
def test_resumed_is_bit_identical_to_uninterrupted(
    make_trainer, record_selections, tmp_path, options, stops
):
    """84 examples make 5 steps of 16 candidates and a short one: stops fall before and after it."""
    options |= {"max_steps": 10, "output_dir": str(tmp_path)}
    lora = {
        "peft_config": LoraConfig(
            r=4, lora_dropout=0.2, target_modules="all-linear", task_type="CAUSAL_LM"
        )
    }
    dataset = Dataset.from_list(make_records())

    def run(callback=None, resume=None, **more):
        trainer = make_trainer(dataset, trainer_options=lora, **(options | more))
        selections = record_selections(trainer)
        if callback:
            trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=resume)
        return selections, weights(trainer)

    whole_selections, whole_weights = run(SaveAt(*stops))
    assert len(whole_selections) == 10
    stopped, _ = run(StopAt(5), output_dir=str(tmp_path / "stopped"))
    assert stopped == whole_selections[:5]
    # The whole run left what runs that stop elsewhere would have left.
    for stop in stops:
        resumed, resumed_weights = run(resume=str(tmp_path / f"checkpoint-{stop}"))
        assert resumed == whole_selections[stop:]
        assert_same_weights(resumed_weights, whole_weights)


def test_accumulation_does_not_change_what_is_selected(make_trainer, dataset, record_selections):
    def run(batch, accumulation):
        trainer = make_trainer(
            dataset,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
        )
        selections = record_selections(trainer)
        trainer.train()
        return selections, weights(trainer)

    once, twice = run(8, 1), run(4, 2)
    assert once[0] == twice[0]
    for name, value in once[1].items():
        torch.testing.assert_close(value, twice[1][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("change", quick_first([{"selection_tokens": 40}, {"padding_free": True}]))
def test_selections_do_not_depend_on_chunks_or_padding(
    make_trainer, dataset, record_selections, change
):
    runs = []
    for options in ({}, change):
        # Without moments yet Adam turns features into signs, and rounding decides those near 0.
        options = options | {"normalization": "none"}
        trainer = make_trainer(dataset, max_length=None, max_steps=3, **options)
        runs.append(record_selections(trainer))
        trainer.train()
    assert runs[0] == runs[1]


@pytest.fixture
def last_r():
    """A selector that keeps the last candidates, whatever they are."""

    @register_selector("last_r", needs=())
    def choose(candidates, budget, generator):
        return torch.arange(len(candidates) - budget, len(candidates))

    yield "last_r"
    del registry._SELECTORS["last_r"]


def test_what_is_selected_is_what_is_trained_on(make_trainer, dataset, last_r):
    # The order of the batch is only kept where the published code's behaviour is asked for.
    trainer = make_trainer(dataset, selector=last_r, reference_behaviour=True)
    loader = iter(trainer.get_train_dataloader())
    pools = [next(loader), next(loader)]
    examples = [example for pool in pools for example in pool]
    assert len(examples) == 16
    batches, items = trainer.get_batch_samples(iter(pools), 2, trainer.args.device)
    assert len(batches) == 2
    inputs = {"input_ids", "labels", "attention_mask"}
    # What tells whose losses a batch's are is taken out before anything else sees the batch.
    assert all(set(batch) == {*inputs, EXAMPLES_KEY} for batch in batches)
    seen = [
        tuple(row[mask.bool()].tolist())
        for batch in batches
        for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert sorted(seen) == sorted(tuple(example["input_ids"]) for example in examples[8:])
    kept_tokens = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)
    assert items == kept_tokens


@pytest.mark.parametrize(
    "selector", ["balanced_sampling", "gradient_matching", "colm", "mean_matching", "random"]
)
def test_selectors_do_not_keep_the_first_r(make_trainer, dataset, record_selections, selector):
    trainer = make_trainer(dataset, selector=selector, small_sources="none")
    loader = iter(trainer.get_train_dataloader())
    pools = [next(loader), next(loader)]
    first = sorted(tuple(example["input_ids"]) for pool in pools for example in pool)[:8]
    selections = record_selections(trainer)
    trainer.get_batch_samples(iter(pools), 2, trainer.args.device)
    assert sorted(selections[0]) != first


def test_small_sources_are_always_kept(make_trainer, dataset):
    trainer = make_trainer(dataset, selector="colm", max_steps=12)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    drawn = [entry.get("colm/candidates/rare", 0) for entry in steps]
    assert sum(drawn) >= SIZES["rare"]
    assert [entry.get("colm/kept/rare", 0) for entry in steps] == drawn


def test_metrics_of_each_step(make_trainer, dataset):
    trainer = make_trainer(dataset)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(steps) == 4
    for entry in steps:
        assert entry["colm/candidates"] == 16
        assert entry["colm/kept"] == 8
        for name in ("candidates", "kept"):
            by_source = [v for k, v in entry.items() if k.startswith(f"colm/{name}/")]
            assert sum(by_source) == entry[f"colm/{name}"]
        assert entry["colm/selection_seconds"] > 0
        assert entry["colm/training_seconds"] > 0
        assert 0 < entry["colm/label_token_share"] < 1
        assert entry["colm/matching_error"] > 0


def test_selection_leaves_global_random_state_and_mode_alone(make_trainer, dataset):
    trainer = make_trainer(dataset, gradient="zeroth_order")
    trainer.model.train()
    loader = iter(trainer.get_train_dataloader())
    pools = [next(loader), next(loader)]
    state = torch.random.get_rng_state()
    trainer.get_batch_samples(iter(pools), 2, trainer.args.device)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert trainer.model.training


def test_none_trains_on_every_candidate(make_trainer, dataset):
    trainer = make_trainer(dataset, selector="none")
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["colm/kept"] for entry in steps] == [16] * 4


def test_examples_without_labels_are_skipped_and_counted(make_trainer):
    rows = [
        {"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8] if i % 2 else [-100] * 4}
        for i in range(64)
    ]
    trainer = make_trainer(Dataset.from_list(rows), max_steps=2, max_length=None, selector="random")
    with pytest.warns(UserWarning, match="no label tokens") as caught:
        trainer.train()
    assert sum("no label tokens" in str(w.message) for w in caught) == 1
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert sum(entry["colm/without_label_tokens"] for entry in steps) == pytest.approx(16, abs=8)
    assert all(math.isfinite(entry["loss"]) and entry["loss"] > 0 for entry in steps)
    assert all(entry["colm/label_token_share"] > 0 for entry in steps)


@pytest.mark.slow
@pytest.mark.parametrize(
    "selector", ["balanced_sampling", "gradient_matching", "colm", "mean_matching"]
)
def test_an_example_with_nan_is_left_out_counted_and_warned_about_once(make_trainer, selector):
    poison = 9
    rows = [
        {"input_ids": [poison if i % 8 == 0 else 10 + i % 7, 6, 7, 8 + i % 9]} for i in range(64)
    ]
    trainer = make_trainer(Dataset.from_list(rows), max_steps=3, max_length=None, selector=selector)
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight[poison] = float("nan")
    kept = []
    on_keep(trainer, lambda chosen: kept.extend(chosen.examples))
    with pytest.warns(UserWarning, match="NaN or infinite") as caught:
        trainer.train()
    assert sum("NaN or infinite" in str(w.message) for w in caught) == 1
    assert len(kept) == 24
    assert all(poison not in example["input_ids"] for example in kept)
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert sum(entry.get("colm/non_finite", 0) for entry in steps) > 0
    assert all(math.isfinite(entry["loss"]) for entry in steps)


def test_a_micro_batch_that_nothing_is_left_for_adds_nothing(make_trainer):
    """One finite example of eight, two micro-batches: the second must not lack, nor weigh."""
    poison = 9
    rows = [{"input_ids": [poison if i else 10, 6, 7, 8]} for i in range(8)]
    trainer = make_trainer(
        Dataset.from_list(rows), per_device_train_batch_size=2, max_steps=1, max_length=None
    )
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight[poison] = float("nan")
    pools = list(trainer.get_train_dataloader())
    with pytest.warns(UserWarning, match="NaN or infinite"):
        batches, items = trainer.get_batch_samples(iter(pools), 2, trainer.args.device)
    assert [batch["input_ids"].tolist() for batch in batches] == [[[10, 6, 7, 8]]] * 2
    assert [(batch["labels"] != -100).sum().item() for batch in batches] == [4, 0]
    assert items == 3


@pytest.mark.parametrize("ratio", quick_first([1.3, 1.5, 3.0]))
def test_any_ratio_keeps_the_batch_size(make_trainer, dataset, ratio):
    trainer = make_trainer(
        dataset, candidate_ratio=ratio, per_device_train_batch_size=3, max_steps=2
    )
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["colm/kept"] for entry in steps] == [6, 6]
    assert [entry["colm/candidates"] for entry in steps] == [2 * round(3 * ratio)] * 2


def test_a_diverged_model_stops_with_a_clear_error(make_trainer, dataset):
    trainer = make_trainer(dataset, small_sources="none")
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight.fill_(float("nan"))
    with (
        pytest.warns(UserWarning, match="NaN or infinite"),
        pytest.raises(FloatingPointError, match="diverged"),
    ):
        trainer.train()


def test_streaming_data(make_trainer, dataset):
    trainer = make_trainer(dataset.to_iterable_dataset(), max_steps=3)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["colm/kept"] for entry in steps] == [8] * 3


def test_the_trainer_of_transformers(make_trainer, dataset):
    """A tokenised data set whose labels its collator makes."""
    tokenized = dataset.map(
        lambda example: {"input_ids": [5 + ord(c) % 90 for c in example["completion"] + "ab"]},
        remove_columns=["prompt", "completion"],
    )
    trainer = make_trainer(tokenized, trainer_class=CoLMTrainer, config_class=CoLMTrainingArguments)
    trainer.data_collator = DataCollatorForLanguageModeling(trainer.processing_class, mlm=False)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["colm/kept"] for entry in steps] == [8] * 4
    assert all("colm/kept/adding" in entry for entry in steps)


def test_a_plain_configuration_gets_the_defaults_of_selection(make_trainer, dataset):
    trainer = make_trainer(dataset, config_class=SFTConfig, max_steps=1)
    assert isinstance(trainer.args, CoLMConfig)
    assert trainer.args.candidate_ratio == 2.0
    trainer.train()
    assert trainer.state.log_history[0]["colm/kept"] == 8


def test_several_steps_between_logs_are_averaged(make_trainer, dataset):
    trainer = make_trainer(dataset, logging_steps=2)
    trainer.train()
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert entry["colm/kept"] == 8
    assert sum(v for k, v in entry.items() if k.startswith("colm/kept/")) == pytest.approx(8)


@pytest.mark.parametrize("workers", [0, 1])
def test_worker_processes_pass_pools_on(make_trainer, dataset, workers):
    trainer = make_trainer(dataset, dataloader_num_workers=workers, max_steps=1)
    pool = next(iter(trainer.get_train_dataloader()))
    assert len(pool) == 8
    assert {"input_ids", "labels", "source"} <= set(next(iter(pool)))


def test_selection_sees_the_model_under_the_autocast_of_training(make_trainer, dataset):
    trainer = make_trainer(dataset, bf16=True, max_steps=1)
    seen = set()

    def note(module, args, output):
        seen.add((module.training, output.dtype))

    trainer.model.model.layers[-1].self_attn.o_proj.register_forward_hook(note)
    trainer.train()
    assert seen == {(False, torch.bfloat16), (True, torch.bfloat16)}


@pytest.mark.slow
def test_gradient_checkpointing_changes_no_selection(make_trainer, dataset, record_selections):
    runs = []
    for checkpointing in (False, True):
        lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = make_trainer(
            dataset,
            gradient_checkpointing=checkpointing,
            trainer_options={"peft_config": lora},
        )
        runs.append((record_selections(trainer), weights(trainer)))
        trainer.train()
    assert runs[0][0] == runs[1][0]
    assert_same_weights(runs[0][1], runs[1][1])


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["exact", "directional", "zeroth_order"])
@pytest.mark.parametrize("criterion", ["gradient", "weight", "weight_gradient", "random"])
def test_every_gradient_with_every_criterion_of_dimensions(
    make_trainer, dataset, gradient, criterion
):
    trainer = make_trainer(
        dataset, gradient=gradient, dimension_criterion=criterion, max_steps=2, num_directions=2
    )
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["colm/kept"] for entry in steps] == [8, 8]
