"""Faults of memory, numbers and data are injected one by one: a run goes on, or says what is wrong.

Faults of checkpoints and disks are the matter of ``test_checkpoints.py``.
"""

import logging
import math
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorForLanguageModeling

from colm import CoLMTrainer, CoLMTrainingArguments, available_selectors
from colm.coreset.registry import get_selector
from colm.gradients.example_observer import ExampleObserver
from colm.training.options.by_selector import options_by_selector
from colm.training.processes.candidate_table import tabulate
from colm.training.step.chunks import TokenLimit
from colm.training.step.draw import drawn_candidates
from colm.training.step.record import SelectionMetrics
from tests.cases import quick_first
from tests.training.conftest import SIZES, build_trainer, make_records, on_keep, select_among
from tests.training.processes import run_in_processes

ROWS = make_records()
LOOKERS = [name for name in available_selectors() if get_selector(name).needs]
# More tokens than this, padding included, do not fit; the longest of ROWS has 20 or so.
ROOM_TOKENS = 70


def cuda_out_of_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def cpu_out_of_memory():
    torch.empty(1 << 60)


def python_out_of_memory():
    raise MemoryError


# Where memory runs out: before anything of a look was done, in its middle, and at its end.
PLACES = {
    "embedding": lambda model: model.get_input_embeddings(),
    "last layer": lambda model: model.model.layers[-1],
    "head": lambda model: model.get_output_embeddings(),
}


@contextmanager
def little_memory(model, place="embedding", fails=cuda_out_of_memory, room=ROOM_TOKENS):
    """Make a module fail while the tokens that the model looks at are too many; count failures."""
    tokens, failures = [0], []

    def note(module, inputs):
        tokens[0] = inputs[0].numel()

    def fail(module, inputs):
        if tokens[0] > room:
            failures.append(tokens[0])
            fails()

    handles = [
        model.get_input_embeddings().register_forward_pre_hook(note),
        PLACES[place](model).register_forward_pre_hook(fail),
    ]
    try:
        yield failures
    finally:
        for handle in handles:
            handle.remove()


def hooks_of(model):
    return sum(
        len(getattr(module, name))
        for module in model.modules()
        for name in (
            "_forward_hooks",
            "_forward_pre_hooks",
            "_backward_hooks",
            "_backward_pre_hooks",
        )
    )


def steps_of(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def observe(trainer, examples):
    """What a fresh observer sees of examples."""
    selection = trainer._build_selection("source", SIZES)
    return selection.observer, look_again(selection.observer, examples)


def look_again(observer, examples):
    drawn = drawn_candidates([examples], "source")
    table = tabulate(drawn.examples, drawn.sources, observer.exchange)
    return observer.look(drawn.examples, table, torch.arange(len(table)), 0).observed


@pytest.fixture(scope="module")
def trainer(tiny_model_folder, tmp_path_factory):
    """One that never trains; selections of many options are built on it."""
    folder = str(tmp_path_factory.mktemp("run"))
    return build_trainer(
        tiny_model_folder, Dataset.from_list(ROWS), output_dir=folder, selection_tokens=8192
    )


@contextmanager
def options_of(trainer, options):
    """The trainer under other options of selection."""
    options = options_by_selector(options.get("selector", "colm")) | options
    given = {name: getattr(trainer.args, name) for name in options}
    vars(trainer.args).update(options)
    try:
        yield
    finally:
        vars(trainer.args).update(given)


@pytest.mark.slow
@pytest.mark.parametrize("fails", [cuda_out_of_memory, cpu_out_of_memory, python_out_of_memory])
def test_every_kind_of_out_of_memory_is_known(trainer, fails):
    examples = list(trainer.train_dataset)[:12]
    _, whole = observe(trainer, examples)
    with little_memory(trainer.model, fails=fails) as failures:
        _, halved = observe(trainer, examples)
    assert failures
    torch.testing.assert_close(halved.gradients, whole.gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "options"),
    [
        *((place, {}) for place in PLACES),
        ("last layer", {"selector": "colm", "prompt_features": True}),
        ("head", {"selector": "colm", "gradient": "zeroth_order", "num_directions": 2}),
        ("embedding", {"selector": "top_loss"}),
    ],
)
def test_out_of_memory_halves_the_tokens_and_changes_no_feature(trainer, caplog, place, options):
    with options_of(trainer, options):
        check_features_under_little_memory(trainer, caplog, place, options)


def check_features_under_little_memory(trainer, caplog, place, options):
    trainer.model.train()
    examples = list(trainer.train_dataset)[:16]
    _, whole = observe(trainer, examples)
    assert hooks_of(trainer.model) == 0
    with (
        caplog.at_level(logging.WARNING, "colm"),
        little_memory(trainer.model, place) as failures,
    ):
        observer, halved = observe(trainer, examples)
        limit, said = observer._limit.most_tokens, len(failures)
        # Once halved, the limit holds: nothing fails again.
        look_again(observer, examples)
    assert 0 < said == len(failures)
    assert limit <= ROOM_TOKENS < trainer.args.selection_tokens
    lines = [record.getMessage() for record in caplog.records if "out of memory" in record.message]
    assert len(lines) == said
    assert lines[-1].count("\n") == 0
    assert f"selection_tokens {limit} " in lines[-1]
    for name, part in vars(whole).items():
        if part is not None:
            # Finite differences in float32 keep few digits.
            most = 0.05 if options.get("gradient") == "zeroth_order" else 1e-4
            assert (getattr(halved, name) - part).norm() < most * part.norm(), name
    assert hooks_of(trainer.model) == 0
    assert trainer.model.training
    assert all(p.requires_grad and p.grad is None for p in trainer.model.parameters())


@pytest.mark.slow
def test_a_run_short_of_memory_selects_the_same(make_trainer, dataset, record_selections):
    runs = []
    for room in (10**6, ROOM_TOKENS):
        # Training itself has the memory it needs: micro-batches of two fit.
        trainer = make_trainer(
            dataset,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=4,
            max_steps=2,
            selection_tokens=8192,
        )
        runs.append(record_selections(trainer))
        with little_memory(trainer.model, room=room) as failures:
            trainer.train()
        assert bool(failures) == (room == ROOM_TOKENS)
    assert runs[0] == runs[1]


@pytest.mark.slow
def test_an_example_too_large_by_itself_is_named(make_trainer, dataset):
    trainer = make_trainer(dataset, max_steps=1)
    with (
        little_memory(trainer.model, "last layer", room=3),
        pytest.raises(torch.OutOfMemoryError, match=r"selection_tokens.*max_length") as caught,
    ):
        trainer.train()
    assert "Tried to allocate 20.00 MiB" in str(caught.value)
    assert hooks_of(trainer.model) == 0


def test_where_processes_share_a_model_none_goes_on_by_itself():
    limit = TokenLimit(100, 4, recovers=False)
    with pytest.raises(torch.OutOfMemoryError, match="set selection_tokens below 12"):
        limit.check_recovery([4, 3, 2], torch.OutOfMemoryError("CUDA out of memory."))
    assert limit.most_tokens == 100


def test_other_errors_are_not_taken_for_a_lack_of_memory(make_trainer, dataset):
    def fails():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    trainer = make_trainer(dataset, max_steps=1)
    with (
        little_memory(trainer.model, fails=fails) as failures,
        pytest.raises(RuntimeError, match="cannot be multiplied"),
    ):
        trainer.train()
    assert len(failures) == 1


def test_unless_told_otherwise_the_tokens_of_a_look_follow_the_longest_example():
    lengths = [30, 7, 20, 30, 11, 9, 30, 30]
    limit = TokenLimit(None, 2)
    chunks = limit.chunks(lengths)
    assert sorted(index for chunk in chunks for index in chunk) == list(range(len(lengths)))
    filled = [len(chunk) * max(lengths[index] for index in chunk) for chunk in chunks]
    assert max(filled) == limit.tokens(lengths) == 2 * 30
    # However large a micro-batch is, an accelerator is busy with less.
    assert TokenLimit(None, 1000).tokens(lengths) == 8192
    assert TokenLimit(10**6, 2).tokens(lengths) == 10**6


@pytest.mark.slow
def test_a_limit_below_any_example_looks_at_one_at_a_time(
    make_trainer, dataset, record_selections, caplog
):
    runs, rows = [], []
    for tokens in (8192, 1):
        trainer = make_trainer(dataset, max_steps=2, selection_tokens=tokens)
        runs.append(record_selections(trainer))
        sizes = []
        trainer.model.get_input_embeddings().register_forward_pre_hook(
            lambda module, inputs, sizes=sizes, model=trainer.model: (
                None if model.training else sizes.append(len(inputs[0]))
            )
        )
        trainer.train()
        rows.append(max(sizes))
    assert runs[0] == runs[1]
    assert rows[0] > rows[1] == 1
    assert "out of memory" not in caplog.text


@pytest.fixture
def poisoned(monkeypatch):
    """Make what is seen of an example with a given token not finite, in one part."""

    def poison(token, part, value):
        look = ExampleObserver.__call__

        def looking(self, batch, *args, **options):
            seen = look(self, batch, *args, **options)
            wanted = part if getattr(seen, part) is not None else "losses"
            values = getattr(seen, wanted).clone()
            hit = (batch["input_ids"] == token).any(1)
            values[hit, ..., *([-1] if values.ndim == 2 else [])] = value
            return replace(seen, **{wanted: values})

        monkeypatch.setattr(ExampleObserver, "__call__", looking)

    return poison


@pytest.mark.parametrize("value", quick_first([math.nan, math.inf, -math.inf]))
@pytest.mark.parametrize("part", ["losses", "gradients", "hidden"])
def test_what_is_not_finite_is_left_out_by_every_selector(trainer, poisoned, part, value):
    token = 9
    rows = [
        {"input_ids": [token if i % 4 == 0 else 10 + i % 7, 6, 7, 20 + i % 9]} for i in range(32)
    ]
    rows = [row | {"labels": row["input_ids"]} for row in rows]
    poisoned(token, part, value)
    for selector in LOOKERS:
        with options_of(trainer, {"selector": selector}):
            selection = trainer._build_selection(None, None)
            with pytest.warns(UserWarning, match="NaN or infinite"):
                kept = select_among(selection, rows, 12)
        assert len(kept.examples) == 12
        assert all(token not in example["input_ids"] for example in kept.examples), selector
        metrics = SelectionMetrics()
        metrics.record(kept)
        assert metrics.drain()["colm/non_finite"] == 8


def test_a_gradient_whose_square_overflows_spoils_no_later_selection(trainer, poisoned):
    """Finite itself, in Adam's second moment it would be infinite for the rest of the run."""
    token = 9
    rows = [{"input_ids": [token if i == 0 else 10 + i % 7, 6, 7, 20 + i % 9]} for i in range(16)]
    rows = [row | {"labels": row["input_ids"]} for row in rows]
    poisoned(token, "gradients", 1e30)
    with options_of(trainer, {"selector": "colm"}):
        selection = trainer._build_selection(None, None)
        for step in range(3):
            select_among(selection, rows, 8, step)
    state = selection.selector.state_dict()
    assert state["moments.step"] == 3
    assert all(torch.isfinite(value).all() for value in state.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*small sources")
@pytest.mark.parametrize("left", [1, 7, 9])
def test_an_epoch_may_end_with_any_number_of_candidates(make_trainer, left):
    """Eight are kept of 16; of fewer, half, but one for each micro-batch of theirs."""
    rows = ROWS[: 16 + left]
    trainer = make_trainer(Dataset.from_list(rows), max_steps=-1, num_train_epochs=2)
    trainer.train()
    kept = [entry["colm/kept"] for entry in steps_of(trainer)]
    drawn = [entry["colm/candidates"] for entry in steps_of(trainer)]
    micro_batches = math.ceil(left / 8)
    assert drawn == [16, left] * 2
    assert kept == [8, max(micro_batches, round(left / 2))] * 2
    assert all(math.isfinite(entry["loss"]) for entry in steps_of(trainer))


def test_a_data_set_smaller_than_a_batch(make_trainer):
    trainer = make_trainer(Dataset.from_list(ROWS[:1]), max_steps=3)
    trainer.train()
    assert [entry["colm/kept"] for entry in steps_of(trainer)] == [1] * 3


def test_a_source_that_appears_only_at_the_end_is_kept_like_others_of_its_size(make_trainer):
    """A stream cannot be counted beforehand: what is small shows as it comes."""
    common = [row for row in ROWS if row["source"] == "adding"][:28]
    late = [row | {"source": "late"} for row in ROWS if row["source"] == "rare"]
    data = Dataset.from_list([*common, *late]).to_iterable_dataset()
    trainer = make_trainer(data, selector="colm", max_steps=2)
    trainer.train()
    first, second = steps_of(trainer)
    assert "colm/candidates/late" not in first
    assert second["colm/candidates/late"] == second["colm/kept/late"] == 4
    assert second["colm/kept"] == 8


@pytest.mark.slow
@pytest.mark.parametrize("small", [list(SIZES), ["rare"], "none"])
def test_all_sources_may_be_small_or_none(make_trainer, dataset, small):
    trainer = make_trainer(dataset, selector="colm", small_sources=small, max_steps=2)
    if small == list(SIZES):
        with pytest.warns(UserWarning, match="small sources.* 8"):
            trainer.train()
    else:
        trainer.train()
    assert [entry["colm/kept"] for entry in steps_of(trainer)] == [8, 8]
    for entry in steps_of(trainer):
        if small == ["rare"]:
            drawn = entry.get("colm/candidates/rare", 0)
            assert entry.get("colm/kept/rare", 0) == drawn


@pytest.mark.slow
def test_ten_thousand_sources(make_trainer):
    """Every example its own source: selected, logged, saved and resumed in lines that stay few."""
    rows = {
        "input_ids": [[5 + i % 90, 6, 7 + i % 11, 8 + i % 13] for i in range(10_000)],
        "source": [f"source {i}" for i in range(10_000)],
    }
    options = {
        "trainer_class": CoLMTrainer,
        "config_class": CoLMTrainingArguments,
        "selector": "colm",
        "per_device_train_batch_size": 64,
        "save_strategy": "steps",
        "save_steps": 1,
    }
    for stop, resume in ((2, None), (3, True)):
        trainer = make_trainer(Dataset.from_dict(rows), max_steps=stop, **options)
        trainer.data_collator = DataCollatorForLanguageModeling(trainer.processing_class, mlm=False)
        trainer.train(resume_from_checkpoint=resume)
    for entry in steps_of(trainer):
        assert entry["colm/kept"] == 128
        # At most 51 of each of the four kinds that are told by source.
        assert len(entry) < 230
        for name in ("candidates", "kept"):
            parts = [v for k, v in entry.items() if k.startswith(f"colm/{name}/")]
            assert sum(parts) == pytest.approx(entry[f"colm/{name}"])


def in_each_process(model_folder, folder):
    """Runs whose last draw is uneven, and selections with one process short of memory."""
    done = {}
    for scope in ("global", "local"):
        # Twice 8 for each of two processes, then 8 for the first and 3 for the second.
        trainer = build_trainer(
            model_folder,
            Dataset.from_list(ROWS[:43]),
            output_dir=str(folder / scope),
            gradient_accumulation_steps=1,
            selection_scope=scope,
            max_steps=-1,
            num_train_epochs=1,
            accelerator_config={"even_batches": False},
        )
        drawn = []

        def note(kept, drawn=drawn):
            drawn.append((len(kept.split.own), len(kept.examples)))

        on_keep(trainer, note)
        trainer.train()
        done[scope] = drawn, [p.detach().clone() for p in trainer.model.parameters()]
    rank, selection = trainer.args.process_index, make_selection(trainer)
    examples = list(trainer.train_dataset)[rank * 16 : rank * 16 + 16]
    room = ROOM_TOKENS if rank == 0 else 10**6
    done["whole"] = [tuple(e["input_ids"]) for e in select_among(selection, examples, 8).examples]
    selection = make_selection(trainer)
    with little_memory(trainer.model, room=room) as failures:
        done["halved"] = [
            tuple(e["input_ids"]) for e in select_among(selection, examples, 8).examples
        ]
    done["failures"] = len(failures)
    return done


def make_selection(trainer):
    trainer.args.selection_scope = "global"
    return trainer._build_selection("source", SIZES)


@pytest.mark.slow
def test_processes_that_differ_in_what_they_draw_and_have(tiny_model_folder, tmp_path):
    first, second = run_in_processes(in_each_process, tmp_path, tiny_model_folder, tmp_path)
    assert [drawn for drawn, _ in first["global"][0]] == [8, 8, 8]
    assert [drawn for drawn, _ in second["global"][0]] == [8, 8, 3]
    # Together they keep 4 + 2 of the last candidates, shared evenly; apart, each half of its own.
    assert [kept for _, kept in first["global"][0]] == [4, 4, 3]
    assert [kept for _, kept in second["global"][0]] == [4, 4, 3]
    assert [kept for _, kept in first["local"][0]] == [4, 4, 4]
    assert [kept for _, kept in second["local"][0]] == [4, 4, 2]
    for scope in ("global", "local"):
        for mine, other in zip(first[scope][1], second[scope][1], strict=True):
            assert torch.equal(mine, other)
            assert torch.isfinite(mine).all()
    assert (first["failures"] > 0, second["failures"]) == (True, 0)
    for process in (first, second):
        assert process["halved"] == process["whole"]
