"""Streamed data: every selector, unknown sizes, pass after pass, and resuming anywhere."""

import itertools
import logging
import shutil
from collections import Counter

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import IterableDataset

from colm import CoLMTrainer, CoLMTrainingArguments, available_selectors
from colm.training.options.by_selector import options_by_selector
from colm.training.step.streaming import EndlessStream
from tests.training.conftest import StopAt, build_trainer, make_records, note_candidates
from tests.training.processes import run_in_processes

NUMBER = 84  # examples of `make_records`: 5 steps of 16 candidates and 4 examples


def stream(shards=1):
    return Dataset.from_list(make_records()).to_iterable_dataset(num_shards=shards)


def tokens(record):
    return [5 + ord(c) % 90 for c in record["prompt"] + record["completion"]]


class Tokenised(IterableDataset):
    """PyTorch's kind of stream, shuffled by a generator that the trainer seeds for each pass."""

    def __init__(self):
        self.rows = [
            {"input_ids": tokens(record), "labels": tokens(record), "source": record["source"]}
            for record in make_records()
        ]
        self.generator = torch.Generator()

    def __iter__(self):
        for row in torch.randperm(len(self.rows), generator=self.generator).tolist():
            yield self.rows[row]


class Sized(Tokenised):
    def __len__(self):
        return len(self.rows)


class Once(Tokenised):
    def __init__(self):
        super().__init__()
        self.left = iter(self.rows)

    def __iter__(self):
        return self.left


def pad(examples):
    """Right padding."""
    longest = max(len(example["input_ids"]) for example in examples)
    missing = [longest - len(example["input_ids"]) for example in examples]
    pairs = list(zip(examples, missing, strict=True))
    return {
        "input_ids": torch.tensor([e["input_ids"] + [0] * m for e, m in pairs]),
        "labels": torch.tensor([e["labels"] + [-100] * m for e, m in pairs]),
        "attention_mask": torch.tensor([[1] * (longest - m) + [0] * m for _, m in pairs]),
    }


PLAIN = {
    "trainer_class": CoLMTrainer,
    "config_class": CoLMTrainingArguments,
    "trainer_options": {"data_collator": pad},
}


def lora():
    options = {"r": 4, "lora_dropout": 0.2, "target_modules": "all-linear"}
    return {"peft_config": LoraConfig(task_type="CAUSAL_LM", **options)}


@pytest.fixture(scope="module")
def streaming(tiny_model_folder, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("run"))
    return build_trainer(tiny_model_folder, stream(), output_dir=folder, selector="colm")


@pytest.mark.parametrize("selector", available_selectors())
def test_every_selector_selects_from_a_stream(streaming, selector):
    vars(streaming.args).update(
        options_by_selector(selector) | {"selector": selector, "candidate_sampling": "uniform"}
    )
    streaming._selection = streaming._build_selection("source", None)
    pools = iter(streaming.get_train_dataloader())
    for _ in range(2):
        batches, items = streaming.get_batch_samples(pools, 2, streaming.args.device)
        assert sum(len(batch["input_ids"]) for batch in batches) == (
            16 if selector == "none" else 8
        )
        assert items > 0
    metrics = streaming._selection_metrics.drain()
    assert sum(metrics.get(f"colm/candidates/{s}", 0) for s in ("adding", "copying", "rare")) == 16


def test_small_sources_are_those_with_few_candidates_so_far(make_trainer, caplog):
    with caplog.at_level(logging.WARNING, logger="colm"):
        trainer = make_trainer(stream(), selector="colm", max_steps=6)
    said = [r.getMessage() for r in caplog.records if "small_sources" in r.getMessage()]
    assert len(said) == 1
    assert "candidates so far" in said[0]
    trainer.train()
    assert trainer._selection.selector._small_sources.names() == {"rare"}


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (stream, {"selector": "random"}),
        (stream, {"selector": "colm", "small_sources": "none"}),
        (stream, {"selector": "colm", "small_sources": ["rare"]}),
        (lambda: Dataset.from_list(make_records()), {"selector": "colm"}),
        (stream, {"selector": "colm", "candidate_ratio": 1}),
    ],
)
def test_nothing_is_said_where_sizes_do_not_matter(make_trainer, caplog, data, options):
    with caplog.at_level(logging.WARNING, logger="colm"):
        make_trainer(data(), **options)
    assert not any("candidates so far" in record.getMessage() for record in caplog.records)


def test_named_small_sources_are_kept_whole(make_trainer):
    trainer = make_trainer(stream(), selector="colm", small_sources=["rare"], max_steps=6)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    drawn = [entry.get("colm/candidates/rare", 0) for entry in steps]
    assert sum(drawn) >= 4
    assert [entry.get("colm/kept/rare", 0) for entry in steps] == drawn


def test_a_stream_needs_a_number_of_steps(make_trainer):
    with pytest.raises(ValueError, match="max_steps"):
        make_trainer(stream(), max_steps=-1).train()


@pytest.mark.parametrize("kind", ["datasets", "torch"])
def test_passes_follow_each_other_shuffled_anew(make_trainer, kind):
    if kind == "datasets":
        trainer = make_trainer(stream().shuffle(seed=1, buffer_size=50), selector="random")
    else:
        trainer = make_trainer(Tokenised(), selector="random", **PLAIN)
    pools = itertools.islice(trainer.get_train_dataloader(), 21)
    drawn = [tuple(example["input_ids"]) for pool in pools for example in pool]
    assert len(drawn) == 2 * NUMBER
    first, second = drawn[:NUMBER], drawn[NUMBER:]
    assert Counter(first) == Counter(second)
    assert len(set(first)) > NUMBER / 2
    assert first != second


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "stops"), [("datasets", (3, 6, 9)), ("torch", (9,))])
def test_resumed_in_any_pass_is_bit_identical_to_uninterrupted(
    make_trainer, record_selections, tmp_path, kind, stops
):
    """The first pass ends in step 6, counted from 1, the second in step 11."""

    def run(folder, stop=None):
        options = {"max_steps": 11, "save_strategy": "steps", "save_steps": 3}
        options |= {"output_dir": str(tmp_path / folder), "selector": "colm"}
        if kind == "torch":
            trainer = make_trainer(Tokenised(), **options, **PLAIN)
        else:
            data = stream().shuffle(seed=1, buffer_size=50)
            trainer = make_trainer(data, **options, trainer_options=lora())
        selections = record_selections(trainer)
        if stop:
            trainer.add_callback(StopAt(stop))
        trainer.train(resume_from_checkpoint=any((tmp_path / folder).glob("checkpoint-*")))
        return selections, list(trainer.model.parameters())

    whole, weights = run("whole")
    assert len(whole) == 11
    first, _ = run("stopped at 9", stop=9)
    assert first == whole[:9]
    for stop in stops:
        # The whole run left what runs that stop earlier would have left.
        name = f"checkpoint-{stop}"
        if stop != 9:
            shutil.copytree(tmp_path / "whole" / name, tmp_path / f"stopped at {stop}" / name)
        second, resumed = run(f"stopped at {stop}")
        assert second == whole[stop:]
        assert all(torch.equal(a, b) for a, b in zip(weights, resumed, strict=True))


def test_the_last_pool_of_a_stream_with_a_length_is_smaller(make_trainer):
    trainer = make_trainer(Sized(), max_steps=-1, num_train_epochs=2, **PLAIN)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["colm/candidates"] for entry in steps] == 2 * [16, 16, 16, 16, 16, 4]
    assert [entry["colm/kept"] for entry in steps] == 2 * [8, 8, 8, 8, 8, 2]


def test_a_stream_that_cannot_be_read_again_ends_training(make_trainer):
    trainer = make_trainer(Once(), max_steps=50, small_sources="none", **PLAIN)
    trainer.train()
    assert trainer.state.global_step == 5


def test_a_stream_of_nothing_ends():
    class Nothing(IterableDataset):
        def __iter__(self):
            return iter(())

    assert list(EndlessStream(Nothing())) == []


def draw(folder, run_folder, shards):
    """Candidates of the first five pools, and those of three steps."""
    trainer = build_trainer(
        folder,
        stream(shards),
        output_dir=run_folder,
        selector="random",
        selection_scope="global",
        max_steps=3,
    )
    pools = itertools.islice(trainer.get_train_dataloader(), 5)
    drawn = [tuple(example["input_ids"]) for pool in pools for example in pool]
    steps = note_candidates(trainer)
    trainer.train()
    return drawn, steps


def draw_with_and_without_shards(folder, run_folder):
    return [draw(folder, run_folder, shards) for shards in (1, 2)]


@pytest.mark.slow
def test_processes_share_a_stream(streaming, tiny_model_folder, tmp_path):
    """Without shards each takes its part of what all read; with shards each reads its own."""
    pools = itertools.islice(streaming.get_train_dataloader(), 11)
    one_pass = [tuple(example["input_ids"]) for pool in pools for example in pool][:NUMBER]
    folders = str(tiny_model_folder), str(tmp_path / "run")
    processes = run_in_processes(draw_with_and_without_shards, tmp_path, *folders)
    for (drawn, steps), (others, other_steps) in zip(*processes, strict=True):
        assert len(drawn) == len(others) == 40
        assert not Counter(drawn + others) - Counter(one_pass)
        assert [len(step) for step in steps + other_steps] == [16] * 6
