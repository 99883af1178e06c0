"""Reports of what a run that went wrong, or a file that was damaged, has for numbers and texts."""

import json
import math
import warnings

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from colm.reports import headline, read_runs, summary_table, write_page
from colm.reports.arm import LARGEST, MOST_STEPS, as_number, clean_log
from colm.reports.wording import lead, remarks

KEYS = [
    "loss",
    "eval_loss",
    "epoch",
    "colm/kept",
    "colm/candidates",
    "colm/kept/a",
    "colm/candidates/a",
    "colm/match_error",
    "colm/selection_seconds",
    "colm/training_seconds",
    "train_runtime",
    "train_mem_cpu_alloc_delta",
    "train_mem_cpu_peaked_delta",
]
NUMBERS = st.sampled_from(
    [0, -1, 1e-308, 1e20, -1e39, 1e100, 1e308, 10**400, -(10**400), math.nan, math.inf, -math.inf]
) | st.floats(allow_nan=True)


def write_state(folder, entries: list[dict], **changes):
    """A state of four steps, and its folder."""
    folder.mkdir(exist_ok=True)
    state = {"global_step": 4, "max_steps": 4, "log_history": entries} | changes
    (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


def everything_of(comparison, path) -> str:
    """The page and all that a terminal shows."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = write_page(path, comparison).read_text("utf-8")
    text = summary_table(comparison).to_text()
    return "\n".join([page, text, headline(comparison), lead(comparison), *remarks(comparison)])


@pytest.mark.slow
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(
    st.lists(st.dictionaries(st.sampled_from(KEYS), NUMBERS, max_size=6), min_size=1, max_size=4)
)
def test_any_numbers_of_a_log_have_a_page(tmp_path, entries: list[dict]) -> None:
    logged = [{"loss": 1.0} | entry | {"step": step} for step, entry in enumerate(entries, 1)]
    joined = read_runs(
        [write_state(tmp_path / "one", logged), write_state(tmp_path / "two", logged[:1])]
    )
    for each in (joined, read_runs([tmp_path / "one"])):
        assert len(max(everything_of(each, tmp_path / "page.html").split(), key=len)) < 100_000


@pytest.mark.parametrize("loss", [1e20, 1e38, 1e100, 1e308, 10**400])
def test_a_run_that_diverged_is_told(tmp_path, loss: float) -> None:
    entries = [{"step": 1, "loss": 2.0}, *({"step": s, "loss": loss} for s in (2, 3, 4))]
    comparison = read_runs([write_state(tmp_path / "run", entries)])
    shown = everything_of(comparison, tmp_path / "page.html")
    if loss > LARGEST:
        assert "3 of 4 logged losses are not finite numbers" in shown
    else:
        assert "e+20" in shown or "e+38" in shown
    assert "0" * 20 not in summary_table(comparison).to_text()


@pytest.mark.parametrize("step", [10**400, MOST_STEPS + 1, -1])
def test_a_step_that_no_run_takes_is_refused_by_name(tmp_path, step: int) -> None:
    folder = write_state(tmp_path / "run", [{"step": step, "loss": 1.0}])
    with pytest.raises(ValueError, match=r"trainer_state.json.*step") as raised:
        read_runs([folder])
    assert len(str(raised.value)) < 500
    # Where a checkpoint has a state that can be read, that one is.
    write_state(folder / "checkpoint-2", [{"step": 2, "loss": 1.5}], global_step=2)
    assert read_runs([folder]).arms[0].series("loss") == ([2], [1.5])


@pytest.mark.parametrize("changes", [{"global_step": 10**400}, {"global_step": True}])
def test_a_number_of_steps_that_is_none_is_refused(tmp_path, changes: dict) -> None:
    with pytest.raises(ValueError, match="not one that a trainer wrote"):
        read_runs([write_state(tmp_path / "run", [], **changes)])


def test_other_odd_numbers_of_a_state_are_left_out(tmp_path) -> None:
    folder = write_state(tmp_path / "run", [], max_steps=10**400, train_batch_size=-3)
    comparison = read_runs([folder])
    assert comparison.arms[0].planned_steps is None


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 5000 + "1" + "}" * 5000])
def test_json_nested_too_deep_takes_a_line(tmp_path, text: str) -> None:
    path = tmp_path / "deep.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"deep\.json.*levels"):
        read_runs([path])
    folder = write_state(tmp_path / "run", [{"step": 1, "loss": 1.0}])
    (folder / "adapter_config.json").write_text(text)
    (folder / "evaluation.json").write_text(text)
    (folder / "eval-of-nothing.json").symlink_to(tmp_path / "nothing")
    assert headline(read_runs([folder])).startswith("run: training loss 1.000")
    (folder / "trainer_state.json").write_text(text)
    with pytest.raises(ValueError, match=r"trainer_state\.json.*levels"):
        read_runs([folder])


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["arms"][0].update(name=5),
        lambda data: data["arms"][0].update(steps=10**400),
        lambda data: data["arms"][0].update(settings={"a": []}),
        lambda data: data["arms"][0].update(accuracies={"a": "b"}),
        lambda data: data["arms"][0]["scores"].update(macro="1"),
        lambda data: data["arms"][0]["scores"].update(macro=None),
        lambda data: data["arms"][0]["scores"].update(loss_by_source=[1]),
        lambda data: data.update(notes="a"),
        lambda data: data.update(source_sizes={"a": -1}),
        lambda data: data.update(source_sizes={"a": 1.5}),
        lambda data: data.update(versions=[["a", "b"]]),
        lambda data: data.update(small_sources=[3]),
    ],
)
def test_a_comparison_with_something_else_in_it_is_refused(comparison, tmp_path, change) -> None:
    path = comparison.save(tmp_path / "c.json")
    data = json.loads(path.read_text("utf-8"))
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"c\.json: not a comparison"):
        read_runs([path])


@pytest.mark.slow
def test_extreme_scores_of_a_comparison_are_shown(comparison, tmp_path) -> None:
    path = comparison.save(tmp_path / "c.json")
    data = json.loads(path.read_text("utf-8"))
    data["arms"][0]["scores"] |= {"macro": 10**400, "micro": 1e308}
    data["arms"][0]["scores"]["loss_by_source"]["sums"] = 1e200
    data["notes"] = ["a note\n\x1b[2Jof mine"]
    path.write_text(json.dumps(data))
    shown = everything_of(read_runs([path]), tmp_path / "page.html")
    assert "not finite" in shown
    assert "\x1b" not in shown


def test_a_number_is_one_that_can_be_added_up() -> None:
    assert [as_number(value) for value in (2, 2.5, -1e300)] == [2.0, 2.5, -math.inf]
    assert math.isnan(as_number(math.nan))
    for value in ("1", None, True, [1]):
        with pytest.raises(TypeError):
            as_number(value)
    assert clean_log([{"step": 1, "a\nb": 2, "c": True}]) == [{"step": 1, "a b": 2.0}]
