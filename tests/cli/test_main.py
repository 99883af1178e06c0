"""The command line itself: what it answers at once, exit codes, and whose errors it tells."""

import json
import re
import subprocess
import sys
import time

import pytest

import colm.cli
import colm.cli.env
from colm.cli import main, make_parser
from colm.cli.parsing import spelled_one_way


def test_help_and_version_answer_at_once(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert not stop.value.code
    assert capsys.readouterr().out == f"colm {colm.__version__}\n"
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert not stop.value.code
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("sft", "env", "--version"))


def test_help_takes_well_under_a_second() -> None:
    command = [sys.executable, "-c", "from colm.cli import main; main(['--help'])"]
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1


@pytest.mark.parametrize(
    ("command", "options"),
    [("plan", ("--config", "--tokens")), ("select", ("--config", "--batches", "--output"))],
)
def test_commands_with_the_options_of_sft_answer_at_once(command: str, options) -> None:
    code = (
        "import sys\nfrom colm.cli import main\n"
        f"try:\n    main(['{command}', '--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'transformers', 'trl'} & set(sys.modules)))"
    )
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        seconds.append(time.perf_counter() - started)
        assert done.stdout.splitlines()[-1] == "[]"
        assert all(option in done.stdout for option in options)
    assert min(seconds) < 1


@pytest.mark.parametrize("command", ["demo", "evaluate", "report", "plan", "select"])
def test_options_are_shown_with_underscores_and_taken_with_dashes(command: str, capsys) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = re.findall(r"--[a-z][\w-]*", capsys.readouterr().out)
    assert not [option for option in shown if "-" in option[2:]]


def test_dashes_and_underscores_mean_the_same() -> None:
    parser = make_parser()
    words = ["evaluate", "model", "--batch_size=3", "--max_new_tokens", "9", "--no_resume"]
    dashed = [word.replace("_", "-") for word in words]
    assert parser.parse_args(spelled_one_way(dashed)) == parser.parse_args(words)
    # What is no option stays as it is.
    values = ["report", "my-run", "--names", "a-b=c-d", "-x-y", "--", "--a-b"]
    assert spelled_one_way(values) == values


def test_a_former_spelling_is_named_with_that_of_today(capsys) -> None:
    assert main(["evaluate", "model", "--length-normalised"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--length_normalised is no option" in line
    assert "--length_normalized" in line


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "colm.cli", "--version"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == f"colm {colm.__version__}\n"
    failed = subprocess.run([*command[:-1], "tune"], check=False, capture_output=True)
    assert failed.returncode == 2


def test_no_command_shows_help_and_fails(capsys) -> None:
    assert main([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("usage: colm")


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["tune"], "invalid choice: 'tune'"),
        (["--verbose"], "unexpected argument '--verbose'"),
        (["env", "--verbose"], "unexpected argument '--verbose'; see colm env --help"),
        (["env", "more"], "unexpected argument 'more'"),
    ],
)
def test_a_wrong_command_is_one_line(argv: list[str], complaint: str, capsys) -> None:
    assert main(argv) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("colm: error: ")
    assert complaint in shown.err
    assert shown.err.count("\n") == 1


def test_env_prints_versions_and_hardware(capsys) -> None:
    import torch

    assert main(["env"]) == 0
    facts = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert facts["colm"] == colm.__version__
    assert facts["torch"] == torch.__version__
    assert {"transformers", "trl", "peft", "python", "platform", "accelerator"} <= set(facts)


@pytest.fixture
def build_for_cuda(monkeypatch) -> None:
    """PyTorch as it is built for CUDA, on a machine that has none."""
    import torch

    def current_accelerator(check_available: bool = False) -> torch.device | None:
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current_accelerator)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_an_accelerator_that_is_not_there_is_none(build_for_cuda, capsys) -> None:
    from colm.runs.demo import _machine

    assert main(["env"]) == 0
    facts = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert facts["accelerator"].startswith("none")
    assert "CPU" in facts["accelerator"]
    assert "built for cuda" in facts["accelerator"]
    assert "CPU" in _machine()


def test_accelerators_are_called_by_their_names(monkeypatch, capsys) -> None:
    import torch

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place=0: f"Card {place}")
    assert main(["env"]) == 0
    assert re.search(r"^accelerator +Card 0, Card 1", capsys.readouterr().out, re.MULTILINE)
    # One that transformers calls by its kind alone.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("mps")
    )
    assert main(["env"]) == 0
    assert re.search(r"^accelerator +mps", capsys.readouterr().out, re.MULTILINE)


def test_env_tells_what_is_not_installed(capsys, monkeypatch) -> None:
    monkeypatch.setattr("colm.versions.LIBRARIES", ("colm", "no-such-package"))
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["env"]) == 0
    shown = capsys.readouterr().out
    assert "not installed" in shown
    assert "unknown" in shown


@pytest.fixture
def env_runs(monkeypatch):
    """Make ``colm env`` run something else."""

    def replace(function) -> None:
        monkeypatch.setattr(colm.cli.env, "run", lambda _: function())

    return replace


def test_an_interrupt_is_130(env_runs, capsys) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    env_runs(interrupted)
    assert main(["env"]) == 130
    assert capsys.readouterr().err == "colm: interrupted\n"


def test_what_colm_raises_is_told_in_one_line(env_runs, capsys) -> None:
    from colm.data import read_file

    env_runs(lambda: read_file("no such\nfile.jsonl"))
    assert main(["env"]) == 2
    assert capsys.readouterr().err == "colm: error: no such file.jsonl: no such file\n"


def test_a_full_disk_is_one_line(env_runs, capsys, tmp_path) -> None:
    from colm.durable import naming_what_is_written

    def save() -> int:
        with naming_what_is_written(tmp_path / "checkpoint-2", "Make room."):
            raise OSError(28, "No space left on device")

    env_runs(save)
    assert main(["env"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"colm: error: cannot write {tmp_path / 'checkpoint-2'}: ")
    assert "No space left on device" in line


@pytest.mark.parametrize(
    "argv",
    [
        ["report", "x" * 5000],
        ["report", "x" * 300 + "/run"],
        ["sft", "--config", "x" * 5000],
        ["sft", "--model_name_or_path", "./" + "x" * 5000],
        ["sft", "--output_dir", "x" * 5000, "--model_name_or_path", "./none"],
        ["evaluate", "./" + "x" * 5000, "--data", "x" * 5000],
    ],
)
def test_a_name_too_long_for_a_file_is_one_line(argv: list[str], capsys) -> None:
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("colm: error: ")
    assert len(line) < 2500


def test_an_error_cannot_write_on_the_screen(env_runs, capsys) -> None:
    from colm.data import read_file

    env_runs(lambda: read_file("no\x1b[2J\u202e\rsuch.jsonl"))
    assert main(["env"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert "such.jsonl" in line


def test_a_bug_keeps_its_traceback(env_runs) -> None:
    env_runs(lambda: json.loads("{"))
    with pytest.raises(json.JSONDecodeError):
        main(["env"])


def test_the_exit_code_is_that_of_the_command(env_runs) -> None:
    env_runs(lambda: 7)
    assert main(["env"]) == 7
