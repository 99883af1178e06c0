"""The pages' tables of options and selectors say what the records say."""

import pytest

from tests.option_tables import OPTIONS, PAGES, TABLE, as_line, option_row, with_tables


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_records(page):
    text = page.read_text()
    assert with_tables(text) == text, "make tables writes them anew"


def test_every_table_stands_on_a_page():
    names = [found[1] for page in PAGES for found in TABLE.finditer(page.read_text())]
    assert sorted(names) == sorted([*OPTIONS, "brought", "selectors"])


def test_a_wrong_default_and_a_missing_row_are_mended_and_the_papers_column_stays():
    (first, second, *_) = OPTIONS["often set"]
    head = "<!-- table: often set -->\n| Option | Default | What | Paper |\n|---|---|---|---|\n"
    mended = with_tables(f"{head}| `{first.name}` | `9` | wrong | said there |\n\nmore")
    assert as_line([*option_row(first), "said there"]) in mended
    assert as_line([*option_row(second), ""]) in mended
    assert mended.endswith("|\n\nmore")
