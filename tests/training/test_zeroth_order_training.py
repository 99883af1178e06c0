"""Zeroth-order training with the trainers: steps, logs and checkpoints, one process and two."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from colm import CoLMSFTTrainer, CoLMTrainer, CoLMTrainingArguments
from colm.memory.step_log import replay_log
from colm.memory.zeroth_order_optimizer import ZerothOrderOptimizer
from colm.runs.model_card import write_model_card
from colm.training.named_optimizer import check_optimizer
from colm.training.zeroth_order_training import STEP_LOG_FILE
from tests.training.conftest import build_trainer, keeping_the_best, make_records
from tests.training.processes import run_in_processes

ZO = {"optim": "zeroth_order", "candidate_ratio": 1, "selector": "none", "max_steps": 3}
LORA = {"peft_config": LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")}


def weights(trainer):
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def steps(trainer):
    return trainer._by_losses.steps


@pytest.mark.slow
@pytest.mark.parametrize("adapters", [False, True])
def test_the_log_makes_the_weights_out_of_the_first_ones(make_trainer, dataset, tmp_path, adapters):
    options = {"trainer_options": LORA} if adapters else {}
    trainer = make_trainer(dataset, **ZO, **options)
    fresh = make_trainer(dataset, **ZO, **options)
    first = weights(fresh)
    trainer.train()
    moved = {
        name for name, value in weights(trainer).items() if not torch.equal(value, first[name])
    }
    trained = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert moved - {"lm_head.weight"} == trained - {"lm_head.weight"}
    trainer.save_model(tmp_path / "saved")
    again = replay_log(fresh.model, json.loads((tmp_path / "saved" / STEP_LOG_FILE).read_text()))
    assert_same(weights(fresh), weights(trainer))
    assert again.steps == steps(trainer)
    assert len(again.steps) == 3
    assert all(weight.grad is None for weight in trainer.model.parameters())
    if not adapters:
        saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
        assert_same(saved.state_dict(), weights(trainer))


@pytest.mark.slow
@pytest.mark.parametrize("trainer_class", ["sft", "plain"])
@pytest.mark.parametrize("average", ["token", "example"])
def test_slopes_of_micro_batches_are_those_of_one_large_batch(
    make_trainer, dataset, trainer_class, average
):
    """However the examples of a step are split, also where they count otherwise than by tokens."""
    found = []
    for size, number in ((8, 1), (4, 2), (2, 4)):
        split = {"per_device_train_batch_size": size, "gradient_accumulation_steps": number}
        options = ZO | split | {"loss_average": average, "arrange": "as_drawn"}
        trainer = make_trainer(dataset, **options)
        if trainer_class == "plain":
            trainer = make_trainer(
                trainer.train_dataset,
                trainer_class=CoLMTrainer,
                config_class=CoLMTrainingArguments,
                trainer_options={"data_collator": trainer.data_collator},
                **options,
            )
        trainer.train()
        slopes = [step.slopes[0] for step in steps(trainer)]
        found.append([*slopes, *(log["loss"] for log in trainer.state.log_history[:-1])])
    for each in found[1:]:
        assert each == pytest.approx(found[0], rel=2e-3, abs=2e-3)


@pytest.mark.slow
def test_what_is_logged_is_that_of_a_step_and_counted_once(make_trainer, dataset):
    """Slopes are tiny and the rate 0, so that all but the weights' noise is plain training's."""
    options = {"learning_rate": 0.0, "max_steps": 2}
    plain = make_trainer(dataset, **ZO | options | {"optim": "sgd"})
    ours = make_trainer(dataset, **ZO | options, optim_args="directions=3,update=conservative")
    for trainer in (plain, ours):
        trainer.train()
    for one, other in zip(plain.state.log_history, ours.state.log_history, strict=True):
        assert one.keys() == other.keys()
        for name in ("loss", "entropy", "mean_token_accuracy", "colm/loss/adding"):
            assert other.get(name, 0) == pytest.approx(one.get(name, 0), rel=1e-2, abs=1e-2)
        assert one.get("num_tokens") == other.get("num_tokens")
    assert ours.state.log_history[0]["grad_norm"] == pytest.approx(
        (sum(slope**2 for slope in steps(ours)[0].slopes) / 3) ** 0.5
    )


@pytest.mark.slow
def test_training_lowers_the_loss(make_trainer, dataset):
    options = ZO | {"max_steps": 12, "lr_scheduler_type": "constant", "learning_rate": 3e-3}
    trainer = make_trainer(
        dataset,
        **options,
        optim_args="directions=4",
        gradient_accumulation_steps=1,
        trainer_options={"eval_dataset": dataset},
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before - 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    "optim_args",
    ["", "update=momentum,direction=low_rank,refresh=2", "update=adam,direction=subspace,rank=4"],
)
def test_a_stopped_run_resumes_as_if_it_had_not_stopped(
    make_trainer, dataset, tmp_path, optim_args
):
    options = ZO | {"optim_args": optim_args, "max_steps": 5, "learning_rate": 1e-2}
    whole = make_trainer(dataset, **options, save_strategy="steps", save_steps=1)
    whole.train()
    for stop in (1, 3):
        checkpoint = tmp_path / "run" / f"checkpoint-{stop}"
        assert len(json.loads((checkpoint / STEP_LOG_FILE).read_text())["steps"]) == stop
        resumed = make_trainer(dataset, **options, output_dir=str(tmp_path / str(stop)))
        resumed.train(resume_from_checkpoint=str(checkpoint))
        assert_same(weights(resumed), weights(whole))
        assert steps(resumed) == steps(whole)


@pytest.mark.slow
def test_the_log_of_the_best_model_ends_with_it(make_trainer, dataset, tmp_path):
    trainer = make_trainer(
        dataset,
        **ZO | {"max_steps": 4},
        learning_rate=0.5,
        lr_scheduler_type="constant",
        **keeping_the_best(dataset),
    )
    fresh = make_trainer(dataset, **ZO)
    trainer.train()
    trainer.save_model(tmp_path / "best")
    log = json.loads((tmp_path / "best" / STEP_LOG_FILE).read_text())
    assert len(log["steps"]) == trainer.state.best_global_step < 4
    replay_log(fresh.model, log)
    assert_same(weights(fresh), weights(trainer))


@pytest.mark.slow
def test_bfloat16_weights_are_made_again_too(make_trainer, dataset, tmp_path):
    trainer, fresh = (make_trainer(dataset, **ZO | {"learning_rate": 1e-2}) for _ in range(2))
    for each in (trainer, fresh):
        each.model.bfloat16()
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    replay_log(fresh.model, json.loads((tmp_path / "saved" / STEP_LOG_FILE).read_text()))
    assert_same(weights(fresh), weights(trainer))


@pytest.mark.slow
def test_derivatives_along_a_direction_are_the_slopes_of_losses(make_trainer, dataset):
    """Of the model's own loss by derivatives, and of TRL's by central differences."""

    def eager(model, **options):
        model.set_attn_implementation("eager")
        return CoLMSFTTrainer(model, **options)

    found = []
    for estimator in ("central", "forward_gradient"):
        optim_args = f"estimator={estimator}"
        trainer = make_trainer(dataset, **ZO, optim_args=optim_args, trainer_class=eager)
        trainer.train()
        found.append([step.slopes[0] for step in steps(trainer)])
    assert found[1] == pytest.approx(found[0], rel=5e-3, abs=5e-3)


def test_nothing_is_left_of_training(make_trainer, dataset, caplog):
    caplog.set_level(logging.WARNING)
    trainer = make_trainer(dataset, **ZO)
    hooks = [len(module._forward_hooks) for module in trainer.model.modules()]

    def fail(*_, **__):
        raise ZeroDivisionError

    trainer.train()
    flags = [module.training for module in trainer.model.modules()]
    own = trainer.model.model.layers[1].forward
    trainer.model.model.layers[1].forward = fail
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    trainer.model.model.layers[1].forward = own
    assert [module.training for module in trainer.model.modules()] == flags
    assert [len(module._forward_hooks) for module in trainer.model.modules()] == hooks
    assert all(weight.requires_grad for weight in trainer.model.parameters())


def test_the_run_and_the_card_say_so(make_trainer, dataset, tmp_path):
    trainer = make_trainer(
        dataset, **ZO, optim_args="direction=subspace,rank=4", save_strategy="steps", save_steps=3
    )
    trainer.train()
    record = json.loads((tmp_path / "run" / "colm_run.json").read_text())
    assert record["options"]["optim"] == "zeroth_order"
    assert record["options"]["optim_args"] == "direction=subspace,rank=4"
    card = write_model_card(trainer, "base").read_text()
    assert "trained with SFT and zeroth order (SubZero)" in card
    assert "Zeroth-Order Fine-Tuning of LLMs in Random Subspaces" in card
    assert STEP_LOG_FILE in card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidate_ratio": 2, "selector": "colm"}, "zeroth_order.* set candidate_ratio=1"),
        ({"fp16": True}, "zeroth_order' does not go with fp16=True"),
        ({"torch_compile": True}, "zeroth_order' does not go with torch_compile=True"),
        ({"neftune_noise_alpha": 5.0}, "zeroth_order' does not go with neftune_noise_alpha=5.0"),
        ({"side_block": 4}, "zeroth_order' does not go with side_block=4"),
        ({"subspace_rank": 4}, "subspace_rank=4 .* set optim to one of adamw_torch"),
        ({"optim_args": "directions=0"}, "directions in optim_args .* at least 1; got 0"),
        ({"optim_args": "update=x"}, "update in optim_args .* sgd, sign, momentum.*'x'"),
        ({"optim_args": "rho=1"}, "optim='zeroth_order' may be estimator=.*got 'rho=1'"),
        ({"optim_args": "estimator=forward_gradient"}, "attn_implementation='sdpa' has none"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make_trainer, dataset, options, message):
    with pytest.raises(ValueError, match=message) as error:
        make_trainer(dataset, **ZO | options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_weights_in_parts_are_refused(make_trainer, dataset, kind):
    trainer = make_trainer(dataset, **ZO)
    sharded = SimpleNamespace(distributed_type=SimpleNamespace(name=kind))
    told = SimpleNamespace(args=trainer.args, accelerator=sharded)
    with pytest.raises(ValueError, match=f"zeroth_order' needs whole weights .* {kind} shards"):
        check_optimizer(told)


def test_two_optimizers_are_refused(make_trainer, dataset):
    given = {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 1.0})}
    with pytest.raises(ValueError, match="names an optimizer, and the trainer was given another"):
        make_trainer(dataset, **ZO, trainer_options=given)


def train_in_process(folder, options, split):
    from datasets import Dataset

    trainer = build_trainer(
        folder,
        Dataset.from_list(make_records()),
        output_dir=str(folder) + "-run",
        **ZO | options | split,
    )
    is_other = trainer.args.process_index == 1
    if is_other:
        # What a process begins with is the first one's.
        with torch.no_grad():
            trainer.model.get_input_embeddings().weight.add_(1.0)
    trainer.train()
    wrapped = type(trainer.model_wrapped).__name__
    return weights(trainer), steps(trainer), wrapped, trainer.state.log_history[0]["loss"]


@pytest.mark.slow
def test_two_processes_train_as_one(tiny_model_folder, tmp_path):
    optim_args = "directions=2,update=conservative,estimator=one_sided"
    options = {"optim_args": optim_args, "arrange": "as_drawn", "learning_rate": 1e-2}
    together = run_in_processes(
        train_in_process,
        tmp_path,
        tiny_model_folder,
        options,
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    )
    (one, its, wrapped, loss), (other, others, _, _) = together
    assert_same(one, other)
    assert its == others
    assert wrapped == "LlamaForCausalLM"
    alone = train_in_process(
        tiny_model_folder,
        options,
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    )
    assert loss == pytest.approx(alone[3], rel=1e-4)
    for mine, theirs in zip(its, alone[1], strict=True):
        assert mine.slopes == pytest.approx(theirs.slopes, rel=2e-3, abs=2e-3)
        assert mine.sign == theirs.sign


def test_the_optimizer_is_colms_own(make_trainer, dataset):
    trainer = make_trainer(dataset, **ZO, weight_decay=0.1)
    trainer.create_optimizer()
    optimizer = trainer._by_losses
    assert isinstance(optimizer, ZerothOrderOptimizer)
    decays = {group["weight_decay"]: group["params"] for group in optimizer.param_groups}
    assert {weight.ndim for weight in decays[0.1]} == {2}
    assert {weight.ndim for weight in decays[0.0]} == {1}
    assert optimizer.options.seed == trainer.args.seed
