"""The notebook of ``examples`` runs from top to bottom in a kernel, and holds no output."""

import os
import re
import shlex
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.test_repository import named_options, options_of

EXAMPLES = Path(__file__).parents[2] / "examples"
SOURCE = EXAMPLES.parent / "src"


@pytest.fixture
def notebook():
    return nbformat.read(EXAMPLES / "colm.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def written(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_the_notebook_is_valid_and_holds_no_output(notebook):
    nbformat.validate(notebook)
    assert code_cells(notebook)
    for cell in code_cells(notebook):
        assert not cell.outputs
        assert cell.execution_count is None


def test_files_that_the_notebook_links_to_exist(notebook):
    links = re.findall(r"\]\(([^)#]+)\)", written(notebook))
    assert links
    assert all((EXAMPLES / link).exists() for link in links)


@pytest.mark.slow
def test_commands_that_the_notebook_names_have_these_options(notebook):
    text = written(notebook)
    commands = re.findall(r"^colm .*$|(?<=`)colm [^`\n]*--[^`\n]*", text, re.MULTILINE)
    assert len(commands) > 1
    for words in map(shlex.split, commands):
        assert named_options(words[2:]) <= options_of(words[1])


@pytest.mark.slow
def test_the_notebook_runs_in_a_clone(notebook, tiny_model_folder, tmp_path, monkeypatch):
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    environment = {
        "COLM_NOTEBOOK_MODEL": tiny_model_folder,
        "IPYTHONDIR": tmp_path / "ipython",
        "JUPYTER_RUNTIME_DIR": tmp_path / "jupyter",
        "PYTHONPATH": os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")]),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own draws into the notebook

    where = {"metadata": {"path": str(tmp_path / "examples")}}
    NotebookClient(notebook, kernel_name="python3", timeout=240, resources=where).execute()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    ways = [line.partition("  ")[0] for line in printed.splitlines() if " -> " in line]
    assert ways == ["coresets", "random choice", "even draws"]
    runs = {folder.name for folder in (tmp_path / "runs" / "notebook").iterdir()}
    assert runs == {"coresets", "random", "even"}
