"""Output folders: no run is written over, and a run can be taken up again."""

import os
import signal
import time
from pathlib import Path

import pytest

from colm.runs.output_folder import find_checkpoint
from colm.training.checkpoints.folder_lock import holding
from colm.training.checkpoints.manifest import (
    choose_last,
    find_checkpoints,
    make_way,
    problem_with,
    write_manifest,
)

# What a run writes last before the manifest.
LATE = ("adapter_model.safetensors", "trainer_state.json")


def checkpoint(folder: Path, step: int, whole: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    if whole:
        (path / "trainer_state.json").write_text('{"global_step": 1}')
        write_manifest(path)
    return path


@pytest.mark.parametrize("resume", [None, False, "false", "no", "None"])
def test_a_new_run_needs_a_folder_without_one(tmp_path: Path, resume) -> None:
    assert find_checkpoint(tmp_path / "new", resume) is None
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "logs").mkdir()
    assert find_checkpoint(tmp_path, resume) is None


@pytest.mark.parametrize(
    "trace", ["checkpoint-3/", "model.safetensors", "adapter_config.json", "README.md", "x.bin"]
)
def test_a_folder_with_a_run_is_refused(tmp_path: Path, trace: str) -> None:
    path = tmp_path / trace
    path.mkdir() if trace.endswith("/") else path.write_text("x")
    with pytest.raises(ValueError, match=r"holds another run .*choose another --output_dir"):
        find_checkpoint(tmp_path, None)


@pytest.mark.parametrize("resume", [True, "true", "True", "yes"])
def test_the_last_checkpoint_is_taken_up(tmp_path: Path, resume) -> None:
    for step in (9, 10, 2):
        checkpoint(tmp_path, step)
    assert find_checkpoint(tmp_path, resume) is True
    assert choose_last(tmp_path, find_checkpoints(tmp_path)) == (tmp_path / "checkpoint-10", None)


@pytest.mark.parametrize("resume", [True, "true"])
def test_there_must_be_a_checkpoint(tmp_path: Path, resume) -> None:
    for folder in (tmp_path, tmp_path / "new"):
        with pytest.raises(ValueError, match=r"resume_from_checkpoint: .* holds no checkpoint"):
            find_checkpoint(folder, resume)
    others = checkpoint(tmp_path, 3, whole=False)
    (others / "trainer_state.json").write_text('{"global_step": 3}')
    with pytest.raises(ValueError, match=r"no complete checkpoint: checkpoint-3 has no colm_"):
        find_checkpoint(tmp_path, resume)
    with pytest.raises(ValueError, match="holds another run") as caught:
        find_checkpoint(tmp_path, None)
    # Going on with it would be refused, too.
    assert "resume_from_checkpoint" not in str(caught.value)


@pytest.mark.parametrize(
    "left", [(), ("adapter_model.safetensors",), ("colm_identity.json", *LATE), ("colm_run.json",)]
)
def test_a_run_killed_in_its_first_checkpoint_begins_anew(tmp_path: Path, left) -> None:
    path = checkpoint(tmp_path, 2, whole=False)
    for name in left:
        (path / name).write_text("{}")
    with pytest.raises(ValueError, match="--resume_from_checkpoint true"):
        find_checkpoint(tmp_path, None)
    assert find_checkpoint(tmp_path, True) is True
    last, line = choose_last(tmp_path, find_checkpoints(tmp_path))
    assert last is None
    assert "checkpoint-2" in line
    assert "starts from the beginning" in line
    # A checkpoint that was whole and is damaged is no such thing.
    damaged = checkpoint(tmp_path, 4)
    (damaged / "trainer_state.json").write_text("")
    with pytest.raises(ValueError, match=r"no complete checkpoint: .*checkpoint-4 has 0 bytes"):
        find_checkpoint(tmp_path, True)


def test_a_new_checkpoint_deletes_nothing_that_is_not_its_runs(tmp_path: Path, caplog) -> None:
    theirs = checkpoint(tmp_path / "theirs", 6)
    run = tmp_path / "run"
    linked, foreign, killed, earlier = (run / f"checkpoint-{step}" for step in (2, 4, 6, 8))
    foreign.mkdir(parents=True)
    (foreign / "weights").write_text("somebody's")
    linked.symlink_to(theirs)
    killed.mkdir()
    earlier.mkdir()
    (killed / "colm_identity.json").write_text("{}")
    (earlier / "colm_run.json").write_text("{}")
    for path in (linked, foreign, killed, earlier):
        make_way(path)
        assert not path.is_symlink()
        assert list(path.iterdir()) == []
    assert problem_with(theirs) is None
    (aside,) = set(run.iterdir()) - {linked, foreign, killed, earlier}
    assert (aside / "weights").read_text() == "somebody's"
    assert aside.name in caplog.text


def test_one_run_at_a_time_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with holding(folder), holding(folder):
        assert folder.is_dir()
    assert not (tmp_path / "new").exists()
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        with holding(folder):
            worker = os.fork()  # of a data loader, say, which may outlive the run
            if worker:
                os.write(writes, f"{worker}\n".encode())
            time.sleep(60)
        os._exit(0)
    worker = int(os.read(reads, 100))
    try:
        with pytest.raises(ValueError, match="written to by another run"), holding(folder):
            pass
        assert folder.is_dir()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with holding(folder):
            assert find_checkpoint(folder, None) is None
    finally:
        os.kill(worker, signal.SIGKILL)
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="folder"), holding(tmp_path / "file"):
        pass
    beneath = holding(tmp_path / "file" / "run")
    with pytest.raises(OSError, match="cannot be written to") as caught, beneath:
        pass
    assert "\n" not in str(caught.value)


def test_a_checkpoint_can_be_named(tmp_path: Path) -> None:
    first, second = checkpoint(tmp_path / "run", 1), checkpoint(tmp_path / "run", 2)
    assert find_checkpoint(tmp_path / "run", str(first)) == str(first)
    assert find_checkpoint(tmp_path / "new", str(second)) == str(second)
    with pytest.raises(ValueError, match="checkpoint-7 does not exist"):
        find_checkpoint(tmp_path / "run", str(tmp_path / "run" / "checkpoint-7"))


def test_a_checkpoint_of_one_run_does_not_open_the_folder_of_another(tmp_path: Path) -> None:
    mine, other = checkpoint(tmp_path / "mine", 1), tmp_path / "other"
    checkpoint(other, 5)
    with pytest.raises(ValueError, match="holds another run"):
        find_checkpoint(other, str(mine))


def test_an_output_folder_is_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(ValueError, match="folder"):
        find_checkpoint(path, None)


def test_what_is_not_complete_is_passed_over_and_said(tmp_path: Path) -> None:
    for step, whole in ((2, True), (10, True), (30, False), (9, False)):
        checkpoint(tmp_path, step, whole)
    (tmp_path / "checkpoint-40-copy").mkdir()
    assert find_checkpoint(tmp_path, True) is True
    last, line = choose_last(tmp_path, find_checkpoints(tmp_path))
    assert last == tmp_path / "checkpoint-10"
    assert line is not None
    assert "passed over" in line
    assert "checkpoint-30 has no colm_manifest.json" in line
    assert "checkpoint-9 " not in line
    assert (tmp_path / "checkpoint-30").is_dir()


def test_only_a_named_checkpoint_may_be_of_another_trainer(tmp_path: Path) -> None:
    plain = checkpoint(tmp_path / "plain", 3, whole=False)
    (plain / "trainer_state.json").write_text('{"global_step": 3}')
    with pytest.raises(ValueError, match=r"checkpoint-3 has no colm_manifest\.json"):
        find_checkpoint(tmp_path / "plain", str(plain))
    with pytest.raises(ValueError, match=r"checkpoint-3 has no colm_manifest\.json"):
        find_checkpoint(tmp_path / "plain", True, by_others=True)
    assert find_checkpoint(tmp_path / "plain", str(plain), by_others=True) == str(plain)
