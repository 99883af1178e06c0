"""Many runs: an index with a row for each, and a page for each, from whatever a folder holds."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from colm.cli import main
from colm.run_record import write_record
from tests.reports.test_runs import record, save_state


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Eight runs of three methods, one with an odd name, and two things that are none."""
    for place in range(8):
        selection = [{"selector": "colm"}, {"selector": "random"}, {"candidate_ratio": 1.0}]
        name = f"{place // 3}-a & <b> é" if place == 4 else f"{place}"
        entries = [{"step": 4, "loss": 2.0}, {"step": 4, "eval_loss": 1.0 + place}]
        folder = save_state(tmp_path / "runs" / name, 4, 4, entries)
        seeds = {"seed": place // 3}
        write_record(record(seeds=seeds, selection=selection[place % 3]), folder)
    (tmp_path / "runs" / "empty").mkdir()
    (tmp_path / "runs" / "notes.txt").write_text("mine")
    return sorted(map(str, (tmp_path / "runs").iterdir()))


@pytest.mark.slow
def test_many_runs_have_an_index_and_a_page_each(tmp_path: Path, runs, capsys) -> None:
    index = tmp_path / "all of them.html"
    assert main(["report", *runs, "--output", str(index)]) == 0
    shown = capsys.readouterr().out
    page = index.read_text("utf-8")
    links = [unquote(each) for each in re.findall(r'<a href="([^"]*)"', page)]
    assert len(set(links)) == 8
    for link in links:
        own = (tmp_path / link).read_text("utf-8")
        back = re.search(r'<p class=soft><a href="([^"]*)">All runs', own)[1]
        assert ((tmp_path / link).parent / unquote(back)).resolve() == index
    row = re.search(r'<th scope="row"><a [^>]*>5</a></th>(.*?)</tr>', page)[1]
    assert re.findall(r"<td>(.*?)</td>", row)[:4] == ["plain", "1", "4", "6.000"]
    assert "Seeds together</h2>" in page
    assert "notes.txt is not a file of JSON" in shown
    assert "empty holds no run" in page
    assert "3 ways" in shown
    # All on one page has to be asked for, and then nothing may be missing.
    assert main(["report", *runs, "--output", str(index), "--together"]) == 2
    assert "Left out" not in capsys.readouterr().err


def test_a_page_of_a_run_is_not_written_over_something_else(tmp_path: Path, runs, capsys) -> None:
    (tmp_path / "page_runs").mkdir()
    mine = tmp_path / "page_runs" / "7.html"
    mine.write_text("mine")
    assert main(["report", *runs, "--output", str(tmp_path / "page.html")]) == 2
    assert "7.html is there and is not a report" in capsys.readouterr().err
    assert mine.read_text() == "mine"
    assert not (tmp_path / "page.html").exists()
    nothing = [str(tmp_path / f"no{place}") for place in range(9)]
    assert main(["report", *nothing]) == 2
    assert "colm: error: there is no run" in capsys.readouterr().err
