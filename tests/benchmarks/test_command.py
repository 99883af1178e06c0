"""``python -m benchmarks``: every benchmark by its name, and its results where they belong."""

import ast
import json
import re

import pytest

from benchmarks import __main__ as command
from benchmarks import record

README = (command.FOLDER / "README.md").read_text()


def test_every_benchmark_is_listed_with_its_question(capsys):
    found = command.modules()
    command.main([])
    listed = capsys.readouterr().out
    for name, module in found.items():
        assert re.search(rf"^  {name} +\S", listed, re.MULTILINE)
        code = (command.FOLDER.parent / f"{module.replace('.', '/')}.py").read_text()
        assert "main" in {getattr(node, "name", "") for node in ast.parse(code).body}
    rows = re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)
    assert rows == [name for name, module in found.items() if ".measure." in module]


def test_one_is_run_with_the_options_that_follow(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["padding", "--help"])
    assert stopped.value.code == 0
    assert "usage: python -m benchmarks padding" in capsys.readouterr().out


def test_a_name_that_is_not_there_is_answered_with_those_that_are(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["paddings"])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'paddings'" in line
    assert all(name in line for name in command.modules())


def test_results_lie_in_the_folder_of_their_benchmark():
    """But those of the demo, and trials of another one."""
    for path in record.RESULTS.rglob("*.json"):
        folder = path.relative_to(record.RESULTS).parts[0]
        if folder not in ("demo", "trials"):
            named = json.loads(path.read_text())["benchmark"]
            assert folder == named.replace("-", "_"), path
            assert folder in command.modules()


def test_a_result_is_written_into_the_folder_of_its_benchmark(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    path = record.write_result("step", {"data": str(tmp_path)}, [], {})
    assert path.parent == tmp_path / "step"
    assert json.loads(path.read_text())["settings"] == {"data": tmp_path.name}
