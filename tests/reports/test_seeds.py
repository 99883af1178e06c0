"""Runs that differ by their seed alone: which those are, and what is told of them together."""

from pathlib import Path

import pytest

from colm.reports import headline, read_runs, write_page
from colm.reports.seeds import seeds_table, ways
from colm.reports.wording import lead
from colm.run_record import write_record
from tests.reports.test_runs import log, record, save_state


def run(folder: Path, seed: int, loss: float, **changes) -> Path:
    """A run that ended after four steps with a loss on held-out examples."""
    entries = [*log(4), {"step": 2, "eval_loss": 2 * loss}, {"step": 4, "eval_loss": loss}]
    write_record(record(seeds={"seed": seed}, **changes), save_state(folder, 4, 4, entries))
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    other = {"selection": {"selector": "random", "match_every": 2, "small_sources": ["auto"]}}
    return [
        run(tmp_path / "mine-seed1", 1, 1.0),
        run(tmp_path / "random-seed1", 1, 1.25, **other),
        # What is held out by the seed leaves other numbers of each source.
        run(tmp_path / "mine-seed2", 2, 1.5, sources={"sums": 899, "a | b": 101}),
        run(tmp_path / "random-seed2", 2, 1.75, **other),
    ]


def test_what_differs_by_more_than_the_seed_is_another_way(tmp_path: Path, folders) -> None:
    more = {
        "rate": run(tmp_path / "rate", 1, 1.0, options={"learning_rate": 2e-3}),
        "again": run(tmp_path / "again", 1, 1.0),
        "stopped": run(tmp_path / "stopped", 3, 1.0, state="stopped"),
        "unknown": save_state(tmp_path / "unknown", 4, 4),
    }
    told = ways(read_runs([*folders, *more.values()]).arms)
    assert {way.name: [arm.name for arm in way.arms] for way in told} == {
        "mine (2 seeds)": ["mine-seed1", "mine-seed2"],
        "random (2 seeds)": ["random-seed1", "random-seed2"],
        **{name: [name] for name in more},
    }


def test_seeds_have_a_mean_a_spread_and_a_band(tmp_path: Path, folders) -> None:
    comparison = read_runs(folders)
    rows = {row[0]: list(row[1:]) for row in seeds_table(ways(comparison.arms)).rows}
    assert rows["seeds"] == ["1, 2", "1, 2"]
    assert rows["evaluation loss"] == ["1.250", "1.500"]
    assert rows["spread over seeds"] == ["±0.000", "±0.000"]  # of the training loss, the last
    table = seeds_table(ways(comparison.arms)).to_text()
    assert "±0.354" in table
    assert "1.000 to 1.500" in table
    assert headline(comparison) == (
        "mine (2 seeds) ends 16.7% lower in evaluation loss than random (2 seeds) after 4 steps"
    )
    assert "from 1.000 to 1.500 with mine (2 seeds) and from 1.250 to 1.750" in lead(comparison)
    assert not any("one seed" in note for note in comparison.notes)
    assert "one seed" in read_runs(folders[:3]).notes[0]
    page = write_page(tmp_path / "page.html", comparison).read_text("utf-8")
    for shown in ("Seeds together</h2>", "Each run</h2>", "Evaluation loss, seeds together</h3>"):
        assert shown in page
    assert "seed" in read_runs(folders[:1]).settings


def test_seeds_alone_are_no_contest(folders) -> None:
    comparison = read_runs([folders[0], folders[2]])
    assert headline(comparison) == "mine (2 seeds): evaluation loss 1.250 after 4 steps"
