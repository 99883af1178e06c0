r"""What a program comes to where it prints nothing itself: its last value, as a notebook shows it.

That is the last expression, the last name that is given a value (``x = 6``, ``x += 1``, also at the
end of a loop or of branches), or what the last function returns that needs no arguments.
"""

import ast
import re
from collections.abc import Iterator

#: Prints a value; the second one no ``None``, which functions return that print themselves.
PRINTED = "print({})"
PRINTED_UNLESS_NONE = "(lambda _: _ is None or print(_))(({}))"

#: Names by which output is made: of the built-in, pprint, SymPy, sys and os.
_OUTPUT = re.compile(
    r"p?print|pp|print_\w+|pretty_print|(?:__)?stdout(?:__)?|write|writelines|displayhook"
)
_WITHOUT_VALUE = (
    ast.Pass,
    ast.Assert,
    ast.Break,
    ast.Continue,
    ast.Delete,
    ast.Global,
    ast.Import,
    ast.ImportFrom,
)


def makes_output(tree: ast.Module) -> bool:
    r"""Return whether a program names something that prints, in whatever way.

    Args:
        tree: The program.

    Returns:
        Whether it does; it may still print nothing, as where it never calls what it defines.

    Example:
        >>> makes_output(ast.parse("import sys\nsys.stdout.write('7')"))
        True
    """
    return any(_OUTPUT.fullmatch(name) for node in ast.walk(tree) for name in _names(node))


def with_last_value(code: str, tree: ast.Module, printed: str = PRINTED) -> str | None:
    r"""Return a program that prints its last value.

    Args:
        code: The program.
        tree: The same, parsed.
        printed: How a value is printed.

    Returns:
        The program with that added; ``None`` where it has no value, as a line of prose has none.

    Example:
        >>> code = "x = 6\nfor n in range(3):\n    x += n"
        >>> print(with_last_value(code, ast.parse(code)))
        x = 6
        for n in range(3):
            x += n
        print(x)
    """
    last = _last_statement(tree.body)
    if last is None:
        return None
    ends = list(_ends(last, in_loop=False))
    bound = _bound(tree)
    values = [end for end in ends if isinstance(end, ast.Expr) and _is_value(end.value, bound)]
    if values:
        return _printed_in_place(code, values, printed)
    targets = [_segment(code, target) for end in ends if (target := _target(end)) is not None]
    if targets and None not in targets and len(set(targets)) == 1:
        return f"{code}\n{printed.format(targets[0])}"
    if isinstance(last, ast.FunctionDef) and _needs_nothing(last):
        return f"{code}\n{printed.format(f'{last.name}()')}"
    return None


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.alias):
        yield node.name


def _last_statement(body: list[ast.stmt]) -> ast.stmt | None:
    """The last statement that may have a value."""
    return next((s for s in reversed(body) if not _is_without_value(s)), None)


def _is_without_value(statement: ast.stmt) -> bool:
    """Whether nothing comes of a statement, as of ``if n > 9: break`` at the end of a loop."""
    if isinstance(statement, ast.If):
        return all(_is_without_value(s) for s in (*statement.body, *statement.orelse))
    return isinstance(statement, _WITHOUT_VALUE)


def _ends(statement: ast.stmt | None, *, in_loop: bool) -> Iterator[ast.stmt]:
    """The simple statements that a run may end with; a loop's expressions have no value."""
    bodies: list[list[ast.stmt]]
    if isinstance(statement, ast.If):
        bodies = [statement.body, statement.orelse]
    elif isinstance(statement, ast.For | ast.While):
        in_loop, bodies = True, [statement.body]
    elif isinstance(statement, ast.With):
        bodies = [statement.body]
    elif isinstance(statement, ast.Try):
        bodies = [statement.orelse or statement.body, *(h.body for h in statement.handlers)]
    elif isinstance(statement, ast.Match):
        bodies = [case.body for case in statement.cases]
    else:
        if statement is not None and not (in_loop and isinstance(statement, ast.Expr)):
            yield statement
        return
    for body in bodies:
        yield from _ends(_last_statement(body), in_loop=in_loop)


def _bound(tree: ast.Module) -> set[str]:
    """Names that a program gives a value; ``*`` where it imports any."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
    return names


def _is_value(value: ast.expr, bound: set[str]) -> bool:
    """Whether an expression is no word of prose, nor the three dots of what is left out."""
    if isinstance(value, ast.Name):
        return value.id in bound or "*" in bound
    return not (isinstance(value, ast.Constant) and value.value is ...)


def _target(statement: ast.stmt) -> ast.expr | None:
    """What a statement gives a value."""
    if isinstance(statement, ast.Assign):
        return statement.targets[0]
    if isinstance(statement, ast.AugAssign):
        return statement.target
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        return statement.target
    return None


def _needs_nothing(function: ast.FunctionDef) -> bool:
    """Whether a function can be called without arguments."""
    arguments = function.args
    given = len(arguments.posonlyargs) + len(arguments.args)
    return given == len(arguments.defaults) and None not in arguments.kw_defaults


def _segment(code: str, node: ast.expr) -> str | None:
    # Its own text: ast.unparse cannot take what is nested deeply.
    return ast.get_source_segment(code, node)


def _printed_in_place(code: str, values: list[ast.Expr], printed: str) -> str | None:
    """A program in which some of its statements print what they come to."""
    lines = [line.encode() for line in code.split("\n")]
    for statement in reversed(values):
        value = _segment(code, statement.value)
        first, last = statement.lineno - 1, (statement.end_lineno or statement.lineno) - 1
        if value is None:
            return None
        before = lines[first][: statement.col_offset]
        after = lines[last][statement.end_col_offset :]
        lines[first : last + 1] = [before + printed.format(value).encode() + after]
    return b"\n".join(lines).decode()
