"""What takes the turns of an arm: a process of its own, told what to do in lines of JSON."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

#: A message between who compares and an arm, as JSON has it.
Told = Mapping[str, Any]


class ArmError(Exception):
    """An arm has come to its end before it was told to."""


class Player(Protocol):
    """What takes an arm's turns."""

    def ask(self, message: Told | None = None) -> Told:
        """Pass on what is to be done, and return what came of it."""

    def close(self) -> None:
        """End it, whatever it is doing."""


class ArmProcess:
    """An arm in a process of its own, which ends with this one.

    Args:
        job: What `colm.runs.arm_process.take_turns` takes.
        log: File for what the process says beside its answers.
    """

    def __init__(self, job: Told, log: Path) -> None:
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "colm.runs.arm_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                encoding="utf-8",
                # Ctrl-C is for the parent alone, which ends its children.
                start_new_session=True,
            )
        self._log = log
        self._tell(job)

    def ask(self, message: Told | None = None) -> Told:
        """Pass on what is to be done, and return what came of it.

        Args:
            message: ``None`` to hear how the arm began.

        Returns:
            Its answer.

        Raises:
            ArmError: It failed; the message says how.
        """
        if message is not None:
            self._tell(message)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        try:
            answer: Told = json.loads(line)
        except ValueError:
            code = self._process.wait()
            raise ArmError(f"{_end_in_words(code)}; {self._log} has what it said") from None
        if answer["event"] == "failed":
            raise ArmError(answer["message"])
        return answer

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()

    def _tell(self, message: Told) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # one that has ended says so when it is asked
            self._process.stdin.write(f"{json.dumps(message)}\n")
            self._process.stdin.flush()


def _end_in_words(code: int) -> str:
    """How a process ended that said nothing."""
    if code >= 0:
        return f"its process ended with code {code}"
    name = signal.Signals(-code).name
    memory = " (as the system does where memory is short)" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{memory}"


Start = Callable[[Told, Path], Player]
