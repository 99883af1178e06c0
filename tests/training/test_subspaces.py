"""Training in random subspaces with the trainers: plain models out, checkpoints bit for bit."""

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from colm import CoLMTrainer, CoLMTrainingArguments
from colm.training.checkpoints import manifest
from colm.training.subspace_training import SUBSPACES_FILE
from tests.training.conftest import keeping_the_best, on_keep

RSO = {"subspace_rank": 4, "subspace_inner_steps": 3, "max_steps": 7}
SELECTIONS = {
    "default": {},
    "balanced_sampling": {"selector": "balanced_sampling"},
    "plain": {"candidate_ratio": 1.0, "selector": "none"},
}


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_plain_model_goes_in_and_comes_out(make_trainer, dataset, tmp_path, selection):
    trainer = make_trainer(dataset, **RSO, **SELECTIONS[selection])
    before = weights(trainer)
    kinds = [type(module) for module in trainer.model.modules()]
    trainer.train()
    after = weights(trainer)
    assert [type(module) for module in trainer.model.modules()] == kinds
    assert after.keys() == before.keys()
    assert not any(torch.equal(after[name], before[name]) for name in before if "proj" in name)
    trainer.save_model(tmp_path / "saved")
    assert_same(AutoModelForCausalLM.from_pretrained(tmp_path / "saved").state_dict(), after)


def test_one_outer_step_moves_a_weight_along_its_directions_alone(make_trainer, dataset):
    trainer = make_trainer(dataset, **RSO | {"max_steps": 2})
    before = weights(trainer)
    trainer.train()
    moved = {name: value - before[name] for name, value in weights(trainer).items()}
    for name, change in moved.items():
        if "proj" in name:
            assert torch.linalg.matrix_rank(change, rtol=1e-3) <= 4, name


@pytest.mark.slow
@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_stopped_run_resumes_as_if_it_had_not_stopped(make_trainer, dataset, tmp_path, selection):
    """Within inner loops and at their end; the whole run saves nothing."""
    options = RSO | SELECTIONS[selection]
    whole = make_trainer(dataset, **options)
    whole.train()
    saving = {"save_strategy": "steps", "save_steps": 1, "output_dir": str(tmp_path / "saved")}
    make_trainer(dataset, **options, **saving).train()
    for stop in (2, 3, 5):
        resumed = make_trainer(dataset, **options, output_dir=str(tmp_path / str(stop)))
        resumed.train(resume_from_checkpoint=str(tmp_path / "saved" / f"checkpoint-{stop}"))
        assert_same(weights(resumed), weights(whole))


@pytest.mark.slow
def test_a_checkpoint_has_the_model_as_it_was_then(make_trainer, dataset, tmp_path):
    options = RSO | {"lr_scheduler_type": "constant", "candidate_sampling": "uniform"}
    make_trainer(dataset, **options, save_strategy="steps", save_steps=2).train()
    short = make_trainer(dataset, **options | {"max_steps": 2})
    short.train()
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-2")
    assert_same(saved.state_dict(), weights(short))


@pytest.mark.slow
def test_after_a_merge_a_checkpoint_holds_no_weight_twice(make_trainer, dataset, tmp_path):
    trainer = make_trainer(dataset, **RSO, save_strategy="steps", save_steps=1)
    trainer.train()
    sizes = {
        step: (tmp_path / "run" / f"checkpoint-{step}" / SUBSPACES_FILE).stat().st_size
        for step in (1, 2, 3, 6)
    }
    assert sizes[3] == sizes[6] < 1000 < sizes[1]


@pytest.mark.slow
def test_the_best_model_is_loaded_at_the_end(make_trainer, dataset, tmp_path):
    """An absurd learning rate makes later checkpoints worse."""
    trainer = make_trainer(
        dataset,
        **RSO | {"max_steps": 4},
        learning_rate=0.5,
        lr_scheduler_type="constant",
        **keeping_the_best(dataset),
    )
    trainer.train()
    best = AutoModelForCausalLM.from_pretrained(trainer.state.best_model_checkpoint)
    assert not trainer.state.best_model_checkpoint.endswith("-4")
    assert_same(weights(trainer), best.state_dict())


@pytest.mark.slow
def test_features_are_those_of_b_and_its_moments_go_with_p(make_trainer, dataset):
    trainer = make_trainer(dataset, **RSO)
    steps = []

    def note(_kept):
        moments = trainer._selection.selector._moments
        projection = trainer._selection.observer.example_observer.gradients.projections[0]
        assert projection.is_adapter
        assert len(moments.exp_avg) == projection.shape[0] * 4
        steps.append(moments.step)

    on_keep(trainer, note)
    trainer.train()
    assert steps == [1, 2, 3, 1, 2, 3, 1]


@pytest.mark.slow
def test_training_can_go_on_in_new_subspaces(make_trainer, dataset):
    trainer = make_trainer(dataset, **RSO)
    trainer.train()
    first = weights(trainer)
    trainer.train()
    assert not torch.equal(
        weights(trainer)["model.layers.0.mlp.up_proj.weight"],
        first["model.layers.0.mlp.up_proj.weight"],
    )


@pytest.mark.slow
def test_transformers_own_trainer_has_subspaces_too(make_trainer, dataset):
    sft = make_trainer(dataset)
    trainer = make_trainer(
        sft.train_dataset,
        trainer_class=CoLMTrainer,
        config_class=CoLMTrainingArguments,
        trainer_options={"data_collator": sft.data_collator},
        **RSO,
    )
    before = weights(trainer)
    trainer.train()
    after = weights(trainer)
    assert not any(torch.equal(after[name], before[name]) for name in before if "proj" in name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optim": "adafactor"}, "subspace_rank=4 .* set optim to one of adamw_torch"),
        ({"subspace_rank": 0}, "subspace_rank.*whole.* 1.* 0"),
        ({"subspace_inner_steps": 0}, "subspace_inner_steps.*whole.* 1"),
        ({"subspace_proximal": -1.0}, "subspace_proximal.* 0.* -1.0"),
        ({"subspace_sampling": "x"}, "subspace_sampling .* haar, gaussian"),
        ({"subspace_moments": "x"}, "subspace_moments .* averaged, reset, kept"),
        ({"subspace_rounding": "x"}, "subspace_rounding .* stochastic, nearest"),
        ({"subspace_others": ["x"]}, "subspace_others .* norms, embeddings, head, rest"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make_trainer, dataset, options, message):
    with pytest.raises(ValueError, match=message) as error:
        make_trainer(dataset, **RSO | options)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_adapters_and_foreign_checkpoints_are_refused(make_trainer, dataset, tmp_path):
    lora = {"peft_config": LoraConfig(target_modules=["v_proj"])}
    with pytest.raises(ValueError, match="has adapters, which are a subspace already"):
        make_trainer(dataset, **RSO, trainer_options=lora).train()
    saving = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    make_trainer(dataset, **saving).train()
    with pytest.raises(ValueError, match=r"subspace_rank is 4, but .* was written with None"):
        make_trainer(dataset, **RSO).train(resume_from_checkpoint=True)
    # One that does not say how it was written.
    (tmp_path / "run" / "checkpoint-1" / manifest.IDENTITY_FILE).unlink()
    manifest.write_manifest(tmp_path / "run" / "checkpoint-1")
    with pytest.raises(ValueError, match="was not written by a run in subspaces"):
        make_trainer(dataset, **RSO).train(resume_from_checkpoint=True)
    make_trainer(dataset, **RSO | saving, output_dir=str(tmp_path / "rank4")).train()
    for option, now, then in (("rank", 8, 4), ("moments", "kept", "averaged")):
        changed = RSO | {f"subspace_{option}": now, "output_dir": str(tmp_path / "rank4")}
        message = f"subspace_{option} is {now!r}, but .* was written with {then!r}"
        with pytest.raises(ValueError, match=message):
            make_trainer(dataset, **changed).train(resume_from_checkpoint=True)
