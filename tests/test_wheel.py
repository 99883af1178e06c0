"""The wheel, in an environment that has what it requires and no checkout: what users install."""

import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

pytestmark = pytest.mark.slow


def run(*command, **options):
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built without the network, by the back end that is installed for the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*build, "--wheel-dir", str(folder), str(ROOT))
    (path,) = folder.glob("colm-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of programs of a new environment that holds the wheel.

    What the wheel requires is that of this environment; a path that a ``.pth`` file names has its
    own such files, the one of this checkout among them, left unread.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    programs = folder / ("Scripts" if sys.platform == "win32" else "bin")
    python = str(programs / "python")
    install = (sys.executable, "-m", "pip", f"--python={python}", "install", "--quiet")
    run(*install, "--no-deps", "--no-index", str(wheel))
    packages = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")[:-1]
    )
    (packages / "required.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


def test_the_wheel_holds_the_package_its_recipes_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    recipes = {path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes").rglob("*.yaml")}
    assert {"colm/py.typed", "colm/__init__.pyi", "colm/reports/page.css"} <= set(names)
    assert {f"colm/{recipe}" for recipe in recipes} <= set(names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"colm"}


def test_every_module_is_imported_from_the_wheel(installed, tmp_path):
    script = (
        "import importlib, pkgutil, colm\n"
        "for found in pkgutil.walk_packages(colm.__path__, 'colm.'):\n"
        "    if not found.name.endswith(('__main__', '_worker')):\n"
        "        importlib.import_module(found.name)\n"
        "for name in colm.__all__:\n"
        "    getattr(colm, name)\n"
        "print(colm.__file__)"
    )
    where = Path(run(installed / "python", "-c", script, cwd=tmp_path).splitlines()[-1])
    assert installed.parent in where.parents


def test_commands_run_and_find_the_recipes_that_the_readme_names(installed, tmp_path):
    assert "sft" in run(installed / "colm", "--help", cwd=tmp_path)
    named = set(re.findall(r"recipes/[\w./-]+\.yaml", README))
    assert named
    script = (
        "import sys; from colm.runs.arguments import parse_arguments\n"
        "for recipe in sys.argv[1:]:\n"
        "    print(parse_arguments(['--config', recipe]).model.model_name_or_path)"
    )
    read = run(installed / "python", "-c", script, *sorted(named), "quickstart", cwd=tmp_path)
    assert len(read.splitlines()) == len(named) + 1
