"""Options of the libraries that they would take, whatever they are, and nobody means."""

import math

import numpy as np
import pytest
from trl import ModelConfig

from colm import CoLMConfig, CoLMTrainingArguments
from colm.checks import check_number
from colm.runs.arguments import parse_arguments

COUNTS = {
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "eval_accumulation_steps",
    "save_total_limit",
    "max_steps",
}
REFUSED = {
    **dict.fromkeys(sorted(COUNTS), (0, -2, 1.5, 10**400)),
    "max_length": (-1, 0, 1, 2.5, 10**400),
    "dataset_num_proc": (0, -1),
    "dataloader_num_workers": (-1,),
    "seed": (-1, 2**32, 10**400),
    "data_seed": (-1, 2**32),
    "learning_rate": (-1e-5, math.inf, math.nan, 10**400, "fast"),
    "weight_decay": (-0.1, math.nan, math.inf),
    "adam_beta1": (math.nan,),
    "adam_beta2": (math.inf,),
    "adam_epsilon": (-1e-8, math.nan),
    "max_grad_norm": (-1.0, math.nan, -math.inf),
    "label_smoothing_factor": (-0.1, 1.0, math.nan),
    "neftune_noise_alpha": (-1.0, math.nan),
    "num_train_epochs": (math.inf, math.nan, 10**400),
    "warmup_steps": (-1, math.nan),
    "logging_steps": (-3, math.nan, math.inf),
}
TAKEN = {
    "max_length": (None, 2, np.int64(512)),
    "max_steps": (-1, 1, np.int32(7)),
    "save_total_limit": (None, 1),
    "learning_rate": (0.0, np.float64(1e-4), 1),
    "max_grad_norm": (0.0, 1, math.inf),
    "seed": (0, 2**32 - 1),
    "data_seed": (None, 5),
    "logging_steps": (1, 0.5),
    "num_train_epochs": (1, 0.5),
    "warmup_steps": (0, 0.1, 10),
    "neftune_noise_alpha": (None, 5),
    "pad_to_multiple_of": (None, 8, "8"),
}
SFT_ALONE = {"max_length", "dataset_num_proc", "pad_to_multiple_of"}


def short(value):
    return str(value)[:20]


def pairs(options):
    return [(name, value) for name, values in options.items() for value in values]


@pytest.mark.parametrize("config_class", [CoLMConfig, CoLMTrainingArguments])
@pytest.mark.parametrize(("name", "value"), pairs(REFUSED), ids=short)
def test_what_nobody_means_is_refused_by_name(config_class, name, value, tmp_path) -> None:
    if name in SFT_ALONE and config_class is CoLMTrainingArguments:
        return
    with pytest.raises(ValueError, match=name) as raised:
        config_class(str(tmp_path), use_cpu=True, bf16=False, **{name: value})
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 300


@pytest.mark.parametrize(("name", "value"), pairs(TAKEN))
def test_what_people_mean_is_taken(name, value, tmp_path) -> None:
    config = CoLMConfig(str(tmp_path), use_cpu=True, bf16=False, **{name: value})
    assert str(getattr(config, name)) == str(value)


@pytest.mark.parametrize("name", ["eval", "save", "logging"])
def test_steps_between_count_where_they_are_counted(name, tmp_path) -> None:
    options = {"use_cpu": True, "bf16": False, f"{name}_steps": -2}
    CoLMConfig(str(tmp_path), **options, **{f"{name}_strategy": "no"})
    with pytest.raises(ValueError, match=f"{name}_steps"):
        CoLMConfig(str(tmp_path), **options, **{f"{name}_strategy": "steps"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("lora_r", 0), ("lora_r", -4), ("lora_alpha", 0), ("lora_dropout", 1), ("lora_dropout", -0.1)],
)
def test_adapters_that_train_nothing_are_refused(name, value) -> None:
    option = f"--{name}={value}"
    with pytest.raises(ValueError, match=f"{name} must be"):
        parse_arguments(["--use_peft", "true", option])
    assert getattr(parse_arguments([option]).model, name) == value
    assert ModelConfig().use_peft is False


def test_bounds_are_said() -> None:
    with pytest.raises(ValueError, match=r"x.* 0 .* at most 2.* 3\."):
        check_number("x", 3, above=0, most=2)
    check_number("x", 2, above=0, most=2)
