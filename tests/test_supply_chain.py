"""What is installed is pinned, what is run is known, and nobody else's code is run unasked."""

import ast
import json
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
# Modules and functions that run what a file says.
UNSAFE_MODULES = {"pickle", "dill", "cloudpickle", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "torch.load", "yaml.load", "os.system"}
# Where a model's program runs, in a process that the kernel confines: what the file is there for.
RUNS_PROGRAMS = ("confinement.py", "exec")


def applies(requirement, extras):
    return requirement.marker is None or any(
        requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)
    )


def test_constraints_pin_all_that_is_required_directly_or_not():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}
    lists = [
        PROJECT["dependencies"],
        *PROJECT["optional-dependencies"].values(),
        *PYPROJECT["dependency-groups"].values(),
    ]
    waiting = [Requirement(line) for lines in lists for line in lines if isinstance(line, str)]
    direct = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    installed = {f"{name}=={metadata.version(name)}".partition("+")[0] for name in direct}
    if installed - {line.lower() for line in lines}:
        pytest.skip("other versions are installed, as by make lowest, and may need others")
    seen, missing = set(), set()
    while waiting:
        requirement = waiting.pop()
        name, wanted = canonicalize_name(requirement.name), tuple(sorted(requirement.extras))
        # What PyTorch needs of an accelerator's vendor, it pins itself.
        vendor = name.startswith(("nvidia-", "cuda-")) or name == "triton"
        if (name, wanted) in seen or name == PROJECT["name"] or vendor:
            continue
        seen.add((name, wanted))
        missing |= {name} - pinned
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not installed here
        waiting += [each for each in map(Requirement, required) if applies(each, wanted)]
    assert len(seen) > 50
    assert not missing


def test_the_audit_covers_all_pins_and_fails_where_it_cannot_tell():
    makefile = (ROOT / "Makefile").read_text()
    rule = re.search(r"^audit: .*?\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    assert "pip-audit --requirement constraints.txt" in rule
    assert "--strict" in rule


def test_nothing_here_unpickles_or_runs_a_file():
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                found += [(path.name, name) for name in names & UNSAFE_MODULES]
            if isinstance(node, ast.Call) and ast.unparse(node.func) in UNSAFE_CALLS:
                call = (path.name, ast.unparse(node.func))
                found += [call] * (call != RUNS_PROGRAMS)
            is_on = isinstance(node, ast.keyword) and node.arg == "trust_remote_code"
            if is_on and ast.unparse(node.value) == "True":
                found.append((path.name, "trust_remote_code=True"))
    assert not found


@pytest.fixture
def model_with_code(tiny_model_folder, tmp_path):
    """A model folder whose configuration names code, which leaves a trace where it is run."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny_model_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "homemade",
        "architectures": ["HomemadeForCausalLM"],
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    trace = tmp_path / "trace"
    (folder / "code.py").write_text(
        f"from pathlib import Path\nPath({str(trace)!r}).touch()\n"
        "from transformers import LlamaConfig as Config, LlamaForCausalLM as Model\n"
    )
    return folder, trace


def test_code_of_a_model_is_not_run_unasked(model_with_code, tmp_path, capfd):
    from colm.cli import main

    folder, trace = model_with_code
    data = tmp_path / "train.jsonl"
    data.write_text('{"text": "a b c"}\n' * 8)
    options = [f"--model_name_or_path={folder}", f"--dataset_name={data}"]
    code = main(["sft", *options, f"--output_dir={tmp_path / 'out'}"])
    err = capfd.readouterr().err
    assert code == 2
    assert "trust_remote_code" in err.splitlines()[-1]
    assert not trace.exists()


def test_code_of_a_model_is_trusted_where_that_is_said(tmp_path):
    from colm.runs.arguments import parse_arguments
    from colm.runs.sft import _model_init_kwargs

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("trust_remote_code: true\n")
    trusting = parse_arguments(["--config", str(recipe)])
    assert trusting.training.trust_remote_code is True
    assert _model_init_kwargs(trusting)["trust_remote_code"] is True
    assert _model_init_kwargs(parse_arguments([]))["trust_remote_code"] is False
    assert parse_arguments([]).training.report_to == []
