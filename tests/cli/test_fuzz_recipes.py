"""Whatever a recipe or a configuration says, it is taken, or refused by the name of an option.

The same draws come in every run.
"""

import dataclasses
import datetime
import math

import pytest
import yaml
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from colm import CoLMConfig, CoLMTrainingArguments
from colm.runs.arguments import parse_arguments
from colm.training.options.selection_arguments import SelectionArguments

fuzz = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
OPTIONS = [field.name for field in dataclasses.fields(SelectionArguments)]
PLAIN = [
    "learning_rate",
    "max_steps",
    "max_length",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "packing",
    "seed",
    "output_dir",
    "report_to",
    "save_strategy",
    "lr_scheduler_kwargs",
    "trust_remote_code",
    "use_peft",
    "datasets",
]
CHOICES = ["auto", "none", "colm", "exact", "spread", "l1", "sum", "weight", "rms", "global", "v"]
scalars = (
    st.sampled_from(
        [None, True, False, -1, 0, 1, 2, 8192, 0.5, 1e-5, math.nan, math.inf, 10**40, *CHOICES]
    )
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
)
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=3), scalars)
yaml_values = values | st.just(datetime.date(2024, 2, 29)) | st.binary(max_size=3)


def refused_by_name(error, names):
    assert any(name in str(error) for name in names), error


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.slow
@pytest.mark.parametrize("config_class", [CoLMConfig, CoLMTrainingArguments])
@settings(fuzz, max_examples=150)
@given(options=st.dictionaries(st.sampled_from(OPTIONS), values, min_size=1, max_size=3))
@example(options={"source_weights": {"": "rms"}})
@example(options={"source_weights": {"a": "rms"}})
@example(options={"source_weights": ["=1"]})
def test_a_configuration_is_taken_or_names_the_option(config_class, folder, options):
    try:
        config = config_class(str(folder), use_cpu=True, bf16=False, report_to="none", **options)
    except ValueError as error:
        refused_by_name(error, OPTIONS)
        assert "\n" not in str(error)  # noqa: PT017
    else:
        # What came out settled can be passed in again and stays as it is.
        settled = {name: getattr(config, name) for name in OPTIONS}
        again = config_class(str(folder), use_cpu=True, bf16=False, report_to="none", **settled)
        assert {name: getattr(again, name) for name in OPTIONS} == settled


@pytest.mark.slow
@settings(fuzz, max_examples=60)
@given(st.dictionaries(st.sampled_from(OPTIONS + PLAIN), yaml_values, min_size=1, max_size=3))
def test_a_recipe_is_taken_or_names_the_option(folder, recipe):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    try:
        parse_arguments(["--config", str(path)])
    except ValueError as error:
        # Where YAML itself is refused, by its file and line.
        refused_by_name(error, [*recipe, *OPTIONS, "recipe.yaml: not valid YAML: line"])


LINES = st.sampled_from([*OPTIONS, "datasets", "env", "config", ""])
SYNTAX = st.text("[]{}&*!|>-?:,#'\"%@` \n\t~01ea\x00\ud7ff", max_size=12)


@settings(fuzz, max_examples=60)
@given(LINES, SYNTAX)
def test_any_text_is_a_recipe_or_none(folder, name, text):
    path = folder / "text.yaml"
    path.write_text(f"{name}: {text}", encoding="utf-8")
    try:
        parse_arguments(["--config", str(path), f"--output_dir={folder}"])
    except ValueError as error:
        refused_by_name(error, ["text.yaml", name or "text.yaml"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    ["seed: 2024-99-99", "seed: " + "[" * 2000, "a: &a [*a]", "? [a]\n: b", "seed: 0x", "- - -"],
)
def test_what_yaml_itself_stumbles_over(folder, text):
    path = folder / "odd.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"odd\.yaml"):
        parse_arguments(["--config", str(path)])
