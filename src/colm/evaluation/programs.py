r"""Program of thought: the Python that a model wrote for a question, and what it prints.

A program is taken from its fence or from the raw text, and given the ``print`` that training data
leave out. It runs in ``colm.evaluation.sandbox``.
"""

import ast
import os
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from colm.evaluation.final_answer import before_next_question

#: What follows a question where a program is asked for, as in MathInstruct.
PROGRAM_REQUEST = " Let's write a Python program."

_FENCE = re.compile(r"```[ \t]*(\w*)[^\n]*\n(.*?)(```|\Z)", re.DOTALL)
_PYTHON = {"", "python", "python3", "py"}
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
    written = before_next_question(written)
    fences = _FENCE.findall(written)
    if not fences:
        return _longest_program(written)
    found = [(code, end) for name, code, end in reversed(fences) if name.lower() in _PYTHON]
    for code, end in sorted(found, key=lambda fence: "print" not in fence[0]):
        program = _whole_program(code) if end else _longest_program(code, must_print=True)
        if program is not None:
            return program
    # A fence may be closed that was never opened.
    return _longest_program(written.partition("```")[0], must_print=True)


def run_programs(written: Sequence[str], timeout_seconds: float = 5.0) -> list[ProgramAnswer]:
    """Run the program in each of some texts, several at a time.

    Args:
        written: What a model wrote.
        timeout_seconds: Longest run of one.

    Returns:
        What came of each, in their order.
    """
    from colm.evaluation.sandbox import run_program

    def run(text: str) -> ProgramAnswer:
        program = extract_program(text)
        if program is None:
            return ProgramAnswer("none", message="no program was written")
        result = run_program(program, timeout_seconds=timeout_seconds)
        return ProgramAnswer(result.status, result.output[-_KEPT_CHARACTERS:], result.message)

    threads = max(1, min(len(written), os.cpu_count() or 1, _MOST_THREADS))
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, written))


def _whole_program(code: str) -> str | None:
    """A text as a program that prints what it comes to, if it is one."""
    tree = _parse(code.strip("\n"))
    return None if tree is None else _with_print(code.strip("\n"), tree)


def _longest_program(code: str, *, must_print: bool = False) -> str | None:
    """The longest beginning of a text that is a program, printing what it comes to."""
    lines = code.strip("\n").splitlines()[:_MOST_LINES]
    while lines:
        tree = _parse("\n".join(lines))
        if tree is not None:
            program = "\n".join(lines)
            if must_print:
                return program if _prints(tree) else None
            return _with_print(program, tree)
        lines.pop()
    return None


def _parse(code: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            # A model's invalid escapes are no concern of who evaluates it.
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _with_print(code: str, tree: ast.Module) -> str | None:
    """A program that prints its result; ``None`` where it has none, as a line of prose has."""
    if _prints(tree):
        return code
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Assign) and isinstance(last.targets[0], ast.Name):
        return f"{code}\nprint({last.targets[0].id})"
    if isinstance(last, ast.Expr) and not isinstance(last.value, ast.Name | ast.Constant):
        # Its own text: ast.unparse cannot take what is nested deeply.
        value = ast.get_source_segment(code, last.value)
        *start, line = code.split("\n")[: last.lineno]
        before = line.encode()[: last.col_offset].decode()
        return "\n".join([*start, f"{before}print({value})"])
    if functions and last is functions[-1] and not functions[-1].args.args:
        return f"{code}\nprint({functions[-1].name}())"
    return None


def _prints(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        for node in ast.walk(tree)
    )
