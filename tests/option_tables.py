"""The tables of options and selectors in the docs, made of the records that the code reads.

A table stands after ``<!-- table: NAME -->``. What the papers have is no record of the code: the
column "In the paper" stays as it is on the page. ``make tables`` writes, a test compares.
"""

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path

from colm.coreset import selectors
from colm.coreset.registry import BASE_DEFAULTS, Selector, available_selectors, get_selector
from colm.training.options.by_selector import options_by_selector
from colm.training.options.memory_arguments import MemoryArguments
from colm.training.options.optimizer_arguments import OptimizerArguments
from colm.training.options.selection_arguments import OFTEN_SET, SelectionArguments
from colm.training.options.subspace_arguments import SubspaceArguments

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [DOCS / "configuration.md", DOCS / "selectors.md"]
TABLE = re.compile(r"(?<=<!-- table: )([\w ]+)( -->\n)((?:\|.*\n)+)")


def with_tables(page: str) -> str:
    """A page with each of its tables as the records have it."""
    return TABLE.sub(lambda found: found[1] + found[2] + table(found[1], found[3]), page)


def table(name: str, before: str) -> str:
    """A table by its name; ``before`` is how it stood."""
    heading = before.splitlines()[:2]
    if name == "brought":
        base = {option: base_value(option) for option in BASE_DEFAULTS}
        rows = [[code(name), brought(name, base)] for name in shipped()]
        rows = [row for row in rows if row[1]]
    elif name == "selectors":
        rows = [[code(name), *looks(get_selector(name))] for name in shipped()]
    else:
        cells = [line.strip("| ").split(" | ") for line in before.splitlines()]
        papers = {row[0]: row[3] for row in cells if len(row) == 4}
        rows = [[*row, papers.get(row[0], "")] for row in map(option_row, OPTIONS[name])]
    return "".join(f"{line}\n" for line in [*heading, *map(as_line, rows)])


def shipped() -> list[str]:
    """Selectors that come with colm; tests and docstrings register others."""
    own = selectors.__name__
    return [name for name in available_selectors() if get_selector(name).choose.__module__ == own]


def as_line(cells: list[str]) -> str:
    return re.sub(r" +(?=\|)", " ", f"| {' | '.join(cells)} |")


def code(text: str) -> str:
    return f"`{text}`"


def value_in_python(value: object) -> str:
    """As people write it: with double quotes."""
    return json.dumps(value) if isinstance(value, str | list) else repr(value)


def option_row(field) -> list[str]:
    by_selector = options_by_selector(SelectionArguments.selector)
    default = field.default if field.default is not MISSING else field.default_factory()
    default = by_selector.get(field.name, default)
    return [code(field.name), code(value_in_python(default)), field.metadata["help"]]


def base_value(option: str) -> object:
    """What an option is where a selector brings no other, as a configuration has it."""
    value = BASE_DEFAULTS[option]
    names = options_by_selector(SelectionArguments.selector)[option]
    if isinstance(names, list):
        return [value] if isinstance(value, str) else list(value)
    return value


def brought(selector: str, base: dict[str, object]) -> str:
    pairs = options_by_selector(selector).items()
    return ", ".join(code(f"{o}={value_in_python(v)}") for o, v in pairs if v != base[o])


def looks(selector: Selector) -> list[str]:
    most = "any number" if selector.most_together is None else f"{selector.most_together:,}"
    return [", ".join(map(code, selector.needs)) or "nothing", most]


OF_SELECTION = {field.name: field for field in fields(SelectionArguments)}
OPTIONS = {
    "often set": [OF_SELECTION[name] for name in OFTEN_SET],
    "the rest": [field for name, field in OF_SELECTION.items() if name not in OFTEN_SET],
    "subspaces": list(fields(SubspaceArguments)),
    "memory": [*fields(MemoryArguments), *fields(OptimizerArguments)],
}

if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_tables(page.read_text()))
