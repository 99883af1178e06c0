"""A full disk, another run in the folder: one line that says what is left and what to do."""

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import colm.runs.sft
from colm.cli import describe_error, main
from colm.reports.arm import Arm
from colm.reports.comparison import Comparison
from colm.reports.page import write_page
from colm.training.checkpoints.folder_lock import holding
from tests.cli.test_sft import QUICK, records, write

pytestmark = pytest.mark.usefixtures("no_progress_bars")


@contextmanager
def files_of_at_most(most_bytes: int) -> Iterator[None]:
    """No file may grow beyond a size, which libraries meet as they meet a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def sft(tiny_model_folder, tmp_path, capfd):
    """``colm sft`` with adapters; its code and the last line it said."""
    data = write(tmp_path / "train.jsonl", records("instruction"))

    def run(*options: str):
        given = [f"--model_name_or_path={tiny_model_folder}", f"--dataset_name={data}"]
        given += ["--use_peft=true", "--lora_target_modules=all-linear", "--lora_r=2"]
        code = main(["sft", *given, *QUICK, f"--output_dir={tmp_path / 'out'}", *options])
        return code, capfd.readouterr().err.splitlines()[-1]

    return run


SAVING = ("--save_strategy=steps", "--save_steps=1")


# Less than the adapters take; more than they do, and less than the tokenizer's file.
@pytest.mark.slow
@pytest.mark.parametrize("most_bytes", [100, 4000])
@pytest.mark.parametrize("saving", [SAVING, ()])
def test_the_disk_is_full_when_the_model_is_saved(sft, tmp_path, monkeypatch, most_bytes, saving):
    save = colm.runs.sft._save

    def save_on_a_full_disk(*arguments):
        with files_of_at_most(most_bytes):
            save(*arguments)

    monkeypatch.setattr(colm.runs.sft, "_save", save_on_a_full_disk)
    code, line = sft(*saving)
    assert code == 2
    assert line.startswith(f"colm: error: cannot write {tmp_path / 'out'}: ")
    assert "MB are free" in line
    assert "make room" in line
    assert ("checkpoint-2 is" in line) == bool(saving)
    monkeypatch.undo()
    if saving:
        assert sft(*saving, "--resume_from_checkpoint=true")[0] == 0
        assert (tmp_path / "out" / "adapter_model.safetensors").stat().st_size > 1000


def test_the_disk_is_full_before_training(sft, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    with files_of_at_most(1500):  # what is said goes to a file, too
        code, line = sft(*SAVING)
    assert code == 2
    assert "make room" in line


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError(122, "Disk quota exceeded", "/x/cache.arrow"),
        Exception("No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"),
    ],
)
def test_whoever_meets_a_full_disk_it_is_one_line(error):
    assert "make room" in describe_error(error)
    wrapped = KeyError("x")
    wrapped.__cause__ = error
    assert "make room" in describe_error(wrapped)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        RuntimeError("mat1 and mat2"),
        OSError(5, "I/O error"),
        RuntimeError("[enforce fail at inline_container.cc:145] . PytorchStreamReader failed"),
    ],
)
def test_other_errors_are_not_taken_for_it(error):
    with pytest.raises(type(error)) as caught:
        raise error
    assert describe_error(caught.value) is None


def test_a_report_that_cannot_be_written_leaves_the_one_before(tmp_path):
    empty = Comparison([Arm("none", None, [])], None, {}, [], {}, {})
    page = tmp_path / "report.html"
    page.write_text("the one before")
    data = page.with_suffix(".json")
    data.write_text("{}")
    with files_of_at_most(10):
        for write_it in (lambda: write_page(page, empty), lambda: empty.save(data)):
            with pytest.raises(OSError, match="too large"):
                write_it()
    assert page.read_text() == "the one before"
    assert data.read_text() == "{}"
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.json"}


def test_a_second_run_ends_before_it_writes_anything(sft, tmp_path):
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        with holding(tmp_path / "out"):
            os.write(writes, b"1")
            signal.pause()
    os.read(reads, 1)
    try:
        before = sorted(tmp_path.rglob("*"))
        code, line = sft()
        assert code == 2
        assert f"output_dir {tmp_path / 'out'} is being written to by another run" in line
        assert sorted(tmp_path.rglob("*")) == before
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert sft()[0] == 0
