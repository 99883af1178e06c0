"""Checkpoints: killed at any moment, cut short, foreign, on a full disk, on many processes.

The runs that are killed and resumed are in `killed_runs`, started once in a process of its own.
"""

import ast
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import Trainer

from colm import CoLMTrainer
from colm.durable import write_whole
from colm.training.checkpoints import manifest
from colm.training.checkpoints.selector_state import (
    PROCESSES,
    SELECTOR_FILE,
    load_state,
    save_state,
)
from tests.training.killed_runs import FULL, FULL_FILES, MOMENTS, OPERATIONS, PAIRS, STEPS

ROOT = Path(__file__).parents[2]
SELECTING = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2}
KILLED = ["finished", *OPERATIONS, *FULL, *FULL_FILES, *(f"moment-{share}" for share in MOMENTS)]
BEFORE_THE_MANIFEST = set(list(OPERATIONS)[:6]) | set(FULL) | set(FULL_FILES)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of the runs that were killed and resumed."""
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.killed_runs", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (folder / "stderr").write_text(done.stderr)
    return folder


def kept_by(folder, name, rank=0):
    """``[step, token ids of the kept]`` of each step that a run began."""
    return [json.loads(line) for line in (folder / f"{name}.{rank}.kept").read_text().splitlines()]


def assert_resumed_equals(folder, name, whole, rank=0):
    """A run that went on from the newest complete checkpoint is the run that nobody killed."""
    found = json.loads((folder / f"{name}.found").read_text())
    began = int(found[0].removeprefix("checkpoint-")) if found else 0
    expected, before = kept_by(folder, whole, rank), kept_by(folder, name, rank)
    assert len(expected) == STEPS
    assert before == expected[: len(before)]
    assert len(before) >= began
    assert kept_by(folder, f"{name}+resumed", rank) == expected[began:]
    resumed, right = (
        torch.load(folder / f"{run}.{rank}.weights") for run in (f"{name}+resumed", whole)
    )
    assert resumed.keys() == right.keys()
    assert all(torch.equal(resumed[key], right[key]) for key in right)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLED)
def test_a_killed_run_resumes_as_if_nobody_had_killed_it(killed, name):
    codes = json.loads((killed / "report.json").read_text())["codes"]
    found = assert_resumed_equals(killed, name, "whole")
    if name in OPERATIONS:
        assert codes[name] == [-9]
        assert found[0] == ("checkpoint-2" if name in BEFORE_THE_MANIFEST else "checkpoint-4")
    # What was passed over was written anew when the run came by again.
    left = manifest.find_checkpoints(killed / "runs" / name)
    assert [path.name for path in left.complete] == [f"checkpoint-{STEPS}"]
    # A kill at any moment may come while the last step deletes what is old.
    assert name.startswith("moment") or not left.problems


@pytest.mark.slow
def test_after_every_file_operation_what_counts_as_complete_is_complete(killed):
    told = json.loads((killed / "operations.json").read_text())
    labels = [label for label, _ in told["seen"]]
    assert {label for label, _ in OPERATIONS.values()} <= set(labels)
    assert len(labels) > 40
    for label, complete in told["seen"]:
        assert complete, f"no complete checkpoint at {label}"
        for name, digests in complete.items():
            assert digests == told["final"][name], f"{name} at {label}"
    completed = labels.index("os.rename colm_manifest.json.unfinished") + 1
    assert all(set(complete) == {"checkpoint-2"} for _, complete in told["seen"][:completed])
    assert all("checkpoint-4" in complete for _, complete in told["seen"][completed:])


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", PAIRS)
def test_one_of_two_processes_is_killed(killed, name, rank):
    codes = json.loads((killed / "report.json").read_text())["codes"]
    dying, moment = PAIRS[name]
    assert codes[name][dying] == -9
    assert codes[name][1 - dying] != 0
    found = assert_resumed_equals(killed, name, "pair", rank)
    assert found[0] == ("checkpoint-4" if moment == "step" else "checkpoint-2")


@pytest.mark.slow
def test_two_processes_write_one_file_with_both_states(killed):
    checkpoint = killed / "runs" / "pair" / f"checkpoint-{STEPS}"
    assert [path.name for path in checkpoint.glob("colm_*.safetensors")] == [SELECTOR_FILE]
    with safe_open(checkpoint / SELECTOR_FILE, framework="pt") as file:
        keys = set(file.keys())
        settings = json.loads(file.metadata()["colm_settings"])
    owners = [{key for key in keys if key.startswith(f"process {rank}: ")} for rank in (0, 1)]
    assert owners[0] | owners[1] == keys
    states = [load_state(checkpoint / SELECTOR_FILE, settings, rank) for rank in (0, 1)]
    assert states[0].keys() == states[1].keys() == {key[len("process 0: ") :] for key in owners[0]}
    assert int(states[0]["step"]) == int(states[1]["step"]) == STEPS
    assert not torch.equal(states[0]["moments.exp_avg"], states[1]["moments.exp_avg"])
    with pytest.raises(ValueError, match=r"num_processes is 1, but .*written with 2") as caught:
        load_state(checkpoint / SELECTOR_FILE, settings | {PROCESSES: 1})
    assert "\n" not in str(caught.value)


def test_what_was_written_before_there_was_an_option_went_by_its_default(tmp_path):
    now = {"selection_scope": "local", "candidate_ratio": 2.0, "loss_average": "token"}
    now |= {"stored_share": 0.5, PROCESSES: 1}
    before = {name: now[name] for name in ("selection_scope", "candidate_ratio", PROCESSES)}
    path = tmp_path / SELECTOR_FILE
    save_state(path, {"step": torch.tensor(3)}, before)
    assert load_state(path, now)["step"] == 3
    with pytest.raises(ValueError, match=r"loss_average is 'root', but .* written with 'token'"):
        load_state(path, now | {"loss_average": "root"})


@pytest.mark.slow
def test_those_that_select_together_can_be_another_number(killed):
    """Two processes with batches of 2 stop; one with batches of 4 goes on with their selections."""
    taken_up, whole = kept_by(killed, "together+resumed"), kept_by(killed, "alone")
    pair = [kept_by(killed, "together", rank) for rank in (0, 1)]

    def ids(steps):
        return [sorted(kept) for _, kept in steps]

    assert len(taken_up) == len(whole) - 2
    assert [sorted(a + b) for a, b in zip(ids(pair[0]), ids(pair[1]), strict=True)] + ids(
        taken_up
    ) == ids(whole)
    settings = {"selection_scope": "global", "per_device_train_batch_size": 2} | {
        "gradient_accumulation_steps": 1,
        PROCESSES: 2,
    }
    path = killed / "state.safetensors"
    save_state(path, {"step": torch.tensor(3)}, settings)
    one = settings | {PROCESSES: 1}
    assert load_state(path, one | {"per_device_train_batch_size": 4})["step"] == 3
    assert load_state(path, one | {"gradient_accumulation_steps": 2})["step"] == 3
    with pytest.raises(ValueError, match=r"x num_processes is 2, but .* written with 4"):
        load_state(path, one)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FULL, *FULL_FILES])
def test_a_full_disk_is_one_line_with_the_folder(killed, name):
    kind, message = json.loads((killed / f"{name}.error").read_text())
    assert kind == "OSError"
    assert f"cannot write {killed / 'runs' / name / 'checkpoint-4'}: " in message
    assert "MB are free there" in message
    assert "\n" not in message


@pytest.mark.slow
def test_a_passed_over_checkpoint_is_named_once(killed):
    lines = [line for line in (killed / "stderr").read_text().splitlines() if "passed over" in line]
    mine = [line for line in lines if "/runs/pair-saving-1/" in line]
    assert len(mine) == 1
    assert "going on from" in mine[0]
    assert "checkpoint-4 has no colm_manifest.json" in mine[0]


# What is cut short, missing, changed or foreign.


@pytest.fixture
def checkpoint(killed, tmp_path):
    """A copy of a complete checkpoint with everything in it."""
    copy = tmp_path / "run" / f"checkpoint-{STEPS}"
    shutil.copytree(killed / "runs" / "whole" / copy.name, copy)
    return copy


@pytest.mark.slow
def test_every_file_that_is_cut_short_missing_or_changed_is_named(checkpoint):
    assert manifest.problem_with(checkpoint) is None
    listed = [path for path in sorted(checkpoint.iterdir()) if path.name != "README.md"]
    assert len(listed) >= 10
    for path in listed:
        content = path.read_bytes()
        for wrong in (content[: len(content) // 2], b"", content[:-1], content + b"\n"):
            path.write_bytes(wrong)
            # A JSON file with a line more says the same.
            if path.name != manifest.MANIFEST_FILE or json_of(wrong) != json_of(content):
                assert path.name in (manifest.problem_with(checkpoint) or ""), wrong[:20]
        path.unlink()
        assert path.name in manifest.problem_with(checkpoint)
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        assert path.name in manifest.problem_with(checkpoint)
        path.write_bytes(content)
    (checkpoint / "README.md").write_text("my notes")
    (checkpoint / "notes.txt").write_text("mine")
    assert manifest.problem_with(checkpoint) is None
    assert manifest.problem_with(checkpoint.parent / "checkpoint-9") == "does not exist"


def json_of(content):
    try:
        return json.loads(content)
    except ValueError:
        return None


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "3",
        "null",
        "{}",
        '{"format": "colm checkpoint 1", "files": 3}',
        '{"format": "colm checkpoint 1", "files": {}}',
        '{"format": "colm checkpoint 1", "files": {"trainer_state.json": 3}}',
        '{"format": "colm checkpoint 1", "files": {"trainer_state.json": {}}}',
        '{"format": "other", "files": {"trainer_state.json": {"bytes": 2}}}',
    ],
)
def test_a_manifest_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / manifest.TRAINER_STATE).write_text("{}")
    (tmp_path / manifest.MANIFEST_FILE).write_text(content)
    assert manifest.MANIFEST_FILE in manifest.problem_with(tmp_path)


def test_large_files_are_compared_by_size(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "MOST_DIGEST_BYTES", 100)
    (tmp_path / manifest.TRAINER_STATE).write_text("{}")
    (tmp_path / "deep").mkdir()
    large = tmp_path / "deep" / "large.bin"
    large.write_bytes(b"a" * 101)
    manifest.write_manifest(tmp_path)
    large.write_bytes(b"b" * 101)
    assert manifest.problem_with(tmp_path) is None
    large.write_bytes(b"a" * 102)
    assert "102 bytes of deep/large.bin" in manifest.problem_with(tmp_path)


@pytest.mark.slow
def test_a_trainer_refuses_by_name_what_is_not_complete(checkpoint, make_trainer, dataset):
    trainer = make_trainer(dataset, output_dir=str(checkpoint.parent))

    def refusal(resume):
        with pytest.raises(ValueError, match="resume_from_checkpoint") as caught:
            trainer.train(resume_from_checkpoint=resume)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    weights = checkpoint / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    assert "19839 bytes of adapter_model.safetensors" in refusal(str(checkpoint))
    assert "holds no complete checkpoint: checkpoint-6 has" in refusal(True)
    (checkpoint / manifest.MANIFEST_FILE).unlink()
    assert f"{checkpoint} has no colm_manifest.json" in refusal(checkpoint)
    shutil.rmtree(checkpoint)
    assert "checkpoint-6 does not exist" in refusal(str(checkpoint))
    assert "holds no checkpoint" in refusal(True)
    trainer.args.output_dir = str(checkpoint.parent / "nothing")
    assert "holds no checkpoint" in refusal(True)


@pytest.fixture
def one_of_two(tmp_path):
    """A trainer on one machine, what it has and what the process on another machine says."""

    def make(mine, theirs):
        for name in mine:
            (tmp_path / name).mkdir()
            (tmp_path / name / manifest.TRAINER_STATE).write_text("{}")
            manifest.write_manifest(tmp_path / name)
        trainer = object.__new__(CoLMTrainer)
        trainer.args, trainer._selects = SimpleNamespace(output_dir=str(tmp_path)), True
        names = lambda own: [*own, json.dumps(theirs)]  # noqa: E731
        trainer._group = SimpleNamespace(names=names, process_index=0)
        return trainer

    return make


def test_all_processes_resume_from_what_is_complete_for_all(one_of_two, tmp_path, caplog):
    trainer = one_of_two(["checkpoint-2", "checkpoint-4"], ["checkpoint-2", "checkpoint-6"])
    with caplog.at_level("WARNING", "colm"):
        assert trainer._last_checkpoint() == str(tmp_path / "checkpoint-2")
    assert "checkpoint-4 is not complete on another machine" in caplog.messages[0]


def test_without_one_that_is_complete_for_all_all_refuse(one_of_two):
    trainer = one_of_two(["checkpoint-2"], ["checkpoint-6"])
    with pytest.raises(ValueError, match="checkpoint-2 is not complete on another machine"):
        trainer._last_checkpoint()


def test_what_one_process_refuses_all_refuse(one_of_two, tmp_path):
    trainer = one_of_two(["checkpoint-2"], ["checkpoint-2", "has no optimizer.pt"])
    with pytest.raises(ValueError, match=r"checkpoint-2 has no optimizer\.pt"):
        trainer._check_checkpoint(tmp_path / "checkpoint-2")


@pytest.mark.parametrize("theirs", ["lacks", "has"])
def test_machines_that_share_no_folder_are_told_once(tmp_path, caplog, theirs):
    trainer = object.__new__(CoLMTrainer)
    trainer.args = SimpleNamespace(save_only_model=False)
    trainer._group = SimpleNamespace(names=lambda own: [*own, theirs], process_index=0)
    (tmp_path / manifest.IDENTITY_FILE).write_text("{}")
    with caplog.at_level("WARNING", "colm"):
        trainer._see_that_all_have(tmp_path)
        trainer._see_that_all_have(tmp_path)
    assert len(caplog.messages) == (theirs == "lacks")
    assert all("1 of 2 processes" in message for message in caplog.messages)


def test_two_processes_name_the_same_checkpoint(one_of_two, tmp_path):
    trainer = one_of_two(["checkpoint-2"], ["checkpoint-4", None])
    with pytest.raises(ValueError, match="checkpoint-2 here, but checkpoint-4 in another process"):
        trainer._check_checkpoint(tmp_path / "checkpoint-2")


@pytest.mark.slow
def test_without_selection_another_trainers_checkpoint_will_do(make_trainer, dataset, tmp_path):
    options = SELECTING | {"candidate_ratio": 1}
    make_trainer(dataset, **options).train()
    plain = tmp_path / "run" / "checkpoint-2"
    assert not (plain / SELECTOR_FILE).exists()
    (plain / manifest.MANIFEST_FILE).unlink()
    longer = make_trainer(dataset, **(options | {"max_steps": 3}))
    longer.train(resume_from_checkpoint=str(plain))
    assert longer.state.global_step == 3
    for name in ("trainer_state.json", "model.safetensors", "optimizer.pt", "rng_state.pth"):
        content = (plain / name).read_bytes()
        (plain / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=f"checkpoint-2 has a {name}"):
            longer.train(resume_from_checkpoint=str(plain))
        (plain / name).write_bytes(content)
    (plain / "trainer_state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"trainer_state\.json without global_step"):
        longer.train(resume_from_checkpoint=str(plain))
    selecting = make_trainer(dataset, **SELECTING)
    with pytest.raises(ValueError, match=r"checkpoint-2 has no colm_manifest\.json"):
        selecting.train(resume_from_checkpoint=str(plain))


def test_a_state_that_is_cut_short_or_foreign_is_one_line(tmp_path):
    path = tmp_path / SELECTOR_FILE
    save_state(path, {"step": torch.tensor(1)}, {"seed": 1, PROCESSES: 1})
    whole = path.read_bytes()
    for content in (b"", whole[:5], whole[:-1], pickle.dumps({"step": 1})):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{SELECTOR_FILE} is cut short or no") as caught:
            load_state(path, {"seed": 1, PROCESSES: 1})
        assert "\n" not in str(caught.value)
    save_file({"step": torch.tensor(1)}, path)
    with pytest.raises(ValueError, match="was not written by colm"):
        load_state(path, {"seed": 1, PROCESSES: 1})


# What is written, and what is deleted.


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "state"
    write_whole(path, b"first")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"second")
    assert path.read_bytes() == b"first"
    monkeypatch.undo()
    write_whole(path, b"third")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("state", b"third")]


@pytest.mark.parametrize(
    ("order", "newest", "limit", "best", "left"),
    [
        ((1, 2, 3), 3, None, None, {1, 2, 3}),
        ((1, 2, 3), 3, 0, None, {1, 2, 3}),
        ((1, 2, 3), 3, 2, None, {2, 3}),
        ((1, 2, 3), 3, 1, 1, {1, 3}),
        # A higher number was left by a run that was killed: the new one is what was just written.
        ((1, 9, 2), 2, 1, None, {2}),
        ((9, 1, 2), 2, 2, None, {1, 2}),
        ((3,), 3, 1, None, {3}),
    ],
)
def test_the_newest_complete_checkpoint_is_never_deleted(
    tmp_path, order, newest, limit, best, left
):
    for moment, step in enumerate(order):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "file").write_text("x")
        os.utime(folder, (moment, moment))
    (tmp_path / "checkpoint-1-copy").mkdir()
    best = str(tmp_path / f"checkpoint-{best}") if best else None
    manifest.rotate(tmp_path / f"checkpoint-{newest}", limit, best)
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoint-1-copy",
        *(f"checkpoint-{step}" for step in left),
    }


def test_a_drive_without_times_does_not_lose_the_newest(tmp_path):
    for step in (20, 10, 15):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        os.utime(folder, (0, 0))
    manifest.rotate(tmp_path / "checkpoint-15", 1, None)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-15"]


def test_a_clock_that_is_set_back_does_not_lose_the_newest(tmp_path):
    for step in (2, 4, 6):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / manifest.TRAINER_STATE).write_text("{}")
        manifest.write_manifest(folder)
        os.utime(folder, (100 - step, 100 - step))
    (tmp_path / "checkpoint-5").mkdir()  # cut short: it goes before any that is complete
    manifest.rotate(tmp_path / "checkpoint-6", 2, None)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-4", "checkpoint-6"}


def test_links_are_not_followed_to_what_another_run_has(tmp_path):
    folders = [tmp_path / "theirs" / "checkpoint-1", tmp_path / "run" / "checkpoint-2"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / manifest.TRAINER_STATE).write_text("{}")
        manifest.write_manifest(folder)
    link = tmp_path / "run" / "checkpoint-1"
    link.symlink_to(folders[0])
    manifest.rotate(folders[1], 1, None)
    assert manifest.problem_with(folders[0]) is None
    assert link.is_symlink()
    assert [path.name for path in manifest.find_checkpoints(tmp_path / "run").complete] == [
        "checkpoint-2",
        "checkpoint-1",
    ]


def test_the_arguments_in_a_checkpoint_are_those_that_were_given(make_trainer, dataset, tmp_path):
    trainer = make_trainer(dataset, **SELECTING, save_total_limit=7)
    trainer.train()
    assert trainer.args.save_total_limit == 7
    written = torch.load(
        tmp_path / "run" / "checkpoint-2" / "training_args.bin", weights_only=False
    )
    assert written.save_total_limit == 7


def test_what_is_pushed_is_complete_and_its_errors_are_its_own(
    make_trainer, dataset, tmp_path, monkeypatch
):
    complete = []

    def push(trainer, folder):
        complete.append(manifest.problem_with(Path(folder)) is None)
        if len(complete) == 2:
            raise OSError("401 unauthorised")

    monkeypatch.setattr(Trainer, "_push_from_checkpoint", push)
    trainer = make_trainer(dataset, **(SELECTING | {"max_steps": 4}))
    trainer.args.push_to_hub = True
    with pytest.raises(OSError, match=r"^401 unauthorised$"):
        trainer.train()
    assert complete == [True, True]


UNPICKLING = {"pickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
UNPICKLING_CALLS = {"gather_object", "broadcast_object_list", "all_gather_object", "read_pickle"}


def unpickles(code):
    """Names in a module that unpickle."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.partition(".")[0] in UNPICKLING]
        if isinstance(node, ast.ImportFrom):
            names = {node.module, *(alias.name for alias in node.names)}
            found += sorted(names & (UNPICKLING | UNPICKLING_CALLS))
        if isinstance(node, ast.Attribute):
            if ast.unparse(node) in {"torch.load", "np.load", "numpy.load"}:
                found.append(ast.unparse(node))
            if node.attr in UNPICKLING_CALLS:
                found.append(node.attr)
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            found.append(node.arg)
    return found


def test_this_library_unpickles_nothing():
    assert unpickles("import pickle") == ["pickle"]
    assert unpickles("from accelerate.utils import gather_object") == ["gather_object"]
    assert unpickles("torch.load('x', weights_only=True)") == ["torch.load"]
    modules = sorted((ROOT / "src" / "colm").rglob("*.py"))
    assert len(modules) > 50
    found = {str(path): names for path in modules if (names := unpickles(path.read_text()))}
    assert not found


def test_reading_a_state_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    path = tmp_path / SELECTOR_FILE
    buffer = io.BytesIO()
    torch.save(Trap(), buffer)
    for content in (pickle.dumps(Trap()), buffer.getvalue()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cut short or no safetensors"):
            load_state(path, {PROCESSES: 1})
    assert not (tmp_path / "sprung").exists()
