"""Output folders: no run is written over, and a run can be taken up again."""

from pathlib import Path

import pytest

from colm.training.manifest import choose_last, find_checkpoints, write_manifest
from colm.training.output_folder import find_checkpoint


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
    checkpoint(tmp_path, 3, whole=False)
    with pytest.raises(ValueError, match=r"no complete checkpoint: checkpoint-3 has no colm_"):
        find_checkpoint(tmp_path, resume)


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
    with pytest.raises(ValueError, match="is not a folder"):
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
