"""A large ratio on small data: all of it is drawn, and as much trained on as the options say."""

import logging
from types import SimpleNamespace

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from colm.training.step.draw import candidates_in_all, find_pool_size
from tests.cases import quick_first
from tests.training.conftest import make_records
from tests.training.test_streaming import PLAIN, Once, Sized, stream

numbers = st.integers(1, 12)


def pools_of(size, examples, drop_last):
    """Sizes of the pools that a loader makes of an epoch."""
    whole, rest = divmod(examples, size.candidates)
    return [size.candidates] * whole + ([rest] if rest and not drop_last else [])


@given(numbers, st.floats(1, 2000), numbers, st.integers(1, 300), st.booleans())
def test_a_full_step_keeps_what_it_would_without_selection(
    kept, ratio, micro_batches, examples, drop_last
):
    size = find_pool_size(kept, ratio, micro_batches, examples, drop_last)
    pools = pools_of(size, examples, drop_last)
    steps = [pools[start : start + micro_batches] for start in range(0, len(pools), micro_batches)]
    assert kept <= size.candidates <= max(kept, size.asked)
    for step in steps:
        budget = size.budget(sum(step), len(step))
        assert len(step) <= budget <= kept * len(step)
    if steps and examples >= kept * micro_batches:
        # A step that takes all there is has as many micro-batches as there are examples for.
        first = steps[0]
        assert size.budget(sum(first), len(first)) == kept * len(first) or len(steps) == 1
        if sum(first) == examples and len(first) == micro_batches:
            assert size.budget(examples, micro_batches) == kept * micro_batches


@pytest.mark.parametrize(("split", "expected"), [(False, 480), (True, 160)])
def test_a_pool_that_is_split_counts_once_in_a_run(split, expected):
    args = {"candidate_ratio": 2.0, "gradient_accumulation_steps": 2, "max_steps": 10}
    args |= {"dataloader_drop_last": False, "world_size": 3}
    trainer = SimpleNamespace(
        args=SimpleNamespace(**args),
        accelerator=SimpleNamespace(split_batches=split, num_processes=3),
        planned_candidates=None,
        train_dataset=range(1000),
        _train_batch_size=4,
    )
    assert candidates_in_all(trainer) == expected


@given(numbers, st.floats(1, 50), numbers, st.integers(1, 10**6))
def test_enough_data_changes_nothing(kept, ratio, micro_batches, more):
    asked = round(kept * ratio)
    size = find_pool_size(kept, ratio, micro_batches, asked * micro_batches + more)
    assert (size.candidates, size.share) == (asked, kept / asked)
    unknown = find_pool_size(kept, ratio, micro_batches, None)
    assert unknown.candidates == asked
    for found in (size, unknown):
        assert found.budget(asked * micro_batches, micro_batches) == kept * micro_batches


def steps_of(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.slow
@pytest.mark.parametrize("selector", ["balanced_sampling", "colm", "random"])
@pytest.mark.parametrize("accumulated", [1, 2, 3])
def test_a_ratio_beyond_the_data_trains_on_as_much_as_asked(
    make_trainer, dataset, caplog, selector, accumulated
):
    with caplog.at_level(logging.WARNING, logger="colm"):
        trainer = make_trainer(
            dataset,
            candidate_ratio=1000,
            gradient_accumulation_steps=accumulated,
            selector=selector,
            max_steps=3,
        )
    said = [r.getMessage() for r in caplog.records if "candidate_ratio" in r.getMessage()]
    assert len(said) == 1
    assert "84" in said[0]
    trainer.train()
    assert [entry["colm/kept"] for entry in steps_of(trainer)] == [4 * accumulated] * 3
    assert [entry["colm/candidates"] for entry in steps_of(trainer)] == [84] * 3


def test_so_does_a_stream_that_tells_its_length(make_trainer):
    trainer = make_trainer(Sized(), candidate_ratio=1000, max_steps=-1, num_train_epochs=2, **PLAIN)
    trainer.train()
    assert [entry["colm/kept"] for entry in steps_of(trainer)] == [8, 8]
    assert [entry["colm/candidates"] for entry in steps_of(trainer)] == [84, 84]


@pytest.mark.slow
@pytest.mark.parametrize("data", [stream, Once])
def test_and_one_that_does_not(make_trainer, data):
    options = {} if data is stream else PLAIN
    trainer = make_trainer(
        data(), candidate_ratio=20, gradient_accumulation_steps=1, max_steps=2, **options
    )
    trainer.train()
    for entry in steps_of(trainer):
        assert entry["colm/kept"] == min(4, entry["colm/candidates"])


@pytest.mark.slow
def test_the_end_of_an_epoch_is_as_before(make_trainer, caplog):
    trainer = make_trainer(Dataset.from_list(make_records()), max_steps=-1, num_train_epochs=1)
    trainer.train()
    assert [entry["colm/kept"] for entry in steps_of(trainer)] == [8] * 5 + [2]
    assert not any("candidate_ratio" in record.getMessage() for record in caplog.records)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", quick_first([2, 1, 1000]))
@pytest.mark.parametrize(("examples", "trains"), [(3, False), (4, True), (7, True)])
def test_dropped_batches_leave_something_to_train_on(make_trainer, ratio, examples, trains):
    options = {"dataloader_drop_last": True, "candidate_ratio": ratio, "max_steps": 2}
    data = Dataset.from_list(make_records()[:examples])
    if not trains:
        with pytest.raises(ValueError, match=r"dataloader_drop_last.*3 training") as caught:
            make_trainer(data, **options)
        assert "\n" not in str(caught.value)
        return
    trainer = make_trainer(data, **options)
    trainer.train()
    assert trainer.state.global_step == 2
    if ratio > 1:
        assert [entry["colm/kept"] for entry in steps_of(trainer)] == [4, 4]
