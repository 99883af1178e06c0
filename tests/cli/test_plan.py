"""``colm plan``: a table or JSON from a configuration alone, and one line for bad input."""

import functools
import json
import re

import pytest

from colm.cli import main
from colm.cli.plan import in_bytes, with_prefix
from colm.planning import plan as planning

measure_once = functools.cache(planning.measure_machine)

QUICK = (
    "--per_device_train_batch_size=2",
    "--max_length=16",
    "--bf16=false",
    "--use_cpu=true",
    "--gradient_checkpointing=false",
)


@pytest.fixture(autouse=True)
def _same_machine_everywhere(monkeypatch):
    def measured(dtypes, device):
        return measure_once(frozenset(dtypes), device)

    monkeypatch.setattr(planning, "measure_machine", measured)


@pytest.fixture
def skeleton_folder(tiny_model_folder, tmp_path):
    """A folder with the configuration of a model and nothing else."""
    folder = tmp_path / "skeleton"
    folder.mkdir()
    config = json.loads((tiny_model_folder / "config.json").read_text())
    config |= {"num_hidden_layers": 1, "layer_types": None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def recipe(skeleton_folder, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"model_name_or_path: {skeleton_folder}\ndataset_name: no-such-data\n"
        f"output_dir: {tmp_path / 'run'}\ngradient_accumulation_steps: 2\ncandidate_ratio: 2.0\n"
    )
    return path


@pytest.mark.slow
def test_a_plan_needs_a_configuration_alone(recipe, tmp_path, capsys):
    assert main(["plan", "--config", str(recipe), *QUICK]) == 0
    shown = capsys.readouterr().out
    assert "25,888, of which trained 25,888" in shown
    assert "r = 2 of n = 4 examples of 16 tokens" in shown
    assert "2 a step" in shown
    (head,) = (line for line in shown.splitlines() if "plain 2n" in line)
    assert head.split() == ["colm", "plain", "r", "plain", "n", "plain", "2n"]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_options_go_before_the_recipe_and_json_has_bytes(recipe, capsys):
    assert main(["plan", "--json", "--config", str(recipe), *QUICK, "--candidate_ratio=4"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [way["examples"] for way in plan["ways"].values()] == [2, 2, 8, 16]
    assert plan["optimizer_bytes"] == 2 * plan["gradient_bytes"] == 8 * plan["parameters"]
    assert plan["tokens"] == 16


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "heading", "selector", "examples"),
    [
        (("--selector=random",), "random", "random", 2),
        (("--selector=ssm",), "ssm", "ssm", 2),
        (("--subspace_rank=4",), "colm", "colm", 2),
        (("--selector=none",), "this run", None, 4),
        (("--candidate_ratio=1",), "this run", None, 2),
    ],
)
def test_the_run_is_called_by_what_it_selects_with(
    options, heading, selector, examples, recipe, capsys
):
    assert main(["plan", "--config", str(recipe), *QUICK, *options]) == 0
    shown = capsys.readouterr().out
    (head,) = (line for line in shown.splitlines() if "plain 2n" in line)
    assert head.split()[:-6] == heading.split()
    assert ("colm" in shown) == (heading == "colm")
    assert main(["plan", "--json", "--config", str(recipe), *QUICK, *options]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["selector"] == selector
    assert plan["ways"]["colm"]["examples"] == examples
    assert any("selects nothing" in note for note in plan["notes"]) == (selector is None)


@pytest.mark.slow
def test_tokens_stand_in_for_the_longest_example(recipe, capsys):
    found = []
    for tokens in (8, 16):
        assert main(["plan", "--json", f"--config={recipe}", *QUICK, "--tokens", str(tokens)]) == 0
        found.append(json.loads(capsys.readouterr().out)["ways"]["plain_n"]["flops"])
    assert found[0] < 0.6 * found[1]


@pytest.mark.slow
def test_an_unknown_optimiser_is_named(recipe, capsys):
    assert main(["plan", "--config", str(recipe), *QUICK, "--optim=grokadamw"]) == 0
    assert "unknown (grokadamw)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--config=nowhere.yaml",), "nowhere.yaml: no such file"),
        (("--candidate_ration=2",), "unknown option '--candidate_ration'; did you mean"),
        (("--candidate_ratio=0.5",), "candidate_ratio .* 1"),
        ((), "no model: set model_name_or_path"),
        (("--model_name_or_path=./nowhere",), "there is no folder ./nowhere"),
        (("--model_name_or_path={model}", "--tokens=1"), "--tokens .* 2"),
        (("--model_name_or_path={model}", "--tokens=many"), "invalid int value: 'many'"),
        (
            ("--model_name_or_path={model}", "--optim=galore_adamw"),
            "galore_adamw.* needs optim_target_modules",
        ),
        (
            ("--model_name_or_path={model}", "--use_peft", "--lora_target_modules", "nothing"),
            "cannot put the adapters on the model",
        ),
        (("--model_name_or_path={empty}",), "cannot read the configuration of model"),
        (("--model_name_or_path=no/such-model",), "config.json is enough"),
    ],
)
def test_bad_input_is_one_line(options, complaint, skeleton_folder, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    places = {"model": skeleton_folder, "empty": empty}
    assert main(["plan", *QUICK, *(option.format(**places) for option in options)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("colm: error: ")
    assert re.search(complaint, shown.err)
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.50 kB"), (12_340_000, "12.3 MB"), (2e9, "2.00 GB")],
)
def test_bytes_are_easy_to_read(number, shown):
    assert in_bytes(number) == shown


def test_large_numbers_have_prefixes():
    assert with_prefix(1.5e15, "FLOP") == "1.50 PFLOP"
    assert in_bytes(None) == "unknown"
