"""What is read out of the logs, and that JSON gives back what it was given."""

import dataclasses
import math

import pytest

from colm.reports import Arm, Comparison


def test_series_pass_over_what_is_no_training_step(comparison) -> None:
    colm, random = comparison.arms
    steps, losses = colm.series("loss")
    assert steps == [1, 2, 3, 4, 5, 6]
    assert losses == pytest.approx([2.7, 2.4, 2.1, 1.8, 1.5, 1.2])
    assert random.series("colm/matching_error") == ([], [])
    assert colm.series("train_runtime") == ([], [])


def test_means_are_over_logged_steps(comparison) -> None:
    colm, random = comparison.arms
    assert colm.mean("loss") == pytest.approx(1.95)
    assert random.mean("colm/matching_error") is None
    assert colm.step_seconds() == (1.0, 2.0)


def test_a_step_without_a_source_counts_as_none_of_it(comparison) -> None:
    colm, random = comparison.arms
    assert colm.by_source("colm/candidates") == pytest.approx({"dates": 10 / 6, "sums": 10})
    assert colm.share_kept() == pytest.approx({"dates": 1.0, "sums": 0.4})
    assert random.share_kept() == pytest.approx({"dates": 0.5, "sums": 0.5})


def test_shares_of_sources_in_each_step(comparison) -> None:
    colm, random = comparison.arms
    third = 1 / 3
    assert colm.share_from(["dates"]) == pytest.approx([third, 0, third, third, third, third])
    assert random.share_from(["dates"], "colm/candidates")[:2] == pytest.approx([1 / 6, 0])
    assert Arm("untrained", comparison.before, []).share_from(["dates"]) == []


def test_json_gives_back_the_same(comparison, tmp_path) -> None:
    path = comparison.save(tmp_path / "comparison.json")
    assert Comparison.load(path) == comparison


def test_what_was_not_measured_stays_so(comparison, tmp_path) -> None:
    arm = dataclasses.replace(comparison.arms[0], scores=None, settings={"a": "b"}, steps=9)
    unknown = dataclasses.replace(comparison, arms=[arm], before=None)
    assert Comparison.load(unknown.save(tmp_path / "comparison.json")) == unknown


def test_time_adds_up_over_the_steps_since_the_entry_before(comparison) -> None:
    entries = [
        {"step": 10, "loss": 1.0, "colm/selection_seconds": 1.0, "colm/training_seconds": 2.0},
        {"step": 15, "loss": 1.0, "colm/selection_seconds": 1.0, "colm/training_seconds": 1.0},
    ]
    arm = Arm("sparse", None, entries)
    assert arm.seconds_at([0, 5, 10, 12, 15]) == pytest.approx([0, 15, 30, 34, 40])
    assert math.isnan(arm.seconds_at([16])[0])
    assert Arm("untimed", None, [*entries, {"step": 16, "loss": 1.0}]).seconds_at([1]) is None
    assert Arm("empty", None, []).seconds_at([1]) is None


def test_shares_kept_over_time_are_of_the_candidates_of_each_part(comparison) -> None:
    colm = comparison.arms[0]
    assert colm.share_kept_over_time("sums", 3) == pytest.approx([0.4, 0.4, 0.4])
    dates = colm.share_kept_over_time("dates", 6)
    assert math.isnan(dates[1])
    assert dates[0] == 1.0
    assert len(colm.share_kept_over_time("sums", 99)) == 6


def test_memory_is_the_peak_over_the_start() -> None:
    entry = {"step": 3, "train_mem_cpu_alloc_delta": 100.0, "train_mem_cpu_peaked_delta": 50.0}
    assert Arm("cpu", None, [entry]).peak_bytes() == ("process", 150.0)
    entry |= {"train_mem_gpu_alloc_delta": 5.0, "train_mem_gpu_peaked_delta": 2.0}
    assert Arm("gpu", None, [entry]).peak_bytes() == ("accelerator", 7.0)
    assert Arm("none", None, []).peak_bytes() is None


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"arms": [{"name": "a"}]}', '{"arms": 3}'])
def test_another_file_is_refused_by_name(tmp_path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json.* not a (comparison|file)"):
        Comparison.load(path)


def test_the_largest_source_comes_first(comparison) -> None:
    assert comparison.sources() == ["sums", "dates"]
