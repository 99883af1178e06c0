"""What the machine at hand can train with, whatever the installed build of PyTorch is made for."""

import torch
from transformers.utils import is_torch_bf16_gpu_available, is_torch_xla_available


def has_accelerator() -> bool:
    """Tell whether training would run on anything but the CPU.

    Returns:
        False also where PyTorch is built for an accelerator that is not there.
    """
    return bool(torch.accelerator.is_available() or is_torch_xla_available())


def supports_bf16(use_cpu: bool) -> bool:
    """Tell whether transformers takes ``bf16`` here, and the machine is no slower for it.

    Args:
        use_cpu: The option of that name: training was told to use the CPU.

    Returns:
        False on a device that lacks bfloat16, and where there is no accelerator and nothing was
        told.
    """
    if use_cpu:
        return cpu_has_bf16()
    return bool(is_torch_bf16_gpu_available() or is_torch_xla_available())


def cpu_has_bf16() -> bool:
    """Tell whether PyTorch has kernels for bfloat16 that this processor runs.

    Every CPU computes in bfloat16, but without them (on most desktops and laptops) a step of
    training takes many times as long as in float32.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def accelerator_names() -> list[str]:
    """Return what each usable accelerator is called.

    Returns:
        One name a device; none where there is no device, whatever torch is built for.
    """
    if not torch.accelerator.is_available():
        return []
    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    device = torch.accelerator.current_accelerator()
    return [device.type] if device else []
