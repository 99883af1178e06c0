"""The shape of the code: who may import whom, what stays unloaded, how long things may be.

Everything is read from the syntax trees, so no module is imported here but by the last tests.
"""

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = SOURCE / "colm"
MODULES = sorted(PACKAGE.rglob("*.py"))

MOST_LINES_IN_A_MODULE = 400
MOST_LINES_IN_A_BODY = 40
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}

# Package of colm -> what of colm it may import. A package may always import itself.
ARROWS = {
    "coreset": {
        "colm.gradients.moments",
        "colm.gradients.observation",
        "colm.gradients.sparsify",
        "colm.gradients.ties",
    },
    "gradients": set(),
    "subspace": {
        "colm.coreset.checks",
        "colm.coreset.randomness",
        "colm.gradients.decoder",
    },
    "data": set(),
    "reports": set(),
    "evaluation": {"colm.data"},
    "training": {"colm.coreset", "colm.gradients", "colm.data", "colm.subspace"},
    "planning": {"colm.gradients", "colm.subspace", "colm.training"},
    "cli": {"colm"},
}
# Modules that every package may import: what they are about is nobody's alone.
SHARED = {"colm.durable", "colm.json_text", "colm.names", "colm.source_names"}
# Third-party package -> the only packages of colm that may import it.
OWNERS = {
    "accelerate": {"training"},
    "datasets": {"data", "training"},
    "gguf": {"training"},
    "math_verify": {"evaluation"},
    "matplotlib": {"reports"},
    "peft": {"training"},
    "reasoning_gym": {"data"},
    "sklearn": {"training"},
    "sympy": {"evaluation"},
    "transformers": {"training"},
    "trl": {"training"},
}
HEAVY = {"torch", "numpy", "pandas", "pyarrow", *OWNERS}


@dataclass(frozen=True)
class Import:
    """One imported name: ``target`` is the full dotted name, ``lazy`` where no import runs it."""

    target: str
    lazy: bool
    for_types: bool

    @property
    def root(self) -> str:
        return self.target.partition(".")[0]


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

    visit(ast.parse(code), False, False)
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
    """True where the arrows or the owners do not allow this import."""
    package = package_of(module)
    if imported.root in OWNERS:
        return not imported.for_types and package not in OWNERS[imported.root]
    if imported.root != "colm" or not package:
        return False
    allowed = ARROWS.get(package, set()) | SHARED | {f"colm.{package}"}
    return not any(f"{imported.target}.".startswith(f"{prefix}.") for prefix in allowed)


def functions_of(code: str) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)]


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


@pytest.mark.parametrize("module", sorted(SHARED))
def test_what_all_may_import_imports_nothing_of_them(module: str) -> None:
    path = SOURCE / f"{module.replace('.', '/')}.py"
    assert not [i.target for i in read_imports(path) if i.root not in sys.stdlib_module_names]


def test_every_package_has_its_arrows() -> None:
    packages = {package_of(name_of(path)) for path in MODULES if path.parent != PACKAGE}
    assert packages == set(ARROWS)


def test_no_module_has_a_vague_name() -> None:
    assert not [name_of(path) for path in MODULES if path.stem in VAGUE_NAMES]


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("colm.coreset.selector", "from colm.gradients.batch import label_positions"),
        ("colm.coreset.selector", "from ..gradients import batch"),
        ("colm.coreset.selector", "def late():\n    import transformers"),
        ("colm.gradients.exact", "import colm.coreset"),
        ("colm.data.files", "from colm.training import config"),
        ("colm.evaluation.loss", "import peft.tuners"),
        ("colm.reports.page", "if 1 < 2:\n    from colm import data"),
        ("colm.cli.build", "def late():\n    from trl import SFTConfig"),
    ],
)
def test_a_wrong_import_is_seen(module: str, code: str) -> None:
    assert any(forbidden(module, found) for found in imports_of(code, module))


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("colm.coreset.selector", "from colm.gradients.moments import AdamMoments"),
        ("colm.coreset.selector", "from . import similarity"),
        ("colm.evaluation.loss", "from typing import *\nif TYPE_CHECKING:\n    import trl"),
        ("colm.training.trainer", "import trl\nfrom colm.coreset import selector"),
        ("colm.cli.build", "def late():\n    import colm.training.trainer, torch"),
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
