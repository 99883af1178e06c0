"""What training may use is asked of the machine, not of the build of PyTorch."""

import pytest
import torch

from colm import CoLMConfig
from colm.runs.arguments import parse_arguments
from colm.training.options import hardware


@pytest.fixture
def without_bf16(monkeypatch) -> None:
    """A machine whose accelerator, if it has one, does not compute in bfloat16."""
    monkeypatch.setattr(hardware, "is_torch_bf16_gpu_available", lambda: False)
    monkeypatch.setattr(hardware, "is_torch_xla_available", lambda: False)


@pytest.fixture
def without_device(monkeypatch) -> None:
    """A build of PyTorch for CUDA on a machine that has none."""

    def current_accelerator(check_available: bool = False) -> torch.device | None:
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current_accelerator)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_bf16_is_left_off_where_it_cannot_be(without_bf16, tmp_path) -> None:
    plain = CoLMConfig(str(tmp_path), per_device_train_batch_size=16, candidate_ratio=2.0)
    assert plain.bf16 is False
    assert plain.fp16 is False


@pytest.mark.parametrize("has_kernels", [True, False])
def test_a_cpu_that_was_asked_for_has_bf16_where_it_is_no_slower(
    has_kernels, without_bf16, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(hardware, "cpu_has_bf16", lambda: has_kernels)
    assert CoLMConfig(str(tmp_path), use_cpu=True).bf16 is has_kernels
    assert CoLMConfig(str(tmp_path), use_cpu=True, bf16=not has_kernels).bf16 is not has_kernels


def test_a_cpu_has_bf16_where_it_has_instructions_for_it(monkeypatch) -> None:
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        assert hardware.cpu_has_bf16()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not hardware.cpu_has_bf16()


def test_bf16_is_on_where_the_accelerator_has_it(monkeypatch) -> None:
    monkeypatch.setattr(hardware, "is_torch_bf16_gpu_available", lambda: True)
    assert hardware.supports_bf16(use_cpu=False)


def test_bf16_that_was_asked_for_is_never_taken_back(
    without_bf16, without_device, tmp_path
) -> None:
    with pytest.raises(ValueError, match="bf16"):
        CoLMConfig(str(tmp_path), bf16=True)


def test_a_build_for_an_accelerator_is_not_one(without_device, monkeypatch) -> None:
    monkeypatch.setattr(hardware, "is_torch_xla_available", lambda: False)
    assert not hardware.has_accelerator()
    assert parse_arguments(["--bf16=true"]).training.use_cpu
