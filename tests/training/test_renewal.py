"""What a user replaces in a trainer is what selection goes by in the next training."""

import peft
import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from colm import CoLMSFTTrainer, CoLMTrainer, CoLMTrainingArguments
from tests.training.conftest import make_records, on_keep
from tests.training.test_tensor_examples import Rows, pad

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def other_model(trainer, seed=3):
    """A model of another size, of the same tokens."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(vocab_size=trainer.model.config.vocab_size, **SMALL))


def looked_at(trainer):
    """The models that each training looks with."""
    return trainer._selection.observer.example_observer.model


def tokenised(trainer, records):
    """Records as the trainer's own data set has them, of a column of another name."""
    tokenizer = trainer.processing_class
    rows = []
    for each in records:
        tokens = tokenizer(each["prompt"] + each["completion"])["input_ids"]
        rows.append({"input_ids": tokens, "labels": tokens, "origin": each["source"].upper()})
    return Dataset.from_list(rows)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"selector": "colm"}, {}, {"source_clusters": 2}])
def test_trainings_of_models_made_for_each_are_alike(tiny_model_folder, tmp_path, options):
    made = []

    def model_init():
        made.append(AutoModelForCausalLM.from_pretrained(tiny_model_folder))
        return made[-1]

    trainer = CoLMTrainer(
        args=CoLMTrainingArguments(
            output_dir=str(tmp_path),
            max_steps=4,
            learning_rate=5e-2,
            per_device_train_batch_size=4,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            **options,
        ),
        model_init=model_init,
        train_dataset=Dataset.from_list(list(Rows(list).rows)),
        data_collator=pad,
    )
    runs, kept = [], []
    for _ in range(2):
        trainer.train()
        runs.append(losses(trainer))
        kept.append(trainer._clusters)
        assert looked_at(trainer) is trainer.model is made[-1]
    assert len(runs[0]) == 4
    assert runs[0] == runs[1]
    assert kept[0] is None or torch.equal(*kept)


@pytest.mark.slow
@pytest.mark.parametrize("trainer_class", [CoLMTrainer, CoLMSFTTrainer])
@pytest.mark.parametrize("trained_before", [False, True])
def test_a_replaced_model_is_the_one_trained_and_looked_at(
    make_trainer, dataset, trained_before, trainer_class
):
    def make():
        if trainer_class is CoLMSFTTrainer:
            return make_trainer(dataset, selector="colm")
        return make_trainer(
            Dataset.from_list(Rows(list).rows),
            trainer_class=CoLMTrainer,
            config_class=CoLMTrainingArguments,
            trainer_options={"data_collator": pad},
            selector="colm",
        )

    trainer = make()
    if trained_before:
        trainer.train()
    before, trainer.model = trainer.model, other_model(trainer)
    untouched = [parameter.detach().clone() for parameter in before.parameters()]
    start = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    assert looked_at(trainer) is trainer.model
    assert all(map(torch.equal, untouched, before.parameters()))
    assert not all(map(torch.equal, start, trainer.model.parameters()))
    # V of the new model, and as many of its dimensions as it is wide.
    assert trainer._selection.selector.options.kept_dimensions == SMALL["hidden_size"]
    fresh = make()
    fresh.model = other_model(fresh)
    fresh.train()
    assert losses(trainer)[-4:] == losses(fresh)[-4:]


def test_replaced_data_brings_its_own_sources(make_trainer, dataset):
    trainer = make_trainer(dataset, selector="colm")
    records = [each for each in make_records(1) if each["source"] != "copying"]
    data = tokenised(trainer, records).rename_column("origin", "source")
    trainer.train_dataset = data
    trainer.train()
    logged = {name for entry in trainer.state.log_history for name in entry}
    assert {"colm/candidates/ADDING", "colm/kept/RARE"} <= logged
    assert not [name for name in logged if name.endswith(("/adding", "/copying"))]
    assert trainer._selection.selector._small_sources.names() == {"RARE"}


@pytest.mark.slow
def test_replaced_data_may_have_no_sources_or_lack_those_asked_for(make_trainer, dataset):
    trainer = make_trainer(dataset, max_steps=1)
    trainer.train_dataset = tokenised(trainer, make_records(1)).remove_columns("origin")
    trainer.train()
    assert trainer._selection.source_column is None
    trainer = make_trainer(dataset, source_column="source")
    trainer.train_dataset = tokenised(trainer, make_records(1))
    with pytest.raises(ValueError, match=r"source_column 'source' .* origin"):
        trainer.train()


@pytest.mark.slow
def test_clusters_are_found_anew_in_replaced_data(make_trainer, dataset):
    trainer = make_trainer(dataset, source_clusters=2, max_steps=1)
    trainer.train()
    first = trainer._clusters
    trainer.train()
    assert trainer._clusters is first
    data = tokenised(trainer, make_records(1)[:50]).remove_columns("origin")
    trainer.train_dataset = data
    trainer.train()
    assert len(trainer._clusters) == 50
    assert trainer._selection.source_column == "colm_cluster"


@pytest.mark.slow
def test_changed_options_are_those_of_the_next_training(make_trainer, dataset):
    trainer = make_trainer(dataset, selector="random", max_steps=1)
    trainer.train()
    trainer.args.selector = "colm"
    trainer.train()
    assert trainer._selection.selector.selector.name == "colm"
    trainer.args.candidate_ratio = 1.0
    trainer.train()
    assert not any("colm/kept" in entry for entry in trainer.state.log_history)
    trainer.args.selector = "colmm"
    with pytest.raises(ValueError, match="colmm"):
        trainer.train()


@pytest.mark.slow
def test_training_on_goes_on_with_what_selection_has_learned(make_trainer, dataset):
    trainer = make_trainer(dataset, selector="colm")
    trainer.train()
    selection, moments = trainer._selection, trainer._selection.selector._moments
    trainer.train()
    assert trainer._selection is selection
    assert selection.selector._moments is moments


def test_another_adapter_is_looked_at_from_the_next_step_on(make_trainer, dataset):
    lora = {"r": 2, "target_modules": ["v_proj"], "task_type": "CAUSAL_LM"}
    trainer = make_trainer(
        dataset, selector="colm", trainer_options={"peft_config": peft.LoraConfig(**lora)}
    )
    trainer.model.add_adapter("wider", peft.LoraConfig(**{**lora, "r": 4}))
    split, widths = trainer._selection.split, []

    def switching(drawn, budget, step):
        if step == 2:
            trainer.model.set_adapter("wider")
        return split(drawn, budget, step)

    def note(_kept):
        (projection,) = trainer._selection.observer.example_observer.gradients.projections
        widths.append(projection.shape[1])

    trainer._selection.split = switching
    on_keep(trainer, note)
    trainer.train()
    assert widths == [2, 2, 4, 4]


@pytest.mark.slow
def test_freezing_what_is_not_looked_at_forgets_no_moments(make_trainer, dataset):
    trainer = make_trainer(dataset, selector="colm", max_steps=2)
    trainer.train()
    moments = trainer._selection.selector._moments
    trainer.model.get_input_embeddings().requires_grad_(False)
    trainer.train()
    assert trainer._selection.selector._moments is moments


def test_subspaces_are_refused_where_models_are_made_for_each_training(
    tiny_model_folder, dataset, tmp_path
):
    with pytest.raises(ValueError, match=r"subspace_rank.*model_init"):
        CoLMTrainer(
            args=CoLMTrainingArguments(output_dir=str(tmp_path), subspace_rank=4, use_cpu=True),
            model_init=lambda: AutoModelForCausalLM.from_pretrained(tiny_model_folder),
            train_dataset=Dataset.from_list(Rows(list).rows),
        )


@pytest.mark.slow
def test_what_a_training_has_not_logged_is_not_the_next_ones(make_trainer, dataset):
    trainer = make_trainer(dataset, selector="random", max_steps=3, logging_steps=2)
    for _ in range(2):
        trainer.train()
        (logged,) = [e for e in trainer.state.log_history if "colm/candidates" in e]
        assert logged["colm/candidates"] == 16
