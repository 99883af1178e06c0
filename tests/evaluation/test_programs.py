"""Programs taken from what a model wrote, and the answers they print."""

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colm.evaluation.programs import ProgramAnswer, extract_program, run_programs
from colm.evaluation.sandbox import run_program

SOLUTION = "def solution():\n    return 6 * 7"


@pytest.mark.parametrize(
    ("written", "program"),
    [
        ("print(6 * 7)", "print(6 * 7)"),
        ("```python\nprint(6 * 7)\n```", "print(6 * 7)"),
        ("```\nprint(6 * 7)\n```", "print(6 * 7)"),
        ("Here:\n```Python\nx = 42\nprint(x)\n```\nIt prints 42.", "x = 42\nprint(x)"),
        ("```python\nprint(6 * 7)", "print(6 * 7)"),
        ("```python\nx = 6\nprint(x)\nprint(x +", "x = 6\nprint(x)"),
        ("```python\nx = 6\ny = x *", None),
        ("```python\nprint(6)\nx = = 7\n```", None),
        ("x = 6\ny = x * 7\nSo it is 42.", "x = 6\ny = x * 7\nprint(y)"),
        ("x = 6\ny = x * 7", "x = 6\ny = x * 7\nprint(y)"),
        ("x = 6\nx * 7", "x = 6\nprint(x * 7)"),
        (SOLUTION, f"{SOLUTION}\nprint(solution())"),
        (f"{SOLUTION}\n\nprint(solution())", f"{SOLUTION}\n\nprint(solution())"),
        ("print(1)\nThat is the answer.", "print(1)"),
        ("```bash\npip install x\n```\n```python\nprint(2)\n```", "print(2)"),
        ("```python\nx = 1\n```\nor\n```python\nprint(2)\n```\n```python\ny = 3\n```", "print(2)"),
        ("I add them up.", None),
        ("42", None),
        ("", None),
        ("```bash\nls\n```", None),
        ("def add(a, b):\n    return a + b", None),
        ("x = 6; x * 7", "x = 6; print(x * 7)"),
        ("x = 6\nprint(x)\n```\nIt prints 6.", "x = 6\nprint(x)"),
        ("print(1)\n\n### Instruction:\nThen 2?\n\n### Response:\nprint(2)", "print(1)"),
        ("```\nprint(1)\n```\nQuestion: And 2?\n```\nprint(2)\n```", "print(1)"),
        ("# Question: how many?\nprint(1)", "# Question: how many?\nprint(1)"),
        ("-".join("1" * 1500), f"print({'-'.join('1' * 1500)})"),
    ],
)
def test_programs_in_texts(written, program):
    assert extract_program(written) == program


@settings(deadline=None, max_examples=200, derandomize=True, database=None)
@given(st.text(alphabet="xy=+()[]:'\"\n `python#print\\é", max_size=60))
def test_whatever_is_taken_is_a_program(written):
    program = extract_program(written)
    if program is not None:
        ast.parse(program)
        assert "print(" in program.replace("print (", "print(")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (ProgramAnswer("ok", "1\n42\n\n"), "42"),
        (ProgramAnswer("ok", ""), None),
        (ProgramAnswer("ok", "None\n"), None),
        (ProgramAnswer("ok", "nan"), None),
        (ProgramAnswer("ok", "EmptySet\n"), None),
        (ProgramAnswer("error", "42\n", "ZeroDivisionError"), None),
        (ProgramAnswer("timeout", "42\n"), None),
        (ProgramAnswer("none"), None),
    ],
)
def test_the_last_line_of_a_program_that_ended_well_is_its_answer(answer, expected):
    assert answer.answer == expected


@pytest.mark.skipif(
    run_program("print(1)").status == "refused", reason="nothing here can hold a program"
)
def test_programs_are_run_in_order():
    written = ["```python\nprint(6 * 7)\n```", "1 / 0", "no program", "while True: pass\nprint(1)"]
    first, second, third, fourth = run_programs(written, timeout_seconds=1.0)
    assert (first.answer, second.status, third.status) == ("42", "error", "none")
    assert "ZeroDivisionError" in second.message
    assert (fourth.status, fourth.answer) == ("timeout", None)
