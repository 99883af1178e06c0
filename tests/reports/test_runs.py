"""Runs read from what they left: folders whole, cut short or broken, results, and many at once."""

import dataclasses
import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest

from colm.reports import Comparison, headline, read_runs, summary_table, write_page
from colm.reports.wording import remarks
from colm.run_record import RunRecord, read_record, write_record


def record(**changes) -> RunRecord:
    """What ``colm sft`` writes of a run that has ended."""
    return RunRecord(
        **{
            "command": "colm sft",
            "state": "ended",
            "step": 4,
            "begun": "2026-01-01T00:00:00+00:00",
            "resumed": [],
            "ended": "2026-01-01T01:00:00+00:00",
            "model": {"name": "/somewhere/tiny-model"},
            "data": {"dataset_name": "train.jsonl"},
            "sources": {"sums": 900, "a | b": 100},
            "small_sources": ["a | b"],
            "drawn": 8,
            "kept": 4,
            "selection": {"selector": "colm", "match_every": 2, "small_sources": ["auto"]},
            "subspaces": {},
            "options": {"learning_rate": 1e-3},
            "seeds": {"seed": 42},
            "versions": {"trl": "1.16.0", "torch": "2.13.0+cpu"},
        }
        | changes
    )


def log(steps: int, first: int = 1) -> list[dict]:
    """Entries of a run that draws 6 sums and 2 dates a step and keeps all dates."""
    return [
        {
            "step": step,
            "loss": 3.0 - 0.1 * step,
            "colm/candidates": 8.0,
            "colm/candidates/sums": 6.0,
            "colm/candidates/dates": 2.0,
            "colm/kept": 4.0,
            "colm/kept/sums": 2.0,
            "colm/kept/dates": 2.0,
            "colm/selection_seconds": 0.5,
            "colm/training_seconds": 1.5,
        }
        for step in range(first, steps + 1)
    ]


def save_state(folder: Path, steps: int, planned: int, entries: list[dict] | None = None) -> Path:
    """A trainer's state as ``transformers`` writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "global_step": steps,
        "max_steps": planned,
        "train_batch_size": 4,
        "log_history": log(steps) if entries is None else entries,
    }
    (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


def test_a_whole_run_is_read_with_its_record(tmp_path) -> None:
    folder = save_state(tmp_path / "mine", 4, 4)
    write_record(record(), folder)
    assert read_record(folder) == record()
    comparison = read_runs([folder])
    (arm,) = comparison.arms
    assert (arm.name, arm.steps_taken(), arm.planned_steps) == ("mine", 4, 4)
    assert arm.share_kept() == pytest.approx({"sums": 1 / 3, "dates": 1.0})
    assert arm.seconds_at([0, 1, 4, 5])[:3] == [0.0, 2.0, 8.0]
    assert math.isnan(arm.seconds_at([5])[0])
    assert comparison.settings["selector"] == "colm"
    assert comparison.settings["model"] == "tiny-model"
    assert comparison.settings["drawn each step"] == "8 examples"
    assert comparison.source_sizes == {"sums": 900, "a | b": 100}
    assert comparison.small_sources == ["a | b"]
    assert comparison.versions == {"trl": "1.16.0", "torch": "2.13.0+cpu"}
    assert comparison.notes == []
    assert headline(comparison) == "mine: training loss 2.600 after 4 steps"


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "[]",
        "[" * 9999,
        '{"format": "colm run 1", "options": {}}',
        json.dumps({"format": "colm run 2"} | asdict(record()) | {"sources": {"a": -1}}),
        json.dumps({"format": "colm run 2"} | asdict(record()) | {"selection": "colm"}),
    ],
)
def test_a_run_without_a_record_still_tells_what_it_can(tmp_path, text) -> None:
    folder = save_state(tmp_path / "mine", 4, 4)
    adapter = {"base_model_name_or_path": "/models/base", "peft_type": "LORA", "r": 8}
    (folder / "adapter_config.json").write_text(json.dumps(adapter | {"lora_alpha": 16}))
    # What people or earlier versions wrote there is not read.
    (folder / "README.md").write_text("Each step drew 8 examples and trained on 4 of them.\n")
    if text is not None:
        (folder / "colm_run.json").write_text(text)
    comparison = read_runs([folder])
    assert comparison.settings["model"] == "base"
    assert comparison.settings["adapter"] == "LORA, rank 8, alpha 16"
    assert comparison.settings["examples in a micro-batch"] == "4"
    assert "drawn each step" not in comparison.settings
    assert comparison.arms[0].share_kept() == pytest.approx({"sums": 1 / 3, "dates": 1.0})
    assert comparison.source_sizes == {}
    assert comparison.versions == {}
    write_page(tmp_path / "page.html", comparison)


def test_a_run_that_has_saved_nothing_yet_takes_a_line(tmp_path) -> None:
    write_record(record(state="running", step=0), tmp_path / "mine")
    with pytest.raises(ValueError, match="mine holds a run that has saved no"):
        read_runs([tmp_path / "mine"])


def test_the_sources_of_a_record_are_called_as_in_the_log(tmp_path) -> None:
    folder = save_state(tmp_path / "mine", 4, 4)
    sources = {f"s{number}": 1000 - number for number in range(60)}
    write_record(record(sources=sources), folder)
    sizes = read_runs([folder]).source_sizes
    assert len(sizes) == 51
    assert sum(sizes.values()) == sum(sources.values())
    assert list(sizes)[-1] == "other sources"


def test_a_run_that_was_stopped_or_saved_no_model_says_so(tmp_path) -> None:
    save_state(tmp_path / "mine" / "checkpoint-4", 4, 9)
    write_record(record(state="stopped", step=5), tmp_path / "mine")
    (note,) = read_runs([tmp_path / "mine"]).notes
    assert "stopped after step 5 of 9" in note
    # A trainer in a program saves its last checkpoint and not always a model.
    save_state(tmp_path / "mine" / "checkpoint-9", 9, 9)
    write_record(record(step=9), tmp_path / "mine")
    assert read_runs([tmp_path / "mine"]).notes == []
    write_record(record(state="running", ended=None), tmp_path / "mine")
    assert "still going on or was cut short" in read_runs([tmp_path / "mine"]).notes[0]


def test_a_run_that_goes_on_is_read_from_its_newest_checkpoint(tmp_path) -> None:
    save_state(tmp_path / "mine" / "checkpoint-2", 2, 20)
    save_state(tmp_path / "mine" / "checkpoint-10", 10, 20)
    (tmp_path / "mine" / "checkpoint-12").mkdir()
    comparison = read_runs([tmp_path / "mine"])
    assert comparison.arms[0].steps_taken() == 10
    (note,) = comparison.notes
    assert "mine is still going on or was cut short" in note
    assert "after step 10 of 20" in note


def test_a_state_that_was_cut_short_is_passed_over(tmp_path) -> None:
    save_state(tmp_path / "mine" / "checkpoint-2", 2, 20)
    torn = save_state(tmp_path / "mine" / "checkpoint-4", 4, 20) / "trainer_state.json"
    torn.write_text(torn.read_text()[:-30])
    assert read_runs([tmp_path / "mine"]).arms[0].steps_taken() == 2


def test_a_run_taken_up_again_is_read_from_its_checkpoint(tmp_path) -> None:
    save_state(tmp_path / "mine", 4, 4)
    save_state(tmp_path / "mine" / "checkpoint-6", 6, 8)
    comparison = read_runs([tmp_path / "mine"])
    assert comparison.arms[0].steps_taken() == 6
    assert comparison.notes


def test_a_run_that_ended_early_says_so(tmp_path) -> None:
    folder = save_state(tmp_path / "mine", 4, 9)
    assert read_runs([folder]).notes == ["mine ends after step 4 of 9."]


def test_a_checkpoint_and_a_state_are_runs_too(tmp_path) -> None:
    checkpoint = save_state(tmp_path / "mine" / "checkpoint-3", 3, 3)
    assert read_runs([checkpoint]).arms[0].name == "mine/checkpoint-3"
    assert read_runs([checkpoint / "trainer_state.json"]).arms[0].steps_taken() == 3


def test_accuracies_are_read_where_they_clearly_are(tmp_path) -> None:
    folder = save_state(tmp_path / "mine", 4, 4)
    sets = {"sums": {"accuracy": 0.25, "answers": []}, "odd": {"accuracy": "high"}, "flat": 3}
    (folder / "evaluation.json").write_text(json.dumps({"sets": sets}))
    (folder / "eval_broken.json").write_text("{")
    (folder / "eval_other.json").write_text('{"sets": [1]}')
    comparison = read_runs([folder])
    assert comparison.arms[0].accuracies == {"sums": 0.25}
    rows = {row[0]: row[1] for row in summary_table(comparison).rows}
    assert rows["accuracy, sums"] == "25.0 %"


def test_a_result_of_any_name_is_found_where_it_tells_that_it_is_the_runs(tmp_path) -> None:
    folder = save_state(tmp_path / "mine", 4, 4)
    (folder / "checkpoint-4").mkdir()
    for place, steps, accuracy in (
        ("mine.json", 4, 0.5),
        ("checkpoint-4/ours.json", 4, 0.75),
        ("early.json", 2, 0.125),
        ("base.json", None, 0.0),  # of a model that was not trained
    ):
        result = {"format": "colm evaluation 1", "model": {"steps": steps}}
        result["sets"] = {place: {"accuracy": accuracy}}
        (folder / place).write_text(json.dumps(result, indent=1))
    (folder / "config.json").write_text('{"sets": {"other": {"accuracy": 1.0}}}')
    comparison = read_runs([folder])
    assert comparison.arms[0].accuracies == {"mine.json": 0.5, "checkpoint-4/ours.json": 0.75}
    assert "evaluated after step 2, too" in comparison.notes[0]


@pytest.mark.slow
def test_runs_of_all_kinds_stand_side_by_side(tmp_path, comparison) -> None:
    mine = save_state(tmp_path / "mine", 4, 4)
    demo = tmp_path / "demo"
    demo.mkdir()
    comparison.save(demo / "report.json")
    joined = read_runs([mine, demo])
    assert [arm.name for arm in joined.arms] == ["mine", "CoLM", "random"]
    assert joined.before is None
    assert any("runs of their own" in note for note in joined.notes)
    assert headline(joined).startswith("3 runs, with no loss")
    page = write_page(tmp_path / "all.html", joined).read_text("utf-8")
    assert page.count("<h3>Sources kept over time") == 3


def test_names_are_given_or_told_apart(tmp_path, comparison) -> None:
    folders = [save_state(tmp_path / part / "run", 2, 2) for part in ("one", "two")]
    assert [a.name for a in read_runs(folders).arms] == ["one/run", "two/run"]
    assert [a.name for a in read_runs(folders, ["x", "y"]).arms] == ["x", "y"]
    assert [a.name for a in read_runs(folders, ["x", "x"]).arms] == ["x", "x (2)"]
    path = comparison.save(tmp_path / "c.json")
    assert [a.name for a in read_runs([path], ["A"]).arms] == ["A: CoLM", "A: random"]
    with pytest.raises(ValueError, match="--names: 1 names for 2 runs"):
        read_runs(folders, ["x"])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not .* JSON"),
        ("\0\udcff", "not .* JSON"),
        ("[]", "not a comparison"),
        ('{"arms": [{"name": "a", "scores": {"macro": "x"}}]}', "not a comparison"),
        ('{"benchmark": "step"}', "not a comparison"),
    ],
)
def test_a_foreign_file_is_refused_by_name(tmp_path, content: str, complaint: str) -> None:
    path = tmp_path / "foreign.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=f"foreign.json.*{complaint}|foreign.json: {complaint}"):
        read_runs([path])


@pytest.mark.parametrize("state", ["{}", "[]", '{"global_step": 3, "log_history": "no"}', ""])
def test_a_foreign_state_is_refused_by_name(tmp_path, state: str) -> None:
    (tmp_path / "trainer_state.json").write_text(state)
    with pytest.raises(ValueError, match="is not one that a trainer wrote"):
        read_runs([tmp_path])


def test_a_folder_without_a_run_says_what_is_missing(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"holds no run: no trainer_state\.json"):
        read_runs([tmp_path])
    with pytest.raises(ValueError, match="there is no run"):
        read_runs([tmp_path / "none"])


def test_losses_that_are_not_finite_are_told_and_left_out(tmp_path) -> None:
    entries = log(8)
    for entry, loss in zip(entries[3:6], (math.nan, math.inf, -math.inf), strict=True):
        entry["loss"] = loss
    entries.append({"step": 8, "eval_loss": math.nan})
    good = save_state(tmp_path / "good", 8, 8, [*log(8), {"step": 8, "eval_loss": 1.0}])
    joined = read_runs([save_state(tmp_path / "bad", 8, 8, entries), good])
    assert remarks(joined)[0].startswith("bad: 3 of 8 logged losses are not finite")
    assert headline(joined) == "bad: evaluation loss that is not finite after 8 steps"
    rows = {row[0]: row[1:] for row in summary_table(joined).rows}
    assert rows["evaluation loss"] == ["not finite", "1.000"]
    page = write_page(tmp_path / "bad.html", joined).read_text("utf-8")
    assert "<svg" in page
    assert "NaN" not in page


def test_a_run_without_sources_or_times_has_a_page(tmp_path) -> None:
    plain = [{"step": step, "loss": 2.0} for step in range(1, 4)]
    comparison = read_runs([save_state(tmp_path / "plain", 3, 3, plain)])
    (remark,) = remarks(comparison)
    assert "No loss is drawn against the time for plain" in remark
    page = write_page(tmp_path / "plain.html", comparison).read_text("utf-8")
    assert "Training loss" in page
    assert "time of selecting" not in page
    assert "Sources kept" not in page
    empty = read_runs([save_state(tmp_path / "empty", 0, 3, [])])
    assert headline(empty) == "empty: no loss logged after 0 steps"
    assert "<svg" not in write_page(tmp_path / "empty.html", empty).read_text("utf-8")


def test_names_of_any_kind_are_escaped(tmp_path) -> None:
    evil = "</svg><script>x</script>&\"'\x1b\n$a_b$"
    entries = [
        entry | {f"colm/candidates/{evil}": 1.0, "colm/kept/_hidden": 1.0} for entry in log(3)
    ]
    folder = save_state(tmp_path / "run", 3, 3, entries)
    comparison = read_runs([folder, folder], [evil, "_" + "日本" * 60])
    page = write_page(tmp_path / "evil.html", comparison).read_text("utf-8")
    assert "<script" not in page
    assert "\x1b" not in page
    assert "$a_b$" in page
    assert page.count("<svg") == page.count("</svg>")


@pytest.mark.slow
def test_a_long_log_makes_no_long_page(tmp_path) -> None:
    folder = save_state(tmp_path / "long", 5000, 5000)
    page = write_page(tmp_path / "long.html", read_runs([folder]))
    assert page.stat().st_size < 600_000


def test_many_runs_are_turned_and_told_apart(tmp_path) -> None:
    folder = save_state(tmp_path / "run", 4, 4, [*log(4), {"step": 4, "eval_loss": 1.0}])
    comparison = read_runs([folder] * 9)
    assert len({arm.name for arm in comparison.arms}) == 9
    assert headline(comparison) == "All 9 runs are level in evaluation loss after 4 steps"
    best = dataclasses.replace(
        comparison.arms[4], log_history=[{"step": 4, "loss": 1.0, "eval_loss": 0.5}]
    )
    arms = [*comparison.arms[:4], best, *comparison.arms[5:]]
    better: Comparison = dataclasses.replace(comparison, arms=arms)
    lowest = f"{best.name} ends with the lowest evaluation loss of 9 runs after 4 steps"
    assert headline(better) == lowest
    table = summary_table(better).fitted()
    assert table.turned
    assert table.to_text().splitlines()[0].split()[:2] == ["steps", "evaluation"]
    name = best.name.replace("_", "_<wbr>")  # a line may end there
    assert f'<th scope="row">{name}</th><td>4</td><td><b>0.500</b></td>' in table.to_html()
