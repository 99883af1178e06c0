"""Options and recipes: a recipe means what the command line means, and mistakes are one line."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colm.runs.arguments import make_sft_parser, parse_arguments
from colm.runs.option_help import own_groups
from colm.runs.recipes import find_recipe, shipped_recipes
from colm.training.options.hardware import supports_bf16
from colm.training.options.selection_arguments import SelectionArguments


@pytest.fixture
def recipe(tmp_path: Path):
    """Write a recipe; return the arguments that name it."""

    def write(text: str) -> list[str]:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return ["--config", str(path)]

    return write


OPTIONS = """
model_name_or_path: tiny
learning_rate: 2e-5
candidate_ratio: 4
weight_decay: 1
max_steps: -1
run_name: 2024
eval_strategy: no
bf16: false
use_peft: yes
lora_target_modules: [q_proj, v_proj]
lora_modules_to_save: lm_head
small_sources: [algebra, 7]
report_to: none
model_init_kwargs: {device_map: cpu}
max_length: null
datasets:
  - path: a.jsonl
    fraction: 0.5
  - b.jsonl
"""


def test_a_recipe_is_read_as_the_command_line_would(recipe) -> None:
    script, training, model, mixture = parse_arguments(recipe(OPTIONS))
    assert model.model_name_or_path == "tiny"
    assert training.learning_rate == 2e-5
    assert training.candidate_ratio == 4.0
    assert type(training.candidate_ratio) is type(training.weight_decay) is float
    assert training.max_steps == -1
    assert training.run_name == "2024"
    assert training.eval_strategy == "no"
    assert training.bf16 is False
    assert model.use_peft is True
    assert model.lora_target_modules == ["q_proj", "v_proj"]
    assert model.lora_modules_to_save in ("lm_head", ["lm_head"])
    assert training.small_sources == ["algebra", "7"]
    assert training.report_to == []
    assert training.model_init_kwargs == {"device_map": "cpu"}
    assert training.max_length is None
    assert [(s.path, s.fraction) for s in mixture.datasets] == [("a.jsonl", 0.5), ("b.jsonl", None)]
    assert script.dataset_name is None


@pytest.mark.parametrize("place", [0, 2, 99])
def test_the_command_line_goes_before_the_recipe(recipe, place: int) -> None:
    arguments = recipe("learning_rate: 1\nlora_r: 3\nuse_peft: true\nlora_target_modules: [a, b]\n")
    overrides = ["--learning_rate=0.5", "--lora_target_modules", "c", "d", "--use_peft", "false"]
    arguments = (
        [*overrides[:place], *arguments, *overrides[place:]]
        if place != 2
        else [overrides[0], *arguments, *overrides[1:]]
    )
    _, training, model, _ = parse_arguments(arguments)
    assert training.learning_rate == 0.5
    assert model.lora_r == 3
    assert model.lora_target_modules == ["c", "d"]
    assert model.use_peft is False


def test_every_option_of_trl_keeps_its_default(tmp_path: Path) -> None:
    from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig

    script, training, model, mixture = parse_arguments(["--output_dir", str(tmp_path)])
    assert (script, model, mixture) == (ScriptArguments(), ModelConfig(), DatasetMixtureConfig())
    plain = SFTConfig(str(tmp_path), use_cpu=training.use_cpu).to_dict()
    # The one that would make training slow here is left off.
    plain["bf16"] = supports_bf16(training.use_cpu)
    assert {name: training.to_dict()[name] for name in plain} == plain


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["learning_rate", "max_steps", "lora_dropout", "seed"]), st.integers(-5, 10**6)
)
def test_numbers_mean_the_same_in_both_places(tmp_path_factory, name: str, value: int) -> None:
    path = tmp_path_factory.mktemp("recipe") / "r.yaml"
    path.write_text(f"{name}: {value}\n")
    found = []
    for arguments in (["--config", str(path)], [f"--{name}={value}"]):
        try:
            parsed = parse_arguments(arguments)
        except ValueError as error:
            found.append(str(error))
        else:
            found.append(getattr(parsed.training, name, getattr(parsed.model, name, None)))
    assert found[0] == found[1]
    assert type(found[0]) is type(found[1])
    # What cannot be is refused by its name; the test of each option says what that is.
    assert found[0] == value or (isinstance(found[0], str) and name in found[0])


def test_a_switch_that_takes_words_too_can_be_on_in_a_recipe(recipe) -> None:
    training = parse_arguments(recipe("fsdp: true\nfsdp_config: {version: 2}")).training
    assert training.fsdp is True
    assert training.fsdp_config["version"] == 2


def test_a_recipe_can_set_the_environment(recipe, monkeypatch) -> None:
    monkeypatch.setenv("COLM_TEST", "before")
    parse_arguments(recipe("env: {COLM_TEST: 1}\nseed: 3"))
    assert os.environ["COLM_TEST"] == "1"
    with pytest.raises(ValueError, match="env must be a mapping"):
        parse_arguments(recipe("env: [A]"))


BAD_RECIPES = {
    "learning_rat: 1": "unknown option 'learning_rat'; did you mean learning_rate",
    "zzzzzz: 1": "unknown option 'zzzzzz'; see colm sft --help",
    "config: other.yaml": "unknown option 'config'",
    "help: true": "unknown option 'help'",
    "learning_rate: fast": "--learning_rate.*invalid float value: 'fast'",
    "learning_rate: [1, 2]": r"option 'learning_rate' cannot be \[1, 2\]",
    "learning_rate: {a: 1}": "option 'learning_rate' cannot be {'a': 1}",
    "learning_rate:": "option 'learning_rate' cannot be None",
    "max_steps: 1.5": "--max_steps.*invalid int value: '1.5'",
    "max_steps: true": "--max_steps.*invalid int value: 'true'",
    "use_peft: maybe": "--use_peft.*Truthy value expected: got maybe",
    "dtype: bf16": "--dtype.*invalid choice: 'bf16'",
    "eval_strategy: sometimes": "--eval_strategy.*invalid choice: 'sometimes'",
    "lora_target_modules: []": "option 'lora_target_modules' cannot be",
    "lora_target_modules: [[a]]": "option 'lora_target_modules' cannot be",
    "datasets: [{pth: a}]": "an entry of 'datasets' needs a path; got {'pth': 'a'}",
    "datasets: [{path: a, weight: 1}]": "unknown field 'weight' in datasets",
    "datasets: [{path: a, fractoin: 1}]": "unknown field 'fractoin'.*; did you mean fraction",
    "datasets: 3": "an entry of 'datasets' needs a path; got 3",
    "[1, 2]": "must be a YAML mapping",
    "": "must be a YAML mapping",
    "1: 2": "must be a YAML mapping",
    "a: b: c": "1: not valid YAML: mapping values are not allowed",
    "a: 1\nb: [": "2: not valid YAML",
    "a: \x00": "not valid YAML",
}


@pytest.mark.parametrize("text", BAD_RECIPES)
def test_a_mistake_in_a_recipe_names_file_and_option(recipe, text: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)recipe.yaml:.*{BAD_RECIPES[text]}"):
        parse_arguments(recipe(text))


def laughs(first: str, part: str) -> str:
    """Nine lines, each nine times the line before it: a few hundred characters, and billions."""
    lines = [first] + [
        f"{other}: &{other} {part.format(', '.join([f'*{one}'] * 9))}"
        for one, other in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        laughs("a: &a [lol, lol]", "[{}]"),
        laughs("a: &a {lol: lol}", "{{<<: [{}]}}"),
        laughs("a: &a {lol: lol}", "{{x: [{}]}}"),
        f"a: &a {'x' * 30_000}\nlearning_rate: [{', '.join(['*a'] * 300)}]",
    ],
)
def test_aliases_of_aliases_are_one_short_line(recipe, text: str) -> None:
    with pytest.raises(ValueError, match=r"recipe\.yaml.*alias") as raised:
        parse_arguments(recipe(text))
    assert len(str(raised.value)) < 500


def test_aliases_as_people_use_them_are_read(recipe) -> None:
    _, training, model, mixture = parse_arguments(
        recipe(
            "use_peft: true\nlora_target_modules: &names [q_proj, v_proj]\n"
            "lora_modules_to_save: *names\nseed: &seed 7\ndata_seed: *seed\n"
            "datasets:\n  - &first {path: a.jsonl, split: train}\n"
            "  - {<<: *first, path: b.jsonl}\n"
        )
    )
    assert model.lora_target_modules == model.lora_modules_to_save == ["q_proj", "v_proj"]
    assert training.seed == training.data_seed == 7
    assert [(each.path, each.split) for each in mixture.datasets] == [
        ("a.jsonl", "train"),
        ("b.jsonl", "train"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: &a [*a]", "alias"),
        ("a: &a {b: *a}", "alias"),
        ('dataset_name: "a\\0b"', "NUL"),
        ("a: " + "[" * 3000, "deep"),
        ("a: " + "{a: " * 3000, "deep"),
        (f"learning_rate: [{'1, ' * 100_000}1]", "learning_rate.* list"),
        (f"datasets: [[{'1, ' * 100_000}1]]", "datasets.* list"),
        (f"max_steps: {'9' * 5000}", "digits"),
        (f"max_steps: 0x{'f' * 5000}", "digits"),
    ],
)
def test_a_hostile_recipe_is_one_short_line(recipe, text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)recipe.yaml.*{complaint}") as raised:
        parse_arguments(recipe(text))
    assert len(str(raised.value)) < 10_000


@pytest.mark.parametrize("option", ["lr_scheduler_kwargs", "model_init_kwargs"])
def test_json_in_an_option_is_bounded(option: str) -> None:
    with pytest.raises(ValueError, match="deep"):
        parse_arguments([f"--{option}", '{"a": ' * 100_000])


def test_json_in_a_file_that_an_option_names_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "accelerator.json"
    path.write_text('{"a": ' * 100_000)
    with pytest.raises(ValueError, match="deep"):
        parse_arguments(["--accelerator_config", str(path)])
    path.write_text('{"no_such_key": 1}')
    with pytest.raises(ValueError, match="no_such_key"):
        parse_arguments(["--accelerator_config", str(path)])
    with pytest.raises(ValueError, match=r"nothing\.json"):
        parse_arguments(["--accelerator_config", str(tmp_path / "nothing.json")])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--learning_rat", "1"], "unknown option '--learning_rat'; did you mean --learning_rate"),
        (["--learning_rat=1"], "unknown option '--learning_rat'; did you mean --learning_rate"),
        (["--candidate_rati", "2"], "unknown option '--candidate_rati'; did you mean"),
        (["--zzzzzz"], "unknown option '--zzzzzz'; see colm sft --help"),
        (["train.jsonl"], "unexpected argument 'train.jsonl'"),
        (["--learning_rate", "fast"], "invalid float value: 'fast'"),
        (["--learning_rate"], "expected one argument"),
        (["--dtype", "bf16"], "invalid choice: 'bf16'"),
        (["--config"], "expected one argument"),
        (["--candidate_ratio", "0.5"], "candidate_ratio must be .* at least 1; got 0.5"),
        (["--selector", "magic"], "selector.*colm.*magic"),
        (["--eval_strategy", "steps", "--eval_steps", "0", "--logging_steps", "0"], "eval"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(arguments: list[str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as raised:
        parse_arguments(arguments)
    assert raised.traceback[-1].frame.f_globals["__name__"].startswith("colm.")


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.yaml: no such file"):
        parse_arguments(["--config", str(tmp_path / "nothing.yaml")])


def test_help_lists_every_option(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_arguments(["--help"])
    assert not stop.value.code
    shown = capsys.readouterr().out
    assert all(o in shown for o in ("--config", "--candidate_ratio", "--lora_r", "--max_length"))


def test_help_begins_with_the_options_of_colm_in_groups() -> None:
    parser = make_sft_parser()
    shown = parser.format_help()
    places = []
    for title, names in own_groups().items():
        places += [shown.index(f"\n{title}:\n")]
        places += [shown.index(f"\n  --{n} ", places[-1]) for n in names if n != "help"]
    assert places == sorted(places)
    assert shown.index("\n  --learning_rate ") > places[-1]
    of_selection = {each.name for each in dataclasses.fields(SelectionArguments)}
    grouped = [name for names in own_groups().values() for name in names]
    assert len(grouped) == len(set(grouped))
    assert of_selection <= set(grouped)
    # Each option stands there once, and is spelled with underscores; dashes are taken as well.
    for action in parser._actions:
        if action.dest != "help":
            assert len(re.findall(rf"^  {action.option_strings[0]}\b", shown, re.M)) == 1
    assert parse_arguments(["--candidate-ratio=4"]).training.candidate_ratio == 4


@pytest.mark.slow
def test_help_opens_before_the_trainers_of_other_libraries_are_loaded() -> None:
    code = (
        "import sys\nfrom colm.runs.option_help import make_opening_parser\n"
        "print(make_opening_parser().format_opening())\n"
        "print(sorted({'peft', 'datasets', 'accelerate'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    opening, _, loaded = done.stdout.rstrip("\n").rpartition("\n")
    assert loaded == "[]"
    assert "--candidate_ratio" in opening
    assert make_sft_parser().format_help().startswith(opening)


def test_later_recipes_go_before_earlier_ones_and_the_command_line_before_all(tmp_path) -> None:
    texts = {
        "a": "selector: ssm\nlearning_rate: 1e-3\nlora_r: 3\nlora_target_modules: [a, b]\nseed: 1",
        "b": "selector: random\nlearning_rate: 2e-3\nlora_target_modules: [c, d]\nseed: 2",
        "c": "learning_rate: 3e-3\nenv: {}",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    a, b, c = (f"--config={tmp_path / name}.yaml" for name in "abc")
    _, training, model, _ = parse_arguments([a, b, "--seed=9", c])
    assert training.selector == "random"
    assert training.learning_rate == 3e-3
    assert model.lora_r == 3
    assert model.lora_target_modules == ["c", "d"]  # lists are not joined
    assert training.seed == 9
    _, training, model, _ = parse_arguments([c, b, a])
    assert (training.selector, training.learning_rate, training.seed) == ("ssm", 1e-3, 1)


def test_one_recipe_given_twice_says_the_same(recipe) -> None:
    once = recipe("learning_rate: 2e-5\nuse_peft: true")
    assert parse_arguments([*once, *once]) == parse_arguments(once)


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_mistake_names_the_recipe_that_it_is_in(tmp_path, broken: int) -> None:
    arguments = []
    for number in range(3):
        path = tmp_path / f"r{number}.yaml"
        path.write_text("learning_rat: 1" if number == broken else "learning_rate: 1")
        arguments += ["--config", str(path)]
    with pytest.raises(ValueError, match=rf"r{broken}\.yaml: unknown option 'learning_rat'"):
        parse_arguments(arguments)


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[2].glob("recipes/*.yaml")))
def test_the_recipes_are_read(path: Path) -> None:
    _, training, model, _ = parse_arguments(["--config", str(path)])
    assert training.learning_rate == 4e-4
    assert training.selector == "colm"
    assert training.candidate_ratio == 2
    assert model.use_peft


@pytest.mark.parametrize("named", ["quickstart", "recipes/quickstart.yaml", "quickstart.yaml"])
def test_recipes_that_come_with_colm_are_found_from_any_folder(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_recipe(named).name == "quickstart.yaml"
    _, training, _, _ = parse_arguments(["--config", named])
    assert training.output_dir == "runs/quickstart"


def test_a_recipe_of_ones_own_goes_before_one_that_comes_with_colm(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "quickstart.yaml").write_text("output_dir: mine")
    _, training, _, _ = parse_arguments(["--config", "recipes/quickstart.yaml"])
    assert training.output_dir == "mine"


def test_all_recipes_come_with_colm() -> None:
    folder = Path(__file__).parents[2] / "recipes"
    assert {path.read_text() for path in shipped_recipes().values()} == {
        path.read_text() for path in folder.rglob("*.yaml")
    }


def test_a_recipe_that_is_nowhere_is_told_with_those_that_are(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"quickstar: no such file.*mixture.*quickstart"):
        parse_arguments(["--config", "quickstar"])
    with pytest.raises(FileNotFoundError, match=r"mine\.yaml: no such file$"):
        parse_arguments(["--config", "recipes/mine.yaml"])


def test_there_are_recipes() -> None:
    names = {path.stem for path in Path(__file__).parents[2].glob("recipes/*.yaml")}
    assert names >= {"quickstart", "mixture"}
    assert "quickstart" not in {action.dest for action in make_sft_parser()._actions}
