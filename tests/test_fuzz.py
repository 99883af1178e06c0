"""Whatever a public function is given, it works or a ``ValueError`` says which argument is wrong.

Arguments are drawn as they should be, of any size; then some of them are replaced by what nobody
should pass. The same draws come in every run.
"""

import inspect
import math
import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import colm
from colm import (
    CoresetSelector,
    Observed,
    balanced_sampling,
    facility_location,
    gradient_matching,
    importance_sampling,
    mean_matching,
)
from colm.coreset.facility_location import facility_location_from_features
from colm.coreset.registry import _SELECTORS, available_selectors
from colm.memory.step_log import log_of

fuzz = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    report_multiple_bugs=True,
    phases=[Phase.explicit, Phase.generate],
    database=None,
    suppress_health_check=list(HealthCheck),
)
sizes = st.integers(0, 7)
seeds = st.integers(0, 10**6)

# Records of what others check; two that need a model have their own tests below.
RECORDS = {"Candidates", "Choice", "FacilityLocation", "GradientMatching", "MeanMatching"}
RECORDS |= {"BalancedSampling", "ImportanceSampling", "Observed", "Selection", "SideBlock"}
DRAWN = [balanced_sampling, importance_sampling]
TRAINING = {"CoLMConfig", "CoLMTrainingArguments", "CoLMSFTTrainer", "CoLMTrainer"}

JUNK = [
    None,
    True,
    -1,
    0,
    3,
    10**30,
    1.5,
    -0.1,
    math.nan,
    math.inf,
    "",
    "colm",
    b"l1",
    [],
    [None],
    ["l1"],
    {},
    {"a": 1},
    (),
    object(),
    len,
    np.int64(2),
    np.ones((3, 3)),
    torch.tensor(2),
    torch.ones(3),
    torch.ones(3, 3, 3),
    torch.zeros(0, 0),
    torch.full((3, 3), math.nan),
    torch.ones(3, 3, dtype=torch.int64),
    torch.ones(3, 3, dtype=torch.bool),
    torch.ones(3, 3, dtype=torch.complex64),
    torch.ones(3, 3, dtype=torch.float16),
    torch.ones(3, 3).to_sparse(),
    torch.ones(3, 3, device="meta"),
    torch.ones(3, 3, requires_grad=True),
]
junk = st.sampled_from(JUNK)


def with_junk(data, arguments):
    """Replace up to two of the arguments."""
    for name in data.draw(st.lists(st.sampled_from(sorted(arguments)), max_size=2), "replaced"):
        arguments[name] = data.draw(junk, name)
    return arguments


def names_an_argument(error, *functions):
    """Whether a message names a parameter of any of the functions, in one line."""
    names = {name for function in functions for name in inspect.signature(function).parameters}
    message = str(error)
    assert "\n" not in message, message
    # "There are no candidates to choose from" names what is missing, not how it is called; the
    # metric is the option distance.
    assert any(name in message for name in names | {"candidates", "distance"}), message


def matrix(n, d, seed, dtype=torch.float32):
    """Rows of any scale, some of them equal, some not finite."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, generator=generator) * 10.0 ** (seed % 13 - 6)
    if n > 1 and seed % 3 == 0:
        rows[1] = rows[0]
    if seed % 17 == 0:
        rows *= 1e30
    if n > 0 and d > 0 and seed % 5 == 0:
        rows[0, 0] = [math.nan, math.inf, 0.0][seed % 3]
    return rows.to(dtype)


def check_indices(indices, budget, n):
    assert indices.dtype == torch.int64
    assert indices.tolist() == list(dict.fromkeys(indices.tolist()))
    assert len(indices) == budget
    assert all(0 <= index < n for index in indices.tolist())


@pytest.mark.slow
@pytest.mark.parametrize("locate", [facility_location, facility_location_from_features])
@fuzz
@given(sizes, sizes, st.integers(-1, 8), seeds, st.data())
def test_facility_location(locate, n, d, budget, seed, data):
    rows = "similarity" if locate is facility_location else "features"
    arguments = {rows: matrix(n, n if rows == "similarity" else d, seed)}
    arguments |= {"budget": budget, "tie_tolerance": 0.0}
    if rows == "features":
        arguments |= {"metric": "l1", "rows_at_once": 2}
    arguments = with_junk(data, arguments)
    try:
        chosen = locate(**arguments)
    except ValueError as error:
        names_an_argument(error, locate)
        return
    budget, n = int(arguments["budget"]), len(arguments[rows])
    check_indices(chosen.indices, budget, n)
    assert chosen.weights.sum() == n
    assert torch.isfinite(chosen.gains).all()


@pytest.mark.slow
@pytest.mark.parametrize("match", [mean_matching, gradient_matching, *DRAWN])
@fuzz
@given(sizes, sizes, st.integers(-1, 8), seeds, st.data())
def test_matching(match, n, d, budget, seed, data):
    arguments = {"features": matrix(n, d, seed), "budget": budget}
    if match in DRAWN:
        arguments |= {"generator": torch.Generator().manual_seed(seed)}
    else:
        arguments |= {"tie_tolerance": 1e-5}
    if match is not mean_matching:
        arguments |= {"noise": 0.1, "target": torch.arange(1, n + 1)}
    arguments = with_junk(data, arguments)
    try:
        chosen = match(**arguments)
    except ValueError as error:
        names_an_argument(error, match)
        return
    check_indices(chosen.indices, int(arguments["budget"]), len(arguments["features"]))
    assert math.isfinite(chosen.error)
    if match is gradient_matching:
        assert torch.isfinite(chosen.weights).all()
        assert (chosen.weights >= 0).all()


SELECTOR_OPTIONS = {
    "selector": st.sampled_from(available_selectors()),
    "distance": st.sampled_from(["l1", "l2", "cosine"]),
    "allocation": st.sampled_from(["proportional", "balanced", "none"]),
    "normalization": st.sampled_from(["adam", "rms", "none"]),
    "kept_dimensions": st.none() | st.integers(1, 9),
    "dimension_criterion": st.sampled_from(["gradient", "random"]),
    "prompt_features": st.booleans(),
    "example_weights": st.sampled_from(["equal", "label_tokens"]),
    "small_sources": st.sampled_from(["auto", "none", ["a"], ["a", "b"], []]),
    "source_sizes": st.none() | st.just({"a": 1, "b": 9, "c": 9}),
    "reference_behaviour": st.booleans(),
    "seed": st.integers(-5, 2**70),
}


@fuzz
@given(sizes, sizes, st.integers(-1, 8), seeds, st.booleans(), st.data())
def test_coreset_selector(n, d, budget, seed, replaces_options, data):
    options = {name: data.draw(strategy, name) for name, strategy in SELECTOR_OPTIONS.items()}
    observed = (
        Observed(
            matrix(n, d, seed),
            *matrix(n, 1, seed + 1).T,
            *matrix(2 * n, 3, seed + 2).split(max(n, 1))[:2],
        )
        if n
        else None
    )
    arguments = {
        "observed": observed,
        "budget": budget,
        "sources": [("a", "b", "c")[row % 3] for row in range(n)],
        "label_tokens": torch.arange(n),
        "weight": torch.ones(d),
        "keys": list(range(n)),
        "step": 3,
    }
    if replaces_options:
        options = with_junk(data, options)
    else:
        arguments = with_junk(data, arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            selector = CoresetSelector(**options)
            selection = selector.select(**arguments)
            again = CoresetSelector(**options)
            again.load_state_dict(selector.state_dict())
        except ValueError as error:
            names_an_argument(error, CoresetSelector, CoresetSelector.select)
            return
    kept = len(selection.indices)
    check_indices(selection.indices, kept, len(arguments["sources"] or observed.gradients))
    assert torch.isfinite(selection.weights).all()
    assert again.state_dict().keys() == selector.state_dict().keys()


def test_every_public_name_is_fuzzed_somewhere():
    tested = {
        "attach_side_block",
        "available_selectors",
        "balanced_sampling",
        "ClusteredBatches",
        "CoresetSelector",
        "facility_location",
        "facility_location_from_features",
        "gradient_matching",
        "importance_sampling",
        "last_value_gradients",
        "load_side_block",
        "LowRankAdam",
        "mean_matching",
        "register_selector",
        "replay_log",
        "save_side_block",
        "side_block_of",
        "SubspaceOptimizer",
        "Subspaces",
        "ValueGradients",
        "ZerothOrderOptimizer",
    }
    assert set(colm.__all__) <= tested | RECORDS | TRAINING


@fuzz
@given(st.data())
def test_register_selector(data):
    arguments = {
        "name": "fuzzed",
        "needs": data.draw(st.lists(st.sampled_from(["gradients", "losses"]), max_size=2)),
        "keeps_all": False,
        "most_together": 7,
        "defaults": {"weighted": True, "small_sources": "auto"},
    }
    before = available_selectors()
    arguments = with_junk(data, arguments)
    try:
        colm.register_selector(**arguments)(lambda candidates, budget, generator: None)
        assert available_selectors() == (*before, arguments["name"])
        assert CoresetSelector(arguments["name"]).needs == tuple(arguments["needs"])
    except ValueError as error:
        if "exists already" not in str(error):
            names_an_argument(error, colm.register_selector)
    finally:
        for name in set(_SELECTORS) - set(before):
            del _SELECTORS[name]


@pytest.fixture(scope="module")
def model(tiny_model_folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model_folder)


@settings(fuzz, max_examples=60)
@given(st.integers(0, 3), st.integers(0, 6), seeds, st.booleans(), st.data())
def test_gradients_of_a_model(model, n, t, seed, replaces_options, data):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 90, (n, t), generator=generator)
    labels = torch.where(torch.rand(n, t, generator=generator) < 0.4, -100, tokens)
    batch = {"input_ids": tokens, "labels": labels, "attention_mask": torch.ones_like(tokens)}
    options = {
        "estimator": data.draw(st.sampled_from(["exact", "directional", "zeroth_order"])),
        "projections": data.draw(st.sampled_from([("v",), ["q", "mlp"], ("k", "o")])),
        "reduction": data.draw(st.sampled_from(["mean", "sum"])),
        "generator": generator,
        "num_directions": 2,
        "perturbation_scale": 1e-3,
    }
    if replaces_options:
        options = with_junk(data, options)
    else:
        batch = with_junk(data, batch)
    try:
        features = colm.last_value_gradients(model, batch, **options)
    except ValueError as error:
        keys = {*batch, *options, "gradient"}  # the option's name where it is one of several
        assert any(key in str(error) for key in keys), error  # noqa: PT017
        return
    assert features.ndim == 2
    assert torch.isfinite(features).all()


@settings(fuzz, max_examples=60)
@given(st.integers(1, 40), seeds, st.data())
def test_subspaces_of_a_model(model, rank, seed, data):
    arguments = {
        "rank": rank,
        "sampling": data.draw(st.sampled_from(["gaussian", "haar"])),
        "rounding": data.draw(st.sampled_from(["stochastic", "nearest"])),
        "others": data.draw(st.lists(st.sampled_from(["norms", "embeddings", "head", "rest"]))),
        "seed": seed,
    }
    inner = {"inner_steps": 2, "proximal": 1.0, "moments": "kept"}
    names = list(model.state_dict())
    replaced = data.draw(st.sampled_from([arguments, inner]))
    with_junk(data, replaced)
    subspaces = None
    try:
        subspaces = colm.Subspaces(model, **arguments)
        optimizer = colm.SubspaceOptimizer(subspaces, lr=0.0, **inner)
        assert len(optimizer.param_groups) <= 2
    except ValueError as error:
        names_an_argument(error, colm.Subspaces, colm.SubspaceOptimizer)
    finally:
        if subspaces is not None:
            subspaces.detach()
    assert list(model.state_dict()) == names


@settings(fuzz, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 3), st.data())
def test_side_block_of_a_model(model, tmp_path_factory, reduction, every, data):
    arguments = with_junk(data, {"reduction": reduction, "every": every, "seed": 3})
    names = list(model.state_dict())
    block = None
    try:
        block = colm.attach_side_block(model, **arguments)
        assert colm.side_block_of(model) is block
        folder = tmp_path_factory.mktemp("block")
        colm.save_side_block(model, folder)
        assert colm.load_side_block(model, folder) is block
    except ValueError as error:
        names_an_argument(error, colm.attach_side_block)
    finally:
        if block is not None:
            block.detach()
    assert list(model.state_dict()) == names


@settings(fuzz, max_examples=100)
@given(st.data())
def test_optimizers_of_less_memory(data):
    layer = torch.nn.Linear(4, 3)
    kind = data.draw(st.sampled_from([colm.LowRankAdam, colm.ZerothOrderOptimizer]))
    choices = {
        colm.LowRankAdam: {"subspace": "random", "rank": 2, "refresh": 3, "scale": 0.5},
        colm.ZerothOrderOptimizer: {"direction": "subspace", "rank": 2, "epsilon": 0.01},
    }
    names = set(choices[kind]) | {"levels", "estimator", "update", "directions", "seed"}
    options = with_junk(data, {"seed": 3, **choices[kind]})
    try:
        if kind is colm.LowRankAdam:
            optimizer = kind(layer.parameters(), lr=0.1, **options)
            layer(torch.ones(1, 4)).sum().backward()
            optimizer.step()
        else:
            optimizer = kind(layer, lr=0.1, **options)
            optimizer.step(lambda: layer(torch.ones(1, 4)).square().sum())
            again = colm.replay_log(torch.nn.Linear(4, 3), log_of(optimizer))
            assert again.steps == optimizer.steps
    except ValueError as error:
        message = str(error)
        assert "\n" not in message, message
        assert any(name in message for name in names), message
        return
    assert all(weight.isfinite().all() for weight in layer.parameters())


@settings(fuzz, max_examples=100)
@given(st.integers(0, 9), st.data())
def test_clustered_batches(number, data):
    arguments = {"cluster_sizes": [1, 2], "refresh_every": 2, "encode_batch_size": 4}
    arguments = with_junk(data, arguments)
    texts = [f"text {place}" for place in range(number)]
    try:
        source = colm.ClusteredBatches(torch.nn.Linear(1, 1), texts, **arguments)
    except ValueError as error:
        names_an_argument(error, colm.ClusteredBatches)
        return
    dataset = Dataset.from_dict({"text": [*texts, "another"]})
    rows = [row for batch in source(dataset, 3, drop_last=False) for row in batch]
    assert sorted(rows) == list(range(number + 1))
