"""What a process puts on itself before it runs a program that a model wrote.

`process` starts this file as a script, in an isolated interpreter that finds no package, colm
included; hence it stands alone. It imports little, since every program waits for it. Nothing here
can be taken back by the program: the kernel lets it add restrictions, never lift them.
"""

from __future__ import annotations

import builtins
import ctypes
import errno
import json
import os
import struct
import sys

TYPE_CHECKING = False  # the module typing takes longer to import than all of the others
if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from typing import Any, NoReturn

#: Said on stderr once everything holds, before the program runs: it can neither forge nor undo it.
READY = b"confined\n"
#: Exit statuses of a program that raised, and of one that found no memory.
FAILED, OUT_OF_MEMORY = 1, 3

_PROGRAM = "<program>"
_MOST_REPORTED_CHARACTERS = 500

# linux/sched.h, linux/prctl.h, linux/capability.h, linux/landlock.h; the numbers of Landlock's
# system calls are those of every machine.
_NEW_USER_NETWORK_IPC_AND_NAMES = 0x10000000 | 0x40000000 | 0x08000000 | 0x04000000
_DEATH_SIGNAL, _DUMPABLE, _SECCOMP, _NO_NEW_PRIVILEGES, _SIGKILL = 1, 4, 22, 38, 9
_CAPABILITY_VERSION = 0x20080522
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF, _GET_VERSION = 444, 445, 446, 1
# Version of Landlock -> how many kinds of access to files it knows, one bit each.
_KINDS_OF_ACCESS = {1: 13, 2: 14, 3: 15, 4: 15}
_MOST_KINDS_OF_ACCESS = 16
_WRITE, _READ, _LIST, _MAKE, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 8, 1 << 14
_ALL_TCP, _ALL_SCOPES = 0b11, 0b11


class RefusedError(Exception):
    """The process cannot be confined, so that no program may run in it."""


class Confinement:
    """What the parent asks for; it comes as JSON, with bytes in hexadecimal digits."""

    def __init__(
        self,
        *,
        source: str,
        parent: int,
        scratch: str,
        packages: dict[str, str],
        readable: list[str],
        libraries: list[str],
        limits: dict[str, int],
        system_calls: str,
        audit: str,
        kernel: str = "required",
        namespaces: bool = True,
        most_landlock: int = 1000,
    ) -> None:
        self.source = source
        self.parent = parent  # its process number
        self.scratch = scratch
        self.packages = packages  # name -> folder
        self.readable = readable  # folders and files that must be readable
        self.libraries = libraries  # more of them, where they exist
        self.limits = limits  # name in the module resource -> value
        self.system_calls = bytes.fromhex(system_calls)  # a filter, or nothing where there is none
        self.audit = audit  # the source of colm.evaluation.sandbox.audit, or nothing
        self.kernel = kernel  # "required", "tried" or "off"
        self.namespaces = namespaces
        self.most_landlock = most_landlock  # the newest version to use


class PackageFinder:
    """Finds a few packages by name; the folder they lie in is on no path, and cannot be listed."""

    def __init__(self, packages: dict[str, str]) -> None:
        self._packages = packages

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        """Return where a package is, or None."""
        if name not in self._packages:
            return None
        from importlib.util import spec_from_file_location

        folder = self._packages[name]
        return spec_from_file_location(
            name, f"{folder}/__init__.py", submodule_search_locations=[folder]
        )


def confine(plan: Confinement) -> None:
    """Put everything that holds a program on this process, for good.

    Args:
        plan: What to hold.

    Raises:
        RefusedError: ``plan.kernel`` is "required", and the kernel does not offer what it takes.
    """
    kernel = plan.kernel != "off" and sys.platform == "linux"
    libc = ctypes.CDLL(None, use_errno=True)
    if kernel and plan.namespaces:
        # Where it is forbidden (in most containers) the layers below hold alone.
        libc.unshare(_NEW_USER_NETWORK_IPC_AND_NAMES)
    for name, value in plan.limits.items():
        _limit(name, value)
    steps: list[Callable[[], None]] = [
        lambda: _give_up_privileges(libc, plan.parent),
        lambda: _restrict_files(libc, plan),
        lambda: _restrict_system_calls(libc, plan.system_calls),
        lambda: _check(plan),
    ]
    for step in steps if kernel else []:
        try:
            step()
        except RefusedError:
            if plan.kernel == "required":
                raise
    if plan.audit:
        # With builtins of its own, which the program cannot replace.
        defined: dict[str, Any] = {"__builtins__": dict(vars(builtins))}
        exec(plan.audit, defined)
        sys.addaudithook(defined["audit_hook"](plan.scratch, tuple(plan.readable)))


def _limit(name: str, value: int) -> None:
    """Lower a limit for good, where the system knows it."""
    import resource  # Windows has none, and imports this file only to say so

    kind = getattr(resource, name, None)
    if kind is None:
        return
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    try:
        resource.setrlimit(kind, (value, value))
    except (OSError, ValueError):
        # macOS refuses some, for instance that of memory.
        if sys.platform == "linux":
            raise


def _give_up_privileges(libc: Any, parent: int) -> None:
    """No capability, now or later; nobody attaches to this process; it dies with its parent."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    _demand(libc.capset(header, bytes(24)), "capabilities cannot be dropped")
    for option, value in ((_NO_NEW_PRIVILEGES, 1), (_DUMPABLE, 0), (_DEATH_SIGNAL, _SIGKILL)):
        _demand(libc.prctl(option, value, 0, 0, 0), "privileges cannot be given up")
    if os.getppid() != parent:
        os._exit(FAILED)


def _restrict_files(libc: Any, plan: Confinement) -> None:
    """Landlock: files of the scratch folder, reading what Python needs, and nothing else."""
    call = _system_call(libc)
    version = min(call(_CREATE_RULESET, 0, 0, _GET_VERSION), plan.most_landlock)
    if version < 1:
        raise RefusedError("this kernel offers no Landlock (Linux 5.13 or newer has it)")
    every = (1 << _KINDS_OF_ACCESS.get(version, _MOST_KINDS_OF_ACCESS)) - 1
    fields = [every] + [_ALL_TCP] * (version >= 4) + [_ALL_SCOPES] * (version >= 6)
    wanted = struct.pack(f"={len(fields)}Q", *fields)
    rules = call(_CREATE_RULESET, wanted, len(wanted), 0)
    _demand(rules, "Landlock takes no rules")
    existing = [path for path in plan.libraries if os.path.exists(path)]
    granted = [(path, _READ | _LIST) for path in plan.readable + existing]
    granted += [(os.devnull, _READ | _WRITE | _TRUNCATE)]
    # Files alone, which stay: no folder and no link leaves nothing that is hard to remove, and a
    # file that is removed but in use could not be counted.
    granted += [(plan.scratch, _READ | _LIST | _WRITE | _TRUNCATE | _MAKE)]
    for path, access in granted:
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
        access = access if os.path.isdir(path) else access & ~_LIST
        rule = struct.pack("=Qi", access & every, file)
        _demand(call(_ADD_RULE, rules, 1, rule, 0), "Landlock takes no rule")
        os.close(file)
    _demand(call(_RESTRICT_SELF, rules, 0), "Landlock does not take hold")
    os.close(rules)


def _restrict_system_calls(libc: Any, instructions: bytes) -> None:
    """Seccomp: the kernel runs the filter before every system call from now on."""
    if not instructions:
        raise RefusedError("the system calls of this kind of machine are not known")
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    program = struct.pack("@HP", len(instructions) // 8, ctypes.addressof(buffer))
    _demand(libc.prctl(_SECCOMP, 2, program, 0, 0), "this kernel filters no system calls")


def _system_call(libc: Any) -> Callable[..., int]:
    """A system call by number: whole numbers fill a register, whatever the machine."""

    def call(*arguments: int | bytes) -> int:
        wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
        return int(libc.syscall(*wide))

    return call


def _demand(result: int, otherwise: str) -> None:
    """Refuse where a call failed."""
    if result < 0:
        raise RefusedError(f"{otherwise} ({os.strerror(ctypes.get_errno())})")


def _check(plan: Confinement) -> None:
    """See that what must fail fails, and that Python can be read, or every program would fail."""
    for forbidden in (lambda: os.open("/", os.O_RDONLY), lambda: os.getsid(0)):
        try:
            forbidden()
        except PermissionError:
            continue
        raise RefusedError("the kernel says that it confines, but does not")
    for path in [*plan.readable, plan.scratch]:
        try:
            os.close(os.open(path, os.O_RDONLY))
        except OSError:
            raise RefusedError("a confined process cannot read Python's own library") from None


def run(source: str) -> tuple[int, str]:
    """Run a program as ``__main__``; return its exit status, and one line on why it failed."""
    module = type(sys)("__main__")
    # The interpreter offers exit and quit only with site packages.
    module.__dict__.update(__builtins__=builtins, exit=sys.exit, quit=sys.exit)
    sys.modules["__main__"] = module
    sys.argv = [_PROGRAM]
    try:
        exec(compile(source, _PROGRAM, "exec", dont_inherit=True), module.__dict__)
        return 0, ""
    except SystemExit as stop:
        return (0, "") if stop.code in {None, 0} else (FAILED, f"SystemExit: {stop.code}")
    except MemoryError:
        return OUT_OF_MEMORY, ""
    except BaseException as error:
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return OUT_OF_MEMORY, ""
        return FAILED, _description(error)


def _description(error: BaseException) -> str:
    """One line: which line of the program raised, and what."""
    line, step = None, error.__traceback__
    while step:
        line = step.tb_lineno if step.tb_frame.f_code.co_filename == _PROGRAM else line
        step = step.tb_next
    if isinstance(error, SyntaxError) and error.filename == _PROGRAM:
        line = error.lineno
    text = error.strerror if isinstance(error, OSError) and error.strerror else error
    place = f"line {line}: " if line else ""
    return f"{place}{type(error).__name__}: {text}"


def _report(text: str) -> None:
    """Write a line where the parent looks for it, unless the program closed that."""
    line = " ".join(text[:_MOST_REPORTED_CHARACTERS].split())
    os.write(2, f"\n{line}\n".encode(errors="replace"))


def main() -> NoReturn:
    """Take the plan from stdin, confine this process, run the program, and end."""
    with open(0, "rb", closefd=False) as file:
        plan = Confinement(**json.load(file))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    # What is printed arrives also from a program that is stopped later.
    sys.stdout.reconfigure(line_buffering=True, errors="replace")  # type: ignore[union-attr]
    sys.meta_path.append(PackageFinder(plan.packages))
    try:
        confine(plan)
    except RefusedError as refusal:
        _report(str(refusal))
        os._exit(FAILED)
    os.write(2, READY)
    status, line = FAILED, ""
    try:
        status, line = run(plan.source)
        sys.stdout.flush()
    finally:
        # At once, whatever the program has left to be called at the end.
        try:
            _report(line)
        finally:
            os._exit(status)


if __name__ == "__main__":
    main()
