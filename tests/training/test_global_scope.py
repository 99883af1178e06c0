"""Two and four processes that select together keep what one with as large a batch keeps.

The processes are started once; each notes what it did, and the tests compare that with one process.
"""

import dataclasses
import pickle
import random
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch import distributed

from colm.coreset import registry
from colm.coreset.registry import available_selectors
from colm.training.example import label_token_count
from colm.training.step import look as observing
from tests.training.conftest import (
    SIZES,
    StopAt,
    build_trainer,
    make_records,
    note_selections,
    select_among,
)
from tests.training.processes import run_in_processes

pytestmark = pytest.mark.slow

STEPS = 3
DRAWN = 24
KEPT = 10
SELECTORS = [name for name in available_selectors() if name != "none"]
# Before which candidate those of the second process begin, of the third, and so on.
SPLITS = {2: [(12,), (3,), (24,)], 4: [(6, 12, 18), (0, 3, 20)]}
# Selectors under limits so low that features are thinned and candidates divided into parts.
LARGE = ["balanced_sampling", "gradient_matching", "mean_matching", "colm"]
LIMITS = {"numbers": 16 * 40, "together": 7}

RUNS = {
    "colm": {"selector": "colm"},
    "default": {"match_every": 2},
    "medoids": {"selector": "colm", "weighted": True, "gradient": "directional"},
    "random": {"selector": "random"},
}
RUNS_OF = {2: [*RUNS], 4: ["default", "medoids"]}
TRAINED_BY = [(number, name) for number, names in RUNS_OF.items() for name in names]


def train(model_folder, folder, batch, *, stop=None, resume=None, **options):
    """A run's kept examples, weights and log."""
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = build_trainer(
        model_folder,
        Dataset.from_list(make_records()),
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        trainer_options={"peft_config": lora},
        **({"selection_scope": "global"} | options),
    )
    kept = note_selections(trainer)
    if stop is not None:
        trainer.add_callback(StopAt(stop))
    trainer.train(resume_from_checkpoint=resume)
    trained = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    return {"kept": kept, "weights": trained, "log": trainer.state.log_history}


@contextmanager
def nothing_pickled():
    """Fail where anything is pickled or unpickled, by us or by what we call."""

    def fail(*_arguments, **_options):
        raise AssertionError("something was pickled")

    c10d = distributed.distributed_c10d
    objects = [name for name in dir(c10d) if "object" in name and not name.startswith("__")]
    targets = [(pickle, name) for name in ("loads", "load", "dumps", "dump")]
    targets += [(owner, name) for owner in (c10d, distributed) for name in objects]
    targets += [(c10d, "_pickler"), (c10d, "_unpickler")]
    with ExitStack() as stack:
        for owner, name in targets:
            if callable(getattr(owner, name, None)):
                stack.enter_context(patch.object(owner, name, fail))
        with pytest.raises(AssertionError, match="pickled"):
            distributed.all_gather_object([None], 1)
        yield


@contextmanager
def low_limits():
    limited = {
        name: replace(selector, most_together=LIMITS["together"])
        for name, selector in registry._SELECTORS.items()
        if selector.most_together is not None
    }
    with (
        patch.object(observing, "MOST_NUMBERS", LIMITS["numbers"]),
        patch.dict(registry._SELECTORS, limited),
    ):
        yield


def selections(trainer, selector, split):
    """Kept token ids and the selector's state, after some steps on this process's part."""
    selection = make_selection(trainer, selector)
    rank, number = selection.exchange.process_index, selection.exchange.num_processes
    bounds = [0, *split, DRAWN]
    rng, kept = random.Random(0), []
    for step in range(STEPS):
        drawn = rng.sample(list(trainer.train_dataset), DRAWN)
        budget = KEPT - number + 1 if rank == number - 1 else 1
        own = drawn[bounds[rank] : bounds[rank + 1]]
        kept.append(
            [
                tuple(example["input_ids"])
                for example in select_among(selection, own, budget, step).examples
            ]
        )
    return kept, selection.selector.state_dict()


def large_selections(trainer, split):
    """The same under low limits, which the default selector meets in several ways."""
    with low_limits():
        return {selector: selections(trainer, selector, split) for selector in LARGE}


def in_each_process(model_folder, folder, number):
    """Everything that is done in several processes."""
    batch = 4 // number
    done = {
        name: train(model_folder, folder / name, batch, **RUNS[name]) for name in RUNS_OF[number]
    }
    if number == 2:
        done["local"] = train(
            model_folder, folder / "local", 2, selection_scope="local", **RUNS["colm"]
        )
        saving = RUNS["colm"] | {"save_strategy": "steps", "save_steps": 2}
        done["stopped"] = train(model_folder, folder / "stopped", 2, stop=2, **saving)
        done["resumed"] = train(model_folder, folder / "stopped", 2, resume=True, **saving)
    trainer = make_selecting_trainer(model_folder, folder, batch)
    with nothing_pickled():
        done["selections"] = {
            (selector, split): selections(trainer, selector, split)
            for selector in SELECTORS
            for split in splits_of(selector, number)
        }
        done["large"] = large_selections(trainer, SPLITS[number][0])
        done["exchange"] = use_exchange(trainer._selection.exchange)
        if number == 2:
            done["edges"] = keep_at_the_edges(trainer)
        done["refused"] = refuse_a_column(trainer)
    return done


def splits_of(selector, number):
    """Ways that candidates lie on the processes, all of them for a selector that has a state."""
    return SPLITS[number] if selector == "colm" else SPLITS[number][:1]


def make_selecting_trainer(model_folder, folder, batch):
    data = Dataset.from_list(make_records())
    return build_trainer(
        model_folder,
        data,
        output_dir=str(folder),
        selection_scope="global",
        per_device_train_batch_size=batch,
    )


def make_selection(trainer, selector):
    trainer.args.selector = selector
    return trainer._build_selection("source", SIZES)


def refuse_a_column(trainer):
    """What is said of a column that cannot be sent, on every process and before anything is."""
    examples = [{**row, "image": object()} for row in list(trainer.train_dataset)[:4]]
    with pytest.raises(ValueError, match="column 'image' holds a object") as refused:
        select_among(make_selection(trainer, "random"), examples, 2)
    return str(refused.value)


def use_exchange(exchange):
    """Everything that an exchange does, most of it with unlike amounts on each process."""
    rank, number = exchange.process_index, exchange.num_processes
    numbers = torch.arange(6, dtype=torch.int64).reshape(3, 2)
    last = rank == number - 1
    before = exchange.received_bytes.copy()
    done = {
        "uneven": exchange.rows(numbers[:1] if rank == 0 else numbers[1:] if last else numbers[:0]),
        "only last": exchange.rows(numbers.double() if last else torch.empty(0, 0)),
        "flat": exchange.rows(torch.full((rank,), 7.0)),
        "nothing": exchange.rows(torch.empty(0, 0)),
        "names": exchange.names(["a\nb", "ü", ""] if rank == 0 else ["c"] if last else []),
        "no names": exchange.names(["c"] if last else []),
        "of first": exchange.of_first(torch.arange(3 + rank) + rank),
        "nothing of first": exchange.of_first(torch.arange(rank).float()),
        "union": exchange.union(torch.tensor([rank, 5, 5]) if rank else torch.arange(0)),
        "nothing in union": exchange.union(torch.arange(0)),
        "total": exchange.total(torch.tensor([1.5, 2.0]) * (rank + 1)),
    }
    # Each process hands one example to the next, and the first two to the last.
    handed = {(rank + 1) % number: {rank: {"input_ids": [rank] * rank, "text": "ü"}}}
    if rank == 0:
        handed.setdefault(number - 1, {}).update({10 + i: {"input_ids": [i]} for i in range(2)})
    received = exchange.received_bytes["examples"]
    done["examples"] = exchange.examples(handed)
    done["example bytes"] = exchange.received_bytes["examples"] - received
    done["no examples"] = exchange.examples({})
    done["bytes"] = exchange.received_bytes - before
    return done


def keep_at_the_edges(trainer):
    """What this process trains on where it, or all, have next to nothing."""
    rows = list(trainer.train_dataset)
    rank = trainer.args.process_index
    unlabelled = [{**row, "labels": [-100] * len(row["input_ids"])} for row in rows[:4]]
    selection = make_selection(trainer, "colm")
    selection._warned_unlabelled = True
    alone = rows[4:12] if rank == 0 else unlabelled
    nothing = unlabelled if rank == 0 else unlabelled[:1]

    def first_or_last(candidates, budget, generator):
        """Unlike on each process, as no selector should be."""
        start = 0 if rank == 0 else len(candidates) - budget
        return torch.arange(start, start + budget)

    torn = make_selection(trainer, selector="random")
    torn.selector.selector = dataclasses.replace(torn.selector.selector, choose=first_or_last)
    among = {
        "torn": (torn, rows[:8] if rank == 0 else rows[8:16], 4, 0),
        "one without labels": (selection, alone, 2, 0),
        "none with labels": (selection, nothing, 1, 1),
        "first alone": (selection, rows[12:16] if rank == 0 else unlabelled, 1 - rank, 2),
        "second alone": (selection, rows[12:16] if rank == 1 else unlabelled, 1 - rank, 3),
        "first has all": (selection, rows[12:16] if rank == 0 else [], 1 - rank, 4),
    }
    return {name: select_among(*given).examples for name, given in among.items()}


@pytest.fixture(scope="module")
def groups(tiny_model_folder, tmp_path_factory):
    """What each process of two did, and each of four, by their number; started when asked for."""

    class Groups(dict):
        def __missing__(self, number):
            folder = tmp_path_factory.mktemp("group")
            arguments = (tiny_model_folder, folder, number)
            self[number] = run_in_processes(in_each_process, folder, *arguments, number=number)
            return self[number]

    return Groups()


@pytest.fixture(scope="module")
def pair(groups):
    return groups[2]


@pytest.fixture(scope="module")
def alone(tiny_model_folder, tmp_path_factory):
    """The same in one process with as large a batch."""
    folder = tmp_path_factory.mktemp("alone")
    runs = {name: train(tiny_model_folder, folder, 4, **RUNS[name]) for name in RUNS}
    trainer = make_selecting_trainer(tiny_model_folder, folder, 4)
    runs["selections"] = {name: selections(trainer, name, ()) for name in SELECTORS}
    runs["large"] = large_selections(trainer, ())
    return runs


def together(group, name):
    """What all processes kept, step by step."""
    return [
        sorted(example for share in step for example in share)
        for step in zip(*(each[name]["kept"] for each in group), strict=True)
    ]


@pytest.mark.parametrize(("number", "name"), TRAINED_BY)
def test_processes_train_as_one_with_as_large_a_batch(groups, alone, number, name):
    assert together(groups[number], name) == [sorted(step) for step in alone[name]["kept"]]
    for process in groups[number]:
        # Eight are kept of 16 candidates: two micro-batches for each process.
        assert [len(step) for step in process[name]["kept"]] == [8 // number] * 4
        for parameter, value in process[name]["weights"].items():
            torch.testing.assert_close(
                value, alone[name]["weights"][parameter], rtol=1e-3, atol=2e-5
            )


def test_selecting_apart_is_something_else(pair, alone):
    assert together(pair, "local") != [sorted(step) for step in alone["colm"]["kept"]]


@pytest.mark.parametrize(("number", "name"), TRAINED_BY)
def test_the_log_is_of_all_candidates(groups, alone, number, name):
    log = groups[number][0][name]["log"]
    for logged, expected in zip(log, alone[name]["log"], strict=True):
        assert logged.keys() == expected.keys()
        for key, value in expected.items():
            ours = key.startswith("colm/") and not key.endswith("seconds")
            if ours or key in ("loss", "grad_norm"):
                assert logged[key] == pytest.approx(value, rel=1e-2, abs=1e-6), key
    steps = [entry for entry in log if "loss" in entry]
    assert [step["colm/candidates"] for step in steps] == [16] * 4
    measured = ["colm/match_error" in step for step in steps]
    assert measured == [name == "default", False, name == "default", False]


def test_resumed_is_bit_identical_to_uninterrupted(pair):
    for process in pair:
        kept = process["stopped"]["kept"] + process["resumed"]["kept"]
        assert kept == process["colm"]["kept"]
        for name, value in process["resumed"]["weights"].items():
            assert torch.equal(value, process["colm"]["weights"][name]), name


def check_selections(group, expected, which):
    """Compare what processes kept, each its even share, and their states with those of one."""
    kept, state = expected
    ours = [which(process) for process in group]
    for step, (*shares, whole) in enumerate(zip(*(each[0] for each in ours), kept, strict=True)):
        assert sorted(example for share in shares for example in share) == sorted(whole), step
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1
    for _, own_state in ours:
        assert own_state.keys() == state.keys()
        for name, value in own_state.items():
            assert torch.equal(value, ours[0][1][name]), name
            torch.testing.assert_close(value, state[name], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("number", SPLITS)
@pytest.mark.parametrize("selector", SELECTORS)
def test_where_candidates_lie_changes_no_selection(groups, alone, selector, number):
    for split in splits_of(selector, number):
        check_selections(
            groups[number],
            alone["selections"][selector],
            lambda process, split=split: process["selections"][selector, split],
        )


@pytest.mark.parametrize("number", SPLITS)
@pytest.mark.parametrize("selector", LARGE)
def test_selections_too_large_for_one_piece_are_the_same(groups, alone, selector, number):
    expected = alone["large"][selector]
    check_selections(groups[number], expected, lambda process: process["large"][selector])
    # The limits did something.
    assert expected[0] != alone["selections"][selector][0]


@pytest.mark.parametrize("number", SPLITS)
def test_rows_of_all_processes_meet_on_each(groups, number):
    for process in groups[number]:
        told = process["exchange"]
        assert told["uneven"].tolist() == [[0, 1], [2, 3], [4, 5]]
        assert told["uneven"].dtype == torch.int64
        assert told["only last"].tolist() == [[0, 1], [2, 3], [4, 5]]
        assert told["only last"].dtype == torch.float64
        assert told["flat"].tolist() == [7.0] * sum(range(number))
        assert told["nothing"].shape == (0, 0)
        assert told["names"] == ["a\nb", "ü", "", "c"]
        assert told["no names"] == ["c"]
        assert told["of first"].tolist() == [0, 1, 2]
        assert told["nothing of first"].dtype == torch.float32
        assert len(told["nothing of first"]) == len(told["nothing in union"]) == 0
        assert told["union"].tolist() == [*range(1, number), 5]
        total = sum(range(number + 1))
        assert told["total"].tolist() == [1.5 * total, 2.0 * total]


@pytest.mark.parametrize("number", SPLITS)
def test_examples_reach_only_the_process_that_they_are_for(groups, number):
    for rank, process in enumerate(groups[number]):
        told = process["exchange"]
        giver = (rank - 1) % number
        expected = {giver: {"input_ids": [giver] * giver, "text": "ü"}}
        if rank == number - 1:
            expected |= {10: {"input_ids": [0]}, 11: {"input_ids": [1]}}
        assert told["examples"] == expected
        assert told["no examples"] == {}
        # A size from each process, and the packets.
        assert 8 * number < told["example bytes"] < 8 * number + 200 * len(expected)


@pytest.mark.parametrize("number", SPLITS)
def test_what_cannot_be_sent_is_refused_on_every_process(groups, number):
    told = {process["refused"] for process in groups[number]}
    assert len(told) == 1
    assert "selection_scope='local'" in told.pop()


def test_each_process_has_something_to_train_on(pair):
    labelled, unlabelled, *single = (
        [process["edges"][name] for process in pair]
        for name in (
            *("one without labels", "none with labels"),
            *("first alone", "second alone", "first has all"),
        )
    )
    assert [len(share) for share in labelled] == [2, 2]
    assert all(label_token_count(example) for share in labelled for example in share)
    assert len({tuple(e["input_ids"]) for share in labelled for e in share}) == 4
    assert [len(share) for share in unlabelled] == [1, 1]
    # One example for two processes: it stays where it is, and the other process only fills its
    # micro-batch, adding to no loss.
    for shares, holder in zip(single, (0, 1, 0), strict=True):
        assert [len(share) for share in shares] == [1, 1]
        assert label_token_count(shares[holder][0]) > 0
        assert label_token_count(shares[1 - holder][0]) == 0


def test_where_processes_disagree_the_first_decides(pair):
    kept = [tuple(e["input_ids"]) for process in pair for e in process["edges"]["torn"]]
    assert len(kept) == 8
