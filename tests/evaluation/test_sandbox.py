"""Programs do what they should, and nothing else: each break-out is shown to work when not held."""

import ctypes
import json
import math
import os
import pickle
import platform
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from colm.evaluation.sandbox import confinement
from colm.evaluation.sandbox.process import (
    LEAST_MEMORY_BYTES,
    ProgramResult,
    run_confined,
    run_program,
)
from colm.evaluation.sandbox.watch import MOST_PRINTED_BYTES
from tests.cases import quick_first
from tests.evaluation.break_outs import BREAK_OUTS, BreakOut, run_freely, world_in

SECONDS, MEMORY_BYTES = 5.0, 2**28

# What is left to hold a program in each case. "first Landlock" is Linux 5.13, in a container that
# forbids namespaces; "hook" is what a system without Landlock and seccomp has.
LAYERS = {
    "all": {},
    "first Landlock": {"most_landlock": 1, "namespaces": False, "audit": ""},
    "hook": {"kernel": "off"},
}


def kernel_confines() -> bool:
    """Whether the kernel says that it has Landlock and seccomp; asked without the sandbox."""
    if sys.platform != "linux" or platform.machine() not in {"x86_64", "aarch64"}:
        return False
    version = ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1)
    return version >= 1 and "Seccomp:" in Path("/proc/self/status").read_text()


held = pytest.mark.skipif(not kernel_confines(), reason="this kernel does not confine")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with world_in(tmp_path) as made:
        monkeypatch.setenv("COLM_TOKEN", made.token)
        yield made


@pytest.mark.slow
@held
@pytest.mark.parametrize("attack", quick_first(BREAK_OUTS.values(), 4), ids=BREAK_OUTS.keys())
def test_a_program_breaks_out_only_where_nothing_holds_it(attack: BreakOut, world) -> None:
    source = world.constants() + attack.program
    for name, layers in LAYERS.items():
        if name == "hook" and not attack.hook_holds:
            continue
        result = run_confined(source, SECONDS, MEMORY_BYTES, **layers)
        assert not attack.effect(world, result.output), (name, result)
        assert result.status in {"ok", "error"}, (name, result)
        assert world.victim.poll() is None
    printed = run_freely(source, world.folder / "free")
    deadline = time.monotonic() + SECONDS
    while not (broken_out := attack.effect(world, printed)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert broken_out, printed


@held
@pytest.mark.parametrize("mode", ["os.O_RDONLY", "3"])
def test_a_file_that_may_be_read_is_not_emptied(mode: str, tmp_path: Path) -> None:
    """The first Landlock takes that for reading, so that the filter of calls must hold it."""
    file = tmp_path / "read.txt"
    file.write_text("to be read")
    attack = f"import os; os.open({str(file)!r}, {mode} | os.O_TRUNC)"
    reading = {**LAYERS["first Landlock"], "libraries": [str(tmp_path), "/lib", "/usr/lib"]}
    assert run_confined(f"print(open({str(file)!r}).read())", 5, MEMORY_BYTES, **reading).output
    run_confined(attack, SECONDS, MEMORY_BYTES, **reading)
    assert file.read_text() == "to be read"
    run_freely(attack, tmp_path / "free")
    assert file.read_text() == ""


ENDLESS = {
    "loop": "while True: pass",
    "sleep": "import time; time.sleep(100)",
    "deaf to signals": (
        "import signal\n"
        "for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "while True: pass"
    ),
    "closed streams": "import os; os.close(1); os.close(2)\nwhile True: pass",
    "regular expression": "import re; re.match('(a*)*b', 'a' * 40)",
    "long description": (
        "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E"
    ),
    "at the end": "import atexit\n@atexit.register\ndef last():\n    while True: pass\nlast()",
}


@pytest.mark.slow
@held
@pytest.mark.parametrize("program", ENDLESS.values(), ids=ENDLESS.keys())
def test_an_endless_program_is_stopped(program: str, tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run_freely(program, tmp_path / "free", 0.3)
    result = run_program(f"print('so far')\n{program}", timeout_seconds=0.2)
    assert result == ProgramResult("so far\n", "timeout", "it ran longer than 0.2 seconds")


FILES = (
    "import os\n"
    "def fill(number):\n"
    "    file = open(f'file{number}', 'wb', buffering=0)\n"
    "    for _ in range(16): file.write(bytes(2**16))\n"
    "    return file\n"
)
# Program -> status in the end, and what it says; each prints "done" where nothing holds it.
BOMBS = {
    "memory": ("a = bytearray(150 * 2**20); print('done')", "memory", "memory"),
    "pieces of memory": (
        "a = [bytes(2**20) + bytes(n) for n in range(150)]; print('done')",
        "memory",
        "memory",
    ),
    "mapped memory": (
        "import mmap; a = [mmap.mmap(-1, 2**25) for _ in range(16)]; print('done')",
        "memory",
        "memory",
    ),
    "printing": (
        "for _ in range(2**7): print('0' * 1023)\nprint('done')",
        "error",
        f"more than {MOST_PRINTED_BYTES}",
    ),
    "errors": (
        "import sys\nfor _ in range(2**7): print('0' * 1023, file=sys.stderr)\nprint('done')",
        "error",
        f"more than {MOST_PRINTED_BYTES}",
    ),
    "one large file": (
        "file = open('large', 'wb', buffering=0)\n"
        "for _ in range(2**7): assert file.write(bytes(2**16))\nprint('done')",
        "error",
        "File too large",
    ),
    "many files": (
        FILES + "import time\nfor n in range(96): fill(n).close(); time.sleep(0.002)\n"
        "print('done')\ntime.sleep(0.2)",
        "error",
        "filled its folder",
    ),
    "open files": (
        FILES + "files = [fill(n) for n in range(96)]\nprint('done')",
        "error",
        "Too many open files",
    ),
    "empty files": (
        "import time\n"
        "for n in range(2000): open(str(n), 'w').close()\nprint('done'); time.sleep(0.2)",
        "error",
        "filled its folder",
    ),
}


@pytest.mark.slow
@held
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_stopped(bomb: tuple[str, str, str], tmp_path: Path) -> None:
    program, status, message = bomb
    assert "done" in run_freely(program, tmp_path / "free", 30)
    result = run_program(program, memory_bytes=2**27)
    assert (result.status, message in result.message) == (status, True), result
    assert len(result.output.encode()) <= MOST_PRINTED_BYTES


ORDINARY = {
    "print('first'); print(6 * 7)": "first\n42\n",
    "import math\nprint(math.comb(10, 3))": "120\n",
    "from fractions import Fraction as F\nprint(F(1, 3) + F(1, 6))": "1/2\n",
    "from datetime import date\nprint((date(2024, 3, 1) - date(2024, 2, 1)).days)": "29\n",
    "from decimal import *\nprint(Decimal('0.1') * 3)": "0.3\n",
    "from statistics import mean\nprint(mean([1, 2, 6]))": "3\n",
    "from dataclasses import dataclass\n@dataclass\nclass A:\n    b: int\nprint(A(2))": "A(b=2)\n",
    "def f(n):\n    return n * f(n - 1) if n else 1\nprint(f(5))": "120\n",
    "if __name__ == '__main__': print('main')": "main\n",
    "import itertools, collections, re, json, random, string, heapq\nprint(len('über'))": "4\n",
    "print('\\ud800 \\u00fc')": "? ü\n",
    "import os; os.write(1, b'\\xff\\n')": "\ufffd\n",
    "with open('a', 'w') as f: f.write('1 2')\nprint(open('a').read())": "1 2\n",
    "import os\nwith open('a', 'w') as f: f.truncate(9)\nprint(os.listdir())": "['a']\n",
    "import numpy as np\nprint(np.linalg.det(np.eye(3)), np.random.rand(2).shape)": "1.0 (2,)\n",
    "": "",
}


@held
@pytest.mark.parametrize("program", ORDINARY)
def test_an_ordinary_program_works(program: str) -> None:
    result = run_program(program, timeout_seconds=30)
    assert result == ProgramResult(ORDINARY[program], "ok", "")


@held
def test_sympy_and_scipy_work_where_they_are_installed() -> None:
    pytest.importorskip("sympy")
    program = "from sympy import *\nx = symbols('x')\nprint(sorted(solve(x**2 - 5*x + 6)))"
    assert run_program(program, timeout_seconds=60).output == "[2, 3]\n"
    pytest.importorskip("scipy")
    program = "from scipy.special import comb\nprint(comb(4, 2))"
    assert run_program(program, timeout_seconds=60).output == "6.0\n"


# How a program ends -> status and message.
ENDINGS = {
    "x = 1\ny = x / 0": ("error", "line 2: ZeroDivisionError: division by zero"),
    "def f():\n    import json; json.loads('')\nf()": (
        "error",
        "line 2: JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
    ),
    "print(1": ("error", "line 1: SyntaxError: '(' was never closed (<program>, line 1)"),
    "import torch": ("error", "line 1: ModuleNotFoundError: No module named 'torch'"),
    "import colm": ("error", "line 1: ModuleNotFoundError: No module named 'colm'"),
    "input()": ("error", "line 1: EOFError: EOF when reading a line"),
    "open('none')": ("error", "line 1: FileNotFoundError: No such file or directory"),
    "raise ValueError('in /etc/passwd\\n3/4 \\x1b[31m')": (
        "error",
        "line 1: ValueError: in <path> 3/4  [31m",
    ),
    "raise ValueError('a' * 1000)": ("error", ("line 1: ValueError: " + "a" * 1000)[:200]),
    "class E(Exception):\n    def __str__(self): 1 / 0\nraise E": (
        "error",
        "it ended with exit status 1",
    ),
    "raise KeyboardInterrupt": ("error", "line 1: KeyboardInterrupt:"),
    "exit(); 1 / 0": ("ok", ""),
    "quit(0)": ("ok", ""),
    "import sys; sys.exit()": ("ok", ""),
    "import sys; sys.exit(3)": ("error", "SystemExit: 3"),
    "import sys; sys.exit('no answer')": ("error", "SystemExit: no answer"),
    "import os; os._exit(0)": ("ok", ""),
    "import os; os._exit(7)": ("error", "it ended with exit status 7"),
    "import os; os.close(2); 1 / 0": ("error", "it ended with exit status 1"),
    "import os; os.close(1); os.close(2)": ("ok", ""),
    "a = '\ud800'": (
        "error",
        "UnicodeEncodeError: 'utf-8' codec can't encode character '\\ud800' in position 5: "
        "surrogates not allowed",
    ),
    # What a program says of itself changes nothing but what is said of it.
    "import sys; print('confined', file=sys.stderr); 1 / 0": (
        "error",
        "line 1: ZeroDivisionError: division by zero",
    ),
    "import os; os.write(2, b'refused\\n'); os._exit(1)": ("error", "refused"),
    "raise MemoryError": ("memory", "it needed more memory than it may have"),
}


@held
@pytest.mark.parametrize("program", ENDINGS)
def test_how_a_program_ended_is_said_in_one_line(program: str) -> None:
    result = run_program(program)
    assert (result.status, result.message) == ENDINGS[program]


@held
def test_a_program_with_a_null_byte_is_an_error() -> None:
    result = run_program("a = 1\x00")  # the kind of error depends on the version of Python
    assert result.status == "error"
    assert result.message.endswith("source code string cannot contain null bytes")


@held
def test_a_crash_is_an_error() -> None:
    result = run_program("import os; os.abort()")
    assert result.status == "error"
    assert result.message.startswith("it was ended by signal")


class Harm:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> object:
        return Path.touch, (self.file,)


@held
def test_what_a_program_prints_is_text(tmp_path: Path) -> None:
    content = pickle.dumps(Harm(tmp_path / "harm"))
    result = run_program(f"import os; os.write(1, {content!r})")
    assert result.output == content.decode(errors="replace")
    assert not (tmp_path / "harm").exists()
    pickle.loads(content)
    assert (tmp_path / "harm").exists()


@held
def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    files = len(os.listdir("/proc/self/fd"))
    run_program("print(1)")
    run_program(
        "for n in range(100): open(f'{n}\\n\\udc80', 'w')\nwhile True: pass", timeout_seconds=0.1
    )
    run_program(FILES + "fill(1); 1 / 0")
    assert not list(tmp_path.iterdir())
    assert len(os.listdir("/proc/self/fd")) == files


@held
def test_threads_run_programs_side_by_side() -> None:
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(run_program, [f"print({n})" for n in range(12)])
    assert [result.output for result in results] == [f"{n}\n" for n in range(12)]


@held
def test_the_least_memory_is_enough_to_start() -> None:
    assert run_program("print(1)", memory_bytes=LEAST_MEMORY_BYTES).status == "ok"


STARTER = """
import json, os, subprocess, sys, tempfile, time
plan = {**json.load(sys.stdin.buffer), "parent": os.getpid()}
with tempfile.TemporaryFile() as file:
    file.write(json.dumps(plan).encode())
    file.seek(0)
    child = subprocess.Popen([sys.executable, "-I", "-S", "-B", sys.argv[1]], stdin=file)
print(child.pid, flush=True)
time.sleep(60)
"""


@held
def test_a_program_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    from colm.evaluation.sandbox.process import _plan

    plan = _plan("print('started')\nwhile True: pass", str(tmp_path), 5.0, MEMORY_BYTES, {})
    starter = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", STARTER, confinement.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    with starter:
        starter.stdin.write(json.dumps(plan).encode())
        starter.stdin.close()
        number = int(starter.stdout.readline())
        assert starter.stdout.readline() == b"started\n"
        assert runs(number)
        starter.kill()
    deadline = time.monotonic() + 5
    while runs(number) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not runs(number)


def runs(number: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ({"most_landlock": 0}, "this kernel offers no Landlock"),
        ({"system_calls": ""}, "the system calls of this kind of machine are not known"),
        ({"system_calls": bytes(8).hex()}, "this kernel filters no system calls"),
        ({"readable": ["/nowhere"]}, "No such file or directory"),
        # A filter that allows everything.
        ({"system_calls": bytes([6, 0, 0, 0, 0, 0, 0xFF, 0x7F]).hex()}, "but does not"),
    ],
)
@held
def test_without_a_layer_no_program_runs(missing: dict[str, object], message: str) -> None:
    result = run_confined("print('it ran')", SECONDS, MEMORY_BYTES, **missing)
    assert (result.output, result.status) == ("", "refused")
    assert message in result.message


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
@pytest.mark.parametrize("missing", [{"most_landlock": 0}, {"system_calls": ""}, {}])
def test_limits_and_hook_are_left_where_no_kernel_is_required(missing: dict[str, object]) -> None:
    program = "print('it ran'); open('/etc/passwd')"
    result = run_confined(program, SECONDS, MEMORY_BYTES, kernel="tried", **missing)
    assert (result.output, result.status) == ("it ran\n", "error")
    assert run_program("print(1)", requires_kernel=False).output == "1\n"


def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert run_program("print(1)") == ProgramResult(
        "", "refused", "programs are held by Linux alone, 5.13 or newer"
    )


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
def test_no_program_runs_whose_end_would_not_be_known() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        result = run_program("1 / 0", requires_kernel=False)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert result.status == "refused"
    assert "SIGCHLD" in result.message


@pytest.mark.parametrize(
    "limit",
    [
        {"timeout_seconds": 0},
        {"timeout_seconds": math.inf},
        {"timeout_seconds": math.nan},
        {"memory_bytes": LEAST_MEMORY_BYTES - 1},
    ],
)
def test_limits_out_of_range_are_named(limit: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(limit))):
        run_program("print(1)", **limit)
