"""What selection cannot work with is refused in ``__init__``, in one line that names the option."""

from pathlib import Path

import pytest
from datasets import Dataset

from colm import CoLMConfig, CoLMTrainer, CoLMTrainingArguments
from tests.training.conftest import make_records


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidate_ratio": 0.5}, "candidate_ratio.* 1.* 0.5"),
        ({"candidate_ratio": float("nan")}, "candidate_ratio.* 1.* nan"),
        (
            {"selector": "best"},
            "selector.*colm, ssm, mean_matching, gradient_matching, balanced_sampling",
        ),
        ({"gradient": "second_order"}, "gradient.*exact, directional, zeroth_order"),
        ({"normalization": "sgd"}, "normalization.*adam, rms, none"),
        ({"dimension_criterion": "x"}, "dimension_criterion.*gradient, weight"),
        ({"distance": "l3"}, "distance.*l1, l2, cosine"),
        ({"allocation": "fair"}, "allocation.*proportional, balanced, none"),
        ({"selection_scope": "node"}, "selection_scope.*local, global"),
        ({"kept_dimensions": 0}, "kept_dimensions.*whole.* 1.* 0"),
        ({"num_directions": 1.5}, "num_directions.*whole.* 1.* 1.5"),
        ({"selection_tokens": -1}, "selection_tokens.*whole.* 1.* -1"),
        ({"perturbation_scale": 0}, "perturbation_scale.* 0.* 0"),
    ],
)
def test_unknown_options_are_named_with_the_choices(options, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        CoLMConfig(output_dir=str(tmp_path), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source_column": "origin"}, "source_column 'origin'.*prompt, completion, source"),
        ({"small_sources": ["rare", "gone"]}, "'gone'.*adding, copying, rare"),
        ({"packing": True}, "packing=True.*padding_free=True"),
        (
            {"train_sampling_strategy": "batch_rebalance"},
            "batch_rebalance.*group_by_length",
        ),
        (
            {"candidate_ratio": 1.1, "per_device_train_batch_size": 4},
            "candidate_ratio=1.1 of per_device_train_batch_size=4 draws no more",
        ),
        ({"padding_free": True, "max_length": 64}, "max_length"),
        (
            {"optim": "lomo", "gradient_accumulation_steps": 2},
            "optim='lomo' .* gradient_accumulation_steps=2 .* set gradient_accumulation_steps=1",
        ),
    ],
)
def test_combinations_that_cannot_work_are_refused(make_trainer, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_trainer(Dataset.from_list(make_records()), **options)
    assert "\n" not in str(caught.value)


def test_data_that_is_not_tokenised_is_refused(make_trainer):
    options = {"trainer_class": CoLMTrainer, "config_class": CoLMTrainingArguments}
    with pytest.raises(ValueError, match=r"no column 'input_ids'.*prompt, completion, source"):
        make_trainer(Dataset.from_list(make_records()), **options)


def test_packing_is_allowed_where_nothing_goes_by_example(make_trainer):
    trainer = make_trainer(
        Dataset.from_list(make_records()),
        packing=True,
        packing_strategy="wrapped",
        max_length=32,
        selector="random",
        max_steps=1,
    )
    trainer.train()
    assert trainer.state.log_history[0]["colm/kept"] == 8


def test_without_a_source_column_all_is_one_source(make_trainer):
    dataset = Dataset.from_list(make_records()).remove_columns("source")
    trainer = make_trainer(dataset, max_steps=1)
    trainer.train()
    assert trainer.state.log_history[0]["colm/kept/all"] == 8


@pytest.fixture
def finished_run(make_trainer, tmp_path) -> Path:
    trainer = make_trainer(
        Dataset.from_list(make_records()), max_steps=2, save_strategy="steps", save_steps=2
    )
    trainer.train()
    return tmp_path / "run"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidate_ratio": 3.0}, "candidate_ratio is 3.0.*written with 2.0"),
        ({"gradient_accumulation_steps": 1}, "gradient_accumulation_steps is 1.*written with 2"),
        ({"selector": "random"}, "selector is 'random'.*written with 'colm'"),
        ({"candidate_ratio": 1}, "candidate_ratio is 1.*written with 2.0"),
        (
            {"candidate_sampling": "unimax", "small_sources": "none"},
            "(candidate_sampling|small_sources) is .*written with",
        ),
    ],
)
def test_a_changed_setting_is_refused_on_resuming(finished_run, make_trainer, change, message):
    trainer = make_trainer(Dataset.from_list(make_records()), max_steps=4, **change)
    with pytest.raises(ValueError, match=message):
        trainer.train(resume_from_checkpoint=str(finished_run / "checkpoint-2"))


def test_a_checkpoint_of_another_kind_is_refused(finished_run, make_trainer):
    (finished_run / "checkpoint-2" / "colm_selector.safetensors").unlink()
    trainer = make_trainer(Dataset.from_list(make_records()), max_steps=4)
    with pytest.raises(ValueError, match=r"no colm_selector\.safetensors"):
        trainer.train(resume_from_checkpoint=str(finished_run / "checkpoint-2"))
