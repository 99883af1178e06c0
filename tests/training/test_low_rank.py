"""Low-rank Adam in a trainer: its matrices, resuming, accumulation, processes, what is refused."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from peft import LoraConfig
from torch import nn
from transformers import AutoModelForCausalLM

from colm import CoLMConfig
from colm.memory.low_rank_adam import SUBSPACES, LowRankAdam
from colm.training.low_rank_training import find_targets
from colm.training.named_optimizer import check_optimizer
from colm.training.optimizers import OPTIMIZERS
from tests.training.conftest import build_trainer, make_records
from tests.training.processes import run_in_processes

LOW_RANK = {"optim": "low_rank_adam", "optim_args": "rank=4,refresh=2,scale=1"}
MAPS = {f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")}


def with_args(subspace):
    own = {"wavelet": "levels=2", "sketched": "sparsity=2"}.get(subspace, "rank=4,refresh=3")
    return {"optim": "low_rank_adam", "optim_args": f"subspace={subspace},{own}", "max_steps": 4}


def optimizer_of(trainer):
    return getattr(trainer.optimizer, "optimizer", trainer.optimizer)


def names_inside(trainer):
    names = {id(weight): name for name, weight in trainer.model.named_parameters()}
    groups = optimizer_of(trainer).param_groups
    return {names[id(p)] for group in groups if "subspace" in group for p in group["params"]}


def test_linear_maps_of_the_layers_are_its_targets(make_trainer, dataset):
    trainer = make_trainer(dataset, **LOW_RANK, weight_decay=0.1, adam_beta2=0.99)
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, LowRankAdam)
    inside = names_inside(trainer)
    assert inside == {
        name for name, _ in trainer.model.named_parameters() if name.split(".")[-2] in MAPS
    }
    (group,) = (group for group in optimizer.param_groups if "subspace" in group)
    assert (group["rank"], group["refresh"], group["scale"]) == (4, 2, 1.0)
    assert (group["betas"], group["weight_decay"]) == ((0.9, 0.99), 0.1)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    assert {*map(id, trained)} == {*map(id, trainer.model.parameters())}


@pytest.mark.parametrize(
    ("modules", "found"),
    [
        (["v_proj"], {"v_proj"}),
        (r".*\.(up|down)_proj", {"up_proj", "down_proj"}),
        ("all-linear", MAPS | {"lm_head"}),
    ],
)
def test_modules_are_read_as_transformers_reads_them(make_trainer, dataset, modules, found):
    trainer = make_trainer(dataset, **LOW_RANK, optim_target_modules=modules)
    trainer.create_optimizer()
    assert {name.split(".")[-2] for name in names_inside(trainer)} == found


@pytest.mark.slow
@pytest.mark.parametrize("subspace", SUBSPACES)
def test_a_stopped_run_resumes_as_if_it_had_not_stopped(make_trainer, dataset, tmp_path, subspace):
    options = with_args(subspace) | {"save_strategy": "steps", "save_steps": 1}
    whole = make_trainer(dataset, **options)
    before = {name: weight.clone() for name, weight in whole.model.state_dict().items()}
    whole.train()
    after = whole.model.state_dict()
    assert not any(torch.equal(after[name], before[name]) for name in before)
    resumed = make_trainer(dataset, **options, output_dir=str(tmp_path / "resumed"))
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    for name, weight in resumed.model.state_dict().items():
        assert torch.equal(weight, after[name]), name
    whole.save_model(tmp_path / "saved")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(w, after[name]) for name, w in plain.state_dict().items())


@pytest.mark.slow
def test_other_arguments_do_not_resume(make_trainer, dataset):
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    make_trainer(dataset, **LOW_RANK, **saving).train()
    other = LOW_RANK | {"optim_args": "rank=3", "max_steps": 4}
    with pytest.raises(ValueError, match="optim_args"):
        make_trainer(dataset, **other).train(resume_from_checkpoint=True)


@pytest.mark.slow
def test_accumulated_it_is_as_in_one(make_trainer, dataset):
    trained = []
    for size, batches in ((8, 1), (2, 4)):
        trainer = make_trainer(
            dataset,
            **LOW_RANK,
            candidate_ratio=1.0,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=batches,
            max_steps=2,
        )
        trainer.train()
        trained.append(trainer.model.state_dict())
    for name, weight in trained[0].items():
        torch.testing.assert_close(weight, trained[1][name], atol=1e-4, rtol=0)


def in_each_process(model_folder, folder):
    data = Dataset.from_list(make_records())
    options = with_args("sampled") | {"per_device_train_batch_size": 2}
    trainer = build_trainer(model_folder, data, output_dir=str(folder / "run"), **options)
    trainer.train()
    return trainer.accelerator.unwrap_model(trainer.model).state_dict()


@pytest.mark.slow
def test_two_processes_draw_the_same(tiny_model_folder, tmp_path):
    one, other = run_in_processes(in_each_process, tmp_path, tiny_model_folder, tmp_path)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_adapters_are_refused_unless_they_are_named(make_trainer, dataset):
    lora = {"peft_config": LoraConfig(target_modules=["v_proj"], r=2)}
    with pytest.raises(ValueError, match=r"finds no trained matrix .*: adapters are") as error:
        make_trainer(dataset, **LOW_RANK, trainer_options=lora)
    assert "\n" not in str(error.value)
    named = {"optim_target_modules": ["lora_A"]}
    trainer = make_trainer(dataset, **LOW_RANK, **named, trainer_options=lora)
    assert len(find_targets(trainer.model, ["lora_A"])) == 2
    with pytest.raises(ValueError, match=r"modules named \['nowhere'\]"):
        find_targets(trainer.model, ["nowhere"])


def test_a_side_block_and_random_subspaces_are_refused(make_trainer, dataset):
    with pytest.raises(ValueError, match=r"optim='low_rank_adam' .* side_block=4 freezes them"):
        make_trainer(dataset, **LOW_RANK, side_block=4)
    with pytest.raises(ValueError, match=r"subspace_rank=4 .* got 'low_rank_adam'"):
        make_trainer(dataset, **LOW_RANK, subspace_rank=4)


def test_what_shards_weights_is_refused(make_trainer, dataset):
    trainer = make_trainer(dataset)
    for optim in OPTIMIZERS:
        for kind in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            args = SimpleNamespace(optim=optim, optim_target_modules=None)
            accelerator = SimpleNamespace(distributed_type=kind)
            told = SimpleNamespace(args=args, accelerator=accelerator, model=trainer.model)
            if OPTIMIZERS[optim].package is None:
                with pytest.raises(ValueError, match=f"optim='{optim}' .* {kind.name} shards"):
                    check_optimizer(told)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("rank=0", "rank in .* whole number at least 1; got 0"),
        ("rank=4.5", "rank in .* whole number at least 1; got '4.5'"),
        ("subspace=x", "subspace in .* one of top, sampled, random, wavelet, sketched; got 'x'"),
        ("subspace=wavelet,rank=4", "rank .* nothing with subspace=wavelet, which goes by levels"),
        ("levels=3", "levels .* does nothing with subspace=top, which goes by rank, refresh"),
        ("betas=3", "may be subspace=..., rank=..."),
    ],
)
def test_arguments_that_cannot_be_are_refused_in_one_line(tmp_path, options, message):
    with pytest.raises(ValueError, match=message) as error:
        CoLMConfig(
            str(tmp_path), use_cpu=True, bf16=False, optim="low_rank_adam", optim_args=options
        )
    assert "\n" not in str(error.value)


def test_defaults_are_those_of_the_optimiser():
    optimizer = LowRankAdam([nn.Parameter(torch.zeros(2, 2))])
    (group,) = optimizer.param_groups
    for name, argument in OPTIMIZERS["low_rank_adam"].arguments.items():
        assert group[name] == argument.default
