"""Adam's moments against the equations entry by entry, and against the optimiser itself."""

import io
import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from colm.coreset.features import AdamMoments


def random_rows(seed: int, n: int, d: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype)


def after_three_steps(d: int = 4, dtype: torch.dtype = torch.float64) -> AdamMoments:
    moments = AdamMoments(d, beta1=0.8, beta2=0.95, eps=1e-3)
    for seed in range(3):
        moments.update(random_rows(seed, seed + 1, d, dtype))
    return moments


def test_equals_the_equations_entry_by_entry() -> None:
    moments = after_three_steps()
    m, v = moments.exp_avg.tolist(), moments.exp_avg_sq.tolist()
    candidates = random_rows(9, 5, 4)
    expected = [
        [
            ((0.8 * m[k] + 0.2 * g) / (1 - 0.8**4))
            / (math.sqrt((0.95 * v[k] + 0.05 * g * g) / (1 - 0.95**4)) + 1e-3)
            for k, g in enumerate(row)
        ]
        for row in candidates.tolist()
    ]
    found = moments.normalize(candidates)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_is_the_step_that_the_optimiser_takes_on_one_example() -> None:
    parameter = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([parameter], lr=1.0)
    moments = AdamMoments(6)
    for seed in range(5):
        gradient = random_rows(seed, 1, 6)
        before = parameter.detach().clone()
        parameter.grad = gradient[0].clone()
        optimiser.step()
        torch.testing.assert_close(moments.normalize(gradient)[0], before - parameter.detach())
        moments.update(gradient)


def test_moments_become_the_mean_over_the_selected() -> None:
    moments = after_three_steps()
    m, v = moments.exp_avg.clone(), moments.exp_avg_sq.clone()
    selected = random_rows(7, 3, 4)
    moments.update(selected)
    torch.testing.assert_close(moments.exp_avg, 0.8 * m + 0.2 * selected.mean(0))
    torch.testing.assert_close(moments.exp_avg_sq, 0.95 * v + 0.05 * selected.square().mean(0))
    assert moments.step == 4


def test_nothing_selected_changes_nothing() -> None:
    moments = after_three_steps()
    before = moments.state_dict()
    moments.update(torch.zeros(0, 4))
    assert all(torch.equal(before[key], value) for key, value in moments.state_dict().items())


def test_normalising_changes_neither_moments_nor_gradients() -> None:
    moments, gradients = after_three_steps(), random_rows(8, 3, 4)
    before, copy = moments.state_dict(), gradients.clone()
    first = moments.normalize(gradients)
    assert torch.equal(first, moments.normalize(gradients))
    assert torch.equal(gradients, copy)
    assert all(torch.equal(before[key], value) for key, value in moments.state_dict().items())


@pytest.mark.parametrize("n", [0, 1, 3])
def test_rows_do_not_see_each_other(n: int) -> None:
    moments, gradients = after_three_steps(), random_rows(8, n, 4)
    together = moments.normalize(gradients)
    assert together.shape == (n, 4)
    for row, alone in zip(gradients, together, strict=True):
        assert torch.equal(moments.normalize(row[None])[0], alone)


def test_untouched_dimensions_stay_zero() -> None:
    gradients = random_rows(1, 4, 3)
    gradients[:, 1] = 0
    assert AdamMoments(3).normalize(gradients)[:, 1].tolist() == [0.0] * 4


def test_the_first_step_is_the_sign_whatever_the_scale() -> None:
    gradients = random_rows(1, 4, 3)
    for scale in (1e-3, 1.0, 1e6):
        found = AdamMoments(3, eps=0.0).normalize(gradients * scale)
        torch.testing.assert_close(found, gradients.sign())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_saved_state_restores_every_bit(dtype: torch.dtype) -> None:
    moments = after_three_steps(dtype=dtype)
    file = io.BytesIO()
    torch.save(moments.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    restored = AdamMoments(4, beta1=0.8, beta2=0.95, eps=1e-3)
    restored.load_state_dict(state)
    of_its_size = AdamMoments.from_state_dict(state).state_dict()
    for key, value in moments.state_dict().items():
        assert value.dtype == restored.state_dict()[key].dtype
        assert torch.equal(value, restored.state_dict()[key])
        assert torch.equal(value, of_its_size[key])
    gradients = random_rows(9, 5, 4, dtype)
    assert torch.equal(restored.normalize(gradients), moments.normalize(gradients))


def test_a_state_is_a_copy() -> None:
    moments = after_three_steps()
    state = moments.state_dict()
    for key in ("exp_avg", "exp_avg_sq"):
        getattr(moments, key).add_(1)
        assert not torch.equal(state[key], getattr(moments, key))
    moments.load_state_dict(state)
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(state[key], getattr(moments, key))
        getattr(moments, key).add_(1)
        assert not torch.equal(state[key], getattr(moments, key))


@pytest.mark.parametrize(
    ("given", "kept"),
    [(torch.bfloat16, torch.float32), (torch.float32,) * 2, (torch.float64,) * 2],
)
def test_moments_are_kept_in_float32_or_wider(given: torch.dtype, kept: torch.dtype) -> None:
    moments, gradients = AdamMoments(4), random_rows(3, 2, 4, given)
    normalised = moments.normalize(gradients)
    moments.update(gradients)
    assert normalised.dtype == moments.exp_avg.dtype == moments.exp_avg_sq.dtype == kept
    wide = AdamMoments(4).normalize(gradients.to(kept))
    assert torch.equal(normalised, wide)


@pytest.mark.parametrize("shape", [(4,), (2, 3), (0, 3), (1, 2, 4)])
def test_gradients_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    moments = AdamMoments(4)
    for method in (moments.normalize, moments.update):
        with pytest.raises(ValueError, match=r"gradients must be \[n, 4\]; got \["):
            method(torch.ones(shape))


def test_a_state_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="exp_avg must have 3 entries; got 4"):
        AdamMoments(3).load_state_dict(AdamMoments(4).state_dict())


@pytest.mark.slow
def test_moments_come_without_the_model_libraries() -> None:
    code = (
        "import sys, colm.coreset.features, colm.coreset.medoids;"
        "sys.exit(bool({'transformers', 'trl', 'peft', 'datasets'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
