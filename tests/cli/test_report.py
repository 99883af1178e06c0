"""``colm report`` on runs that ``colm sft`` made, and what it refuses in one line."""

import json
import re
import shutil
from pathlib import Path

import pytest

from colm.cli import main
from colm.runs.comparison_file import ComparisonState

OPTIONS = (
    "--max_steps=4",
    "--per_device_train_batch_size=2",
    "--learning_rate=1e-2",
    "--max_length=64",
    "--bf16=false",
    "--use_cpu=true",
    "--gradient_checkpointing=false",
    "--logging_steps=1",
    "--report_to=none",
    "--save_strategy=steps",
    "--save_steps=2",
    "--eval_strategy=steps",
    "--eval_steps=2",
    "--test_split_size=4",
    "--disable_tqdm=true",
)
KINDS = {
    "default": ("--match_every=2", "--skip_memory_metrics=false"),
    "random": ("--selector=random",),
    "plain": ("--candidate_ratio=1", "--save_strategy=no"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A folder with three runs, of the default selector, of random ones and of none."""
    folder = tmp_path_factory.mktemp("runs")
    rows = [
        {"instruction": f"{source} {i}?", "output": str(i * i), "source": source}
        for source, count in (("algebra", 16), ("logic", 12), ("rare <b>", 4))
        for i in range(count)
    ]
    data = folder / "train.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    for name, options in KINDS.items():
        given = [f"--model_name_or_path={tiny_model_folder}", f"--dataset_name={data}"]
        assert main(["sft", *given, f"--output_dir={folder / name}", *OPTIONS, *options]) == 0
    return folder


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def report(*arguments: object) -> str:
    """The page that is made."""
    assert main(["report", *map(str, arguments), "--output", "page.html"]) == 0
    return Path("page.html").read_text("utf-8")


@pytest.mark.slow
def test_a_run_of_its_own(runs: Path, capsys) -> None:
    capsys.readouterr()
    assert main(["report", str(runs / "default")]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("default: evaluation loss ")
    assert "after 4 steps." in shown
    assert "gradient match error" in shown
    assert "memory added at the peak, process, GB" in shown
    assert shown.endswith("report   report.html\n")
    page = Path("report.html").read_text("utf-8")
    for title in (
        "Evaluation loss while training",
        "Training loss",
        "Share of each source kept",
        "Sources kept over time",
        "Match of gradients",
        "Where the time of a step goes",
        "Memory",
        "Settings",
        "Versions",
    ):
        assert re.search(f"<h[23]>{title}", page), title
    assert "time of selecting and training" in page
    assert "<dt>selector</dt><dd>colm</dd>" in page
    assert "rare &lt;b&gt;" in page
    assert "<b>&gt;" not in page
    assert str(runs) not in page


@pytest.mark.slow
def test_runs_side_by_side(runs: Path) -> None:
    page = report(runs / "default", runs / "random", runs / "plain", "--names", "A", "B", "C")
    assert "of 3 runs" in page
    assert "<h2>What the runs differ in</h2>" in page
    # Plain training is timed as well.
    assert "No loss is drawn against the time" not in page
    assert "runs of their own" in page
    losses = [
        [e["eval_loss"] for e in state["log_history"] if "eval_loss" in e][-1]
        for state in (
            json.loads((runs / name / "trainer_state.json").read_text()) for name in KINDS
        )
    ]
    cells = re.search(r">evaluation loss</th>(.*?)</tr>", page)[1]
    assert re.findall(r"\d\.\d{3}", cells) == [f"{loss:.3f}" for loss in losses]


@pytest.mark.slow
def test_a_run_cut_short(runs: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(runs / "default" / "checkpoint-2", cut / "checkpoint-2")
    page = report(cut)
    assert "cut is still going on or was cut short" in page
    assert "after step 2 of 4" in page


@pytest.mark.slow
def test_only_reports_are_written_over(runs: Path, capsys) -> None:
    run = str(runs / "plain")
    assert main(["report", run]) == 0
    assert main(["report", run]) == 0
    Path("mine.html").write_text("<p>mine</p>")
    capsys.readouterr()
    assert main(["report", run, "--output", "mine.html"]) == 2
    assert "mine.html is there and is not a report of colm" in capsys.readouterr().err
    assert Path("mine.html").read_text() == "<p>mine</p>"
    assert main(["report", run, "--output", "mine.html", "--overwrite"]) == 0
    assert main(["report", run, "--output", "new/folder/page.html"]) == 0
    assert Path("new/folder/page.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere"], "there is no run nowhere"),
        (["empty"], "empty holds no run: no trainer_state.json"),
        (["begun"], "begun holds a comparison that is not at its end: if it was interrupted"),
        (["begun"], "compare.json has what was measured so far, and colm report begun/plain-seed0"),
        (["foreign.json"], "foreign.json: not a comparison"),
        (["torn.json"], "torn.json is not a file of JSON"),
        ([], "the following arguments are required: RUN"),
        (["empty", "--output", "empty"], "--output empty is a folder"),
        (["empty", "--names", "a", "b"], "--names: 2 names for 1 runs"),
        (["empty", "--output", "torn.json/page.html"], "empty holds no run"),
    ],
)
def test_bad_input_takes_a_line(arguments: list[str], complaint: str, capsys) -> None:
    Path("empty").mkdir()
    Path("begun/plain-seed0/checkpoint-3").mkdir(parents=True)
    Path("begun/plain-seed0/checkpoint-3/trainer_state.json").write_text("{}")
    ComparisonState({}, []).save(Path("begun"))
    Path("foreign.json").write_text('{"a": 1}')
    Path("torn.json").write_text('{"a"')
    assert main(["report", *arguments]) == 2
    err = capsys.readouterr().err
    assert complaint in err
    assert err.count("\n") == 1
    assert not Path("report.html").exists()


@pytest.mark.slow
def test_what_cannot_be_written_takes_a_line(runs: Path, capsys) -> None:
    Path("file").write_text("")
    capsys.readouterr()
    assert main(["report", str(runs / "plain"), "--output", "file/page.html"]) == 2
    err = capsys.readouterr().err
    assert "--output file/page.html cannot be written" in err
    assert err.count("\n") == 1
