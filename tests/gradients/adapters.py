"""Tiny models under every kind of adapter of PEFT, away from where training starts."""

import warnings
from typing import Any

from peft import (
    AdaLoraConfig,
    EvaConfig,
    IA3Config,
    LoraConfig,
    get_peft_model,
    initialize_lora_eva_weights,
)
from torch import nn

from tests.gradients.oracle import examples, padded

ATTENTION_MAPS = "q_proj|k_proj|v_proj|o_proj|out_proj|qkv_proj|c_attn|query_key_value|dense"
ATTENTION = rf".*(attn|attention)\.({ATTENTION_MAPS})"
LORA_KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "eva": {"init_lora_weights": "eva", "eva_config": EvaConfig(rho=2.0)},
}
ADAPTERS = ("none", *LORA_KINDS, "adalora", "ia3")


def with_adapter(model: nn.Module, adapter: str, targets: str | list[str] = ATTENTION) -> Any:
    """Wrap in an adapter, dropout and all, and move what it adds away from zero."""
    if adapter == "none":
        return model
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
        warnings.filterwarnings("ignore", message=".*low_cpu_mem_usage.*")
        # PiSSA takes singular values of the weights, which it wants in float32.
        wrapped = get_peft_model(model.float(), adapter_config(adapter, targets))
    if adapter == "eva":
        batches = [padded(*examples((9,) * 8)) for _ in range(4)]
        initialize_lora_eva_weights(wrapped, batches, show_progress_bar=False)
    wrapped = wrapped.double().train()
    for name, parameter in wrapped.named_parameters():
        if any(part in name for part in ("lora_B", "lora_E", "ia3_l")):
            nn.init.normal_(parameter, mean=float("ia3" in name), std=0.1)
    return wrapped


def adapter_config(adapter: str, targets: str | list[str]) -> Any:
    """Return PEFT's configuration of that kind."""
    common = {"target_modules": targets, "task_type": "CAUSAL_LM"}
    if adapter == "ia3":
        return IA3Config(**common, feedforward_modules=[])
    common |= {"lora_alpha": 8, "lora_dropout": 0.3}
    if adapter == "adalora":
        return AdaLoraConfig(**common, init_r=4, total_step=100)
    return LoraConfig(r=4, **common, **LORA_KINDS[adapter])
