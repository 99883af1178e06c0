"""What the README and the docs name exists, and the project's own files agree with each other."""

import ast
import contextlib
import functools
import inspect
import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import colm
from colm.training.citing import SOFTWARE
from tests.option_tables import OPTIONS, TABLE

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# Modules whose distribution has another name.
DISTRIBUTIONS = {"sklearn": "scikit-learn", "yaml": "pyyaml"}
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)")
FOLDERS = r"(?:src|tests|docs|benchmarks|recipes|examples|\.ci)"
REPOSITORY_PATH = re.compile(rf"(?<![\w./-]){FOLDERS}/[\w./-]*")
PROGRAMS = {"colm", "make", "python", "torchrun", "accelerate"}
LAUNCHED = re.compile(r"^(?:torchrun|accelerate launch) .*--module colm\.cli (?=\w)")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
# Roots of one machine's file system; spelled so that this line does not match itself.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home|tmp/dev)/")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)


def blocks(page: Path, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(page.read_text()) if language in languages]


def commands(page: Path) -> list[list[str]]:
    """Commands of a page's bash blocks and inline code, each split into words."""
    lines = [
        line.strip().removeprefix("$ ")
        for body in blocks(page, "bash")
        for line in body.replace("\\\n", " ").splitlines()
    ]
    lines += INLINE_CODE.findall(FENCE.sub("", page.read_text()))
    lines += [LAUNCHED.sub("colm ", line) for line in lines if LAUNCHED.match(line)]
    wanted = [line for line in lines if line.split(" ")[0] in PROGRAMS]
    return [shlex.split(line, comments=True) for line in wanted]


def make_targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@functools.cache
def help_of(*command: str) -> str:
    """What ``colm <command> --help`` prints, from the real parser in this process."""
    from colm.cli import main

    printed, argv = io.StringIO(), sys.argv
    sys.argv = ["colm", *command, "--help"]
    try:
        with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as stopped:
            main()
    finally:
        sys.argv = argv
    assert not stopped.value.code
    return printed.getvalue()


def options_of(*command: str) -> set[str]:
    """Options that ``colm <command>`` takes, dashes and underscores being the same."""
    return {option.replace("_", "-") for option in OPTION.findall(help_of(*command))}


def named_options(words: list[str]) -> set[str]:
    return {word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")}


@each_page
def test_colm_commands_and_their_options_exist(page: Path) -> None:
    for words in commands(page):
        if words[0] != "colm" or len(words) == 1:
            continue
        command = [] if words[1].startswith("-") else [words[1]]
        known = options_of(*command)
        if "[any option of colm sft]" in " ".join(help_of(*command).split()):
            known |= options_of("sft")
        unknown = named_options(words[1:]) - known
        assert not unknown, f"{page.name}: `{shlex.join(words)}` has unknown options {unknown}"


@each_page
def test_options_named_alone_exist(page: Path) -> None:
    listed = re.search(r"\{([\w,-]+)\}", help_of())[1].split(",")
    known = options_of().union(*(options_of(command) for command in listed))
    prose = FENCE.sub("", page.read_text())
    named = {
        option.replace("_", "-")
        for code in INLINE_CODE.findall(prose)
        if code.startswith("--")
        for option in OPTION.findall(code)
    }
    assert named <= known, f"{page.name}: no command has {named - known}"


@each_page
def test_make_targets_exist(page: Path) -> None:
    targets = make_targets()
    for words in commands(page):
        if words[0] == "make":
            goals = {word for word in words[1:] if "=" not in word}
            assert goals <= targets, f"{page.name}: no target {goals - targets}"


@each_page
def test_scripts_have_the_options_named(page: Path) -> None:
    for words in commands(page):
        scripts = [ROOT / word for word in words if word.endswith(".py")]
        for script in scripts:
            missing = [o for o in OPTION.findall(shlex.join(words)) if o not in script.read_text()]
            assert not missing, f"{page.name}: {script.name} has no option {missing}"


@each_page
def test_paths_of_the_repository_exist(page: Path) -> None:
    named = set(REPOSITORY_PATH.findall(page.read_text()))
    missing = [path for path in named if not (ROOT / path.rstrip(".")).exists()]
    assert not missing, f"{page.name} names {missing}"


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing, f"{page.name} links to {missing}"


@each_page
def test_python_snippets_name_what_exists(page: Path) -> None:
    for snippet in blocks(page, "python"):
        tree = ast.parse(snippet)
        imported = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "colm":
                module = __import__(node.module, fromlist=["*"])
                imported |= {alias.name: getattr(module, alias.name) for alias in node.names}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) in imported:
                signature = inspect.signature(imported[node.func.id])
                keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
                signature.bind_partial(*node.args, **keywords)


@each_recipe
def test_recipes_name_options_of_sft(recipe: Path) -> None:
    content = yaml.safe_load(recipe.read_text())
    unknown = {f"--{key}".replace("_", "-") for key in content} - options_of("sft")
    assert not unknown, f"{recipe.name}: {unknown}"


def test_there_is_a_recipe_to_start_from() -> None:
    assert ROOT / "recipes" / "quickstart.yaml" in RECIPES


def test_api_page_covers_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    public = [name for name in colm.__all__ if not name.startswith("_")]
    assert public
    missing = [name for name in public if not re.search(rf"^::: colm\.(.*\.)?{name}$", page, re.M)]
    assert not missing, f"docs/api.md lacks {missing}"


def test_configuration_page_covers_every_option_with_its_default(tmp_path: Path) -> None:
    from dataclasses import fields

    from trl import SFTConfig

    page = (ROOT / "docs" / "configuration.md").read_text()
    tables = "".join(found[3] for found in TABLE.finditer(page) if found[1] in OPTIONS)
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^|]*)` \|", tables, re.MULTILINE))
    # Two of transformers take more than they do there, and are listed.
    inherited = {field.name for field in fields(SFTConfig)} - {"optim", "optim_args"}
    # What the selector decides has its default once a configuration is made.
    config = colm.CoLMConfig(str(tmp_path), use_cpu=True, bf16=False)
    defaults = {
        field.name: getattr(config, field.name)
        for field in fields(colm.CoLMConfig)
        if field.name not in inherited
    }
    assert {name: ast.literal_eval(value) for name, value in rows.items()} == defaults


def values_in(text: str) -> dict[str, object]:
    """The options of a text in which each stands as `name=value`."""
    pairs = (code.partition("=") for code in INLINE_CODE.findall(text) if "=" in code)
    return {option: ast.literal_eval(value) for option, _, value in pairs}


def test_configuration_page_says_what_each_selector_brings() -> None:
    from colm.coreset.registry import _SELECTORS, BASE_DEFAULTS
    from colm.training.options.by_selector import options_by_selector

    page = (ROOT / "docs" / "configuration.md").read_text()
    section = page.partition("## One option names a method")[2].partition("As the papers")[0]
    (base,) = re.findall(r"Unless the table.*?\n\n", section, re.DOTALL)
    base = values_in(base)
    assert base.keys() == BASE_DEFAULTS.keys()
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", section, re.MULTILINE)
    brought = {name: values_in(row) for name, row in rows}
    assert all(brought.values())
    assert {name: base | brought.get(name, {}) for name in _SELECTORS} == {
        name: options_by_selector(name) for name in _SELECTORS
    }


def test_versions_and_citations_agree() -> None:
    version = PROJECT["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert colm.__version__ == citation["version"] == version
    (author,) = [each["name"] for each in citation["authors"]]
    facts = {name: citation[name] for name in ("title", "version", "license")}
    assert facts | {"author": author} == SOFTWARE
    assert re.search(rf"\b{re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text())


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def requirements() -> list[Requirement]:
    """Of the library, of its extras, and of the groups that `make` installs."""
    lists = [
        PROJECT["dependencies"],
        *PROJECT["optional-dependencies"].values(),
        *PYPROJECT["dependency-groups"].values(),
    ]
    return [Requirement(line) for lines in lists for line in lines if isinstance(line, str)]


def test_constraints_pin_every_requirement_within_its_bounds() -> None:
    wanted = requirements()
    assert all(requirement.specifier for requirement in wanted)
    pinned = pins()
    wrong = [
        str(requirement)
        for requirement in wanted
        if not requirement.specifier.contains(pinned.get(canonicalize_name(requirement.name), "0"))
    ]
    assert not wrong


def third_party_imports() -> set[str]:
    """Distributions that the library imports anywhere."""
    imported = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.partition(".")[0])
    return {
        canonicalize_name(DISTRIBUTIONS.get(name, name))
        for name in imported - sys.stdlib_module_names
    }


def test_every_third_party_import_is_a_declared_dependency() -> None:
    declared = {canonicalize_name(each.name) for each in requirements()}
    assert third_party_imports() - {PROJECT["name"]} <= declared


def test_a_plain_installation_lacks_only_what_says_how_to_install_it() -> None:
    plain = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    own = {PROJECT["name"]}
    asked_for = {"bitsandbytes", "gguf", "reasoning-gym", "scikit-learn", "threadpoolctl"}
    asked_for |= {"math-verify", "pytorch-optimizer", "sympy"}
    assert third_party_imports() - plain - own <= asked_for


def test_the_readmes_two_numbers_are_those_of_the_results() -> None:
    readme = (ROOT / "README.md").read_text()
    ours, plain = re.search(r"\*\*([\d.]+) against ([\d.]+)\*\*", readme).groups()
    found = (ROOT / "docs" / "results.md").read_text()
    assert re.search(rf"\| weighted sampling, random \([\d.]+ steps\) \| 3 \| {ours} ", found)
    assert re.search(rf"\| plain r \([\d.]+ steps\) \| 3 \| {plain} ", found)
    (ratio,) = re.findall(r"\*\*([\d.]+) of the time\*\*", readme)
    file = ROOT / "benchmarks" / "results" / "arrange" / "20261201-020921.json"
    assert ratio == f"{json.loads(file.read_text())['summary']['arranged_seconds_over_trl']:.2f}"


def test_make_finds_its_pins() -> None:
    needed = re.findall(r"\$\(call pinned,([\w-]+)\)", (ROOT / "Makefile").read_text())
    assert {canonicalize_name(name) for name in needed} <= pins().keys()


def test_hooks_run_the_makefiles_commands() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    makefile = (ROOT / "Makefile").read_text()
    check = re.search(r"^check: (.*?) ##", makefile, re.MULTILINE)[1].split()
    assert {hook["entry"] for hook in hooks} == {f"make {target}" for target in check[:3]}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.name)
def test_workflows_run_what_anyone_can_run(workflow: Path) -> None:
    targets = make_targets()
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    lines = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    assert jobs
    for line in lines:
        program, target, *variables = shlex.split(line)
        assert program == "make"
        assert target in targets
        assert all("=" in variable for variable in variables)


def test_workflows_cover_the_versions_that_are_promised() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    pythons = jobs["test"]["strategy"]["matrix"]["python-version"]
    said = [each.rpartition(" ")[2] for each in PROJECT["classifiers"] if ":: 3." in each]
    assert [pythons[0], pythons[-1]] == [said[0], said[-1]]
    assert PROJECT["requires-python"] == f">={said[0]}"
    lowest_torch = next(each for each in requirements() if each.name == "torch").specifier
    assert jobs["lowest"]["steps"][-1]["run"] == f"make lowest TORCH={str(lowest_torch)[2:]}"


def test_the_lowest_versions_are_those_of_every_requirement() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "lowest.py"], capture_output=True, text=True, check=True
    )
    lowest = [Requirement(line) for line in done.stdout.split()]
    bounds = {each.name: str(each.specifier) for each in requirements()}
    assert {each.name for each in lowest} > {
        Requirement(line).name for line in PROJECT["dependencies"]
    } - {"torch"}
    assert all(str(each.specifier).replace("==", ">=") == bounds[each.name] for each in lowest)


def test_no_file_holds_a_path_of_one_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert Path(__file__) in files
    found = []
    for path in files:
        content = path.read_bytes() if path.is_file() else b"\0"
        if b"\0" not in content and MACHINE_PATH.search(content.decode()):
            found.append(str(path.relative_to(ROOT)))
    assert not found
