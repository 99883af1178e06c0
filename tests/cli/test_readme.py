"""What README and guides print to be copied runs as printed, in order, on what the project ships.

The model's name on the hub is that of a folder with a tiny random model. Nothing else stands in for
anything: the recipes, the data and the options are the project's own.
"""

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from colm.cli import main
from colm.data import read_file, source_counts

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
#: Programs whose lines other tests or CI run: they set up the environment that runs this.
SETTING_UP = ("make", "pip")
#: In lines of guides that are for a machine with more: accelerators, the hub, files of one's own,
#: other packages, or minutes. Tests of the commands themselves run each of their kind.
NOT_HERE = ("torchrun", "papers/phi-2", "evaluate", "my.jsonl", "tensorboard", "compare", "plan")

# Of 64 candidates more may be of small sources than there is room for: that is said, once.
pytestmark = pytest.mark.filterwarnings("ignore:.*small sources")


@pytest.fixture
def clone(tmp_path: Path, tiny_model_folder: Path, monkeypatch, no_progress_bars) -> Path:
    """A folder that holds what a clone does, as far as the README's lines ask for it."""
    for name in ("recipes", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copytree(tiny_model_folder, tmp_path / MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return tmp_path


def run_line(line: str) -> None:
    """Run a line of a bash block, where it is for this test to run."""
    words = shlex.split(line, comments=True)
    if not words or words[0] in SETTING_UP:
        return
    assert words[0] == "colm", f"the README prints a program that no test runs: {line}"
    assert main(words[1:]) == 0, line


def users_own() -> dict:
    """What the loop of a user's own has before it: a model, an optimiser and batches."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL)
    tokens = torch.randint(3, 200, (2, 8, 12), generator=torch.Generator().manual_seed(0))
    loader = [
        {"input_ids": rows, "attention_mask": torch.ones_like(rows), "labels": rows.clone()}
        for rows in tokens
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return {"model": model, "loader": loader, "optimizer": optimizer}


@pytest.mark.slow
def test_every_block_runs_in_order(clone: Path, capsys) -> None:
    blocks = BLOCK.findall((ROOT / "README.md").read_text())
    assert {language for language, _ in blocks} == {"bash", "python"}
    names = users_own()
    before = [weights.clone() for weights in names["model"].parameters()]
    for language, body in blocks:
        if language == "python":
            exec(compile(body, "README.md", "exec"), names)
        else:
            for line in body.splitlines():
                run_line(line)
    after = names["model"].parameters()
    assert not all(a.equal(b) for a, b in zip(after, before, strict=True))
    assert names["trainer"].state.global_step > 1
    page = (clone / "report.html").read_text("utf-8")
    assert "<svg" in page
    # Of nine kinds, five questions each.
    assert re.search(r"held-out\b.*\b45\b", capsys.readouterr().out)


def shortened(line: str) -> str:
    """A line of a guide with few steps; what goes on from a checkpoint has one step more."""
    if not line.startswith("colm sft"):
        return line
    return f"{line} --max_steps {3 if '--resume_from_checkpoint' in line else 2}"


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_guides_run_but_for_what_needs_more_than_is_here(guide: Path, clone: Path) -> None:
    names: dict = {}
    for language, body in BLOCK.findall(guide.read_text()):
        if language == "python":
            exec(
                compile(body.replace("SECONDS = 60 ", "SECONDS = 0.3 "), guide.name, "exec"), names
            )
        elif language == "bash":
            for line in body.replace("\\\n", " ").splitlines():
                if not any(word in line for word in NOT_HERE):
                    run_line(shortened(line))


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_each_guide_has_a_command(guide: Path) -> None:
    assert "bash" in {language for language, _ in BLOCK.findall(guide.read_text())}


@pytest.mark.slow
def test_the_mixture_runs_as_it_is(clone: Path) -> None:
    assert main(["sft", "--config", "recipes/mixture.yaml"]) == 0
    recipe = yaml.safe_load((clone / "recipes" / "mixture.yaml").read_text())
    card = (clone / recipe["output_dir"] / "README.md").read_text("utf-8")
    assert "word problems" in card
    assert "addition" in card


def test_the_data_are_what_their_script_makes(clone: Path) -> None:
    import runpy

    script = runpy.run_path(str(clone / "examples" / "make_data.py"))
    script["main"](["--folder", "again"])
    made = {path.name: path.read_bytes() for path in Path("again").iterdir()}
    assert made == {path.name: path.read_bytes() for path in (ROOT / "examples/data").iterdir()}


def test_some_sources_are_small_and_nothing_is_evaluated_that_was_trained_on() -> None:
    from colm.coreset.mixture import small_sources

    folder = ROOT / "examples" / "data"
    train = read_file(folder / "problems.jsonl")
    sizes = source_counts(train, "source")
    assert 0 < len(small_sources(sizes)) < len(sizes)
    asked = {prompt[0]["content"] for prompt in train["prompt"]}
    asked |= set(read_file(folder / "stories.csv")["question"])
    assert not asked & set(read_file(folder / "held-out.jsonl")["question"])
