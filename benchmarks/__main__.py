"""Runs a benchmark, or draws pages from results: ``python -m benchmarks NAME [options]``."""

import ast
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

FOLDER = Path(__file__).parent
#: Files of ``page`` that write pages; the others are parts of these.
PAGES = ("results", "measured_pages", "run_report")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is named with the options that follow, or list what there is.

    Raises:
        SystemExit: with code 2, where there is nothing of that name.
    """
    name, *rest = (sys.argv[1:] if arguments is None else list(arguments)) or ["--help"]
    found = modules()
    if name in ("-h", "--help"):
        print(listing(found))
        return
    if name not in found:
        print(f"python -m benchmarks: no {name!r}; there are {', '.join(found)}", file=sys.stderr)
        raise SystemExit(2)
    # What argparse shows as the program, and what processes that a benchmark starts are told.
    sys.argv = [f"python -m benchmarks {name}", *rest]
    import_module(found[name]).main()


def modules() -> dict[str, str]:
    """Return the module of each benchmark by its name, then those that draw pages."""
    measures = sorted(path.stem for path in (FOLDER / "measure").glob("[!_]*.py"))
    found = {name: f"benchmarks.measure.{name}" for name in measures}
    return found | {name: f"benchmarks.page.{name}" for name in PAGES}


def listing(found: dict[str, str]) -> str:
    """Return how to call this, and a line on each name."""
    width = max(map(len, found))
    lines = [f"  {name:{width}}  {question(module)}" for name, module in found.items()]
    return "\n".join(["usage: python -m benchmarks NAME [options]", "", *lines])


def question(module: str) -> str:
    """Return the first line of a module's docstring, without importing it."""
    path = FOLDER.parent / f"{module.replace('.', '/')}.py"
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
