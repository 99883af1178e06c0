"""The prompt's hidden state as part of the features: its scale, and what it changes."""

import pytest
import torch

from colm import CoresetSelector
from colm.coreset.candidates import Observed
from colm.coreset.medoids import with_prompt
from colm.coreset.similarity import pairwise_distances


def draw_numbers(seed, *shape):
    return 2 + torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mean_size(rows, metric):
    if metric == "cosine":
        return rows.double().norm(dim=1).mean().item()
    order = {"l1": 1, "l2": 2}[metric]
    pairs = [(x - y).double().norm(p=order) for x in rows for y in rows]
    return torch.stack(pairs).mean().item()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("metric", ["l1", "l2", "cosine"])
def test_both_parts_are_of_the_same_mean_size(metric, scale):
    features, prompt = draw_numbers(0, 9, 4), scale * draw_numbers(1, 9, 6)
    joined = with_prompt(features, prompt, metric)
    assert joined.shape == (9, 10)
    assert torch.equal(joined[:, :4], features)
    ratio = joined[:, 4:] / prompt
    assert ratio.std() < 1e-5 * ratio.mean()
    sizes = mean_size(joined[:, 4:], metric), mean_size(features, metric)
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-4)


@pytest.mark.parametrize("metric", ["l1", "l2"])
def test_what_all_prompts_share_counts_for_nothing(metric):
    features, prompt = draw_numbers(2, 9, 4).double(), draw_numbers(3, 9, 6).double()
    near = pairwise_distances(with_prompt(features, prompt, metric), metric)
    far = pairwise_distances(with_prompt(features, prompt + 1000, metric), metric)
    torch.testing.assert_close(near, far)


@pytest.mark.parametrize("metric", ["l1", "l2", "cosine"])
def test_a_part_without_size_leaves_the_other_as_it_is(metric):
    features, nothing = draw_numbers(4, 5, 3), torch.zeros(5, 2)
    assert torch.equal(with_prompt(features, nothing, metric)[:, :3], features)
    assert torch.equal(with_prompt(nothing, features, metric)[:, 2:], features)
    assert with_prompt(features[:1], nothing[:1], metric).shape == (1, 5)
    assert with_prompt(features[:0], nothing[:0], metric).shape == (0, 5)


def test_narrow_hidden_states_are_widened():
    features, prompt = draw_numbers(5, 5, 3), draw_numbers(6, 5, 2).bfloat16()
    assert with_prompt(features, prompt).dtype == torch.float32


def test_one_prompt_an_example():
    with pytest.raises(ValueError, match="2 prompts were passed for 3 examples"):
        with_prompt(torch.ones(3, 1), torch.ones(2, 1))


@pytest.mark.parametrize("reference_behaviour", [False, True])
@pytest.mark.parametrize("distance", ["l1", "l2", "cosine"])
@pytest.mark.parametrize("name", ["colm", "ssm"])
def test_prompts_tell_kinds_apart_that_gradients_do_not(name, distance, reference_behaviour):
    """Three kinds of prompt, far apart, and gradients of noise: one of each kind is kept."""
    kind = torch.arange(12) % 3
    alone = []
    for seed in range(5):
        gradients = draw_numbers(seed, 12, 6)
        prompt = 9 * torch.eye(3)[kind] + 0.01 * draw_numbers(seed + 10, 12, 3)
        options = {"normalization": "none", "kept_dimensions": 2, "distance": distance}
        options |= {"reference_behaviour": reference_behaviour}
        observed = Observed(gradients=gradients, prompt=prompt)
        kept = CoresetSelector(name, prompt_features=True, **options).select(observed, 3).indices
        assert sorted(kind[kept].tolist()) == [0, 1, 2]
        alone.append(kind[CoresetSelector(name, **options).select(observed, 3).indices].tolist())
    assert any(sorted(kinds) != [0, 1, 2] for kinds in alone)


def test_prompts_are_asked_for_where_they_are_used():
    assert CoresetSelector("colm").needs == ("gradients",)
    assert CoresetSelector("colm", prompt_features=True).needs == ("gradients", "prompt")
    assert CoresetSelector("random", prompt_features=True).needs == ()
    assert CoresetSelector("top_loss", prompt_features=True).needs == ("losses",)
    with pytest.raises(ValueError, match="'ssm' needs prompt of candidates"):
        CoresetSelector("ssm", prompt_features=True).select(torch.ones(3, 2), 1)
