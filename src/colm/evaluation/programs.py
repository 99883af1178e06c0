r"""Program of thought: the Python that a model wrote for a question, and what it prints.

A program is taken from its fence or from the raw text. One that prints, in whatever way, runs as it
is written; of others the last value counts. It runs in ``colm.evaluation.sandbox.process``.
"""

import ast
import os
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from textwrap import dedent
from typing import NamedTuple

from colm.evaluation.judging.final_answer import before_next_question
from colm.evaluation.last_value import PRINTED, PRINTED_UNLESS_NONE, makes_output, with_last_value

#: What follows a question where a program is asked for, as in MathInstruct.
PROGRAM_REQUEST = " Let's write a Python program."

_FENCE = re.compile(
    r"(?P<fence>`{3,}|~{3,})[ \t]*(?P<name>\w*)[^\n]*\n(?P<code>.*?)(?P<end>(?P=fence)|\Z)",
    re.DOTALL,
)
_PYTHON = {"", "python", "python3", "py", "py3", "ipython", "ipython3", "pycon", "tool_code"}
_MAY_PRINT = re.compile(r"\b(?:p?print|pp|print_\w+|pretty_print|write)\s*\(|\bstdout\b")
_NO_ANSWER = {"none", "nan", "inf", "-inf", "null", "[]", "()", "{}", "set()", "error"}
_NO_ANSWER |= {"emptyset", "zoo", "[none]", "[nan]"}
_MOST_LINES = 400
_MOST_THREADS = 8
_KEPT_CHARACTERS = 2000


@dataclass(frozen=True)
class ProgramAnswer:
    """What came of a program.

    Attributes:
        status: That of ``ProgramResult``, or "none" where nothing could be run as a program.
        output: What it printed, the end of it where that is long.
        message: What went wrong.
    """

    status: str
    output: str = ""
    message: str = ""

    @property
    def answer(self) -> str | None:
        r"""The last line it printed; ``None`` where it failed or printed no answer.

        Example:
            >>> ProgramAnswer("ok", "checking\n42.0\n").answer, ProgramAnswer("ok", "None").answer
            ('42.0', None)
        """
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        if self.status != "ok" or not lines or lines[-1].lower() in _NO_ANSWER:
            return None
        return lines[-1]


class _Program(NamedTuple):
    """What is run, and what is run in its place where that prints nothing, if anything is."""

    code: str
    shown: str | None

    @classmethod
    def made_of(cls, code: str, tree: ast.Module, *, is_cut: bool = False) -> "_Program | None":
        """A program as it is written where it may print, else with its last value printed."""
        prints = makes_output(tree)
        shown = None
        if not is_cut:
            with suppress(RecursionError):  # branches within hundreds of branches
                shown = with_last_value(code, tree, PRINTED_UNLESS_NONE if prints else PRINTED)
        if prints:
            return cls(code, shown)
        return None if shown is None else cls(shown, None)


def extract_program(written: str) -> str | None:
    r"""Return the program in what a model wrote.

    Of several fences the last that is Python and prints is taken, else the last that is Python;
    one that was cut must print in what is left of it. Without a fence the text itself is taken,
    without what follows the program.

    Args:
        written: What the model wrote.

    Returns:
        Python that prints something; ``None`` where there is none.

    Example:
        >>> extract_program("Sure:\n```python\nx = 6 * 7\n```\nThat is it.")
        'x = 6 * 7\nprint(x)'
        >>> extract_program("I would add them up.")
    """
    program = _extract(written)
    return None if program is None else program.code


def run_programs(written: Sequence[str], timeout_seconds: float = 5.0) -> list[ProgramAnswer]:
    """Run the program in each of some texts, several at a time.

    Args:
        written: What a model wrote.
        timeout_seconds: Longest run of one.

    Returns:
        What came of each, in their order.
    """
    threads = max(1, min(len(written), os.cpu_count() or 1, _MOST_THREADS))
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(partial(_run, timeout_seconds=timeout_seconds), written))


def _extract(written: str) -> "_Program | None":
    """The program in what a model wrote."""
    written = before_next_question(written)
    fences = list(_FENCE.finditer(written))
    if not fences:
        return _longest_program(written)
    python = [found for found in reversed(fences) if found["name"].lower() in _PYTHON]
    for found in sorted(python, key=lambda each: not _MAY_PRINT.search(each["code"])):
        code, is_whole = found["code"], bool(found["end"])
        program = _whole_program(code) if is_whole else _longest_program(code, is_cut=True)
        if program is not None:
            return program
    # A fence may be closed that was never opened.
    return _longest_program(written[: fences[0].start()], is_cut=True)


def _whole_program(code: str) -> "_Program | None":
    """The code of a fence as a program that prints what it comes to, if it is one."""
    code, tree = _dedented(code)
    return None if tree is None else _Program.made_of(code, tree)


def _longest_program(code: str, *, is_cut: bool = False) -> "_Program | None":
    """The longest beginning of a text that is a program; one that was cut must print."""
    lines = _dedented(code)[0].split("\n")[:_MOST_LINES]
    while lines:
        beginning = "\n".join(lines)
        tree = _parse(beginning)
        if tree is not None and (lines[-1].strip() or len(lines) == 1):
            return None if _is_one_word(tree) else _Program.made_of(beginning, tree, is_cut=is_cut)
        lines.pop()
    return None


def _dedented(code: str) -> tuple[str, ast.Module | None]:
    """Code without prompts and without what all of it is indented by, and its tree if it has one.

    A fence inside of a list is indented. Where the answer begins with it, its first line is not:
    answers are stripped.
    """
    code = code.replace("\r\n", "\n").lstrip("\n").rstrip()
    if code.lstrip().startswith(">>> "):
        prompts = [line.strip() for line in code.split("\n")]
        code = "\n".join(line[4:] for line in prompts if line.startswith((">>>", "...")))
    first, _, rest = code.partition("\n")
    margin = len(first) - len(first.lstrip())
    outdented = re.sub(rf"(?m)^[ \t]{{0,{margin}}}", "", code)
    for each in (code, outdented, f"{first.lstrip()}\n{dedent(rest)}"):
        tree = _parse(each)
        if tree is not None:
            return each, tree
    return outdented, None


def _parse(code: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            # A model's invalid escapes are no concern of who evaluates it.
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_one_word(tree: ast.Module) -> bool:
    """Whether a text is a word or a number rather than a program."""
    expressions = [statement.value for statement in tree.body if isinstance(statement, ast.Expr)]
    return len(tree.body) == len(expressions) and all(
        isinstance(value, ast.Name | ast.Constant) for value in expressions
    )


def _run(text: str, timeout_seconds: float) -> ProgramAnswer:
    """What came of the program in a text, as written, or with its last value printed."""
    from colm.evaluation.sandbox.process import run_program

    program = _extract(text)
    if program is None:
        return ProgramAnswer("none", message="no program was written")
    result = run_program(program.code, timeout_seconds=timeout_seconds)
    if program.shown is not None and result.status == "ok" and not result.output.strip():
        # It names what prints, but does not call it, or prints nothing with it.
        result = run_program(program.shown, timeout_seconds=timeout_seconds)
    return ProgramAnswer(result.status, result.output[-_KEPT_CHARACTERS:], result.message)
