"""Programs taken from what a model wrote, and the answers they print."""

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colm.evaluation.programs import ProgramAnswer, extract_program, run_programs
from colm.evaluation.sandbox.process import run_program

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
        # An indented fence, and one that was the first of an answer, which is stripped.
        ("1. So:\n   ```python\n   x = 6\n   print(x)\n   ```", "x = 6\nprint(x)"),
        ("```python\n   x = 6\n   print(x)\n   ```", "x = 6\nprint(x)"),
        ("- So:\n\t```\n\tprint(6)\n\t```", "print(6)"),
        ("  ```py\n  s = '''a\nb'''\n  print(s)\n  ```", "s = '''a\nb'''\nprint(s)"),
        ("~~~python\nprint(6)\n~~~", "print(6)"),
        ("````python\nprint('```')\n````", "print('```')"),
        ("```{python}\nprint(6)\n```", "print(6)"),
        ("x = 6\n    y = x * 7\n    print(y)", "x = 6\ny = x * 7\nprint(y)"),
        ("    x = 6\n    print(x)", "x = 6\nprint(x)"),
        ("```\r\nx = 6\r\nprint(x)\r\n```", "x = 6\nprint(x)"),
        ("```pycon\n>>> x = 6\n>>> x * 7\n42\n```", "x = 6\nprint(x * 7)"),
        # What ends in a value, as a notebook shows it.
        ("```python\nx = 6\nx\n```", "x = 6\nprint(x)"),
        ("x = 6\nx += 1", "x = 6\nx += 1\nprint(x)"),
        ("```python\nx: int = 6\n```", "x: int = 6\nprint(x)"),
        ("a = [1]\na[0] += 6", "a = [1]\na[0] += 6\nprint(a[0])"),
        (
            "x = 0\nfor n in range(9):\n    x += n",
            "x = 0\nfor n in range(9):\n    x += n\nprint(x)",
        ),
        (
            "n = 0\nwhile True:\n    n += 1\n    if n > 5: break",
            "n = 0\nwhile True:\n    n += 1\n    if n > 5: break\nprint(n)",
        ),
        (
            "n = 3\nif n > 2:\n    y = 1\nelif n > 1:\n    y = 2\nelse:\n    y = 3",
            "n = 3\nif n > 2:\n    y = 1\nelif n > 1:\n    y = 2\nelse:\n    y = 3\nprint(y)",
        ),
        ("y = 6\nassert y == 6", "y = 6\nassert y == 6\nprint(y)"),
        ("x = y = 6", "x = y = 6\nprint(x)"),
        ("x, y = 6, 7", "x, y = 6, 7\nprint(x, y)"),
        ("from math import pi\npi", "from math import pi\nprint(pi)"),
        (
            f"{SOLUTION}\nif __name__ == '__main__':\n    solution()",
            f"{SOLUTION}\nif __name__ == '__main__':\n    print(solution())",
        ),
        ("def solve(n=6):\n    return n * 7", "def solve(n=6):\n    return n * 7\nprint(solve())"),
        (
            "```python\nx = 6\nmax(\n    x,\n    7,\n)  # so\n```",
            "x = 6\nprint(max(\n    x,\n    7,\n))  # so",
        ),
        ("for n in range(3):\n    n * 2", None),
        ("Done", None),
        ("```python\nx = 6\nDone\n```", None),
        ("```\nAnswer: 42\n```", None),
        ("...", None),
        # What prints in its own way is left as it is.
        (
            "import sys\nx = 6\nsys.stdout.write(str(x))",
            "import sys\nx = 6\nsys.stdout.write(str(x))",
        ),
        ("```python\nfrom pprint import pprint\npprint(6)", "from pprint import pprint\npprint(6)"),
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


NEEDS_A_SANDBOX = pytest.mark.skipif(
    run_program("print(1)").status == "refused", reason="nothing here can hold a program"
)


@NEEDS_A_SANDBOX
@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("import sys\nsys.stdout.write(str(6))", "6"),
        ("import sys\nsys.stdout.writelines(['6\\n', '7\\n'])", "7"),
        ("import sys\nsys.stdout.buffer.write(b'6')", "6"),
        ("import os\nos.write(1, b'6')", "6"),
        ("from pprint import pprint\npprint(6)", "6"),
        ("from pprint import pp as show\nshow(6)", "6"),
        ("import pprint\npprint.PrettyPrinter().pprint(6)", "6"),
        ("import sys\nsys.displayhook(6)", "6"),
        ("import sys\ndef show(x):\n    sys.stdout.write(f'{x}\\n')\nshow(6)", "6"),
        ("def show(x):\n    print(x)\nshow(6)", "6"),
        ("print(6)\nx = 7", "6"),
        ("import sys\nprint(6, file=sys.stdout)", "6"),
        # It names what prints, but prints nothing.
        ("def show(x):\n    print(x)\nans = 6", "6"),
        ("import sys\nprint('checking', file=sys.stderr)\nans = 6\nans", "6"),
        ("def solution():\n    print(6)", "6"),
        ("def solution(debug=False):\n    if debug:\n        print(1)\n    return 6", "6"),
        ("import io\nfile = io.StringIO()\nfile.write('x')\nans = 6", "6"),
        ("write = 5\nans = write + 1", "6"),
        ("print(end='')\n(x := 6)", "6"),
        ("def show(x):\n    print(x)\nif False:\n    show(6)", None),
        ("items = [6]\nitems.append(7)", None),
    ],
)
def test_what_a_program_comes_to(code, answer):
    (found,) = run_programs([f"```python\n{code}\n```"])
    assert (found.status, found.answer) == ("ok", answer)


@NEEDS_A_SANDBOX
def test_what_was_cut_off_answers_by_what_it_prints_alone():
    cut = "```python\ndef show(x):\n    print(x)\ntotal = 5\nshow(total +"
    assert run_programs([cut])[0].answer is None


def test_many_branches_are_no_matter():
    branches = "".join(f"elif x == {n}:\n    y = {n}\n" for n in range(1, 600))
    extract_program(f"x = 6\nif x == 0:\n    y = 0\n{branches}")


@pytest.mark.slow
@NEEDS_A_SANDBOX
def test_programs_are_run_in_order():
    written = ["```python\nprint(6 * 7)\n```", "1 / 0", "no program", "while True: pass\nprint(1)"]
    first, second, third, fourth = run_programs(written, timeout_seconds=1.0)
    assert (first.answer, second.status, third.status) == ("42", "error", "none")
    assert "ZeroDivisionError" in second.message
    assert (fourth.status, fourth.answer) == ("timeout", None)
