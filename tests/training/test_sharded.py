"""Processes that hold one model together by FSDP2 select and train as one process with all of it.

The processes are started once; each notes what it did, and the tests compare that with one process.
Every forward of a sharded model is a call that all make together: a process that made one more or
one less than the others would wait for good, so that these tests end is part of what they show.
"""

import importlib.util
import math
import os
import sys
import warnings
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from datasets import Dataset
from peft import LoraConfig
from torch.distributed.tensor import DTensor
from transformers import Trainer

from colm import CoLMConfig
from colm.gradients import block_gradients, label_loss
from colm.training.limits import check_parallelism, shards_weights
from colm.training.processes.exchange import Exchange
from colm.training.processes.lockstep import Lockstep, make_filler
from tests.training.conftest import (
    StopAt,
    build_trainer,
    make_records,
    note_selections,
    select_among,
)
from tests.training.processes import run_in_processes

pytestmark = pytest.mark.slow

#: Selectors and estimators that look in different ways, and whether the model has adapters. Both
#: layers of the tiny model take part in the backward of those with a depth.
RUNS = {
    "default": ({}, False),
    "default with adapters": ({"selection_tokens": 60}, True),
    "balanced": ({"selector": "balanced_sampling", "depth": 1.0}, False),
    "balanced with adapters": (
        {"selector": "balanced_sampling", "selection_tokens": 60, "depth": 1.0},
        True,
    ),
    "medoids": ({"selector": "colm", "dimension_criterion": "weight", "kept_dimensions": 8}, True),
    "finite differences": ({"selector": "colm", "gradient": "zeroth_order"}, False),
    "mean matching": (
        {"selector": "mean_matching", "projections": "spread", "depth": 1.0},
        False,
    ),
    "losses": ({"selector": "top_loss", "selection_tokens": 40}, False),
    "no look": ({"selector": "longest"}, True),
}
ZERO_RUNS = [(2, "balanced"), (3, "balanced with adapters"), (3, "finite differences")]
# Few enough for several calls of the head in each chunk, another number on each process.
LOGITS_PER_CHUNK = 2000
FSDP = {"fsdp": True, "fsdp_config": {"version": 2}}
CHECKPOINTED = {"fsdp": True, "fsdp_config": {"version": 2, "activation_checkpointing": True}}


def train(model_folder, folder, batch, adapters, *, depth=block_gradients.DEPTH, **options):
    """A trainer after its run, which looked so deep, and what it kept step by step."""
    with patch.object(block_gradients, "DEPTH", depth):
        return train_as_deep(model_folder, folder, batch, adapters, **options)


def train_as_deep(model_folder, folder, batch, adapters, *, stop=None, resume=None, **options):
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = build_trainer(
        model_folder,
        Dataset.from_list(make_records()),
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        trainer_options={"peft_config": lora if adapters else None},
        # Processes that wait for each other in vain are to fail, and soon.
        ddp_timeout=180,
        **({"selection_scope": "global", "max_steps": 3} | options),
    )
    kept = note_selections(trainer)
    if stop is not None:
        trainer.add_callback(StopAt(stop))
    with warnings.catch_warnings():
        # Some options of the trainer have new names in one of its versions and not in others.
        warnings.simplefilter("ignore", FutureWarning)
        trainer.train(resume_from_checkpoint=resume)
    return trainer, kept


def noted(trainer, kept):
    """What a run came to."""
    return {
        "kept": kept,
        "losses": losses_of(trainer),
        "state": trainer._selection.selector.state_dict(),
        "weights": whole_weights(trainer),
    }


def losses_of(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def whole_weights(trainer):
    weights = {
        name.replace("_checkpoint_wrapped_module.", ""): parameter.detach()
        for name, parameter in trainer.model.named_parameters()
    }
    return {
        name: (weight.full_tensor() if isinstance(weight, DTensor) else weight).clone()
        for name, weight in weights.items()
    }


def in_each_process(model_folder, folder):
    """Everything that is done in two processes."""
    label_loss.LOGITS_PER_CHUNK = LOGITS_PER_CHUNK
    as_on_accelerators()
    done = {}
    for name, (options, adapters) in RUNS.items():
        sharding = CHECKPOINTED if name == "mean matching" else FSDP
        trainer, kept = train(model_folder, folder / name, 2, adapters, **options, **sharding)
        done[name] = noted(trainer, kept)
        done[name]["is sharded"] = all(isinstance(p, DTensor) for p in trainer.model.parameters())
    saving = {"save_strategy": "steps", "save_steps": 2, **RUNS["default"][0], **FSDP}
    _, before = train(model_folder, folder / "stopped", 2, False, stop=2, **saving)
    resumed, after = train(model_folder, folder / "stopped", 2, False, resume=True, **saving)
    done["resumed"] = noted(resumed, before + after)
    apart = {"selection_scope": "local", "selector": "colm", "selection_tokens": 30}
    trainer, kept = train(model_folder, folder / "apart", 2, False, **apart, **FSDP)
    done["apart"] = noted(trainer, kept)
    done["unlike"] = keep_unlike(trainer)
    return done


def under_deepspeed(model_folder, folder):
    """The same by ZeRO, without its kernels, which would be compiled first."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    assert deepspeed.comm is not None
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None
    label_loss.LOGITS_PER_CHUNK = LOGITS_PER_CHUNK
    done = {}
    for stage, name in ZERO_RUNS:
        options, adapters = RUNS[name]
        sharding = {"stage": stage, "stage3_param_persistence_threshold": 0}
        sizes = (
            "train_batch_size",
            "train_micro_batch_size_per_gpu",
            "gradient_accumulation_steps",
        )
        config = {
            **dict.fromkeys((*sizes, "gradient_clipping"), "auto"),
            "zero_optimization": sharding,
            "zero_allow_untested_optimizer": True,
        }
        run = train(
            model_folder, folder / f"{stage} {name}", 2, adapters, **options, deepspeed=config
        )
        done[stage, name] = {"kept": run[1], "losses": losses_of(run[0])}
        if stage == 3:
            apart = {**options, "selection_scope": "local", "max_steps": 1}
            trainer, _ = train(
                model_folder, folder / "apart", 2, adapters, **apart, deepspeed=config
            )
            done[stage, name]["unlike"] = keep_unlike(trainer)
    return done


def as_on_accelerators():
    """Let Accelerate shard models on CPUs, which it does only on accelerators of its own accord."""
    create = Trainer.create_accelerator_and_postprocess

    def create_as_if(trainer):
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        create(trainer)

    Trainer.create_accelerator_and_postprocess = create_as_if


def keep_unlike(trainer):
    """What is kept where processes that select apart have unlike numbers of candidates."""
    rows = list(trainer.train_dataset)
    first = trainer.args.process_index == 0
    return [
        [
            tuple(example["input_ids"])
            for example in select_among(trainer._selection, candidates, budget, step).examples
        ]
        for step, (candidates, budget) in enumerate(
            [
                # All are kept, without a look; many chunks; one; neither has anything to look at.
                (rows[:2], 2) if first else (rows[2:30], 4),
                (rows[:24], 3) if first else (rows[24:28], 2),
                (rows[:2], 2) if first else (rows[2:5], 3),
            ]
        )
    ]


#: How many `keep_unlike` keeps on each process.
UNLIKE = [[2, 3, 2], [4, 2, 3]]


@pytest.fixture(scope="module")
def pair(tiny_model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return run_in_processes(in_each_process, folder, tiny_model_folder, folder)


@pytest.fixture(scope="module")
def alone(tiny_model_folder, tmp_path_factory):
    """The same in one process with twice the batch."""
    folder = tmp_path_factory.mktemp("alone")
    return {
        name: noted(*train(tiny_model_folder, folder / name, 4, adapters, **options))
        for name, (options, adapters) in RUNS.items()
    }


@pytest.mark.parametrize("name", RUNS)
def test_sharded_processes_select_and_train_as_one(pair, alone, name):
    assert all(process[name]["is sharded"] for process in pair)
    together = [sorted(a + b) for a, b in zip(*(p[name]["kept"] for p in pair), strict=True)]
    assert together == [sorted(step) for step in alone[name]["kept"]]
    first, second = (process[name]["state"] for process in pair)
    for process in pair:
        assert all(math.isfinite(loss) for loss in process[name]["losses"])
        for parameter, weight in process[name]["weights"].items():
            expected = alone[name]["weights"][parameter]
            torch.testing.assert_close(weight, expected, rtol=1e-3, atol=2e-5)
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
        # Differences of losses are coarse: a change in the last bit of a loss is one in the state.
        rtol, atol = (0.1, 1e-4) if name == "finite differences" else (1e-3, 1e-7)
        torch.testing.assert_close(value, alone[name]["state"][key], rtol=rtol, atol=atol)


@pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
)
def test_zero_selects_and_trains_as_one(tiny_model_folder, tmp_path, alone):
    pair = run_in_processes(under_deepspeed, tmp_path, tiny_model_folder, tmp_path)
    for stage, name in ZERO_RUNS:
        runs = [process[stage, name] for process in pair]
        together = [sorted(a + b) for a, b in zip(*(run["kept"] for run in runs), strict=True)]
        assert together == [sorted(step) for step in alone[name]["kept"]]
        assert runs[0]["losses"] == pytest.approx(alone[name]["losses"], rel=1e-4)
        if stage == 3:
            assert [[len(kept) for kept in run["unlike"]] for run in runs] == UNLIKE


def test_resumed_is_what_it_would_have_been(pair):
    for process in pair:
        assert process["resumed"]["kept"] == process["default"]["kept"]
        for name, weight in process["resumed"]["weights"].items():
            assert torch.equal(weight, process["default"]["weights"][name]), name


def test_processes_that_select_apart_keep_step(pair):
    for process in pair:
        assert all(math.isfinite(loss) for loss in process["apart"]["losses"])
    assert [[len(kept) for kept in process["unlike"]] for process in pair] == UNLIKE


def test_what_fills_up_has_no_labels_and_no_foreign_tokens():
    long = {"input_ids": [7, 8, 9], "labels": [7, 8, 9]}
    short = {"input_ids": [7, 8], "labels": [7, 8], "attention_mask": [1, 1]}
    filler = make_filler([long, short], torch.tensor([4, 9]))
    assert filler == {"input_ids": [4, 4], "labels": [-100, -100], "attention_mask": [1, 1]}
    assert make_filler([long, short], None)["input_ids"] == [7, 8]


def test_one_process_keeps_step_with_nobody():
    lockstep = Lockstep(Exchange())
    with lockstep([5, 6], 100) as missing:
        assert missing == 0


@pytest.mark.parametrize(
    ("distribution", "plugins", "shards"),
    [
        ("MULTI_GPU", {}, False),
        ("FSDP", {}, True),
        ("DEEPSPEED", {"deepspeed_plugin": SimpleNamespace(zero_stage=2)}, False),
        ("DEEPSPEED", {"deepspeed_plugin": SimpleNamespace(zero_stage=3)}, True),
    ],
)
def test_what_shards_weights(distribution, plugins, shards):
    accelerator = SimpleNamespace(
        distributed_type=DistributedType[distribution], state=SimpleNamespace(**plugins)
    )
    assert shards_weights(accelerator) is shards


def test_fsdp_1_is_refused_where_the_model_is_looked_at(tmp_path):
    accelerator = SimpleNamespace(
        distributed_type=DistributedType.FSDP,
        state=SimpleNamespace(fsdp_plugin=SimpleNamespace(fsdp_version=1)),
    )
    options = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    with pytest.raises(ValueError, match=r"selector='colm' .* FSDP version 1 .* fsdp_config"):
        check_parallelism(accelerator, CoLMConfig(selector="colm", **options))
    check_parallelism(accelerator, CoLMConfig(selector="random", **options))
