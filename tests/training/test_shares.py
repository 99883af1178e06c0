"""Draws by weights and by temperature: shares, bounds, what is said of them and what is refused."""

import json
import logging
import math
from collections import Counter
from itertools import islice

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from colm import CoLMConfig
from colm.runs.arguments import parse_arguments
from colm.runs.training_data import load_examples
from colm.training.step.shares import draws_told, settle
from tests.cases import quick_first
from tests.training.conftest import SIZES, StopAt, build_trainer, make_records, note_candidates
from tests.training.processes import run_in_processes

WEIGHTS = {"adding": 1, "copying": 2, "rare": 1}
#: No look and no selection; every example that is drawn is trained on.
PLAIN = {"candidate_ratio": 1}


def drawn_sources(trainer, epochs=1):
    """The sources of the draws of an epoch, or of several, one after the other."""
    names = []
    sampler = trainer.get_train_dataloader().batch_sampler.sampler
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        names += [trainer.train_dataset[row]["source"] for row in sampler]
    return names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"source_weights": WEIGHTS}, (21, 42, 21)),
        ({"source_weights": {"adding": 3, "copying": 1, "rare": 0}}, (63, 21, 0)),
        # 21 draws of 4 examples are more than twice each: 8, and the rest goes 1 to 2.
        ({"source_weights": WEIGHTS, "most_repeats": 2}, (25, 51, 8)),
        ({"candidate_sampling": "temperature", "sampling_exponent": 1}, (40, 40, 4)),
        ({"candidate_sampling": "temperature", "sampling_exponent": 0}, (34, 34, 16)),
        # In proportion to 6.3, 6.3 and 2.
        ({"candidate_sampling": "temperature"}, (36, 36, 12)),
        ({"candidate_sampling": "unimax", "most_repeats": 1}, (40, 40, 4)),
        ({"candidate_sampling": "unimax", "most_repeats": math.inf}, (28, 28, 28)),
    ],
)
@pytest.mark.parametrize("ratio", quick_first([1, 2]))
def test_sources_are_drawn_as_the_options_say(make_trainer, dataset, options, expected, ratio):
    length = {"max_steps": -1, "num_train_epochs": 1}
    trainer = make_trainer(dataset, candidate_ratio=ratio, selector="random", **options, **length)
    counts = Counter(drawn_sources(trainer))
    assert all(abs(counts[name] - n) <= 1 for name, n in zip(SIZES, expected, strict=True)), counts
    assert counts.total() == sum(SIZES.values())


def test_shares_of_tokens_are_shares_of_label_tokens(make_trainer, dataset):
    trainer = make_trainer(
        dataset, source_weights=dict.fromkeys(SIZES, 1), source_weights_by="tokens", **PLAIN
    )
    tokens = Counter()
    rows = Counter(list(trainer.get_train_dataloader().batch_sampler.sampler))
    epochs = 10
    sampler = trainer.get_train_dataloader().batch_sampler.sampler
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        rows = Counter(sampler)
        for row, often in rows.items():
            example = trainer.train_dataset[row]
            labels = sum(label != -100 for label in example["labels"][1:])
            tokens[example["source"]] += often * labels
    for name in SIZES:
        assert tokens[name] / tokens.total() == pytest.approx(1 / 3, rel=0.03)


def test_what_is_a_fraction_of_a_draw_an_epoch_comes_in_time(make_trainer, dataset):
    """An eighth of the draws of an epoch of one: in eight epochs, one."""
    weights = {"adding": 1, "copying": 1, "rare": 2 / 8 / 84}
    trainer = make_trainer(dataset, source_weights=weights, **PLAIN)
    assert Counter(drawn_sources(trainer, epochs=16))["rare"] == pytest.approx(2, abs=1)


@given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1, max_size=12))
def test_what_is_due_is_never_far_from_what_is_drawn(rounds):
    due = dict.fromkeys("abc", 0.0)
    drawn, wanted = Counter(), Counter()
    for shares in rounds:
        total = round(sum(shares)) + 3
        scale = total / (sum(shares) or 1)
        own = {name: share * scale for name, share in zip("abc", shares, strict=True)}
        own = own if sum(shares) else dict.fromkeys("abc", total / 3)
        counts = settle(due, own, total)
        assert sum(counts.values()) == total
        assert min(counts.values()) >= 0
        drawn.update(counts)
        wanted.update(own)
        assert all(abs(drawn[name] - wanted[name]) < 2 for name in "abc")


def said(caplog):
    return [record.getMessage() for record in caplog.records if "colm" in record.name]


def test_a_run_begins_with_a_line_a_source(make_trainer, dataset, caplog):
    caplog.set_level(logging.INFO, logger="colm")
    trainer = make_trainer(dataset, source_weights=WEIGHTS, max_steps=2, **PLAIN)
    trainer.get_train_dataloader()
    assert not any("% of the draws" in line for line in said(caplog))
    trainer.train()
    lines = [line for line in said(caplog) if "% of the draws" in line]
    assert len(lines) == 3
    # 16 draws in all, of which the rare get a quarter: each of the four once.
    assert "copying: 50.0 %" in lines[0]
    assert "rare: 25.0 %" in lines[2]
    assert "4 examples come 1.0 times" in lines[2]
    assert any("an epoch is 84 draws" in line for line in said(caplog))


def test_uniform_draws_are_told_too(make_trainer, dataset, caplog):
    caplog.set_level(logging.INFO, logger="colm")
    make_trainer(dataset, selector="random", max_steps=1).train()
    lines = [line for line in said(caplog) if "% of the draws" in line]
    assert [line.split(":")[0].strip() for line in lines] == ["adding", "copying", "rare"]
    assert not any("an epoch" in line for line in said(caplog))


def test_of_many_sources_the_rest_is_summed_up():
    sizes = {f"source {number:02}": 10 for number in range(50)}
    lines = list(draws_told(sizes, dict.fromkeys(sizes, 1 / 50), draws=1000))
    assert len(lines) == 20
    assert lines[-1].startswith("31 others: 62.0 %")
    assert "310 examples come 2.0 times" in lines[-1]


def test_no_example_is_said_to_come_0_times_that_may_come():
    (line, _) = draws_told({"a": 1425, "b": 3}, {"a": 0.9, "b": 0.1}, draws=64)
    assert "its 1425 examples come fewer than 0.1 times each" in line


def test_a_source_of_weight_0_is_said_to_be_left_out():
    lines = list(draws_told({"a": 3, "b": 3}, {"a": 1.0, "b": 0.0}, draws=9))
    assert "never drawn" in lines[1]


@pytest.mark.parametrize(
    "spelled",
    [
        ["--source_weights", "adding=1", "copying=2", "rare=1"],
        ["--source-weights", '{"adding": 1, "copying": 2, "rare": 1}'],
    ],
)
def test_the_command_line_takes_pairs_or_json(spelled):
    training = parse_arguments(["--candidate_ratio", "1", "--bf16", "false", *spelled]).training
    assert training.source_weights == WEIGHTS
    assert training.candidate_sampling == "weights"


def test_a_recipe_has_a_mapping(tmp_path):
    recipe = tmp_path / "weights.yaml"
    recipe.write_text("candidate_ratio: 1\nbf16: false\nsource_weights:\n  web: 0.5\n  3: 1\n")
    training = parse_arguments(["--config", str(recipe)]).training
    assert training.source_weights == {"web": 0.5, "3": 1.0}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"source_weights": {"a": -1}}, ["'a'", "negative", "-1"]),
        ({"source_weights": {"a": math.nan}}, ["'a'", "nan"]),
        ({"source_weights": {"a": "much"}}, ["'a'", "'much'"]),
        ({"source_weights": {"a": 0, "b": 0}}, ["all 0"]),
        ({"source_weights": {}}, ["{}"]),
        ({"source_weights": {"3": 1, 3: 2}}, ["once"]),
        ({"source_weights": "a"}, ["a=1"]),
        ({"source_weights": '{"a": 1'}, ["JSON"]),
        ({"source_weights": {"a": 1}, "candidate_sampling": "unimax"}, ["candidate_sampling"]),
        ({"candidate_sampling": "weights"}, ["source_weights"]),
        ({"source_weights": {"a": 1}, "source_weights_by": "size"}, ["examples, tokens", "'size'"]),
        ({"source_weights": {"a": 1}, "candidate_ratio": 2}, ["small_sources"]),
        ({"sampling_exponent": 2}, ["sampling_exponent", "2"]),
        ({"sampling_exponent": -1}, ["sampling_exponent", "-1"]),
        ({"most_repeats": 0}, ["most_repeats", "inf"]),
        ({"most_repeats": math.nan}, ["most_repeats", "nan"]),
    ],
)
def test_what_nothing_can_be_drawn_by_is_refused(tmp_path, options, named):
    options = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False} | PLAIN | options
    with pytest.raises(ValueError, match=r"source_weights|sampling|repeats") as caught:
        CoLMConfig(**options)
    assert all(name in str(caught.value) for name in named)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        (WEIGHTS | {"books": 1}, ["'books'", "'adding', 'copying', 'rare'"]),
        ({"adding": 1}, ["'copying', 'rare'", "0"]),
    ],
)
def test_weights_are_for_the_sources_that_there_are(make_trainer, dataset, weights, named):
    with pytest.raises(ValueError, match="source_weights") as caught:
        make_trainer(dataset, source_weights=weights, **PLAIN)
    assert all(name in str(caught.value) for name in named)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda data: data.remove_columns("source"), "source_column"),
        (lambda data: data.to_iterable_dataset(), "streamed"),
    ],
)
def test_weights_need_sources_that_can_be_drawn_by(make_trainer, dataset, change, named):
    with pytest.raises(ValueError, match="candidate_sampling='weights'") as caught:
        make_trainer(change(dataset), source_weights=WEIGHTS, **PLAIN)
    assert named in str(caught.value)


def a_file(folder, name, records):
    path = folder / f"{name}.jsonl"
    rows = [{"prompt": f"{name} {i}?", "completion": "yes"} for i in range(records)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def a_stream(folder, *options, **weights):
    """What `colm sft` trains on, of files of three sources that are streamed."""
    sizes = {"large": 300, "middle": 60, "small": 5}
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        json.dumps(
            {
                "datasets": [{"path": str(a_file(folder, *each))} for each in sizes.items()],
                "streaming": True,
                "candidate_ratio": 1,
                "bf16": False,
                "max_steps": 6,
                "source_weights": weights,
            }
        )
    )
    return parse_arguments(["--config", str(recipe), *options])


@pytest.mark.slow
def test_a_stream_of_several_files_comes_drawn(tmp_path, make_trainer):
    arguments = a_stream(tmp_path, large=1, middle=1, small=2)
    train = load_examples(arguments, conversational=False).train
    names = [row["source"] for row in islice(train, 400)]
    expected = {"large": 100, "middle": 100, "small": 200}
    # Six standard deviations of a count of 400 draws with a chance of a half.
    assert all(abs(names.count(name) - number) < 60 for name, number in expected.items())
    assert names == [row["source"] for row in islice(train, 400)]
    trainer = make_trainer(train, source_weights={"large": 1, "middle": 1, "small": 2}, **PLAIN)
    trainer.train()
    assert trainer.state.global_step == 4


def test_of_a_stream_a_source_of_weight_0_is_left_out(tmp_path):
    arguments = a_stream(tmp_path, large=1, middle=0, small=1)
    train = load_examples(arguments, conversational=False).train
    assert {row["source"] for row in islice(train, 200)} == {"large", "small"}


def test_weights_are_for_the_files_of_a_stream(tmp_path):
    with pytest.raises(ValueError, match=r"source_weights.*large, middle, small"):
        load_examples(a_stream(tmp_path, large=1), conversational=False)


def test_shares_of_tokens_of_a_stream_are_refused(tmp_path, make_trainer):
    weights = {"large": 1, "middle": 1, "small": 2}
    train = load_examples(a_stream(tmp_path, **weights), conversational=False).train
    with pytest.raises(ValueError, match="source_weights_by='tokens'"):
        make_trainer(train, source_weights=weights, source_weights_by="tokens", **PLAIN)


SAMPLINGS = [{"source_weights": WEIGHTS}, {"candidate_sampling": "temperature"}]


@pytest.mark.slow
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["weights", "temperature"])
@pytest.mark.parametrize("stop", [3, 8])
def test_a_resumed_run_draws_on_as_if_it_had_not_stopped(make_trainer, tmp_path, stop, sampling):
    options = sampling | {"selector": "random", "max_steps": 10}
    options |= {"save_strategy": "steps", "save_steps": 1}

    def run(folder, stop=None, resume=None):
        trainer = make_trainer(
            Dataset.from_list(make_records()), output_dir=str(tmp_path / folder), **options
        )
        drawn = note_candidates(trainer)
        if stop is not None:
            trainer.add_callback(StopAt(stop))
        trainer.train(resume_from_checkpoint=resume)
        return drawn, trainer.model.state_dict()

    whole, expected = run("whole")
    first, _ = run("broken", stop=stop)
    second, got = run("broken", resume=True)
    assert first + second == whole
    assert all((value == got[name]).all() for name, value in expected.items())


def draw_in_process(model_folder, folder, sampling):
    trainer = build_trainer(
        model_folder,
        Dataset.from_list(make_records()),
        output_dir=str(folder),
        selector="random",
        gradient_accumulation_steps=1,
        max_steps=5,
        **sampling,
    )
    drawn = note_candidates(trainer)
    trainer.train()
    return drawn


@pytest.mark.slow
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["weights", "temperature"])
def test_processes_share_the_draws_of_one(tiny_model_folder, make_trainer, tmp_path, sampling):
    folder = tmp_path / "two"
    folder.mkdir()
    ranks = run_in_processes(draw_in_process, folder, tiny_model_folder, folder / "run", sampling)
    alone = make_trainer(
        Dataset.from_list(make_records()),
        selector="random",
        gradient_accumulation_steps=1,
        per_device_train_batch_size=8,
        max_steps=5,
        **sampling,
    )
    drawn = note_candidates(alone)
    alone.train()
    shared = [sorted(first + second) for first, second in zip(*ranks, strict=True)]
    assert shared == [sorted(step) for step in drawn]
