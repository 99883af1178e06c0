"""``colm compare``: what it refuses, in one line, before anything is trained or written."""

import json
from pathlib import Path

import pytest

from colm.cli import main


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "weights").write_text("mine")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "compare.json").write_text("{")


def test_help_names_the_arms_and_the_controls(capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for word in ("--arms", "--minutes", "--seeds", "--learning_rates", "plain_n", "even", "colm"):
        assert word in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--arms", "colmm"], ["colmm", "balanced_sampling"]),
        (["--arms", "a:seed=3"], ["seed", "'a'"]),
        (["--minutes", "-1"], ["--minutes", "-1"]),
        (["--minutes", "nan"], ["--minutes", "nan"]),
        (["--seeds", "0"], ["--seeds", "0"]),
        (["--turns", "0"], ["--turns", "0"]),
        (["--held-out", "0"], ["--held_out", "0"]),
        (["--learning-rates", "0"], ["--learning_rates", "0"]),
        (["--learning-rates", "1e-3", "1e-3"], ["--learning_rates", "differ"]),
        (["--learning-rates", "1e-3", "2e-3", "--held-out", "1"], ["--held_out", "half"]),
        (["--no_such_option", "3"], ["--no_such_option"]),
        (["--config", "absent.yaml"], ["absent.yaml"]),
        (["--output-dir", "mine"], ["--output_dir mine", "holds something else"]),
        (["--output-dir", "mine/weights"], ["--output_dir mine/weights", "not a folder"]),
        (["--output-dir", "begun"], ["begun/compare.json"]),
    ],
)
def test_what_cannot_be_is_one_line(options: list[str], words: list[str], capsys) -> None:
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert main(["compare", *options]) == 2
    complained = capsys.readouterr().err.strip().splitlines()[-1]
    assert complained.startswith("colm: error: ")
    assert all(word in complained for word in words)
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_it_is_for_one_process(monkeypatch, capsys) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["compare"]) == 2
    assert "one process" in capsys.readouterr().err


def test_a_file_of_another_version_is_named(capsys) -> None:
    Path("begun/compare.json").write_text(json.dumps({"format": "colm compare 99", "runs": []}))
    assert main(["compare", "--output-dir", "begun"]) == 2
    assert "begun/compare.json" in capsys.readouterr().err
