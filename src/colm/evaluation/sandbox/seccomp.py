"""The system calls that a confined program may make, as a filter which the kernel runs.

Linux runs the filter, a short program of classic BPF, before every system call. What is not on the
list fails with EPERM: there is none for processes, threads, signals to others, sockets, mounts,
keys, other memory, or for changing the owner, the mode or the name of a file. None removes one: a
file that is mapped takes its place on the disk, or in memory, when no folder names it any more, and
nobody would see it. The list is short because a program that computes needs little; a call that a
later kernel adds is not on it.
"""

import errno
import struct

# Where the kernel puts what a filter looks at (struct seccomp_data), in bytes.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_FAIL = 0x00050000

_TRUNCATE, _ACCESS_MODE, _UNNAMED = 0o1000, 0o3, 0o20000000
_CLOSE_ON_EXEC = (0x5451, 0x5450)
# Duplicate, and read and set flags; not whom a descriptor sends signals to, nor a pipe's size.
_DESCRIPTOR_COMMANDS = (0, 1, 2, 3, 4, 1030)
# Numbers from here on are newer than this list. ENOSYS sends the C library to an older call.
_NEWER_NUMBER = 463

# System call -> its number, for each machine: AUDIT_ARCH_* and what linux/unistd.h says there.
_X86_64 = (
    "access 21 alarm 37 brk 12 clock_getres 229 clock_gettime 228 clock_nanosleep 230 close 3 "
    "dup 32 dup2 33 dup3 292 exit 60 exit_group 231 faccessat 269 faccessat2 439 fadvise64 221 "
    "fcntl 72 fdatasync 75 fstat 5 fstatfs 138 fsync 74 ftruncate 77 futex 202 getcpu 309 "
    "getcwd 79 getdents64 217 getegid 108 geteuid 107 getgid 104 getgroups 115 getitimer 36 "
    "getpid 39 getppid 110 getrandom 318 getrusage 98 gettid 186 gettimeofday 96 getuid 102 "
    "ioctl 16 lseek 8 lstat 6 madvise 28 mmap 9 mprotect 10 mremap 25 msync 26 "
    "munmap 11 nanosleep 35 newfstatat 262 open 2 openat 257 pause 34 pipe 22 pipe2 293 poll 7 "
    "ppoll 271 pread64 17 preadv 295 prlimit64 302 pselect6 270 pwrite64 18 pwritev 296 read 0 "
    "readlink 89 readlinkat 267 readv 19 restart_syscall 219 rseq 334 rt_sigaction 13 "
    "rt_sigpending 127 rt_sigprocmask 14 rt_sigreturn 15 rt_sigsuspend 130 rt_sigtimedwait 128 "
    "sched_getaffinity 204 sched_yield 24 select 23 set_robust_list 273 setitimer 38 "
    "sigaltstack 131 stat 4 statfs 137 statx 332 sysinfo 99 time 201 times 100 uname 63 "
    "write 1 writev 20"
)
_AARCH64 = (
    "brk 214 clock_getres 114 clock_gettime 113 clock_nanosleep 115 close 57 dup 23 dup3 24 "
    "exit 93 exit_group 94 faccessat 48 faccessat2 439 fadvise64 223 fcntl 25 fdatasync 83 "
    "fstat 80 fstatfs 44 fsync 82 ftruncate 46 futex 98 getcpu 168 getcwd 17 getdents64 61 "
    "getegid 177 geteuid 175 getgid 176 getgroups 158 getitimer 102 getpid 172 getppid 173 "
    "getrandom 278 getrusage 165 gettid 178 gettimeofday 169 getuid 174 ioctl 29 lseek 62 "
    "madvise 233 mmap 222 mprotect 226 mremap 216 msync 227 munmap 215 "
    "nanosleep 101 newfstatat 79 openat 56 pipe2 59 ppoll 73 pread64 67 preadv 69 prlimit64 261 "
    "pselect6 72 pwrite64 68 pwritev 70 read 63 readlinkat 78 readv 65 restart_syscall 128 "
    "rseq 293 rt_sigaction 134 rt_sigpending 136 rt_sigprocmask 135 rt_sigreturn 139 "
    "rt_sigsuspend 133 rt_sigtimedwait 137 sched_getaffinity 123 sched_yield 124 "
    "set_robust_list 99 setitimer 103 sigaltstack 132 statfs 43 statx 291 sysinfo 179 times 153 "
    "uname 160 write 64 writev 66"
)
_MACHINES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}


def numbers_of_calls(machine: str) -> dict[str, int]:
    """Return the number of each system call on the list.

    Args:
        machine: As ``os.uname().machine`` says it.

    Returns:
        Name of the call -> its number; empty where the machine's numbers are not known.

    Example:
        >>> numbers_of_calls("aarch64")["openat"], numbers_of_calls("riscv64")
        (56, {})
    """
    words = _MACHINES[machine][1].split() if machine in _MACHINES else []
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def system_call_filter(machine: str) -> bytes:
    """Return the filter for one kind of machine.

    A call by another machine's numbers (a 32-bit program's, for instance) kills the process.

    Args:
        machine: As ``os.uname().machine`` says it.

    Returns:
        Instructions of classic BPF, 8 bytes each; empty where the machine's numbers are not known.

    Example:
        >>> len(system_call_filter("x86_64")) % 8, system_call_filter("riscv64")
        (0, b'')
    """
    if machine not in _MACHINES:
        return b""
    numbers = numbers_of_calls(machine)
    # Each block returns, so that what it loads is never taken for the number of a later test.
    guarded = {
        "ioctl": _first_allowed(1, _CLOSE_ON_EXEC, errno.ENOTTY),
        "fcntl": _first_allowed(1, _DESCRIPTOR_COMMANDS, errno.EPERM),
        "open": _opening(1),
        "openat": _opening(2),
        "prlimit64": _reading_own_limits(),
    }
    return b"".join(
        [
            _step(_LOAD, _ARCHITECTURE),
            _step(_EQUAL, _MACHINES[machine][0], 1, 0),
            _step(_RETURN, _KILL),
            _step(_LOAD, _NUMBER),
            _step(_AT_LEAST, _NEWER_NUMBER, 0, 1),
            _fail(errno.ENOSYS),
            *(
                _step(_EQUAL, number, 0, len(block) // 8) + block
                for name, number in numbers.items()
                for block in [guarded.get(name, _step(_RETURN, _ALLOW))]
            ),
            _fail(errno.EPERM),
        ]
    )


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction; the last two say how many to skip."""
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _fail(error: int) -> bytes:
    """The call fails with this number."""
    return _step(_RETURN, _FAIL | error)


def _argument(index: int, high: bool = False) -> bytes:
    """Load half of an argument; both machines store the low half first."""
    return _step(_LOAD, _ARGUMENTS + 8 * index + 4 * high)


def _first_allowed(index: int, values: tuple[int, ...], error: int) -> bytes:
    """Allow a few values of a 32-bit argument."""
    tests = [_step(_EQUAL, value, 0, 1) + _step(_RETURN, _ALLOW) for value in values]
    return b"".join([_argument(index), *tests, _fail(error)])


def _opening(index: int) -> bytes:
    """Refuse to empty a file that is not opened for writing, and to make one without a name.

    Before version 3 of its interface Landlock takes that for reading. The access mode 3 opens
    neither for reading nor for writing, yet empties as well.
    """
    return b"".join(
        [
            _argument(index),
            _step(_AND, _UNNAMED | _TRUNCATE | _ACCESS_MODE),
            _step(_AT_LEAST, _UNNAMED, 4, 0),
            _step(_EQUAL, _TRUNCATE, 3, 0),
            _step(_EQUAL, _TRUNCATE | _ACCESS_MODE, 2, 0),
            _step(_EQUAL, _ACCESS_MODE, 1, 0),
            _step(_RETURN, _ALLOW),
            _fail(errno.EPERM),
        ]
    )


def _reading_own_limits() -> bytes:
    """Allow to read the limits of this process, not to set any: no pid, and no new limits."""
    return b"".join(
        [
            _argument(0),
            _step(_EQUAL, 0, 0, 5),
            _argument(2),
            _step(_EQUAL, 0, 0, 3),
            _argument(2, high=True),
            _step(_EQUAL, 0, 0, 1),
            _step(_RETURN, _ALLOW),
            _fail(errno.EPERM),
        ]
    )
