"""P: right on average, orthonormal where asked for, the same for the same key and no other."""

import pytest
import torch

from colm.memory.subspaces.projection import SAMPLINGS, draw_projection


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_mean_of_p_p_transposed_is_the_identity(sampling):
    total = torch.zeros(6, 6)
    for step in range(4000):
        p = draw_projection(6, 2, sampling, 0, step).T
        total += p @ p.T / 4000
    torch.testing.assert_close(total, torch.eye(6), atol=0.15, rtol=0)


def test_gaussian_entries_have_variance_one_over_rank():
    p = draw_projection(400, 50, "gaussian", 3)
    assert p.shape == (50, 400)
    assert p.var().item() == pytest.approx(1 / 50, rel=0.05)


@pytest.mark.parametrize(("inputs", "rank"), [(9, 1), (9, 4), (9, 9), (1, 1)])
def test_haar_directions_are_orthonormal_up_to_their_scale(inputs, rank):
    p = draw_projection(inputs, rank, "haar", 0, dtype=torch.float64)
    expected = torch.eye(rank, dtype=torch.float64) * inputs / rank
    torch.testing.assert_close(p @ p.T, expected)


def test_haar_directions_point_everywhere_alike():
    """A first direction whose first entry were always positive would be QR's, not Haar's."""
    signs = [draw_projection(3, 1, "haar", step)[0, 0].sign().item() for step in range(400)]
    assert abs(sum(signs)) < 80


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_p_depends_on_its_key_alone(sampling):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = draw_projection(8, 3, sampling, 1, 2, "name")
    torch.manual_seed(5)
    assert torch.equal(first, draw_projection(8, 3, sampling, 1, 2, "name"))
    for other in ((2, 2, "name"), (1, 3, "name"), (1, 2, "other")):
        assert not torch.equal(first, draw_projection(8, 3, sampling, *other))
    torch.manual_seed(0)
    draw_projection(8, 3, sampling, 1)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_p_of_another_type_is_the_same_but_for_rounding(sampling, dtype):
    p = draw_projection(8, 3, sampling, 0, dtype=dtype)
    assert p.dtype == dtype
    torch.testing.assert_close(p.float(), draw_projection(8, 3, sampling, 0), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "rank must be 1 to 8, the inputs of the weight.* 0"),
        ({"rank": 9}, "rank must be 1 to 8, the inputs of the weight.* 9"),
        ({"sampling": "uniform"}, "sampling.*haar, gaussian.* 'uniform'"),
    ],
)
def test_what_is_out_of_range_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        draw_projection(**{"inputs": 8, "rank": 2, "sampling": "haar"} | change)
