"""CoLM beside what else saves memory: each trains, and the look leaves everything as it was.

``docs/memory.md`` has a row for each of these, and says what to set.
"""

import re
from pathlib import Path

import pytest
import torch
from bitsandbytes.optim import LAMB
from came_pytorch import CAME
from peft import AdaLoraConfig, EvaConfig, LoraConfig, initialize_lora_eva_weights
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils import is_kernels_available

PAGE = Path(__file__).parents[2] / "docs" / "memory.md"


def lora(**options):
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **options)
    return {"trainer_options": {"peft_config": config}}


def optimiser(kind, **options):
    return {"trainer_options": {"optimizer_cls_and_kwargs": (kind, options)}}


#: What updates inside the backward takes one micro-batch a step.
IN_ONE = {"gradient_accumulation_steps": 1, "per_device_train_batch_size": 8}
PROJECTED = {
    "optim_target_modules": ["attn", "mlp"],
    "optim_args": "rank=4, update_proj_gap=2, scale=1.0",
}
ADALORA = AdaLoraConfig(
    init_r=6,
    target_r=4,
    total_step=6,
    tinit=1,
    tfinal=1,
    target_modules="all-linear",
    task_type="CAUSAL_LM",
)
#: Row of the page -> options of the trainer.
STACKED = {
    "LoRA": lora(),
    "DoRA": lora(use_dora=True),
    "rsLoRA": lora(use_rslora=True),
    "EVA": lora(init_lora_weights="eva", eva_config=EvaConfig(rho=1.0)),
    "AdaLoRA": {"trainer_options": {"peft_config": ADALORA}},
    "QLoRA": lora(),
    "GaLore": {"optim": "galore_adamw", **PROJECTED},
    "APOLLO": {"optim": "apollo_adamw", **PROJECTED},
    "LOMO": {"optim": "lomo", **IN_ONE},
    "CAME": optimiser(CAME, lr=1e-3, eps=(1e-30, 1e-16), betas=(0.9, 0.999, 0.9999)),
    "LAMB": optimiser(LAMB, lr=1e-2),
    "Adafactor": {"optim": "adafactor"},
    "8-bit Adam": {"optim": "adamw_bnb_8bit"},
    "schedule-free": {"optim": "schedule_free_adamw", "lr_scheduler_type": "constant"},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "padding-free": {"padding_free": True, "max_length": None},
    "random subspaces": {"subspace_rank": 4, "subspace_inner_steps": 2},
    "random subspaces, gradient checkpointing": {
        "subspace_rank": 4,
        "gradient_checkpointing": True,
    },
    "LoRA, gradient checkpointing": {**lora(), "gradient_checkpointing": True},
    "QLoRA, 8-bit Adam, gradient checkpointing": {
        **lora(),
        "gradient_checkpointing": True,
        "optim": "adamw_bnb_8bit",
    },
    "LOMO, gradient checkpointing": {"optim": "lomo", "gradient_checkpointing": True, **IN_ONE},
    "random subspaces, others frozen, gradient checkpointing": {
        "subspace_rank": 4,
        "subspace_others": ["none"],
        "gradient_checkpointing": True,
    },
}
#: What cannot run on a CPU, and what it says there.
NEEDS_AN_ACCELERATOR = {
    "AdaLomo": ({"optim": "adalomo", **IN_ONE}, AssertionError, "CUDA"),
    "activation offloading": (
        {"activation_offloading": True},
        AttributeError,
        "'NoneType' object has no attribute 'type'",
    ),
    "Liger kernels": ({"use_liger_kernel": True}, ImportError, "liger-kernel"),
}
SELECTIONS = {"default": {}, "balanced sampling": {"selector": "balanced_sampling"}}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:lora with eva initialization")
@pytest.mark.filterwarnings("ignore:This implementation of AdamW is deprecated")
@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("name", STACKED)
def test_it_trains_with_colm(make_trainer, dataset, monkeypatch, name, selection):
    options = STACKED[name] | SELECTIONS[selection]
    if name.startswith("QLoRA"):
        quantise(monkeypatch)
    trainer = make_trainer(dataset, **options)
    if name == "EVA":
        rows = [[dict(row) for row in trainer.train_dataset.select(range(8))]] * 4
        batches = [{"input_ids": trainer.data_collator(part)["input_ids"]} for part in rows]
        initialize_lora_eva_weights(trainer.model, batches, show_progress_bar=False)
    trained = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    looked = watch_the_look(trainer)
    trainer.train()
    assert looked == [True] * 4
    moved = [n for n, p in trainer.model.named_parameters() if not torch.equal(trained[n], p)]
    assert any("lora" in n or "proj" in n for n in moved)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert all(torch.isfinite(torch.tensor(losses)))
    kept = [entry["colm/kept"] for entry in trainer.state.log_history if "colm/kept" in entry]
    assert kept == [8] * 4


def watch_the_look(trainer):
    """Whether each look left weights and optimiser as they were, LOMO's hooks included."""
    unchanged, select = [], trainer._micro_batches

    def watching(pools):
        before = [p.detach().clone() for p in trainer.model.parameters()]
        batches = select(pools)
        after = trainer.model.parameters()
        same = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        unchanged.append(same and all(p.grad is None for p in trainer.model.parameters()))
        return batches

    trainer._micro_batches = watching
    return unchanged


def quantise(monkeypatch):
    """Load models in four bits, as QLoRA does."""
    load = AutoModelForCausalLM.from_pretrained
    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    monkeypatch.setattr(
        AutoModelForCausalLM,
        "from_pretrained",
        lambda folder: load(folder, quantization_config=four_bits),
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`use_liger_kernel=True` is deprecated")
@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
@pytest.mark.parametrize("name", NEEDS_AN_ACCELERATOR)
def test_what_needs_an_accelerator_says_so(make_trainer, dataset, name):
    """It is the library's own doing, with or without selection."""
    options, error, words = NEEDS_AN_ACCELERATOR[name]
    for ratio in (1.0, 2.0):
        with pytest.raises(error, match=words):
            make_trainer(dataset, candidate_ratio=ratio, **options).train()


def test_kernels_of_the_hub_need_their_package(tiny_model_folder):
    if is_kernels_available():
        pytest.skip("kernels is installed, and would ask the hub")
    with pytest.raises(ValueError, match="Kernels are not available"):
        AutoModelForCausalLM.from_pretrained(tiny_model_folder, use_kernels=True)


def test_the_page_has_a_row_for_each():
    rows = set(re.findall(r"^\| ([^|]+?) \|", PAGE.read_text(), re.MULTILINE))
    assert {*STACKED, *NEEDS_AN_ACCELERATOR, "hub kernels"} <= rows


def test_every_row_that_works_was_measured_or_says_why_not():
    for line in PAGE.read_text().splitlines():
        cells = line.strip("| ").split(" | ")
        if cells[1:2] == ["yes"] and "Not measured:" not in cells[-1]:
            assert re.fullmatch(r"[\d,]+ \(\d+\.\d\d\)", cells[2]), line
            assert re.fullmatch(r"\d+\.\d\d", cells[3]), line
