"""Programs that a model wrote, run where they can do no harm.

Each runs in a process of its own, in an empty folder, with an empty environment, and is over when
its time is. `confinement` says what holds it in there. What comes back is text.
"""

import contextlib
import importlib.util
import json
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from colm.evaluation.sandbox import audit, confinement
from colm.evaluation.sandbox.confinement import OUT_OF_MEMORY, READY
from colm.evaluation.sandbox.seccomp import system_call_filter
from colm.evaluation.sandbox.watch import MOST_PRINTED_BYTES, START_SECONDS, Watch

#: What a program may import beside the standard library, where it is installed.
IMPORTABLE = ("numpy", "sympy", "mpmath", "gmpy2", "scipy")
#: The least that a program is given: the interpreter alone takes a part of it.
LEAST_MEMORY_BYTES = 2**26

_MOST_FILE_BYTES, _MOST_OPEN_FILES = 2**20, 32
_MOST_STACK_BYTES = 2**23
_MOST_MESSAGE_CHARACTERS = 200
_PATH = re.compile(r"(?<![\w.])(?:/[\w.+-]+){2,}")

# No threads of numpy's libraries; messages and times that are the same everywhere.
_ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PATH": "",
    "TZ": "UTC",
}
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")


@dataclass(frozen=True)
class ProgramResult:
    """What a program printed, and how it ended.

    ``status`` is "ok", "error" (it raised, was killed, or printed or wrote too much), "timeout",
    "memory", or "refused": it did not run, because it could not have been held. ``message`` says
    more in one line without paths; it is empty where the status is "ok".
    """

    output: str
    status: str
    message: str


def run_program(
    source: str,
    *,
    timeout_seconds: float = 5.0,
    memory_bytes: int = 512 * 2**20,
    requires_kernel: bool = True,
) -> ProgramResult:
    """Return what a program printed, having run it without network, other files or processes.

    It takes the interpreter's start, some 50 ms, and what the program takes. It may be called from
    several threads.

    Args:
        source: Python, of any origin. It may import the standard library and ``IMPORTABLE``.
        timeout_seconds: Longest run, not counting the interpreter's start.
        memory_bytes: Most address space, of which the interpreter takes about 30 MB and numpy
            100 MB.
        requires_kernel: Refuse to run where the kernel has no Landlock or no seccomp, which is
            everywhere but on Linux 5.13 or newer, x86-64 or ARM64. Without them, only the limits
            and a hook of Python's hold the program: enough for mistakes, not for malice. Windows
            has not even these: it is refused there.

    Returns:
        The output, at most ``MOST_PRINTED_BYTES``, what is not UTF-8 replaced, and how it ended.

    Raises:
        ValueError: A limit is out of range.

    Example:
        >>> result = run_program("print(6 * 7)")
        >>> result.output.strip() if result.status != "refused" else "42"
        '42'
    """
    if not 0 < timeout_seconds < math.inf:
        raise ValueError(f"timeout_seconds is {timeout_seconds}; it must be above 0 and finite.")
    if memory_bytes < LEAST_MEMORY_BYTES:
        raise ValueError(f"memory_bytes is {memory_bytes}; at least {LEAST_MEMORY_BYTES}.")
    if os.name != "posix" or (requires_kernel and sys.platform != "linux"):
        return ProgramResult("", "refused", "programs are held by Linux alone, 5.13 or newer")
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        # The system keeps no exit status then, and may give the process's number to another.
        return ProgramResult("", "refused", "SIGCHLD is ignored, so no program's end is known")
    kernel = "required" if requires_kernel else "tried"
    return run_confined(source, timeout_seconds, memory_bytes, kernel=kernel)


def run_confined(
    source: str, timeout_seconds: float, memory_bytes: int, **layers: Any
) -> ProgramResult:
    """Return what a program printed; tests leave out a part of its ``Confinement``.

    Args:
        source: Python.
        timeout_seconds: Longest run.
        memory_bytes: Most address space.
        layers: Fields of ``Confinement`` that differ from what is usual.

    Returns:
        The output, and how the program ended.
    """
    # Landlock and the hook know files by where they are, not by the links that lead there.
    scratch = os.path.realpath(tempfile.mkdtemp(prefix="colm-program-"))
    try:
        with tempfile.TemporaryFile() as plan:
            told = _plan(source, scratch, timeout_seconds, memory_bytes, layers)
            plan.write(json.dumps(told).encode())
            plan.seek(0)
            process = _start(plan.fileno(), scratch)
        with process:
            try:
                stopped, printed = Watch(process, scratch, timeout_seconds).until_the_end()
            finally:
                _kill(process)
        return _result(stopped, printed, process.wait())
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _plan(
    source: str, scratch: str, timeout_seconds: float, memory_bytes: int, layers: dict[str, Any]
) -> dict[str, Any]:
    """What the process is told, in plain values."""
    limits = {
        "RLIMIT_AS": memory_bytes,
        "RLIMIT_CPU": math.ceil(timeout_seconds + START_SECONDS),
        "RLIMIT_STACK": _MOST_STACK_BYTES,
        "RLIMIT_FSIZE": _MOST_FILE_BYTES,
        "RLIMIT_NOFILE": _MOST_OPEN_FILES,
        "RLIMIT_NPROC": 0,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
    }
    packages, folders = _installed()
    fields: dict[str, Any] = {
        "source": source,
        "parent": os.getpid(),
        "scratch": scratch,
        "packages": packages,
        "readable": [os.path.realpath(sysconfig.get_path("stdlib")), *folders],
        "libraries": [*_LIBRARIES, *_conda_libraries()],
        "limits": limits,
        "system_calls": system_call_filter(platform.machine()).hex(),
        "audit": Path(audit.__file__).read_text(encoding="utf-8"),
    }
    return {**fields, **layers}


@cache
def _installed() -> tuple[dict[str, str], list[str]]:
    """Folders of the packages that a program may import, and the folders these need."""
    packages: dict[str, str] = {}
    folders: list[str] = []
    for name in IMPORTABLE:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None or not spec.submodule_search_locations:
            continue
        folder = os.path.realpath(os.path.dirname(spec.origin))
        packages[name] = folder
        # Wheels keep the libraries they bring in a folder beside.
        folders += [path for path in (folder, f"{folder}.libs") if os.path.isdir(path)]
    return packages, folders


def _conda_libraries() -> list[str]:
    """Where conda keeps the libraries that its packages use."""
    prefixes = {os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix)}
    return [f"{prefix}/lib" for prefix in prefixes if os.path.isdir(f"{prefix}/conda-meta")]


def _start(plan: int, scratch: str) -> subprocess.Popen[bytes]:
    """Start the interpreter: isolated, without site packages, writing no byte code."""
    environment = {**_ENVIRONMENT, "HOME": scratch, "TMPDIR": scratch}
    if "LD_LIBRARY_PATH" in os.environ:  # some interpreters do not start without
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", "-X", "utf8", confinement.__file__],
        stdin=plan,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=scratch,
        env=environment,
        close_fds=True,
        start_new_session=True,
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and its group; not yet waited for, its number cannot be another's."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _result(
    stopped: tuple[str, str] | None, printed: tuple[bytes, bytes], status: int
) -> ProgramResult:
    """How a program ended, from what its process left."""
    output = printed[0][:MOST_PRINTED_BYTES].decode(errors="replace")
    said = _last_line(printed[1].removeprefix(READY))
    if not printed[1].startswith(READY):
        return ProgramResult("", "refused", said or "the interpreter did not start")
    if stopped:
        return ProgramResult(output, *stopped)
    if status == 0:
        return ProgramResult(output, "ok", "")
    if status in {OUT_OF_MEMORY, -signal.SIGKILL}:
        return ProgramResult(output, "memory", "it needed more memory than it may have")
    if status < 0:
        return ProgramResult(output, "error", f"it was ended by signal {-status}")
    return ProgramResult(output, "error", said or f"it ended with exit status {status}")


def _last_line(text: bytes) -> str:
    """The last line, printable, short, and without paths, which differ between machines."""
    lines = text.decode(errors="replace").split("\n")
    line = next((line.strip() for line in reversed(lines) if line.strip()), "")
    line = "".join(letter if letter.isprintable() else " " for letter in line)
    return _PATH.sub("<path>", line)[:_MOST_MESSAGE_CHARACTERS]
