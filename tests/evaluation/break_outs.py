"""Programs that try to break out, and what each would have done where nothing held it.

A program starts with the constants of ``World.constants``: the places and processes it goes for.
"""

import contextlib
import os
import resource
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class World:
    """What there is to read, to change, to reach and to kill outside of a program's folder."""

    folder: Path
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    def __post_init__(self) -> None:
        self.outside = self.folder / "outside"
        self.outside.mkdir()
        (self.outside / "secret.txt").write_text(self.token)
        (self.outside / "victim.txt").write_text("untouched")
        (self.outside / "planted.py").write_text(f"token = {self.token!r}")
        self.file = os.open(self.outside / "secret.txt", os.O_RDONLY)
        os.set_inheritable(self.file, True)
        self.victim = subprocess.Popen(["sleep", "60"], env={"TOKEN": self.token, **os.environ})
        self.names = f"\0colm-{self.token}", str(self.folder / "socket")
        self.sockets = [self._listen(socket.AF_INET, ("127.0.0.1", 0))]
        self.sockets += [self._listen(socket.AF_UNIX, name) for name in self.names]
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind(("127.0.0.1", 0))
        self.before = self.state()

    @staticmethod
    def _listen(family: int, address: object) -> socket.socket:
        listener = socket.socket(family)
        listener.bind(address)
        listener.listen()
        return listener

    def close(self) -> None:
        self.victim.kill()
        self.victim.wait()
        os.close(self.file)
        for each in [*self.sockets, self.datagrams]:
            each.close()

    def state(self) -> object:
        """All that a program could change: files outside, and properties of another process."""
        files = sorted(self.outside.rglob("*"))
        return (
            [(file, file.stat().st_mode, file.stat().st_mtime) for file in files],
            [file.read_bytes() for file in files if file.is_file()],
            resource.prlimit(self.victim.pid, resource.RLIMIT_NOFILE),
            os.getpriority(os.PRIO_PROCESS, self.victim.pid),
        )

    def constants(self) -> str:
        values = {
            "OUTSIDE": str(self.outside),
            "SECRET": str(self.outside / "secret.txt"),
            "VICTIM": str(self.outside / "victim.txt"),
            "PROCESS": self.victim.pid,
            "TCP": self.sockets[0].getsockname(),
            "UDP": self.datagrams.getsockname(),
            "UNIX": self.names,
        }
        return "".join(f"{name} = {value!r}\n" for name, value in values.items())


# What shows that a program got out: from the world, and what the program printed.
Effect = Callable[[World, str], bool]


def learned(world: World, printed: str) -> bool:
    return world.token in printed


def did(world: World, printed: str) -> bool:
    return "BROKEN OUT" in printed


def changed(world: World, printed: str) -> bool:
    return world.state() != world.before


def changed_later(world: World, printed: str) -> bool:
    time.sleep(0.2)
    return changed(world, printed)


def reached(world: World, printed: str) -> bool:
    return bool(select.select([*world.sockets, world.datagrams], [], [], 0)[0])


def killed(world: World, printed: str) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        world.victim.wait(0.01)
    return world.victim.returncode is not None


@dataclass(frozen=True)
class BreakOut:
    effect: Effect
    program: str
    #: Whether the hook of Python's holds it, too, with no help from the kernel.
    hook_holds: bool = True


LIBC = "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True)\n"
CONNECT = "import socket; s = socket.socket(socket.AF_UNIX); s.connect(UNIX[{}]); s.send(b'x')"

BREAK_OUTS = {
    # Reading what lies outside.
    "open": BreakOut(learned, "print(open(SECRET).read())"),
    "os.open": BreakOut(learned, "import os; print(os.read(os.open(SECRET, os.O_RDONLY), 99))"),
    "pathlib": BreakOut(learned, "import pathlib; print(pathlib.Path(SECRET).read_text())"),
    "bytes path": BreakOut(learned, "print(open(SECRET.encode()).read())"),
    "dots": BreakOut(learned, "print(open('../' * 40 + SECRET.lstrip('/')).read())"),
    "change of folder": BreakOut(
        learned, "import os; os.chdir(OUTSIDE); print(open('secret.txt').read())"
    ),
    "folder handle": BreakOut(
        learned,
        "import os; folder = os.open(OUTSIDE, os.O_PATH)\n"
        "print(os.read(os.open('secret.txt', os.O_RDONLY, dir_fd=folder), 99))",
    ),
    "libc": BreakOut(
        learned,
        LIBC + "file = libc.open(SECRET.encode(), 0)\n"
        "b = ctypes.create_string_buffer(99); libc.read(file, b, 99); print(b.value)",
    ),
    "symbolic link": BreakOut(
        learned, "import os; os.symlink(SECRET, 'link'); print(open('link').read())"
    ),
    "hard link": BreakOut(
        learned,
        "import os; os.link(SECRET, OUTSIDE + '/../l'); print(open(OUTSIDE + '/../l').read())",
    ),
    "root of a process": BreakOut(learned, "print(open('/proc/self/root' + SECRET).read())"),
    "environment of a process": BreakOut(
        learned, "print(open(f'/proc/{PROCESS}/environ', 'rb').read())"
    ),
    "own environment": BreakOut(learned, "import os; print(os.environ)"),
    "first environment": BreakOut(learned, "print(open('/proc/self/environ', 'rb').read())"),
    "inherited file": BreakOut(
        learned,
        "import os\n"
        "for file in range(3, 200):\n"
        "    try: print(os.pread(file, 99, 0))\n"
        "    except OSError: pass",
    ),
    "inherited file by name": BreakOut(
        learned,
        "import os\n"
        "for file in range(3, 200):\n"
        "    try: print(open(f'/proc/self/fd/{file}').read())\n"
        "    except OSError: pass",
    ),
    "module outside": BreakOut(
        learned, "import sys; sys.path.insert(0, OUTSIDE); import planted; print(planted.token)"
    ),
    "names of files": BreakOut(
        did, "import os; print('BROKEN OUT' if 'secret.txt' in os.listdir(OUTSIDE) else '')"
    ),
    # Changing what lies outside.
    "writing": BreakOut(changed, "open(VICTIM, 'w').write('changed')"),
    "appending": BreakOut(
        changed, "import os; os.write(os.open(VICTIM, os.O_WRONLY | os.O_APPEND), b'changed')"
    ),
    "making a file": BreakOut(changed, "open(OUTSIDE + '/new', 'x')"),
    "making a folder": BreakOut(changed, "import os; os.mkdir(OUTSIDE + '/new')"),
    "making a pipe": BreakOut(changed, "import os; os.mkfifo(OUTSIDE + '/new')", hook_holds=False),
    "making a database": BreakOut(
        changed, "import sqlite3; sqlite3.connect(OUTSIDE + '/new').execute('create table a (b)')"
    ),
    "removing": BreakOut(changed, "import os; os.unlink(VICTIM)"),
    "renaming": BreakOut(changed, "import os; os.rename(VICTIM, VICTIM + '2')"),
    "moving out": BreakOut(
        changed, "import os; open('a', 'w').close(); os.rename('a', OUTSIDE + '/a')"
    ),
    "emptying": BreakOut(changed, "import os; os.truncate(VICTIM, 0)"),
    "emptying while reading": BreakOut(
        changed, "import os; os.open(VICTIM, os.O_RDONLY | os.O_TRUNC)"
    ),
    "emptying in no mode": BreakOut(changed, "import os; os.open(VICTIM, 3 | os.O_TRUNC)"),
    "mode": BreakOut(changed, "import os; os.chmod(VICTIM, 0o777)"),
    "times": BreakOut(changed, "import os; os.utime(VICTIM, (1, 1))"),
    # The network, and sockets of this machine.
    "tcp": BreakOut(reached, "import socket; s = socket.socket(); s.settimeout(1); s.connect(TCP)"),
    "udp": BreakOut(
        reached,
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', UDP)",
    ),
    "abstract socket": BreakOut(reached, CONNECT.format(0)),
    "socket in a folder": BreakOut(reached, CONNECT.format(1)),
    "listening": BreakOut(
        did,
        "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\n"
        "print('BROKEN OUT')",
    ),
    "names of hosts": BreakOut(
        did, "import socket; socket.getaddrinfo('localhost', 80); print('BROKEN OUT')"
    ),
    # Other processes.
    "subprocess": BreakOut(did, "import subprocess; subprocess.run(['echo', 'BROKEN OUT'])"),
    "shell": BreakOut(changed, "import os; os.system(f'/bin/echo > {OUTSIDE}/new')"),
    "exec": BreakOut(did, "import os; os.execv('/bin/echo', ['echo', 'BROKEN OUT'])"),
    "spawn": BreakOut(
        did,
        "import os; os.wait4(os.posix_spawn('/bin/echo', ['echo', 'BROKEN OUT'], {}), 0)",
    ),
    "fork": BreakOut(
        did, "import os\nif os.fork() == 0: print('BROKEN OUT', flush=True)\nelse: os.wait()"
    ),
    "fork by number": BreakOut(
        did,
        LIBC + "number = {'x86_64': 56, 'aarch64': 220}[os.uname().machine]\n"
        "if libc.syscall(number, 17, 0, 0, 0, 0) == 0: os.write(1, b'BROKEN OUT'); os._exit(0)\n"
        "os.wait()",
    ),
    "fork bomb": BreakOut(
        did,
        "import os, time\n"
        "for _ in range(20):\n"
        "    if os.fork() == 0: time.sleep(0.05); os._exit(0)\n"
        "print('BROKEN OUT')",
    ),
    "daemon": BreakOut(
        changed_later,
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        for file in (0, 1, 2): os.close(file)\n"
        "        time.sleep(0.1); open(OUTSIDE + '/survived', 'w')\n"
        "os._exit(0)",
    ),
    "threads": BreakOut(
        did,
        "import threading\n"
        "threads = [threading.Thread(target=print, args=['BROKEN OUT']) for _ in range(50)]\n"
        "for thread in threads: thread.start()",
        hook_holds=False,
    ),
    "signal": BreakOut(killed, "import os; os.kill(PROCESS, 15)"),
    "signal by handle": BreakOut(
        killed,
        "import os, signal; signal.pidfd_send_signal(os.pidfd_open(PROCESS), 9)",
        hook_holds=False,
    ),
    "signal by a pipe": BreakOut(
        killed,
        "import fcntl, os\n"
        "pipe, other = os.pipe()\n"
        "fcntl.fcntl(pipe, fcntl.F_SETOWN, PROCESS)\n"
        "fcntl.fcntl(pipe, fcntl.F_SETFL, os.O_ASYNC)\n"
        "os.write(other, b'x')",
    ),
    "tracing": BreakOut(
        did, LIBC + "print('BROKEN OUT' if libc.ptrace(16, PROCESS, 0, 0) == 0 else '')"
    ),
    "other memory": BreakOut(
        # An address that is not there: with leave to look the answer is EFAULT.
        did,
        LIBC + "vector = (ctypes.c_size_t * 2)(8, 8)\n"
        "libc.process_vm_readv(PROCESS, vector, 1, vector, 1, 0)\n"
        "print('BROKEN OUT' if ctypes.get_errno() == 14 else '')",
    ),
    "limits of others": BreakOut(
        changed, "import resource; resource.prlimit(PROCESS, resource.RLIMIT_NOFILE, (5, 5))"
    ),
    "priority of others": BreakOut(
        changed, "import os; os.setpriority(os.PRIO_PROCESS, PROCESS, 19)", hook_holds=False
    ),
    # Limits, and what holds the program.
    "raising a limit": BreakOut(
        did,
        "import resource; most = resource.getrlimit(resource.RLIMIT_AS)[1]\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most)); print('BROKEN OUT')",
    ),
    "memory that is a file": BreakOut(
        did, "import os; os.memfd_create('a'); print('BROKEN OUT')", hook_holds=False
    ),
    "shared memory": BreakOut(
        did,
        "import _posixshmem, os; name = f'/colm-{os.getpid()}'\n"
        "_posixshmem.shm_open(name, os.O_CREAT | os.O_RDWR, mode=0o600)\n"
        "_posixshmem.shm_unlink(name); print('BROKEN OUT')",
        hook_holds=False,
    ),
    "files out of sight": BreakOut(
        # Mapped files take their place without a name and without a descriptor.
        did,
        LIBC + "libc.mmap.restype = ctypes.c_void_p\n"
        "for _ in range(40):\n"
        "    file = os.open('a', os.O_RDWR | os.O_CREAT); os.write(file, bytes(2**20))\n"
        "    assert libc.mmap(None, ctypes.c_size_t(4096), 1, 2, file, ctypes.c_long(0)) > 0\n"
        "    os.close(file); os.unlink('a')\n"
        "print('BROKEN OUT')",
    ),
    "folders in folders": BreakOut(
        did,
        "import os\nfor _ in range(200): os.mkdir('a'); os.chdir('a')\nprint('BROKEN OUT')",
    ),
    "new builtins": BreakOut(
        learned,
        "import builtins, os\n"
        "builtins.any = builtins.type = lambda *_: True; os.O_RDONLY, os.devnull = 0, '/'\n"
        "print(open(SECRET).read())",
    ),
    "objects of the collector": BreakOut(
        learned,
        "import gc\n"
        "try:\n"
        "    for it in gc.get_objects():\n"
        "        if getattr(it, '__name__', '') in ('hook', 'allowed', 'within'):\n"
        "            it.__code__ = (lambda *_: True).__code__\n"
        "finally: print(open(SECRET).read())",
    ),
    "frames of the hook": BreakOut(
        learned,
        "try: open('/')\n"
        "except OSError as error:\n"
        "    step = error.__traceback__\n"
        "    while step:\n"
        "        for name, it in list(step.tb_frame.f_locals.items()):\n"
        "            for cell in getattr(it, '__closure__', None) or ():\n"
        "                cell.cell_contents = lambda *_: True\n"
        "        step = step.tb_next\n"
        "print(open(SECRET).read())",
        hook_holds=False,
    ),
    "overwriting with ctypes": BreakOut(
        learned,
        "import ctypes\n"
        "try: ctypes.memset(id(len), 0, 1); ctypes.pythonapi.PySys_AddAuditHook\n"
        "except OSError: pass\n"
        "print(open(SECRET).read())",
        hook_holds=False,
    ),
}


@contextlib.contextmanager
def world_in(folder: Path) -> Iterator[World]:
    world = World(folder)
    try:
        yield world
    finally:
        world.close()


def run_freely(source: str, folder: Path, seconds: float = 5.0) -> str:
    """What a program prints with nothing to hold it, in a folder of its own."""
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", "-c", source],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        close_fds=False,
        start_new_session=True,
    )
    with process:
        try:
            return process.communicate(timeout=seconds)[0].decode(errors="replace")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
