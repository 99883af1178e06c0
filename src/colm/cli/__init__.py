"""The ``colm`` command: parse, build, call.

A command is a module with ``add_parser(subparsers)``, which makes ``run`` a default of its parser,
and ``run(namespace)``, which returns the exit code. Modules are light at import; what they run they
import when they run it.
"""

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from colm.cli.parsing import spelled_one_way

#: Modules of this package that are commands, in the order of ``colm --help``.
COMMANDS = ("demo", "sft", "compare", "evaluate", "report", "plan", "select", "env")

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
#: In every line about a full disk that says what is left and how to go on.
ADVICE = "make room"


class _Parser(argparse.ArgumentParser):
    """A parser that raises instead of leaving the process."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        argv: Arguments after the program's name; those of the process by default.

    Returns:
        0 for success, 2 for bad input, files that cannot be read or written and training that
        diverges (told in one line on stderr), 130 when interrupted.

    Raises:
        SystemExit: Help or the version was asked for and printed.
    """
    try:
        parser = make_parser()
        namespace, rest = parser.parse_known_args(
            spelled_one_way(sys.argv[1:] if argv is None else argv)
        )
        if rest and not getattr(namespace, "takes_rest", False):
            command = f"colm {namespace.command}" if namespace.command else "colm"
            parser.error(f"unexpected argument '{rest[0]}'; see {command} --help")
        if not hasattr(namespace, "run"):
            parser.print_help(sys.stderr)
            return EXIT_BAD_INPUT
        namespace.rest = rest
        code: int = namespace.run(namespace)
    except Exception as error:
        line = describe_error(error)
        if line is None:
            raise
        print(f"colm: error: {line}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("colm: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return code


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line with every command.

    Returns:
        Parser that raises ``ValueError`` where others would leave the process.
    """
    from colm import __version__

    parser = _Parser(prog="colm", description="Train language models on mini-batch coresets.")
    parser.add_argument("--version", action="version", version=f"colm {__version__}")
    subparsers = parser.add_subparsers(dest="command", title="commands")
    for command in COMMANDS:
        importlib.import_module(f"colm.cli.{command}").add_parser(subparsers)
    return parser


def describe_error(error: Exception) -> str | None:
    """Return a line about bad input or files that cannot be read or written.

    Args:
        error: Exception that was caught.

    Returns:
        ``None`` where it comes from something else, a bug for instance.
    """
    from colm.durable import lacks_room
    from colm.names import one_line

    line = one_line(str(error))
    if lacks_room(error) and ADVICE not in line:
        # What libraries keep or leave for later is nowhere near what was asked for.
        return (
            f"{line}. A disk is full: {ADVICE} there, or name a folder on another one: in the "
            "options, and for what libraries keep in HF_HOME and TMPDIR"
        )
    is_input = isinstance(error, ValueError | OSError | FloatingPointError) and is_raised_by_colm(
        error
    )
    return line if is_input or is_of_the_machine(error) else None


def is_of_the_machine(error: BaseException) -> bool:
    """Tell errors of the operating system, whoever caused them: a name too long, a full disk.

    Args:
        error: Exception that was caught.

    Returns:
        Whether it has the system's number and names a file.
    """
    return isinstance(error, OSError) and error.errno is not None and error.filename is not None


def is_raised_by_colm(error: BaseException) -> bool:
    """Tell an error that colm raises about its input from one that a bug raises elsewhere.

    Args:
        error: Exception that was caught.

    Returns:
        Whether the function that raised it is one of colm.
    """
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    module = str(frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] == "colm"
