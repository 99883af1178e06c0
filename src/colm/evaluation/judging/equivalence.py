r"""Whether two formulas are the same, told by ``math-verify`` in a process of its own.

What a model writes, ``9^{9^{9^9}}`` for instance, may take a computer algebra system minutes or
gigabytes, inside calls that no signal interrupts. So formulas are compared in a process with a
bound on its memory, which is ended, and started anew, where it does not answer in time.
"""

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from colm.evaluation.reading.notation import as_latex

SECONDS = 5.0
#: For all formulas together that are not settled in their time.
TOTAL_SECONDS = 120.0
#: Of what is left of it, one formula gets this part at most, and no less than the seconds.
_SHARE, _LEAST_SECONDS = 1 / 24, 0.25
#: For an answer on its way from the other process.
_GRACE_SECONDS = 0.5
#: To start Python and load the library, on a slow and busy machine.
_START_SECONDS = 120.0
_LONGEST = 500
_WORKER = Path(__file__).with_name("equivalence_worker.py")


class FormulaComparison(AbstractContextManager["FormulaComparison"]):
    r"""Compares formulas, in another process that starts with the first question.

    What takes too long is judged by its values, where these could be had, and else by how it is
    written. Time that is spent so is limited for all formulas together.

    Args:
        seconds: Time for one comparison.
        total_seconds: Time for all comparisons together that were not settled.

    Attributes:
        unsettled: How many formulas could not be compared in time.

    Example:
        >>> with FormulaComparison() as same:
        ...     same(r"\frac{\sqrt{2}}{2}", "1/sqrt(2)"), same("x + 1", "x + 2")
        (True, False)
    """

    def __init__(self, seconds: float = SECONDS, total_seconds: float = TOTAL_SECONDS) -> None:
        self.unsettled = 0
        self._seconds = seconds
        self._left = total_seconds
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], bool] = {}

    def __call__(self, gold: str, answer: str) -> bool:
        """Tell whether two formulas are equal.

        Args:
            gold: The right one, LaTeX or as Python writes it.
            answer: What was answered.

        Returns:
            Whether they are; not where either cannot be read, or it takes too long.
        """
        pair = as_latex(gold), as_latex(answer)
        if not all(pair) or max(map(len, pair)) > _LONGEST:
            return False
        with self._lock:
            if pair not in self._known:
                self._known[pair] = self._settle(pair)
            return self._known[pair]

    def __exit__(self, *_: object) -> None:
        """End the other process."""
        self.close()

    def close(self) -> None:
        """End the other process, if there is one; the next comparison starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]

    def _settle(self, pair: tuple[str, str]) -> bool:
        """Whether two formulas are equal, as far as the time allows to tell."""
        said = ""
        if self._left > 0:
            self._process = self._process or self._start()
            began = time.monotonic()
            said = self._ask(pair, min(self._seconds, max(self._left * _SHARE, _LEAST_SECONDS)))
            if said not in {"true", "false"}:
                self._left -= time.monotonic() - began
        if said in {"true", "false"}:
            return said == "true"
        self.unsettled += 1
        return said == "probably" or pair[0].split() == pair[1].split()

    def _ask(self, pair: tuple[str, str], seconds: float) -> str:
        """What the other process says in so many seconds; it is ended where it says nothing."""
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{json.dumps([*pair, seconds])}\n")
            self._process.stdin.flush()
            said = self._answers.get(timeout=seconds + _GRACE_SECONDS).strip()
        except (queue.Empty, OSError):
            said = ""
        except BaseException:
            # An answer that comes later would be taken for that to the next question.
            self.close()
            raise
        if not said:
            self.close()
        return said

    def _start(self) -> "subprocess.Popen[str]":
        """Start the other process and wait until it listens."""
        # -P: the file's folder stays off the module path, -I's isolation would lose virtual
        # environments that are set by variables.
        process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            # Control-C is for the process that asks.
            start_new_session=True,
        )
        self._answers = queue.SimpleQueue()
        threading.Thread(target=_pass_on, args=(process.stdout, self._answers), daemon=True).start()
        try:
            ready = self._answers.get(timeout=_START_SECONDS)
        except BaseException as error:
            process.kill()
            process.wait()
            if not isinstance(error, queue.Empty):
                raise
            ready = ""
        if ready != "ready\n":
            process.kill()
            raise ValueError("comparing formulas needs math-verify: pip install 'colm[evaluate]'")
        return process


def _pass_on(lines: Any, answers: "queue.SimpleQueue[str]") -> None:
    """Put each line into a queue, and an empty text when there are no more."""
    with contextlib.suppress(OSError, ValueError):
        for line in lines:
            answers.put(line)
    answers.put("")
