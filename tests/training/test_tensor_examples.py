"""Examples as lists, arrays or tensors are the same examples."""

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from colm import CoLMTrainer, CoLMTrainingArguments
from colm.training.example import label_token_count, without_labels
from colm.training.processes.candidate_table import content_key
from colm.training.processes.lockstep import make_filler
from tests.training.conftest import note_selections

FORMATS = {"lists": list, "arrays": np.asarray, "tensors": torch.tensor}


class Rows(torch.utils.data.Dataset):
    """A data set of PyTorch's, of examples that are held in one of the formats."""

    def __init__(self, held, with_labels=True):
        self.rows = []
        for index in range(32):
            tokens = [3 + (7 * index + place) % 50 for place in range(4 + index % 5)]
            labels = [-100, -100, *tokens[2:]]
            row = {"input_ids": held(tokens)}
            self.rows.append({**row, "labels": held(labels)} if with_labels else row)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def pad(examples):
    """A collator of a user's own; it makes the labels where there are none."""
    tokens = [torch.as_tensor(each["input_ids"]) for each in examples]
    labels = [torch.as_tensor(each.get("labels", each["input_ids"])) for each in examples]
    return {
        "input_ids": pad_sequence(tokens, batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True),
    }


@pytest.mark.slow
@pytest.mark.parametrize("with_labels", [True, False])
@pytest.mark.parametrize("selector", [None, "colm", "mean_matching", "longest"])
def test_whatever_examples_are_held_in_the_same_are_kept(make_trainer, selector, with_labels):
    kept = []
    for held in FORMATS.values():
        trainer = make_trainer(
            Rows(held, with_labels),
            trainer_class=CoLMTrainer,
            config_class=CoLMTrainingArguments,
            trainer_options={"data_collator": pad},
            max_steps=2,
            **({} if selector is None else {"selector": selector}),
        )
        chosen = note_selections(trainer)
        trainer.train()
        kept.append([[tuple(map(int, tokens)) for tokens in step] for step in chosen])
    assert kept[0] == kept[1] == kept[2]
    assert [len(step) for step in kept[0]] == [8, 8]


# TRL makes tensors of what are some already.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
@pytest.mark.parametrize("name", ["torch", "numpy"])
@pytest.mark.parametrize("options", [{}, {"selector": "colm"}, {"source_clusters": 2}])
def test_a_formatted_data_set_is_the_same_data_set(make_trainer, dataset, name, options):
    kept = []
    for data in (dataset, dataset.with_format(name)):
        trainer = make_trainer(data, max_steps=2, **options)
        chosen = note_selections(trainer)
        trainer.train()
        kept.append([[tuple(map(int, tokens)) for tokens in step] for step in chosen])
    assert kept[0] == kept[1]


@pytest.mark.parametrize("held", FORMATS.values(), ids=FORMATS)
def test_what_is_counted_and_made_of_an_example_is_held_as_it_is(held):
    example = {"input_ids": held([5, 6, 7]), "labels": held([5, -100, 7])}
    assert label_token_count(example) == 1
    assert content_key(example) == content_key({"input_ids": [5, 6, 7], "labels": [5, -100, 7]})
    for made in (without_labels(example), make_filler([example], torch.tensor([4, 9]))):
        assert type(made["labels"]) is type(made["input_ids"]) is type(example["labels"])
        assert [int(label) for label in made["labels"]] == [-100] * 3
    assert [int(token) for token in made["input_ids"]] == [4] * 3


def test_tensors_without_labels_count_all_but_the_first():
    assert label_token_count({"input_ids": torch.tensor([5, 6, 7])}) == 2
