"""What is read out of the logs, and that JSON gives back what it was given."""

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


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"arms": [{"name": "a"}]}', '{"arms": 3}'])
def test_another_file_is_refused_by_name(tmp_path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json: not a comparison written by colm"):
        Comparison.load(path)


def test_the_largest_source_comes_first(comparison) -> None:
    assert comparison.sources() == ["sums", "dates"]
