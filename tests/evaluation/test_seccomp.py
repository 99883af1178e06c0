"""The filter of system calls says of each call what it should, on both kinds of machine."""

import errno
import re
import struct
from pathlib import Path

import pytest

from colm.evaluation.sandbox.seccomp import numbers_of_calls, system_call_filter

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
ALLOWED, KILLED = 0x7FFF0000, 0x80000000
REFUSED, NOT_A_TERMINAL, UNKNOWN = (
    0x50000 | error for error in (errno.EPERM, errno.ENOTTY, errno.ENOSYS)
)
TRUNCATE, UNNAMED = 0o1000, 0o20000000  # O_TMPFILE without O_DIRECTORY

each_machine = pytest.mark.parametrize("machine", ARCHITECTURES)


def verdict(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the filter returns, by running its instructions one by one."""
    values = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack(
        "<IIQ6Q", number, architecture or ARCHITECTURES[machine], 0x7F0000000000, *values
    )
    code = list(struct.iter_unpack("<HBBI", system_call_filter(machine)))
    accumulator, step = 0, 0
    while True:
        operation, if_true, if_false, value = code[step]
        step += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x15:
            step += if_true if accumulator == value else if_false
        elif operation == 0x35:
            step += if_true if accumulator >= value else if_false
        else:
            assert operation == 0x06
            return value


def call(machine: str, name: str, *arguments: int) -> int:
    return verdict(machine, numbers_of_calls(machine)[name], *arguments)


@each_machine
def test_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip("no headers of the kernel")
    text = HEADERS[machine].read_text()
    said = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text))
    # The generic header names one call for the size of a pointer; 64-bit machines give it another.
    said.setdefault("newfstatat", said.get("fstatat"))
    assert {name: int(said[name]) for name in numbers_of_calls(machine)} == numbers_of_calls(
        machine
    )


@each_machine
def test_no_call_is_allowed_that_is_not_on_the_list(machine: str) -> None:
    listed = set(numbers_of_calls(machine).values())
    allowed = {number for number in range(1024) if verdict(machine, number) == ALLOWED}
    assert allowed <= listed
    guarded = {"ioctl"}
    assert listed - allowed == {numbers_of_calls(machine)[name] for name in guarded}


@each_machine
def test_calls_of_other_machines_and_later_kernels(machine: str) -> None:
    assert verdict(machine, 1, architecture=0x40000003) == KILLED
    assert verdict(machine, 500) == UNKNOWN
    assert verdict(machine, 0x40000000) == UNKNOWN  # x32
    assert verdict(machine, 2**32 - 1) == UNKNOWN


@each_machine
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("ioctl", (0, 0x5451), ALLOWED),
        ("ioctl", (0, 0x5412), NOT_A_TERMINAL),  # TIOCSTI
        ("fcntl", (0, 1030), ALLOWED),
        ("fcntl", (0, 8, 1), REFUSED),  # F_SETOWN
        ("fcntl", (0, 10, 9), REFUSED),  # F_SETSIG
        ("prlimit64", (0, 7, 0, 2**40), ALLOWED),
        ("prlimit64", (0, 7, 2**40, 0), REFUSED),
        ("prlimit64", (0, 7, 1, 0), REFUSED),
        ("prlimit64", (1, 7, 0, 0), REFUSED),
        ("openat", (0, 0, 0), ALLOWED),
        ("openat", (0, 0, 2 | TRUNCATE | 0o100), ALLOWED),
        ("openat", (0, 0, 1 | TRUNCATE), ALLOWED),
        ("openat", (0, 0, TRUNCATE), REFUSED),
        ("openat", (0, 0, 3 | TRUNCATE), REFUSED),
        ("openat", (0, 0, 3), REFUSED),
        ("openat", (0, 0, 2 | UNNAMED), REFUSED),
        ("openat", (0, 0, 1 | UNNAMED | TRUNCATE), REFUSED),
    ],
)
def test_arguments(machine: str, name: str, arguments: tuple[int, ...], expected: int) -> None:
    assert call(machine, name, *arguments) == expected
    if name == "openat" and machine == "x86_64":
        assert call(machine, "open", *arguments[1:]) == expected
