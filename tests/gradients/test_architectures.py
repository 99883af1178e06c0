"""Features of every family of transformers against looped autograd, all projections at once."""

import warnings

import pytest
import torch
from transformers import CONFIG_MAPPING

from colm.gradients.projections import PROJECTIONS, find_projections
from colm.gradients.value_gradients import ValueGradients
from tests.gradients.architectures import FAMILIES, LACKING, build
from tests.gradients.oracle import assert_close, examples, looped, padded

# Softmax, norms or routers of these compute in float32 whatever the model is in; on some processors
# its last bits then depend on the shape of a batch.
FLOAT32_INSIDE = {
    *("bloom", "deepseek_v32", "deepseek_v4", "dots1", "exaone_moe", "flint", "gemma2"),
    *("gemma3n_text", "gemma4_text", "gemma4_unified_text", "glm4_moe", "gptj", "granite_swa"),
    *("granitemoe_swa", "hy_v4", "kolibri1", "laguna", "llama4_text", "mamba2"),
    *("mimo_v2_flash", "minimax_m3_vl_text", "mpt", "solar_open", "vaultgemma"),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_there_are_enough_families():
    assert len(set(FAMILIES)) == len(FAMILIES) >= 140


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_all_projections_are_found_and_equal_looped_autograd(family):
    if family not in CONFIG_MAPPING:
        pytest.skip(f"the installed transformers has no {family}")
    model = build(family)
    tokens, labels = examples((6, 9))
    found = [name for name in PROJECTIONS if name not in LACKING.get(family, ())]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has no value projection")
        features = ValueGradients(model, projections=found)
    expected = looped(model, features.projections, tokens, labels)
    tolerance = 1e-6 if family in FLOAT32_INSIDE else 1e-9
    assert_close(features(padded(tokens, labels)).features, expected, tolerance)


@pytest.mark.parametrize("family", LACKING)
def test_what_cannot_be_located_says_so_by_name(family):
    if family not in CONFIG_MAPPING:
        pytest.skip(f"the installed transformers has no {family}")
    model = build(family)
    for name in LACKING[family]:
        had = ", ".join(other for other in PROJECTIONS if other not in LACKING[family])
        message = f"projections: no '{name}' .* of {type(model).__name__}; choose among {had}"
        with pytest.raises(ValueError, match=message):
            find_projections(model, [name])


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("hrm_text", "HrmTextForCausalLM has 0 lists of 16 modules in its decoder"),
        ("xlm", "XLMWithLMHeadModel has 2 lists of 2 modules in its decoder"),
    ],
)
def test_a_model_whose_layers_cannot_be_found_is_named(family, message):
    """HRM runs two stacks in turns; XLM keeps attention and feed-forward in lists of their own."""
    with pytest.raises(ValueError, match=message):
        find_projections(build(family))
