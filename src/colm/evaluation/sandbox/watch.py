"""What a confined process prints, how long it runs, how much it writes: bounded from outside."""

import contextlib
import os
import selectors
import subprocess
import time

from colm.evaluation.sandbox.confinement import READY

#: A program that prints more, to stdout or to stderr, is stopped.
MOST_PRINTED_BYTES = 2**16
#: Not the program's time: a busy machine may take long to start a process.
START_SECONDS = 60.0

_MOST_SCRATCH_BYTES, _MOST_SCRATCH_FILES = 2**25, 1000
_LOOK_SECONDS, _BRIEF_SECONDS = 0.05, 0.001


class Watch:
    """Reads what a process prints, until it ends or there is a reason to end it.

    Args:
        process: A new process, with pipes for stdout and stderr; it is not waited for here.
        scratch: Its folder.
        seconds: How long it may run once it has said that it is confined.
    """

    def __init__(self, process: subprocess.Popen[bytes], scratch: str, seconds: float) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._process, self._scratch, self._seconds = process, scratch, seconds
        self._output, self._errors = bytearray(), bytearray()
        self._open = {process.stdout.fileno(): self._output, process.stderr.fileno(): self._errors}
        self._started = False
        self._deadline = time.monotonic() + START_SECONDS

    def until_the_end(self) -> tuple[tuple[str, str] | None, tuple[bytes, bytes]]:
        """Return the status and message of a process that must be killed, and what it printed."""
        stopped = None
        with selectors.DefaultSelector() as selector:
            for stream in self._open:
                selector.register(stream, selectors.EVENT_READ)
            while not stopped and (self._open or not _has_ended(self._process)):
                for key, _ in selector.select(_LOOK_SECONDS if self._open else _BRIEF_SECONDS):
                    if not self._read(key.fd):
                        selector.unregister(key.fd)
                        del self._open[key.fd]
                stopped = self._reason_to_stop()
        return stopped, (bytes(self._output), bytes(self._errors))

    def _read(self, stream: int) -> bool:
        """Read what is there; False at the end."""
        piece = os.read(stream, 2**14)
        self._open[stream].extend(piece)
        if not self._started and self._errors.startswith(READY):
            self._started = True
            self._deadline = time.monotonic() + self._seconds
        return bool(piece)

    def _reason_to_stop(self) -> tuple[str, str] | None:
        """Status and message where the process must end now."""
        if max(len(self._output), len(self._errors)) > MOST_PRINTED_BYTES:
            return "error", f"it printed more than {MOST_PRINTED_BYTES} bytes"
        if time.monotonic() > self._deadline:
            return "timeout", f"it ran longer than {self._seconds:g} seconds"
        if _is_full(self._scratch):
            return "error", "it filled its folder"
        return None


def _is_full(folder: str) -> bool:
    """Whether files, or their number, take more of a disk than a program may."""
    files, size = 0, 0
    # Without the kernel's help a program may do something to the folder, too.
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            files += 1
            with contextlib.suppress(FileNotFoundError):
                size += entry.stat(follow_symlinks=False).st_blocks * 512
            if files > _MOST_SCRATCH_FILES or size > _MOST_SCRATCH_BYTES:
                return True
    return False


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended; where the system can tell without giving its number to others."""
    if not hasattr(os, "waitid"):
        return process.poll() is not None
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    try:
        return os.waitid(os.P_PID, process.pid, options) is not None
    except ChildProcessError:  # where SIGCHLD is ignored, nobody needs to wait
        return True
