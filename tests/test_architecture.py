"""The shape of the code: who may import whom, what stays unloaded, how long things may be.

Everything is read from the syntax trees, so no module is imported here but by the last tests.
"""

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = SOURCE / "colm"
MODULES = sorted(PACKAGE.rglob("*.py"))

MOST_LINES_IN_A_MODULE = 400
MOST_LINES_IN_A_BODY = 40
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}

# Floor by floor: a package imports the ground and the packages that stand here beside it.
GROUND = {
    "checks",
    "durable",
    "json_text",
    "names",
    "randomness",
    "run_record",
    "source_names",
    "versions",
}
USES_GROUND = {"checks", "durable", "run_record"}
ARROWS = {
    "coreset": set(),
    "gradients": {"coreset"},
    "memory": {"gradients"},
    "data": set(),
    "training": {"coreset", "gradients", "memory", "data"},
    "evaluation": {"gradients", "data"},
    "reports": set(),
    "runs": {"coreset", "gradients", "data", "training", "evaluation", "reports"},
    "planning": {"coreset", "gradients", "memory", "training", "runs"},
    "cli": {"data", "evaluation", "planning", "reports", "runs", "training"},
}
# Below training there is PyTorch, with NumPy, and nothing else; from there up, anything.
TENSORS_ALONE = GROUND | {"coreset", "gradients", "memory"}
TENSORS = {"torch", "numpy"}
HEAVY = {
    *TENSORS,
    "accelerate",
    "datasets",
    "matplotlib",
    "pandas",
    "peft",
    "pyarrow",
    "sklearn",
    "transformers",
    "trl",
}


@dataclass(frozen=True)
class Import:
    """One imported name: ``target`` is the full dotted name, ``lazy`` where no import runs it."""

    target: str
    lazy: bool
    for_types: bool

    @property
    def root(self) -> str:
        return self.target.partition(".")[0]


parsed = cache(ast.parse)


def imports_of(code: str, module: str, is_package: bool = False) -> list[Import]:
    """Every import of a module; a lazy one stands in a function, one for types is never run."""
    found: list[Import] = []

    def visit(node: ast.AST, lazy: bool, for_types: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, lazy, True)
            for child in node.orelse:
                visit(child, lazy, for_types)
            return
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, lazy, for_types) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            parent = module.split(".")[: None if is_package else -1]
            parent = parent[: len(parent) - node.level + 1] if node.level else []
            base = ".".join([*parent, *([node.module] if node.module else [])])
            found.extend(Import(f"{base}.{alias.name}", lazy, for_types) for alias in node.names)
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, lazy, for_types)

    visit(parsed(code), False, False)
    return found


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
    """``coreset`` for ``colm.coreset.mixture``, the empty string for ``colm`` itself."""
    return module.split(".")[1] if "." in module else ""


def read_imports(path: Path) -> list[Import]:
    return imports_of(path.read_text(), name_of(path), path.name == "__init__.py")


def forbidden(module: str, imported: Import) -> bool:
    """True where the floors do not allow this import."""
    package = package_of(module)
    if not package or imported.target == "colm.__version__":
        return False
    if imported.root != "colm":
        is_outside = imported.root not in TENSORS | set(sys.stdlib_module_names)
        return is_outside and package in TENSORS_ALONE and not imported.for_types
    below = {package} | (set() if package in GROUND - USES_GROUND else GROUND)
    return package_of(imported.target) not in below | ARROWS.get(package, set())


def functions_of(code: str) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(parsed(code)) if isinstance(node, ast.FunctionDef)]


def lines_of_body(function: ast.FunctionDef) -> int:
    """Lines from the first statement after the docstring to the last."""
    body = function.body[ast.get_docstring(function) is not None :]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


LIGHT_MODULES = [path for path in MODULES if package_of(name_of(path)) in {"", "cli"}]
by_module = pytest.mark.parametrize("path", MODULES, ids=name_of)


@by_module
def test_imports_follow_the_arrows(path: Path) -> None:
    module = name_of(path)
    broken = [found.target for found in read_imports(path) if forbidden(module, found)]
    assert not broken, f"{module} may not import {', '.join(broken)}"


@pytest.mark.parametrize("path", LIGHT_MODULES, ids=name_of)
def test_the_gate_and_the_cli_load_nothing_heavy(path: Path) -> None:
    module = name_of(path)
    eager = [i for i in read_imports(path) if not i.lazy and not i.for_types]
    heavy = [i.target for i in eager if i.root in HEAVY]
    other = [i.target for i in eager if i.root == "colm" and not i.target.startswith("colm.cli")]
    assert not heavy + other, f"{module} imports {', '.join(heavy + other)} outside a function"


@by_module
def test_modules_and_bodies_fit_a_screen(path: Path) -> None:
    code = path.read_text()
    assert len(code.splitlines()) <= MOST_LINES_IN_A_MODULE, f"{name_of(path)} is too long"
    lengths = {f.name: lines_of_body(f) for f in functions_of(code)}
    long = {name: lines for name, lines in lengths.items() if lines > MOST_LINES_IN_A_BODY}
    assert not long, f"{name_of(path)}: bodies over {MOST_LINES_IN_A_BODY} lines: {long}"


@by_module
def test_docstrings_are_markdown(path: Path) -> None:
    assert not re.findall(r":(?:class|func|meth|mod|attr|data):`", path.read_text())


def test_every_package_has_its_arrows() -> None:
    packages = {package_of(name_of(path)) for path in MODULES if path.parent != PACKAGE}
    assert packages == set(ARROWS)


def test_two_modules_of_one_name_are_a_command_and_what_it_does() -> None:
    homes: dict[str, set[str]] = {}
    for path in MODULES:
        if path.stem != "__init__":
            homes.setdefault(path.stem, set()).add(package_of(name_of(path)))
    twice = {stem: found for stem, found in homes.items() if len(found) > 1}
    assert not {stem for stem, found in twice.items() if not found <= {"cli", "runs", "planning"}}


def is_bound(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def public_names(code: str) -> set[str]:
    """What a module defines at its top level, without what begins with an underscore."""
    found: set[str] = set()
    for node in ast.parse(code).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            if target is not None:
                found |= {each.id for each in ast.walk(target) if is_bound(each)}
    return {name for name in found if not name.startswith("_")}


# What every command has; a program's beginning; a logger; what type checkers take for true.
OF_EACH_COMMAND = {"add_parser", "run", "OPTIONS"}
OF_EVERY_MODULE = {"main", "logger", "TYPE_CHECKING"}


def test_no_public_name_is_defined_twice() -> None:
    homes: dict[str, list[str]] = {}
    for path in MODULES:
        module = name_of(path)
        own = public_names(path.read_text()) - OF_EVERY_MODULE
        for name in own - (OF_EACH_COMMAND if package_of(module) == "cli" else set()):
            homes.setdefault(name, []).append(module)
    assert not {name: found for name, found in homes.items() if len(found) > 1}


def test_public_names_are_those_at_the_top() -> None:
    code = "A, _B = 1, 2\nC: int = 3\ndef f():\n    d = 1\nclass G: h = 1\nx.y = 4"
    assert public_names(code) == {"A", "C", "f", "G"}


def test_what_is_shipped_knows_nothing_of_benchmarks() -> None:
    assert not [name_of(path) for path in MODULES if "benchmark" in path.read_text().lower()]


def test_no_module_has_a_vague_name() -> None:
    assert not [name_of(path) for path in MODULES if path.stem in VAGUE_NAMES]


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("colm.coreset.coreset_selector", "from colm.gradients.batch import label_positions"),
        ("colm.coreset.coreset_selector", "from ..gradients import batch"),
        ("colm.coreset.coreset_selector", "def late():\n    import transformers"),
        ("colm.gradients.exact", "import colm.memory"),
        ("colm.memory.subspaces.linear", "import peft.tuners"),
        ("colm.data.files", "from colm.training import example"),
        ("colm.randomness", "from colm.coreset import mixture"),
        ("colm.training.trainer", "from colm.runs.sft import train"),
        ("colm.reports.page", "if 1 < 2:\n    from colm import data"),
        ("colm.runs.sft", "def late():\n    import colm.cli"),
    ],
)
def test_a_wrong_import_is_seen(module: str, code: str) -> None:
    assert any(forbidden(module, found) for found in imports_of(code, module))


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("colm.coreset.coreset_selector", "from colm.coreset.features import AdamMoments"),
        ("colm.coreset.coreset_selector", "from . import similarity"),
        ("colm.gradients.exact", "from typing import *\nif TYPE_CHECKING:\n    import trl"),
        ("colm.gradients.exact", "from colm.coreset.candidates import Observed"),
        ("colm.training.trainer", "import trl\nfrom colm.coreset import mixture"),
        ("colm.evaluation.held_out", "import peft"),
        ("colm.cli.sft", "def late():\n    import colm.training.trainer, torch"),
    ],
)
def test_a_right_import_is_not(module: str, code: str) -> None:
    assert not any(forbidden(module, found) for found in imports_of(code, module))


def loaded_after(code: str) -> set[str]:
    """Names of the top-level packages in ``sys.modules`` of a fresh process that ran ``code``."""
    script = (
        f"import sys\n{code}\nprint('LOADED', *{{name.partition('.')[0] for name in sys.modules}})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED")[2].split())


def test_importing_colm_loads_nothing_heavy() -> None:
    loaded = loaded_after("import colm; dir(colm)")
    assert "colm" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["plan", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    loaded = loaded_after(
        f"sys.argv = ['colm', *{arguments}]\n"
        "from colm.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code"
    )
    assert "argparse" in loaded
    assert not loaded & HEAVY
