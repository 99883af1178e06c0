"""A source is one kind of thing from the column to the metrics, whatever stands in the column."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Value
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset

from colm import CoLMTrainer, CoLMTrainingArguments
from tests.training.conftest import make_records
from tests.training.test_streaming import pad

NUMBERS = {"adding": 0, "copying": 2, "rare": 1}
TOKENISED = {
    "trainer_class": CoLMTrainer,
    "config_class": CoLMTrainingArguments,
    "trainer_options": {"data_collator": pad},
}


def with_sources(convert, feature=None):
    """The records, the source of each converted."""
    rows = [{**row, "source": convert(row["source"])} for row in make_records()]
    dataset = Dataset.from_list(rows)
    return dataset if feature is None else dataset.cast_column("source", feature)


def tokenised(convert):
    rows = make_records()
    return [
        {
            "input_ids": [5 + ord(c) % 90 for c in row["prompt"] + row["completion"]],
            "labels": [5 + ord(c) % 90 for c in row["prompt"] + row["completion"]],
            "source": convert(row["source"]),
        }
        for row in rows
    ]


class Rows(TorchDataset):
    """PyTorch's kind of data set, without columns or types."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return self.rows[row]


class Stream(IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def counts(trainer, what):
    logs = [log for log in trainer.state.log_history if "loss" in log]
    key = f"colm/{what}/"
    found = {}
    for log in logs:
        for name, value in log.items():
            if name.startswith(key):
                found[name.removeprefix(key)] = found.get(name.removeprefix(key), 0) + value
    return found


LABELS = ClassLabel(names=["adding", "rare", "copying"])
KINDS = {
    "text": (lambda name: name, None, "rare"),
    "integers": (NUMBERS.get, None, "1"),
    "small integers": (NUMBERS.get, Value("int8"), "1"),
    "class labels": (lambda name: name, LABELS, "rare"),
    "booleans": (lambda name: name == "rare", None, "True"),
    "floats": (lambda name: float(NUMBERS[name]), None, "1"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [None, "numpy", "torch"])
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")  # TRL's collator
def test_a_small_source_is_kept_whole_whatever_its_kind(make_trainer, kind, form):
    convert, feature, rare = KINDS[kind]
    dataset = with_sources(convert, feature).with_format(form)
    trainer = make_trainer(dataset, selector="colm")
    trainer.train()
    drawn, kept = counts(trainer, "candidates"), counts(trainer, "kept")
    assert len(drawn) == (2 if kind == "booleans" else 3)
    assert kept[rare] == drawn[rare] > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["integers", "class labels", "booleans"])
@pytest.mark.parametrize("sampling", ["uniform", "unimax", "inverse_source_size"])
@pytest.mark.filterwarnings("ignore:.*small sources")
def test_the_same_is_drawn_and_kept_whatever_a_source_is_called(
    make_trainer, record_selections, kind, sampling
):
    def kept(convert, feature=None, *, small_sources):
        # Kept whole only where draws are uniform.
        trainer = make_trainer(
            with_sources(convert, feature),
            candidate_sampling=sampling,
            selector="colm",
            small_sources=small_sources if sampling == "uniform" else "none",
        )
        steps = record_selections(trainer)
        trainer.train()
        return steps

    convert, feature, rare = KINDS[kind]
    names = {name: str(convert(name)) for name in NUMBERS}
    assert kept(convert, feature, small_sources=[rare]) == kept(
        names.get, small_sources=[names["rare"] if kind != "class labels" else "rare"]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("named", "rare"),
    [(1, "1"), ([1], "1"), (["1"], "1"), ([np.int64(1)], "1"), (True, "True"), (["True"], "True")],
)
def test_a_source_that_is_no_text_can_be_named_by_its_value(make_trainer, named, rare):
    convert = NUMBERS.get if rare == "1" else lambda name: name == "rare"
    dataset = with_sources(convert)
    trainer = make_trainer(dataset, selector="colm", small_sources=named)
    trainer.train()
    assert counts(trainer, "kept")[rare] == counts(trainer, "candidates")[rare]


def test_a_number_that_is_no_source_is_refused_with_those_there_are(make_trainer):
    with pytest.raises(ValueError, match=r"small_sources names '7'.*sources are 0, 1, 2"):
        make_trainer(with_sources(NUMBERS.get), small_sources=[7])


@pytest.mark.slow
@pytest.mark.parametrize("data", [Rows, Stream])
@pytest.mark.parametrize(
    "convert",
    [NUMBERS.get, lambda name: torch.tensor(NUMBERS[name]), lambda n: np.int8(NUMBERS[n])],
)
def test_data_sets_of_pytorch_have_sources_of_any_kind(make_trainer, data, convert):
    trainer = make_trainer(
        data(tokenised(convert)), selector="colm", small_sources=[1], **TOKENISED
    )
    trainer.train()
    drawn = counts(trainer, "candidates")
    assert set(drawn) == {"0", "1", "2"}
    assert counts(trainer, "kept")["1"] == drawn["1"]


def test_streams_tell_class_labels_by_their_names(make_trainer):
    stream = with_sources(lambda name: name, LABELS).to_iterable_dataset()
    trainer = make_trainer(stream, selector="colm", small_sources=["rare"])
    trainer.train()
    drawn = counts(trainer, "candidates")
    assert set(drawn) == set(NUMBERS)
    assert counts(trainer, "kept")["rare"] == drawn["rare"]


MISSING = [None, float("nan")]


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("selector", ["colm", "balanced_sampling", "random"])
def test_sources_that_are_missing_are_refused_before_training(make_trainer, missing, selector):
    convert = (
        (lambda name: None if name == "rare" else "a")
        if missing is None
        else (lambda name: missing if name == "rare" else 1.0)
    )
    with pytest.raises(ValueError, match="'source' is empty in 4 of 84") as caught:
        make_trainer(with_sources(convert), selector=selector)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [Rows, Stream])
def test_sources_that_are_missing_where_nobody_counts_them_stop_the_step(make_trainer, data):
    rows = tokenised(lambda name: None if name == "adding" else name)
    trainer = make_trainer(data(rows), selector="colm", candidate_sampling="uniform", **TOKENISED)
    with pytest.raises(ValueError, match="'source' is empty in a record") as caught:
        trainer.train()
    assert "\n" not in str(caught.value)


def test_an_unlabelled_class_is_a_missing_source(make_trainer):
    dataset = with_sources(lambda name: -1 if name == "rare" else 0, LABELS)
    with pytest.raises(ValueError, match="'source' is empty in 4 of 84"):
        make_trainer(dataset)


def test_a_column_of_lists_names_no_source(make_trainer):
    with pytest.raises(ValueError, match="'source' must hold one name a record"):
        make_trainer(with_sources(lambda name: [name]))


@pytest.mark.slow
@pytest.mark.parametrize("convert", [lambda name: None, lambda name: [name]])
def test_the_plain_trainer_takes_whatever_stands_in_that_column(make_trainer, convert):
    trainer = make_trainer(with_sources(convert), candidate_ratio=1)
    trainer.train()
    assert trainer.state.global_step == 4
