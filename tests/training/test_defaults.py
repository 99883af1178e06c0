"""Defaults: what each selector brings, what goes before it, and that no copy loses a value."""

import dataclasses
import json

import pytest
import torch
from transformers import TrainingArguments
from trl import SFTConfig

from colm import CoLMConfig, CoLMTrainingArguments, CoresetSelector, register_selector
from colm.coreset import registry
from colm.coreset.registry import BASE_DEFAULTS, available_selectors, get_selector
from colm.runs.arguments import parse_arguments
from colm.runs.model_card import describe_training
from colm.training.checkpoints.selector_state import (
    RESUME_SETTINGS,
    load_state,
    resume_settings,
    save_state,
)
from colm.training.options.by_selector import options_by_selector
from colm.training.options.config import with_selection_arguments
from colm.training.options.former import FORMER
from colm.training.options.selection_arguments import SelectionArguments
from colm.training.recording import record_of

# What a configuration is without selector and options: CoLM, by the exact gradient.
COLM = {
    "gradient": "exact",
    "projections": ["v"],
    "normalization": "adam",
    "dimension_criterion": "gradient",
    "distance": "l1",
    "allocation": "proportional",
    "weighted": False,
    "small_sources": ["auto"],
    "candidate_sampling": "uniform",
}
BASE = COLM | {"small_sources": ["none"]}
SPREAD = BASE | {"projections": ["spread"], "normalization": "rms"}
BY_SELECTOR = dict.fromkeys(available_selectors(), BASE) | {
    "colm": COLM,
    "ssm": BASE
    | {
        "normalization": "none",
        "allocation": "none",
        "candidate_sampling": "inverse_source_size",
    },
    "mean_matching": COLM,
    "small_random": COLM,
    "gradient_matching": SPREAD | {"weighted": True},
    "balanced_sampling": SPREAD | {"candidate_sampling": "unimax"},
    "importance_sampling": SPREAD | {"candidate_sampling": "unimax", "weighted": True},
}


@pytest.fixture
def config(tmp_path):
    """Make a configuration for a machine without an accelerator."""

    def make(config_class=CoLMConfig, **options):
        defaults = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
        return config_class(**(defaults | options))

    return make


@pytest.fixture
def registered(monkeypatch):
    """Register selectors for one test."""
    monkeypatch.setattr(registry, "_SELECTORS", dict(registry._SELECTORS))
    return register_selector


def governed(args):
    return {name: getattr(args, name) for name in BASE_DEFAULTS}


def first(candidates, budget, generator):
    return torch.arange(budget)


@pytest.mark.parametrize("config_class", [CoLMConfig, CoLMTrainingArguments])
def test_the_default_is_colm(config, config_class):
    args = config(config_class)
    assert args.selector == "colm"
    assert governed(args) == COLM
    assert (args.num_directions, args.reference_behaviour) == (1, False)
    assert args.kept_dimensions is None


@pytest.mark.parametrize("selector", BY_SELECTOR)
def test_a_selector_brings_its_options(config, selector):
    assert governed(config(selector=selector)) == BY_SELECTOR[selector]
    assert governed(config(selector=selector, candidate_ratio=1)) == BY_SELECTOR[selector]
    assert options_by_selector(selector) == BY_SELECTOR[selector]


@pytest.mark.parametrize("selector", BY_SELECTOR)
def test_a_selector_outside_of_trainers_has_the_same(selector):
    made, brought = CoresetSelector(selector), get_selector(selector).defaults
    assert made.normalization == brought["normalization"]
    for option in ("distance", "allocation", "dimension_criterion"):
        assert getattr(made.options, option) == brought[option]
    made._small_sources.see(["web"] * 9 + ["rare"])
    keeps = brought["small_sources"] == "auto"
    assert made._small_sources.names() == ({"rare"} if keeps else set())


@pytest.mark.parametrize("selector", BY_SELECTOR)
def test_the_command_line_and_the_model_card_say_the_same(selector):
    args = parse_arguments([f"--selector={selector}", "--use_cpu", "--bf16=false"]).training
    assert governed(args) == BY_SELECTOR[selector]
    card = describe_training(record_of(args))
    if not get_selector(selector).keeps_all:
        for option, value in BY_SELECTOR[selector].items():
            assert f"| `{option}` | `{value}` |" in card


def test_a_coreset_selector_is_colm():
    assert CoresetSelector().selector.name == "colm"


def test_a_selector_of_ones_own_brings_options_too(config, registered):
    brought = {"weighted": True, "distance": "cosine", "projections": ["q", "v"]}
    registered("own", needs=(), defaults=brought, most_together=9)(first)
    assert governed(config(selector="own")) == BASE | brought
    assert config(selector="own", weighted=False).weighted is False
    assert get_selector("own").most_together == 9
    assert CoresetSelector("own").options.distance == "cosine"
    brought["weighted"] = False
    assert config(selector="own").weighted is True


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"keeps_small_sources": True}, "keeps_small_sources.*'small_sources': 'auto'"),
        ({"weighs": False}, "weighs.*'weighted': True"),
        ({"defaults": {"normalisation": "none"}}, "defaults must be of.*normalization"),
        ({"defaults": {"weighted": "yes"}}, "weighted"),
        ({"defaults": 3}, "defaults must map"),
        ({"most_together": 0}, "most_together must be"),
    ],
)
def test_what_cannot_be_registered_is_named(registered, given, said):
    with pytest.raises(ValueError, match=said) as caught:
        registered("wrong", **given)
    assert "\n" not in str(caught.value)
    assert "wrong" not in available_selectors()


@pytest.mark.parametrize("former", FORMER)
def test_a_former_option_is_named_with_what_says_it_now(config, former, tmp_path):
    (tmp_path / "recipe.yaml").write_text(f"{former}: x\n")
    for tried in (
        lambda: config(**{former: "x"}),
        lambda: parse_arguments([f"--{former}=x"]),
        lambda: parse_arguments([f"--{former.replace('_', '-')}", "x"]),
        lambda: parse_arguments(["--config", str(tmp_path / "recipe.yaml")]),
    ):
        with pytest.raises(ValueError, match=f"{former} is no option any more: .") as caught:
            tried()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"selector": "gradient_matching", "gradient": "directional"}, ["projections", "gradient"]),
        ({"projections": "spread", "gradient": "zeroth_order"}, ["projections", "gradient"]),
        (
            {"selector": "balanced_sampling", "dimension_criterion": "weight"},
            ["projections", "dimension_criterion"],
        ),
        ({"projections": ["spread", "v"]}, ["projections"]),
        (
            {"selector": "balanced_sampling", "small_sources": ["rare"]},
            ["small_sources", "candidate_sampling", "balanced_sampling"],
        ),
        ({"selector": "ssm", "small_sources": "auto"}, ["small_sources", "candidate_sampling"]),
        ({"candidate_sampling": "unimax"}, ["small_sources", "candidate_sampling", "colm"]),
        (
            {"selector": "random", "small_sources": "a", "candidate_sampling": "unimax"},
            ["small_sources", "candidate_sampling"],
        ),
    ],
)
def test_what_cannot_go_together_is_refused(config, given, named):
    with pytest.raises(ValueError, match=named[0]) as caught:
        config(**given)
    assert all(name in str(caught.value) for name in named)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"selector": "gradient_matching", "gradient": "directional", "projections": "v"},
        {"selector": "balanced_sampling", "small_sources": "auto", "candidate_sampling": "uniform"},
        {"candidate_sampling": "unimax", "small_sources": "none"},
        {"candidate_sampling": "unimax", "candidate_ratio": 1},
        {"selector": "mean_matching", "projections": "spread"},
    ],
)
def test_what_goes_together_is_taken_as_given(config, given):
    args = config(**given)
    for name, value in given.items():
        assert getattr(args, name) in (value, [value])


@pytest.mark.parametrize("name", ["auto", "none", "rare"])
def test_small_sources_named_by_a_word_do_as_in_a_list(config, name):
    assert governed(config(small_sources=name)) == governed(config(small_sources=[name]))
    copied = dataclasses.replace(config(small_sources=name), seed=3)
    assert governed(copied) == governed(config(small_sources=name))


def test_fields_wait_for_the_selector_exactly_where_it_decides():
    waiting = {
        field.name
        for field in dataclasses.fields(SelectionArguments)
        if field.default is None and field.name in BASE_DEFAULTS
    }
    assert waiting == set(BASE_DEFAULTS)


@pytest.mark.parametrize("selector", ["colm", "ssm", "gradient_matching"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("projections", ["k", "mlp"]),
        ("normalization", "adam"),
        ("normalization", "none"),
        ("dimension_criterion", "random"),
        ("distance", "cosine"),
        ("allocation", "none"),
        ("weighted", True),
        ("weighted", False),
        ("small_sources", ["none"]),
        ("candidate_sampling", "uniform"),
    ],
)
def test_what_is_given_goes_before_what_a_selector_brings(config, selector, name, value):
    given = config(selector=selector, **{name: value})
    assert governed(given) == BY_SELECTOR[selector] | {name: value}


CHANGED = {
    "selector": "ssm",
    "num_directions": 4,
    "projections": ["q", "o"],
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
    assert expected["normalization"] == "none"

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
    assert (args.selector, governed(args)) == ("colm", COLM)
    args = with_selection_arguments(config(TrainingArguments, seed=9), CoLMTrainingArguments)
    assert args.seed == 9
    with pytest.raises(ValueError, match=r"args must be a CoLMConfig.* dict"):
        with_selection_arguments({}, CoLMConfig)


def test_lists_are_nobody_elses(config):
    args = config()
    args.projections.append("mlp")
    args.small_sources.append("mine")
    assert governed(config()) == COLM


def test_the_command_line_and_a_recipe_say_the_same(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "selector: ssm\nnum_directions: 4\nprojections: [q, v]\nsmall_sources: none\n"
        "weighted: true\nkept_dimensions: null\n"
    )
    line = "--selector ssm --num_directions 4 --projections q v --small_sources none --weighted"
    by_line = parse_arguments(line.split()).training
    by_recipe = parse_arguments(["--config", str(recipe)]).training
    assert governed(by_line) == governed(by_recipe)
    given = {"projections": ["q", "v"], "weighted": True}
    assert governed(by_line) == BY_SELECTOR["ssm"] | given
    assert by_line.num_directions == by_recipe.num_directions == 4
    # What stands on the line goes before what stands in the recipe, and both before the selector's.
    mixed = parse_arguments(["--config", str(recipe), "--selector", "colm", "--weighted", "false"])
    assert mixed.training.selector == "colm"
    assert governed(mixed.training) == COLM | {"projections": ["q", "v"], "small_sources": ["none"]}
    assert parse_arguments(["--reference_behaviour"]).training.reference_behaviour is True


def test_help_names_the_defaults_that_the_selector_decides(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for value in COLM.values():
        value = value[0] if isinstance(value, list) else value
        assert f"(default: by selector; colm: {value})" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"projections": ["v", "x"]},
            "projections.*q, k, v, o, mlp, spread.* 'x'",
        ),
        ({"projections": []}, "projections.*q, k, v, o, mlp, spread.* ''"),
        ({"projections": ["v", "v"]}, "projections must differ from each other; got"),
        ({"projections": b"v"}, "projections must be one name or a list of names.* b'v'"),
        ({"small_sources": b"a"}, "small_sources must be one name or a list of names.* b'a'"),
        (
            {"candidate_sampling": "weighted"},
            "candidate_sampling.*uniform, unimax, .*inverse_source_size.* 'weighted'",
        ),
        ({"arrange": "sorted"}, "arrange.*by_length, as_drawn.* 'sorted'"),
        ({"source_clusters": 1}, "source_clusters.*whole.* 2.* 1"),
        ({"match_every": -1}, "match_every.*whole.* 0.* -1"),
        ({"match_every": None}, "match_every.*whole.* 0.* None"),
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
    harmless = {"arrange", "selection_tokens", "match_every"}
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
