r"""Whether two formulas are the same, told by ``math-verify`` in a process of its own.

What a model writes, ``9^{9^{9^9}}`` for instance, may take a computer algebra system minutes or
gigabytes, inside calls that no signal interrupts. So formulas are compared in a process with a
bound on its memory, which is ended, and started anew, where it does not answer in time.
"""

import contextlib
import json
import queue
import re
import subprocess
import sys
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from colm.evaluation.quantities import plain_text

SECONDS = 5.0
#: To start Python and load the library, on a slow and busy machine.
_START_SECONDS = 120.0
_LONGEST = 500
_WORKER = Path(__file__).with_name("equivalence_worker.py")
_ROOT = re.compile(r"(?<!\\)\bsqrt\s*\(([^()]*)\)")


class FormulaComparison(AbstractContextManager["FormulaComparison"]):
    r"""Compares formulas, in another process that starts with the first question.

    Args:
        seconds: Time for one comparison; what takes longer is not the same.

    Example:
        >>> with FormulaComparison() as same:
        ...     same(r"\frac{\sqrt{2}}{2}", "1/sqrt(2)"), same("x + 1", "x + 2")
        (True, False)
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
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
                self._known[pair] = self._ask(pair)
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

    def _ask(self, pair: tuple[str, str]) -> bool:
        """What the other process says, started where it is not there."""
        try:
            if self._process is None:
                self._process = self._start()
            assert self._process.stdin is not None
            self._process.stdin.write(f"{json.dumps(pair)}\n")
            self._process.stdin.flush()
            answer = self._answers.get(timeout=self._seconds)
        except (queue.Empty, OSError):
            answer = ""
        except BaseException:
            # An answer that comes later would be taken for that to the next question.
            self.close()
            raise
        if answer not in {"true\n", "false\n"}:
            self.close()
        return answer == "true\n"

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
            raise ValueError("comparing formulas needs the package math-verify: pip install it")
        return process


def as_latex(text: str) -> str:
    r"""Return a formula in LaTeX, where it may be written as Python writes it.

    Args:
        text: A formula.

    Returns:
        LaTeX without what changes only its looks.

    Example:
        >>> as_latex("x**2 + 3*sqrt(2)*pi"), as_latex(r"$\dfrac{1}{2}$")
        ('x^{2} + 3 \\cdot \\sqrt{2} \\cdot \\pi ', '\\frac{1}{2}')
    """
    text = plain_text(text)
    text = re.sub(r"\*\*\s*(\([^()]*\)|-?[\w.]+)", lambda m: f"^{{{m[1].strip('()')}}}", text)
    text = re.sub(r"(?:\*\s*)?(?<![\\A-Za-z])I(?![A-Za-z])|(?<=\d)j\b", "i", text)
    # Without a sign "3 * 4" would read as 34, and "1/2*y" as 1/(2y).
    text = re.sub(r"\s*\*\s*", r" \\cdot ", _ROOT.sub(r"\\sqrt{\1}", text))
    return re.sub(r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi ", text)


def _pass_on(lines: Any, answers: "queue.SimpleQueue[str]") -> None:
    """Put each line into a queue, and an empty text when there are no more."""
    with contextlib.suppress(OSError, ValueError):
        for line in lines:
            answers.put(line)
    answers.put("")
