"""The pages' tables of options and selectors say what the records say."""

import re

import pytest

from tests.option_tables import DOCS, OPTIONS, PAGES, TABLE, as_line, option_row, with_tables

#: Letters that fill about seven lines of the third of four columns, as the theme lays them.
LONGEST_CELL = 320


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_records(page):
    text = page.read_text()
    assert with_tables(text) == text, "make tables writes them anew"


def test_every_table_stands_on_a_page():
    names = [found[1] for page in PAGES for found in TABLE.finditer(page.read_text())]
    assert sorted(names) == sorted([*OPTIONS, "brought", "selectors"])


def test_the_page_of_options_begins_with_the_ten_that_people_set_and_no_cell_is_long():
    page = (DOCS / "configuration.md").read_text()
    assert TABLE.search(page)[1] == "often set"
    assert len(OPTIONS["often set"]) == 10
    cells = re.findall(r"(?<=\| )[^|\n]+(?= \|)", page)
    assert max(map(len, cells)) <= LONGEST_CELL


def test_a_wrong_default_and_a_missing_row_are_mended_and_the_papers_column_stays():
    (first, second, *_) = OPTIONS["often set"]
    head = "<!-- table: often set -->\n| Option | Default | What | Paper |\n|---|---|---|---|\n"
    mended = with_tables(f"{head}| `{first.name}` | `9` | wrong | said there |\n\nmore")
    assert as_line([*option_row(first), "said there"]) in mended
    assert as_line([*option_row(second), ""]) in mended
    assert mended.endswith("|\n\nmore")
