"""Presets: a paper's options, what goes before them, and that no way of copying loses a value."""

import dataclasses
import json

import pytest
import torch
from transformers import TrainingArguments
from trl import SFTConfig

from colm import Choice, CoLMConfig, CoLMTrainingArguments, register_selector
from colm.coreset import registry
from colm.runs.arguments import parse_arguments
from colm.training.checkpoints.selector_state import (
    RESUME_SETTINGS,
    load_state,
    resume_settings,
    save_state,
)
from colm.training.options.config import SelectionArguments, with_selection_arguments
from colm.training.options.presets import DEFAULTS, OF_SELECTOR, PRESETS, resolve

PAPERS = {
    "selector": ("colm", "ssm"),
    "gradient": ("zeroth_order", "zeroth_order"),
    "gradient_reduction": ("mean", "mean"),
    "gradient_layers": ("last", "last"),
    "selection_vocabulary": ("full", "full"),
    "num_directions": (1, 1),
    "projections": (["v"], ["v"]),
    "normalisation": ("adam", "none"),
    "dimension_criterion": ("gradient", "gradient"),
    "distance": ("l1", "l1"),
    "allocation": ("proportional", "proportional"),
    "weighted": (False, False),
    "example_weights": ("label_tokens", "label_tokens"),
    "small_sources": (["auto"], ["none"]),
    "candidate_sampling": ("uniform", "inverse_source_size"),
    "reference_behaviour": (False, False),
}


SPREAD = {
    "gradient_layers": "spread",
    "selection_vocabulary": "batch",
    "normalisation": "rms",
}
# What options are without any being given.
PLAIN = DEFAULTS | SPREAD | {"candidate_sampling": "unimax"}


@pytest.fixture
def config(tmp_path):
    """Make a configuration for a machine without an accelerator."""

    def make(config_class=CoLMConfig, **options):
        defaults = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
        return config_class(**(defaults | options))

    return make


def governed(args):
    return {name: getattr(args, name) for name in DEFAULTS}


def test_presets_are_what_the_papers_say(config):
    colm, ssm = ({name: values[paper] for name, values in PAPERS.items()} for paper in (0, 1))
    assert governed(config(preset="colm")) == colm
    assert governed(config(preset="ssm")) == ssm
    assert governed(config(preset="reference")) == colm | {"reference_behaviour": True}
    assert config(preset="colm").kept_dimensions is None
    assert set(PRESETS) == {"colm", "ssm", "reference"}


def test_every_preset_decides_every_option_that_any_decides():
    for options in PRESETS.values():
        assert set(options) == set(DEFAULTS)


@pytest.mark.parametrize("config_class", [CoLMConfig, CoLMTrainingArguments])
def test_without_a_preset_the_defaults_hold(config, config_class):
    assert governed(config(config_class)) == PLAIN
    assert PLAIN["selector"] == "balanced_sampling"
    assert PLAIN["weighted"] is False
    assert config(config_class).gradient_depth == 0.17


@pytest.mark.parametrize("selector", ["colm", "mean_matching", "random", "top_loss"])
def test_other_selectors_have_the_papers_features(config, selector):
    """Several layers and a small softmax belong to the two selectors that match gradients."""
    assert governed(config(selector=selector)) == DEFAULTS | {"selector": selector}
    assert set(OF_SELECTOR) == {"balanced_sampling", "importance_sampling", "gradient_matching"}


def test_gradient_matching_is_weighted_and_draws_uniformly(config):
    own = {"selector": "gradient_matching", "weighted": True}
    assert governed(config(selector="gradient_matching")) == DEFAULTS | SPREAD | own
    asked = config(selector="gradient_matching", candidate_sampling="unimax", weighted=False)
    assert (asked.candidate_sampling, asked.weighted) == ("unimax", False)
    assert governed(config(selector="balanced_sampling")) == PLAIN


def test_importance_sampling_is_weighted_and_drawn_as_the_default(config):
    own = {"selector": "importance_sampling", "weighted": True}
    assert governed(config(selector="importance_sampling")) == PLAIN | own


def test_a_selector_that_weighs_is_weighted_unless_told_not_to(config):
    name = "weighs_for_this_test"
    register_selector(name, needs=(), weighs=True)(lambda c, r, _: Choice(torch.arange(r)))
    try:
        assert config(selector=name).weighted is True
        assert config(selector=name, weighted=False).weighted is False
    finally:
        del registry._SELECTORS[name]


LAST_LAYER = {"gradient_layers": "last", "selection_vocabulary": "full"}


@pytest.mark.parametrize(
    ("given", "follows"),
    [
        ({"gradient": "directional"}, LAST_LAYER),
        ({"projections": ["k", "mlp"]}, LAST_LAYER),
        ({"dimension_criterion": "weight"}, LAST_LAYER),
        ({"gradient_layers": "last"}, LAST_LAYER),
        ({"selection_vocabulary": "full"}, {}),
        ({"weighted": True}, {}),
        ({"small_sources": ["rare"]}, {"candidate_sampling": "uniform"}),
        ({"small_sources": ["rare", "none"]}, {"candidate_sampling": "uniform"}),
        ({"small_sources": ["rare"], "candidate_sampling": "unimax"}, {}),
        ({"small_sources": ["none"]}, {}),
        ({"small_sources": ["auto"]}, {}),
        ({"candidate_sampling": "uniform"}, {}),
        ({"candidate_sampling": "inverse_source_size"}, {}),
    ],
)
@pytest.mark.parametrize(
    "selector", ["balanced_sampling", "importance_sampling", "gradient_matching"]
)
def test_what_does_not_go_with_an_option_steps_back(config, selector, given, follows):
    before = governed(config(selector=selector))
    assert governed(config(selector=selector, **given)) == before | follows | given
    if selector == DEFAULTS["selector"]:
        assert governed(config(**given)) == PLAIN | follows | given


@pytest.mark.parametrize("ratio", [1, 1.0])
def test_without_selection_nothing_is_drawn_otherwise_unless_asked_for(config, ratio):
    assert governed(config(candidate_ratio=ratio)) == PLAIN | {"candidate_sampling": "uniform"}
    asked = config(candidate_ratio=ratio, candidate_sampling="unimax")
    assert asked.candidate_sampling == "unimax"
    assert governed(config(candidate_ratio=1.5)) == PLAIN


@pytest.mark.parametrize("name", ["auto", "none", "rare"])
def test_small_sources_named_by_a_word_do_as_in_a_list(config, name):
    assert governed(config(small_sources=name)) == governed(config(small_sources=[name]))
    copied = dataclasses.replace(config(small_sources=name), seed=3)
    assert governed(copied) == governed(config(small_sources=name))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gradient_layers": "spread", "gradient": "directional"}, "needs gradient='exact'"),
        ({"gradient_layers": "last", "selection_vocabulary": "batch"}, "gradient_layers='spread'"),
        ({"gradient_layers": "first"}, "gradient_layers must be one of last, spread"),
        ({"example_weights": "tokens"}, "example_weights must be one of equal, label_tokens"),
    ],
)
def test_what_cannot_go_together_is_refused(config, given, message):
    with pytest.raises(ValueError, match=message):
        config(**given)


def test_fields_wait_for_the_preset_exactly_where_presets_govern():
    waiting = {
        field.name
        for field in dataclasses.fields(SelectionArguments)
        if field.name in DEFAULTS and field.default is None
    }
    assert waiting == set(DEFAULTS)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("selector", "random"),
        ("gradient", "directional"),
        ("gradient_reduction", "sum"),
        ("num_directions", 7),
        ("projections", ["k", "mlp"]),
        ("normalisation", "adam"),
        ("normalisation", "none"),
        ("dimension_criterion", "random"),
        ("distance", "cosine"),
        ("allocation", "none"),
        ("weighted", True),
        ("weighted", False),
        ("small_sources", ["rare", "odd"]),
        ("candidate_sampling", "uniform"),
        ("candidate_sampling", "inverse_source_size"),
        ("candidate_sampling", "unimax"),
        ("reference_behaviour", False),
        ("reference_behaviour", True),
    ],
)
def test_what_is_given_goes_before_the_preset(config, preset, name, value):
    given = config(preset=preset, **{name: value})
    assert governed(given) == governed(config(preset=preset)) | {name: value}


CHANGED = {
    "preset": "ssm",
    "num_directions": 4,
    "projections": ["q", "o"],
    "small_sources": ["auto"],
    "weighted": True,
    "prompt_features": True,
    "match_every": 5,
}


@pytest.mark.parametrize("config_class", [CoLMConfig, CoLMTrainingArguments])
def test_no_copy_loses_a_value(config, config_class):
    original = config(config_class, **CHANGED)
    fields = [field.name for field in dataclasses.fields(SelectionArguments)]
    expected = {name: getattr(original, name) for name in fields}
    assert expected["candidate_sampling"] == "inverse_source_size"
    assert expected["small_sources"] == ["auto"]

    replaced = dataclasses.replace(original, seed=3)
    written = json.loads(original.to_json_string())
    read = config(config_class, **{name: written[name] for name in fields})
    for copy in (replaced, read, with_selection_arguments(original, CoLMConfig)):
        assert {name: getattr(copy, name) for name in fields} == expected
    assert replaced.seed == 3


def test_a_plain_configuration_keeps_its_values_and_gets_the_defaults(config):
    plain = config(SFTConfig, learning_rate=3e-3, max_length=77)
    args = with_selection_arguments(plain, CoLMConfig)
    assert (args.learning_rate, args.max_length) == (3e-3, 77)
    assert governed(args) == PLAIN
    args = with_selection_arguments(config(TrainingArguments, seed=9), CoLMTrainingArguments)
    assert args.seed == 9
    with pytest.raises(ValueError, match="args must be a CoLMConfig; got dict"):
        with_selection_arguments({}, CoLMConfig)


def test_lists_are_nobody_elses(config):
    for preset in (None, "colm"):
        args = config(preset=preset)
        args.projections.append("mlp")
        args.small_sources.append("mine")
        assert config(preset=preset).projections == ["v"]
        assert config(preset=preset).small_sources == ["auto"]
    given = ["q"]
    resolve(None, {"projections": given})["projections"].append("k")
    assert given == ["q"]


def test_the_command_line_and_a_recipe_say_the_same(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "preset: ssm\nnum_directions: 4\nprojections: [q, v]\nsmall_sources: rare\nweighted: true\n"
        "kept_dimensions: null\n"
    )
    line = "--preset ssm --num_directions 4 --projections q v --small_sources rare --weighted"
    by_line = parse_arguments(line.split()).training
    by_recipe = parse_arguments(["--config", str(recipe)]).training
    assert governed(by_line) == governed(by_recipe)
    assert governed(by_line) == PRESETS["ssm"] | {
        "num_directions": 4,
        "projections": ["q", "v"],
        "small_sources": ["rare"],
        "weighted": True,
    }
    # What stands on the line goes before what stands in the recipe, and both before the preset.
    mixed = parse_arguments(["--config", str(recipe), "--preset", "colm", "--weighted", "false"])
    assert mixed.training.preset == "colm"
    assert mixed.training.weighted is False
    assert mixed.training.num_directions == 4
    assert mixed.training.normalisation == "adam"
    assert parse_arguments(["--preset", "reference"]).training.reference_behaviour is True


def test_help_names_the_defaults_that_wait_for_a_preset(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for value in (DEFAULTS["selector"], DEFAULTS["gradient"], "v", "auto", "False"):
        assert f"(default: {value}, or the preset's)" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "neurips"}, "preset must be one of colm, ssm, reference; got 'neurips'"),
        ({"projections": ["v", "x"]}, "projections must be one of q, k, v, o, mlp; got 'x'"),
        ({"projections": []}, "projections must be one of q, k, v, o, mlp; got ''"),
        ({"projections": ["v", "v"]}, "projections must differ from each other; got"),
        ({"projections": 3}, "projections must be one of q, k, v, o, mlp; got '3'"),
        ({"small_sources": b"a"}, "small_sources must be one name or a list of names; got b'a'"),
        (
            {"candidate_sampling": "weighted"},
            "candidate_sampling must be one of uniform, unimax, inverse_source_size; got "
            "'weighted'",
        ),
        ({"source_clusters": 1}, "source_clusters must be a whole number at least 2; got 1"),
        ({"match_every": -1}, "match_every must be a whole number at least 0; got -1"),
        ({"match_every": None}, "match_every must be a whole number at least 0; got None"),
        (
            {"source_clusters": 4, "source_column": "origin"},
            "source_clusters=4 makes sources of its own, and source_column='origin' names others",
        ),
    ],
)
def test_bad_values_are_named(config, options, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")) as caught:
        config(**options)
    assert "\n" not in str(caught.value)


def test_every_option_is_checked_on_resuming_or_changes_no_selection(config):
    harmless = {"preset", "selection_tokens", "match_every"}
    options = {field.name for field in dataclasses.fields(SelectionArguments)}
    assert options - set(RESUME_SETTINGS) == harmless


@pytest.mark.parametrize("name", RESUME_SETTINGS)
def test_each_setting_that_changed_is_refused_on_resuming(config, tmp_path, name):
    settings = resume_settings(config())
    save_state(tmp_path / "state.safetensors", {}, settings | {name: "something else"})
    with pytest.raises(ValueError, match=f"^{name} is .* written with 'something else'"):
        load_state(tmp_path / "state.safetensors", settings)
    save_state(tmp_path / "state.safetensors", {}, settings)
    assert load_state(tmp_path / "state.safetensors", settings) == {}
