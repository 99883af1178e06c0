"""The papers' recipes: what they say, and each run end to end where the hub is a local folder.

Every name that a recipe has for the hub is that of a folder here, so the files run as they are but
for fewer steps and smaller micro-batches.
"""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

from colm.cli import main
from colm.coreset.registry import BASE_DEFAULTS
from colm.runs.arguments import SFTArguments, parse_arguments

ROOT = Path(__file__).parents[2]
PAPERS = ROOT / "recipes" / "papers"
MODEL_RECIPES = sorted(PAPERS.glob("*.yaml"))
OVERLAYS = sorted(PAPERS.glob("*/*.yaml"))

MODELS = {
    "phi-2": ("microsoft/phi-2", ["q_proj", "k_proj", "v_proj", "fc1", "fc2"]),
    "phi-3-mini": (
        "microsoft/Phi-3-mini-4k-instruct",
        ["qkv_proj", "gate_up_proj", "down_proj"],
    ),
    "zephyr-3b": ("stabilityai/stablelm-zephyr-3b", ["q_proj", "k_proj", "v_proj", "o_proj"]),
    "llama-3-8b": ("meta-llama/Meta-Llama-3-8B", ["q_proj", "k_proj", "v_proj", "o_proj"]),
}
SUPERGLUE = ["boolq", "cb", "copa", "multirc", "rte", "wic", "wsc", "sst2"]
# What both papers train with, option by option.
PAPER = {
    "selector": "colm",
    "gradient": "zeroth_order",
    "candidate_ratio": 2.0,
    "max_steps": 1024,
    "max_length": 512,
    "learning_rate": 2e-5,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.03,
    "use_peft": True,
    "lora_r": 128,
    "lora_alpha": 512,
    "lora_dropout": 0.05,
}
KEPT, DRAWN = 64, 128
# How a run is kept and computed, which no paper says or which is this project's.
HOUSEKEEPING = {
    "bf16", "dtype", "gradient_checkpointing", "logging_steps", "output_dir", "report_to",
    "save_steps", "save_total_limit", "seed", "selection_scope",
}  # fmt: skip
# Arm -> selector, examples drawn and trained on, how they are drawn, and which sources are small.
ARMS = {
    "ssm": ("ssm", DRAWN, KEPT, "inverse_source_size", "none"),
    "reference": ("colm", DRAWN, KEPT, "uniform", "auto"),
    "plain-64": (None, KEPT, KEPT, "uniform", None),
    "plain-128": (None, 128, 128, "uniform", None),
    "plain-256": (None, 256, 256, "uniform", None),
    "even-random": ("random", DRAWN, KEPT, "inverse_source_size", None),
    "small-random": ("small_random", DRAWN, KEPT, "uniform", "auto"),
    "default": ("colm", DRAWN, KEPT, "uniform", "auto"),
    "balanced": ("balanced_sampling", DRAWN, KEPT, "unimax", "none"),
}
VARIANTS = ["2048-steps", "cb", "clusters", "multirc", "sst2"]
QUICK = (
    "--max_steps=1",
    "--per_device_train_batch_size=2",
    "--gradient_accumulation_steps=2",
    "--disable_tqdm=true",
)

each_model = pytest.mark.parametrize("recipe", MODEL_RECIPES, ids=lambda path: path.stem)


@pytest.fixture
def sft(hub: Path, tmp_path: Path, monkeypatch, capsys) -> Iterator:
    """Run ``colm sft`` where the hub's names are folders; returns exit code, stderr, the run."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    monkeypatch.chdir(hub)

    def run(*arguments: str | Path) -> tuple[int, str, Path]:
        out = tmp_path / "run"
        capsys.readouterr()
        code = main(["sft", *map(str, arguments), f"--output_dir={out}"])
        return code, capsys.readouterr().err, out

    yield run
    logging.enable_progress_bar()
    datasets.enable_progress_bars()


def over(*recipes: str | Path) -> list[str]:
    """The arguments that name recipes, each over the one before."""
    return [word for recipe in recipes for word in ("--config", str(PAPERS / recipe))]


def sizes(parsed: SFTArguments) -> tuple[int, int]:
    """Examples that a step draws, and those it trains on, on one device."""
    training = parsed.training
    kept = training.per_device_train_batch_size * training.gradient_accumulation_steps
    return round(kept * training.candidate_ratio), kept


def first_step(run: Path) -> dict:
    state = json.loads((run / "trainer_state.json").read_text())
    return next(entry for entry in state["log_history"] if "loss" in entry)


def test_every_model_meets_every_data_set() -> None:
    names = {f"{model}-{data}" for model in MODELS for data in ("mathinstruct", "superglue")}
    assert {path.stem for path in MODEL_RECIPES} == names
    assert {path.stem for path in OVERLAYS} == {*ARMS, *VARIANTS}


@each_model
def test_a_recipe_says_what_the_papers_say(recipe: Path) -> None:
    said = yaml.safe_load(recipe.read_text())
    script, training, model, mixture = parsed = parse_arguments(over(recipe))
    name, _, data = recipe.stem.rpartition("-")
    hub_name, targets = MODELS[name]
    found = {k: getattr(model, k) if k.startswith(("lora", "use_peft")) else getattr(training, k)
             for k in PAPER}  # fmt: skip
    assert found == PAPER
    assert model.model_name_or_path == hub_name
    assert model.lora_target_modules == targets
    assert sizes(parsed) == (DRAWN, KEPT)
    if data == "mathinstruct":
        assert script.dataset_name == "TIGER-Lab/MathInstruct"
    else:
        assert [entry.name for entry in mixture.datasets] == SUPERGLUE
        assert {entry.path for entry in mixture.datasets} == {"aps/super_glue", "nyu-mll/glue"}
    assert training.output_dir == f"runs/{recipe.stem}"
    sized = {"per_device_train_batch_size", "gradient_accumulation_steps"}
    named = {"model_name_or_path", "lora_target_modules", "dataset_name", "datasets"}
    assert said.keys() <= {*PAPER, *HOUSEKEEPING, *sized, *named}


def test_the_page_on_recipes_names_each() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text()
    recipes = sorted((ROOT / "recipes").rglob("*.yaml"))
    missing = [path for path in recipes if f"`{path.relative_to(ROOT)}`" not in page]
    assert not missing


def test_warm_up_is_three_hundredths_of_either_length() -> None:
    steps = []
    for variant in ([], ["variants/2048-steps.yaml"]):
        training = parse_arguments(over("phi-2-mathinstruct.yaml", *variant)).training
        steps.append((training.max_steps, training.get_warmup_steps(training.max_steps)))
    assert steps == [(1024, 31), (2048, 62)]


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_changes_how_mini_batches_are_made_and_nothing_else(arm: str) -> None:
    base = parse_arguments(over("phi-2-superglue.yaml"))
    parsed = parse_arguments(over("phi-2-superglue.yaml", f"arms/{arm}.yaml"))
    selector, drawn, kept, sampling, small = ARMS[arm]
    training = parsed.training
    assert sizes(parsed) == (drawn, kept)
    assert training.candidate_sampling == sampling
    if selector is not None:
        assert training.selector == selector
    if small is not None:
        assert training.small_sources == [small]
    assert training.reference_behaviour == (arm == "reference")
    assert (parsed.script, parsed.model, parsed.mixture) == (base.script, base.model, base.mixture)
    for option in PAPER.keys() & vars(training).keys() - {
        "selector",
        "gradient",
        "candidate_ratio",
    }:
        assert getattr(training, option) == getattr(base.training, option)


@pytest.mark.parametrize("arm", ["ssm", "reference"])
def test_a_published_method_is_that_over_any_recipe(arm: str) -> None:
    training = parse_arguments(
        ["--config", str(ROOT / "recipes/quickstart.yaml"), *over(f"arms/{arm}.yaml")]
    ).training
    assert (training.selector, training.gradient) == (ARMS[arm][0], "zeroth_order")


def test_the_default_arm_is_the_default() -> None:
    arm = parse_arguments(over("phi-2-mathinstruct.yaml", "arms/default.yaml")).training
    plain = parse_arguments([]).training
    for option in ("selector", *BASE_DEFAULTS):
        assert getattr(arm, option) == getattr(plain, option)


@pytest.mark.parametrize("recipe", [*MODEL_RECIPES, *OVERLAYS], ids=lambda path: path.stem)
def test_the_commands_in_a_header_are_right(recipe: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    comments = re.findall(r"^# ?(.*)$", recipe.read_text(), re.MULTILINE)
    lines = "\n".join(comments).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line) for line in lines if line.strip().startswith("colm ")]
    assert commands
    for command in commands:
        assert command[:2] == ["colm", "sft"]
        parse_arguments(command[2:])
    own = str(recipe.relative_to(ROOT))
    assert any(own in command for command in commands)


@pytest.mark.slow
@each_model
def test_a_model_is_trained_as_its_recipe_says(sft, recipe: Path) -> None:
    code, err, run = sft("--config", recipe, *QUICK)
    assert code == 0, err
    name, _, data = recipe.stem.rpartition("-")
    targets = MODELS[name][1]
    with safe_open(run / "adapter_model.safetensors", "pt") as file:
        keys = list(file.keys())
    for layer in (0, 1):
        for target in targets:
            assert any(f"layers.{layer}." in key and f".{target}." in key for key in keys), target
    assert {key.split(".lora_")[0].rpartition(".")[2] for key in keys} == set(targets)
    step = first_step(run)
    assert (step["colm/candidates"], step["colm/kept"]) == (8, 4)
    sources = ["big", "large"] if data == "mathinstruct" else ["super_glue/boolq", "glue/sst2"]
    assert all(source in err for source in sources)
    assert f"of {5 if data == 'mathinstruct' else 8} sources" in err


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_is_trained(sft, arm: str) -> None:
    recipes = over("phi-2-mathinstruct.yaml", f"arms/{arm}.yaml")
    code, err, run = sft(*recipes, "--max_steps=1", "--per_device_train_batch_size=1")
    assert code == 0, err
    _, drawn, kept, _, _ = ARMS[arm]
    step = first_step(run)
    if drawn == kept:
        assert "colm/kept" not in step
        assert step["colm/candidates"] == drawn / 16
    else:
        assert (step["colm/candidates"], step["colm/kept"]) == (8, 4)


@pytest.mark.slow
def test_a_task_alone_has_clusters_for_sources(sft) -> None:
    recipes = over("phi-2-superglue.yaml", "variants/cb.yaml", "variants/clusters.yaml")
    code, err, run = sft(*recipes, *QUICK, "--source_clusters=2")
    assert code == 0, err
    assert "of 1 source: super_glue/cb" in err
    assert {key for key in first_step(run) if key.startswith("colm/candidates/")} <= {
        "colm/candidates/cluster 0",
        "colm/candidates/cluster 1",
    }


@pytest.mark.parametrize("task", ["cb", "multirc", "sst2"])
def test_a_variant_is_one_task(task: str) -> None:
    recipes = over("llama-3-8b-superglue.yaml", f"variants/{task}.yaml")
    (entry,) = parse_arguments(recipes).mixture.datasets
    assert entry.name == task


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_recipe_can_be_planned(model: str, hub: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(hub)
    arm = {"phi-2": ["arms/balanced.yaml"], "llama-3-8b": ["arms/ssm.yaml"]}.get(model, [])
    recipes = over(f"{model}-superglue.yaml", *arm)
    options = ("--per_device_train_batch_size=2", "--gradient_accumulation_steps=1")
    assert main(["plan", *recipes, *options, "--tokens=16", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "noise" not in err  # What is replayed can be copied to float32, as in training.
    plan = json.loads(out)
    assert [way["examples"] for way in plan["ways"].values()] == [2, 2, 4, 8]
    assert 0 < plan["trained_parameters"] < plan["parameters"]
