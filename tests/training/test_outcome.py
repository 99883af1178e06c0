"""Runs that would end well and be worthless end in one line instead, and nothing good is lost."""

import logging
import math

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback

from colm import CoLMTrainer, CoLMTrainingArguments
from colm.cli import main
from tests.cases import quick_first
from tests.training.conftest import make_records
from tests.training.test_streaming import PLAIN, Once

EMPTY = {"input_ids": [], "labels": [], "source": []}


def assert_one_line(caught):
    assert "\n" not in str(caught.value)


class Spoil(TrainerCallback):
    """Make a trained weight NaN after a step, as an update gone wrong does."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            with torch.no_grad():
                weight = next(p for p in model.parameters() if p.requires_grad)
                weight.view(-1)[0] = math.nan


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("selector", ["random", "balanced_sampling"])
def test_a_model_that_has_diverged_is_never_saved(make_trainer, dataset, tmp_path, ratio, selector):
    trainer = make_trainer(
        dataset,
        candidate_ratio=ratio,
        selector=selector,
        max_steps=4,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
        trainer_options={
            "callbacks": [Spoil(3)],
            "peft_config": LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"),
        },
    )
    with pytest.raises(FloatingPointError, match=r"diverged.*checkpoint-2 was saved") as caught:
        trainer.train()
    assert_one_line(caught)
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]
    with pytest.raises(FloatingPointError, match="diverged"):
        trainer.save_model(str(tmp_path / "final"))
    assert not (tmp_path / "final").exists()


def test_a_run_without_checkpoints_does_not_end_well_either(make_trainer, dataset):
    trainer = make_trainer(
        dataset, selector="random", max_steps=2, trainer_options={"callbacks": [Spoil(2)]}
    )
    with pytest.raises(FloatingPointError, match="no checkpoint was saved"):
        trainer.train()


def test_weights_that_were_never_finite_are_the_users(make_trainer, dataset, tmp_path):
    trainer = make_trainer(dataset, selector="random", max_steps=1)
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight[-1] = math.nan
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    assert (tmp_path / "final" / "config.json").is_file()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("learning_rate", math.inf),
        ("learning_rate", math.nan),
        ("learning_rate", -1e-3),
        ("weight_decay", math.nan),
        ("adam_epsilon", math.nan),
        ("max_grad_norm", math.nan),
        ("num_train_epochs", math.nan),
        ("per_device_train_batch_size", 0),
        ("gradient_accumulation_steps", 0),
    ],
)
def test_options_that_would_make_nonsense_are_refused_by_name(make_trainer, option, value):
    with pytest.raises(ValueError, match=f"{option}.*{value}") as caught:
        make_trainer(Dataset.from_list(make_records()), **{option: value})
    assert_one_line(caught)


def test_what_the_optimiser_objects_to_is_one_line(make_trainer, dataset):
    with pytest.raises(ValueError, match=r"optim.*beta") as caught:
        make_trainer(dataset, adam_beta1=1.5).train()
    assert_one_line(caught)


@pytest.mark.parametrize("epochs", [0, 0.0, -1])
@pytest.mark.parametrize("ratio", quick_first([1, 2]))
def test_no_epochs_are_refused_before_training(make_trainer, dataset, epochs, ratio):
    trainer = make_trainer(dataset, num_train_epochs=epochs, max_steps=-1, candidate_ratio=ratio)
    with pytest.raises(ValueError, match=r"num_train_epochs.* 0"):
        trainer.train()


def test_steps_go_before_epochs(make_trainer, dataset):
    trainer = make_trainer(dataset, num_train_epochs=0, max_steps=1)
    trainer.train()
    assert trainer.state.global_step == 1


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("ratio", [1, 2])
def test_empty_data_is_named(make_trainer, streamed, ratio):
    data = Dataset.from_list(make_records())
    data = data.to_iterable_dataset().filter(lambda _: False) if streamed else data.select([])
    with pytest.raises(ValueError, match="no examples") as caught:
        make_trainer(data, candidate_ratio=ratio).train()
    assert_one_line(caught)


def test_a_stream_that_has_been_read_is_named(make_trainer):
    data = Once()
    list(data)
    with pytest.raises(ValueError, match=r"no step of 4|no examples"):
        make_trainer(data, candidate_sampling="uniform", **PLAIN).train()


def test_so_is_empty_data_of_the_trainer_of_transformers(make_trainer):
    options = {"trainer_class": CoLMTrainer, "config_class": CoLMTrainingArguments}
    with pytest.raises(ValueError, match="the training data has no examples"):
        make_trainer(Dataset.from_dict(EMPTY), **options)


LONG = [{"prompt": "a" * 200, "completion": "b", "source": "long"}] * 3


@pytest.mark.parametrize("named", [False, True])
def test_evaluation_data_that_is_cut_to_nothing_is_named_at_once(make_trainer, dataset, named):
    data = {"long": Dataset.from_list(LONG)} if named else Dataset.from_list(LONG)
    with pytest.raises(ValueError, match=r"none of the 3 evaluation.*max_length 64") as caught:
        make_trainer(
            dataset,
            max_length=64,
            eval_strategy="steps",
            eval_steps=1,
            trainer_options={"eval_dataset": data},
        )
    assert_one_line(caught)


def test_empty_evaluation_data_is_named_where_it_is_used(make_trainer, dataset):
    options = {"trainer_options": {"eval_dataset": dataset.select([])}}
    with pytest.raises(ValueError, match="evaluation data has no examples"):
        make_trainer(dataset, eval_strategy="steps", eval_steps=1, **options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"selector": "balanced_sampling"}, "candidate_sampling='unimax'"),
        ({}, "small_sources=auto"),
        ({"selector": "random", "small_sources": ["a"]}, "small_sources=a"),
        ({"candidate_ratio": 1, "candidate_sampling": "unimax"}, "candidate_sampling='unimax'"),
    ],
)
@pytest.mark.parametrize("change", quick_first(["renamed", "one"]))
def test_sources_that_nothing_tells_are_said_once(
    make_trainer, dataset, caplog, options, named, change
):
    if change == "renamed":
        data = dataset.rename_column("source", "domain")
    else:
        data = dataset.remove_columns("source").add_column("source", ["a"] * len(dataset))
    with caplog.at_level(logging.WARNING, logger="colm"):
        make_trainer(data, **options)
    said = [r.getMessage() for r in caplog.records if "by source" in r.getMessage()]
    assert len(said) == 1
    assert named in said[0]
    assert ("prompt, completion, domain" if change == "renamed" else "'source' has one") in said[0]


@pytest.mark.parametrize(
    "options",
    [
        {"selector": "random"},
        {"selector": "colm", "small_sources": "none"},
        {"candidate_ratio": 1},
        {"selector": "colm", "source_column": "domain"},
    ],
)
def test_nothing_is_said_where_nothing_goes_by_source(make_trainer, dataset, caplog, options):
    with caplog.at_level(logging.WARNING, logger="colm"):
        make_trainer(dataset.rename_column("source", "domain"), **options)
    assert not any("by source" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("options", [["--learning_rate", "nan"], ["--num_train_epochs", "0"]])
def test_the_command_ends_in_one_line(tiny_model_folder, tmp_path, capsys, options):
    path = tmp_path / "data.jsonl"
    Dataset.from_list(make_records()).to_json(path)
    given = ["--model_name_or_path", str(tiny_model_folder), "--dataset_name", str(path)]
    given += ["--output_dir", str(tmp_path / "run"), "--use_cpu", "true", "--bf16", "false"]
    assert main(["sft", *given, *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("colm: error: ")
    assert options[0].strip("-") in error
    assert not (tmp_path / "run" / "config.json").exists()
