"""What fits, against plans of the recipes that it says, and against a search of all sizes."""

import re

import pytest
import torch
import yaml

from colm.cli import main
from colm.planning import fits as fitting
from colm.planning import plan as planning
from colm.planning.fits import find_fits
from colm.planning.machine import Machine
from colm.planning.methods import MEMORY_METHODS
from colm.planning.plan import make_plan
from colm.runs.arguments import parse_arguments

TOKENS, EXAMPLES, USED = 16, 4, 40
ADAMW = "AdamW, all weights"


@pytest.fixture(autouse=True)
def _same_machine_everywhere(monkeypatch):
    machine = Machine({torch.float32: 1e9}, 1e30)
    monkeypatch.setattr(planning, "measure_machine", lambda *_: machine)


@pytest.fixture
def few(monkeypatch):
    """One method, to be quick."""
    monkeypatch.setattr(fitting, "MEMORY_METHODS", MEMORY_METHODS[:1])


@pytest.fixture
def words(tiny_model_folder, tmp_path):
    return [
        f"--model_name_or_path={tiny_model_folder}",
        f"--output_dir={tmp_path / 'run'}",
        f"--per_device_train_batch_size={EXAMPLES}",
        f"--max_length={TOKENS}",
        "--selector=random",
        "--bf16=false",
        "--use_cpu=true",
        "--report_to=none",
    ]


def check_recipes(found, words, tmp_path, used_tokens=None):
    """What a fit says is what the recipe with its settings is planned to take."""
    for fit in found.fits:
        assert fit.total_bytes <= found.memory_bytes
        assert fit.micro_batch * fit.micro_batches == EXAMPLES
        recipe = tmp_path / "fit.yaml"
        recipe.write_text(yaml.safe_dump(fit.settings))
        names = [f"--{name}=" for name in fit.settings]
        rest = [word for word in words if not word.startswith(tuple(names))]
        arguments = parse_arguments(["--config", str(recipe), *rest])
        way = make_plan(arguments, used_tokens=used_tokens, accelerator=True).ways["colm"]
        assert (fit.total_bytes, fit.flops) == (way.total_bytes, way.flops), fit.name
        assert way.examples == fit.micro_batch


@pytest.mark.slow
def test_a_micro_batch_is_the_largest_that_fits(few, words):
    everything = find_fits(words, 10**9, accelerator=True).fits[0]
    assert everything.micro_batch == EXAMPLES
    less = find_fits(words, everything.total_bytes - 1, accelerator=True).fits[0]
    assert less.micro_batch < EXAMPLES
    assert less.flops == pytest.approx(everything.flops, rel=0.02)
    assert find_fits(words, less.total_bytes, accelerator=True).fits[0] == less


@pytest.mark.slow
def test_every_method_takes_what_its_recipe_is_planned_to_take(words, tmp_path):
    pytest.importorskip("bitsandbytes")
    found = find_fits(words, 10**9, accelerator=True)
    assert not found.left_out
    assert {fit.name for fit in found.fits} == {method.name for method in MEMORY_METHODS}
    assert [fit.flops for fit in found.fits] == sorted(fit.flops for fit in found.fits)
    check_recipes(found, words, tmp_path)


@pytest.mark.slow
def test_pruning_and_checkpoints_come_where_they_are_needed(few, words, tmp_path):
    words = [word for word in words if word != "--selector=random"]
    (whole,) = find_fits(words, 10**9, used_tokens=USED, accelerator=True).fits
    assert whole.name == ADAMW
    tight = find_fits(words, whole.total_bytes - 1, used_tokens=USED, accelerator=True)
    assert [fit.name for fit in tight.fits if fit.micro_batch == EXAMPLES] == [
        f"{ADAMW}, pruned vocabulary"
    ]
    check_recipes(tight, words, tmp_path, USED)


@pytest.mark.slow
def test_where_nothing_fits_the_least_is_told(few, words, capsys):
    found = find_fits(words, 1000, accelerator=True)
    assert found.fits == []
    assert found.least.name == f"{ADAMW}, gradient checkpointing"
    assert found.least.micro_batch == 1
    assert main(["plan", "--fit=1kB", "--accelerator", *words]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("nothing fits into 1.00 kB")
    assert shown.count("\n") == 1
    assert "per_device_train_batch_size: 1" in shown


def test_methods_of_the_recipe_keep_their_numbers(words):
    arguments = parse_arguments([*words, "--subspace_rank=5"])
    methods = {method.name: method.options_for(arguments) for method in MEMORY_METHODS}
    assert methods["random subspaces"]["subspace_rank"] == 5
    assert methods["LoRA"]["subspace_rank"] is None
    arguments = parse_arguments([*words, "--optim=low_rank_adam", "--optim_args=rank=3"])
    methods = {method.name: method.options_for(arguments) for method in MEMORY_METHODS}
    assert methods["low-rank Adam"]["optim_args"] == "rank=3"
    assert methods["Adafactor"]["optim_args"] is None


@pytest.mark.parametrize("size", ["24", "GB", "0GB", "-1GB", "24GX", "nan GB", "1e3GB", ""])
def test_bad_sizes_are_refused_in_one_line(size, words, capsys):
    assert main(["plan", f"--fit={size}", *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.search(r"--fit must be a number above 0 with one of .*GB.*GiB", shown.err)
    assert shown.err.count("\n") == 1


def test_used_tokens_must_be_of_the_vocabulary(words, capsys):
    given = ["--prune_vocabulary=true", "--json", *words]
    assert main(["plan", *given]) == 2
    assert "--used_tokens" in capsys.readouterr().err
    assert main(["plan", "--used_tokens=100000", *given]) == 2
    assert "--used_tokens must be 1 to" in capsys.readouterr().err
