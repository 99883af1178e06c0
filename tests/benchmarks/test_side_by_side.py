"""`benchmarks side_by_side`, and the script that runs it on an accelerator: nothing is lost."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from zipfile import ZipFile

import pytest

from benchmarks.measure import pace, quality, side_by_side

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "accelerator_quality.sh"


@pytest.fixture
def main(tmp_path, monkeypatch):
    """Run it with a program in place of Python; what it was asked for, and the exit code."""
    monkeypatch.setattr(quality, "RESULTS", tmp_path / "results")

    def run(body, *options):
        results = tmp_path / "results" / "quality" / "mine"
        results.mkdir(parents=True, exist_ok=True)
        program = tmp_path / "program"
        # The last of its options are the arm and the seed.
        program.write_text(
            f"""#!/bin/bash
arm="${{@: -3:1}}" seed="${{@: -1}}"
cd {results}
echo "$arm $seed" >>{tmp_path}/calls
end() {{ echo "{{}}" >"$arm-seed$seed.json"; echo "$arm, seed $seed: done"; }}
{body}"""
        )
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        given = ["--label", "mine", "--model", "none", "--arms", "CoLM", *options]
        monkeypatch.setattr(sys, "argv", ["side_by_side", *given])
        with pytest.raises(SystemExit) as stopped:
            side_by_side.main()
        calls = tmp_path / "calls"
        return stopped.value.code, calls.read_text().splitlines() if calls.exists() else []

    monkeypatch.setattr(quality, "slug", lambda name: name)
    monkeypatch.setattr(side_by_side, "LOOK_SECONDS", 0.01)
    return run


def test_every_run_is_a_process_and_so_many_run_at_once(main, tmp_path, capsys):
    body = 'sleep 0.1; ls *.running 2>/dev/null | wc -l >>../../../at-once; touch "$seed.running"\n'
    code, calls = main(
        body + 'sleep 0.2; rm "$seed.running"; end', "--seeds", *"0123", "--processes", "2"
    )
    assert code == 0
    assert sorted(calls) == [f"CoLM {seed}" for seed in range(4)]
    assert max(map(int, (tmp_path / "at-once").read_text().split())) <= 1
    assert capsys.readouterr().out.count("done") == 4


def test_a_run_that_fails_is_named_and_the_others_go_on(main, capsys):
    body = 'if [ "$seed" = 1 ]; then echo "out of memory" >&2; exit 3; fi; end'
    code, calls = main(body, "--seeds", "0", "1", "2", "--processes", "1")
    assert (code, len(calls)) == (1, 3)
    said = capsys.readouterr().err
    assert "CoLM, seed 1: ended with code 3\n  out of memory" in said
    assert "CoLM, seed 1: no result" in said
    assert "seed 0" not in said


@pytest.mark.slow
def test_runs_share_the_time_and_end_in_it(main, monkeypatch):
    monkeypatch.setattr(side_by_side, "GRACE_SECONDS", 0.5)
    body = "trap 'end; exit 143' TERM; while :; do sleep 0.05; done"
    started = time.monotonic()
    code, calls = main(body, "--seeds", "0", "1", "--processes", "1", "--seconds", "3")
    assert (code, len(calls)) == (0, 2)
    assert time.monotonic() - started < 10


@pytest.mark.slow
def test_a_run_that_does_not_end_is_killed(main, monkeypatch, capsys):
    monkeypatch.setattr(side_by_side, "GRACE_SECONDS", 0.3)
    code, _ = main("trap '' TERM; while :; do sleep 0.05; done", "--seeds", "0", "--seconds", "1")
    assert code == 1
    assert f"code {-signal.SIGKILL}" in capsys.readouterr().err


def test_what_has_a_result_is_not_run_again_and_must_be_of_the_same_setting(main, tmp_path):
    options = ["--seeds", "0", "--r", "4", "--n", "8"]
    setting = quality.parse(["--label", "mine", "--model", "none", *options])
    path = tmp_path / "results" / "quality" / "mine" / "CoLM-seed0.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"settings": quality.shared_settings(setting)}))
    assert main("end", *options) == (0, [])
    code, calls = main("end", "--seeds", "0", "--r", "2", "--n", "8")
    assert "r=4, not 2" in code
    assert calls == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--processes", "0"], "--processes must be at least 1; got 0"),
        (["--seconds", "20"], "--seconds must be more than"),
    ],
)
def test_bad_options_are_named(options, said, capsys):
    with pytest.raises(SystemExit):
        side_by_side.parse(options)
    assert said in capsys.readouterr().err


def script(tmp_path, *options, **variables):
    """Start the script with its results in a folder of the test."""
    environment = {"PYTHON": sys.executable, "BENCHMARK_RESULTS": str(tmp_path / "results")}
    return subprocess.Popen(
        [SCRIPT, *options],
        env=os.environ | environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("what", ["side_by_side", "pace"])
def test_the_script_asks_for_what_it_says(tmp_path, monkeypatch, what):
    program = tmp_path / "python"
    program.write_text(f'#!/bin/bash\nprintf "%q " "$@" >{tmp_path}/call; exit 5\n')
    program.chmod(0o755)
    given = ["--pace"] if what == "pace" else []
    process = script(tmp_path, *given, "--data", "mine.jsonl", PYTHON=str(program))
    assert process.wait(30) == 5
    process.stdout.close()
    named = shlex.split((tmp_path / "call").read_text())
    assert named[:3] == ["-m", "benchmarks", what]
    if what == "side_by_side":
        options, rest = side_by_side.parse(named[3:])
        setting = quality.parse(rest)
        assert len(setting.arms) * len(setting.seeds) == options.processes == 12
        assert setting.steps == 1000
        assert options.seconds <= 540
    else:
        monkeypatch.setattr(sys, "argv", named[2:])
        setting = pace.parse()
    assert setting.data == ["mine.jsonl"]
    assert (setting.n, setting.r, setting.max_length) == (64, 32, 256)
    assert "CoLM" in setting.arms


@pytest.mark.slow
def test_packages_come_as_wheels_and_are_gone_at_the_end(tmp_path):
    """What they are unpacked into goes before what is installed, for the runs alone."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with ZipFile(wheels / "brought-1-py3-none-any.whl", "w") as wheel:
        about = "brought-1.dist-info"
        wheel.writestr("brought.py", "")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: brought\nVersion: 1\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    program = tmp_path / "python"
    program.write_text(
        f"""#!/bin/bash
[ "$2" = pip ] && exec {sys.executable} "$@"
exec {sys.executable} -c "import brought, benchmarks; print(brought.__file__)"
"""
    )
    program.chmod(0o755)
    process = script(tmp_path, PYTHON=str(program), WHEELS=str(wheels))
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert Path(said.strip()).name == "brought.py"
    assert not Path(said.strip()).exists()


@pytest.mark.slow
def test_the_script_keeps_what_was_measured_when_it_is_asked_to_end(tmp_path, tiny_model_folder):
    data = tmp_path / "mine.jsonl"
    rows = [
        {"prompt": f"{n} + 1 =", "completion": f" {n + 1}", "source": f"sums {n % 3}"}
        for n in range(60)
    ]
    data.write_text("\n".join(map(json.dumps, rows)))
    options = ["--data", data, "--model", tiny_model_folder, "--seeds", "0", "--held_out", "2"]
    sizes = ["--n", "4", "--r", "2", "--micro_batch", "2", "--max_length", "64"]
    steps = ["--steps", "100000", "--measure_every", "2", "--arms", "plain n", "CoLM"]
    process = script(tmp_path, *options, *sizes, *steps, OMP_NUM_THREADS="1")
    folder = tmp_path / "results" / "quality" / "mine"
    while len(list(folder.glob("*.part"))) < 2 and process.poll() is None:
        time.sleep(0.1)
    process.terminate()
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert sorted(path.name for path in folder.iterdir()) == [
        "colm-seed0.json",
        "plain-n-seed0.json",
    ]
    for path in folder.iterdir():
        measured = json.loads(path.read_text())["repeats"]
        assert 2 <= measured[-1]["steps"] < 100000
        assert measured[0]["seconds"] == 0 < measured[1]["seconds"]
