"""Two processes that select together keep what one process with twice the batch keeps.

The processes are started once; each notes what it did, and the tests compare that with one process.
"""

import dataclasses
import random
from collections import Counter

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig

from colm.coreset.registry import available_selectors
from colm.training.exchange import Exchange, deal
from colm.training.pool import label_token_count
from tests.training.conftest import SIZES, StopAt, build_trainer, make_records
from tests.training.processes import run_in_processes

pytestmark = pytest.mark.slow

STEPS = 3
DRAWN = 24
KEPT = 10
SELECTORS = [name for name in available_selectors() if name != "none"]
# How the candidates lie on the two processes.
SPLITS = [12, 3, 24]

RUNS = {
    "colm": {"selector": "colm"},
    "default": {"match_every": 2},
    "medoids": {"selector": "colm", "weighted": True, "gradient": "directional"},
    "random": {"selector": "random"},
}


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
    kept, keep = [], trainer._selection.keep

    def noting(*arguments):
        chosen = keep(*arguments)
        kept.append([tuple(example["input_ids"]) for example in chosen])
        return chosen

    trainer._selection.keep = noting
    if stop is not None:
        trainer.add_callback(StopAt(stop))
    trainer.train(resume_from_checkpoint=resume)
    trained = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    return {"kept": kept, "weights": trained, "log": trainer.state.log_history}


def selections(trainer, selector, split):
    """Kept token ids and the selector's state, after some steps on this process's part."""
    selection = make_selection(trainer, selector)
    rank, number = selection.exchange.process_index, selection.exchange.num_processes
    rng, kept = random.Random(0), []
    for step in range(STEPS):
        drawn = rng.sample(list(trainer.train_dataset), DRAWN)
        examples, budget = drawn, KEPT
        if number == 2:
            examples, budget = (drawn[:split], 1) if rank == 0 else (drawn[split:], KEPT - 1)
        kept.append(
            [tuple(example["input_ids"]) for example in selection.keep(examples, budget, step)]
        )
    return kept, selection.selector.state_dict()


def in_each_process(model_folder, folder):
    """Everything that is done in two processes."""
    done = {name: train(model_folder, folder / name, 2, **RUNS[name]) for name in RUNS}
    done["local"] = train(
        model_folder, folder / "local", 2, selection_scope="local", **RUNS["colm"]
    )
    saving = RUNS["colm"] | {"save_strategy": "steps", "save_steps": 2}
    done["stopped"] = train(model_folder, folder / "stopped", 2, stop=2, **saving)
    done["resumed"] = train(model_folder, folder / "stopped", 2, resume=True, **saving)
    trainer = make_selecting_trainer(model_folder, folder)
    done["selections"] = {
        (selector, split): selections(trainer, selector, split)
        for selector in SELECTORS
        for split in (SPLITS if selector == "colm" else SPLITS[:1])
    }
    done["exchange"] = use_exchange(trainer._selection.exchange)
    done["edges"] = keep_at_the_edges(trainer)
    return done


def make_selecting_trainer(model_folder, folder):
    data = Dataset.from_list(make_records())
    return build_trainer(model_folder, data, output_dir=str(folder), selection_scope="global")


def make_selection(trainer, selector):
    trainer.args.selector = selector
    return trainer._build_selection("source", SIZES)


def use_exchange(exchange):
    rank = exchange.process_index
    numbers = torch.arange(6, dtype=torch.int64).reshape(3, 2)
    return {
        "uneven": exchange.rows(numbers[:1] if rank == 0 else numbers[1:]),
        "only second": exchange.rows(torch.empty(0, 0) if rank == 0 else numbers.double()),
        "flat": exchange.rows(torch.full((rank,), 7.0)),
        "nothing": exchange.rows(torch.empty(0, 0)),
        "names": exchange.names(["a\nb", "ü", ""] if rank == 0 else ["c"]),
        "no names": exchange.names([] if rank == 0 else ["c"]),
        "of first": exchange.of_first(numbers[rank:]),
        "total": exchange.total(torch.tensor([1.5, 2.0]) * (rank + 1)),
        "examples": exchange.examples({3: {"input_ids": [1]}} if rank == 0 else {}),
    }


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
    return {
        "torn": torn.keep(rows[:8] if rank == 0 else rows[8:16], 4, 0),
        "one without labels": selection.keep(alone, 2, 0),
        "none with labels": selection.keep(nothing, 1, 1),
        "first alone": selection.keep(rows[12:16] if rank == 0 else unlabelled, 1 - rank, 2),
        "second alone": selection.keep(rows[12:16] if rank == 1 else unlabelled, 1 - rank, 3),
    }


@pytest.fixture(scope="module")
def pair(tiny_model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return run_in_processes(in_each_process, folder, tiny_model_folder, folder)


@pytest.fixture(scope="module")
def alone(tiny_model_folder, tmp_path_factory):
    """The same in one process with twice the batch."""
    folder = tmp_path_factory.mktemp("alone")
    runs = {name: train(tiny_model_folder, folder, 4, **RUNS[name]) for name in RUNS}
    trainer = make_selecting_trainer(tiny_model_folder, folder)
    runs["selections"] = {name: selections(trainer, name, None) for name in SELECTORS}
    return runs


def together(pair, name):
    """What both processes kept, step by step."""
    return [sorted(a + b) for a, b in zip(*(each[name]["kept"] for each in pair), strict=True)]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_as_one_with_twice_the_batch(pair, alone, name):
    assert together(pair, name) == [sorted(step) for step in alone[name]["kept"]]
    for process in pair:
        # Eight are kept of 16 candidates: two micro-batches of two for each process.
        assert [len(step) for step in process[name]["kept"]] == [4] * 4
        for parameter, value in process[name]["weights"].items():
            torch.testing.assert_close(
                value, alone[name]["weights"][parameter], rtol=1e-3, atol=2e-5
            )


def test_selecting_apart_is_something_else(pair, alone):
    assert together(pair, "local") != [sorted(step) for step in alone["colm"]["kept"]]


@pytest.mark.parametrize("name", RUNS)
def test_the_log_is_of_all_candidates(pair, alone, name):
    for logged, expected in zip(pair[0][name]["log"], alone[name]["log"], strict=True):
        assert logged.keys() == expected.keys()
        for key, value in expected.items():
            ours = key.startswith("colm/") and not key.endswith("seconds")
            if ours or key in ("loss", "grad_norm"):
                assert logged[key] == pytest.approx(value, rel=1e-2, abs=1e-6), key
    steps = [entry for entry in pair[0][name]["log"] if "loss" in entry]
    assert [step["colm/candidates"] for step in steps] == [16] * 4
    measured = ["colm/match_error" in step for step in steps]
    assert measured == [name == "default", False, name == "default", False]


def test_resumed_is_bit_identical_to_uninterrupted(pair):
    for process in pair:
        kept = process["stopped"]["kept"] + process["resumed"]["kept"]
        assert kept == process["colm"]["kept"]
        for name, value in process["resumed"]["weights"].items():
            assert torch.equal(value, process["colm"]["weights"][name]), name


@pytest.mark.parametrize("selector", SELECTORS)
def test_where_candidates_lie_changes_no_selection(pair, alone, selector):
    kept, state = alone["selections"][selector]
    for split in SPLITS if selector == "colm" else SPLITS[:1]:
        (first, first_state), (second, second_state) = (
            process["selections"][selector, split] for process in pair
        )
        assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == [
            sorted(step) for step in kept
        ]
        assert {len(step) for step in first + second} == {KEPT // 2}
        assert first_state.keys() == second_state.keys() == state.keys()
        for name, value in first_state.items():
            assert torch.equal(value, second_state[name]), name
            torch.testing.assert_close(value, state[name], rtol=1e-3, atol=1e-7)


def test_rows_of_all_processes_meet_on_each(pair):
    for process in pair:
        told = process["exchange"]
        assert told["uneven"].tolist() == [[0, 1], [2, 3], [4, 5]]
        assert told["uneven"].dtype == torch.int64
        assert told["only second"].tolist() == [[0, 1], [2, 3], [4, 5]]
        assert told["only second"].dtype == torch.float64
        assert told["flat"].tolist() == [7.0]
        assert told["nothing"].shape == (0, 0)
        assert told["names"] == ["a\nb", "ü", "", "c"]
        assert told["no names"] == ["c"]
        assert told["of first"].tolist() == [[0, 1], [2, 3], [4, 5]]
        assert told["total"].tolist() == [4.5, 6.0]
        assert told["examples"] == {3: {"input_ids": [1]}}


def test_each_process_has_something_to_train_on(pair):
    labelled, unlabelled, first, second = (
        [process["edges"][name] for process in pair]
        for name in ("one without labels", "none with labels", "first alone", "second alone")
    )
    assert [len(share) for share in labelled] == [2, 2]
    assert all(label_token_count(example) for share in labelled for example in share)
    assert len({tuple(e["input_ids"]) for share in labelled for e in share}) == 4
    assert [len(share) for share in unlabelled] == [1, 1]
    # One example for two processes: the other only fills its micro-batch, adding to no loss.
    for single in (first, second):
        assert [len(share) for share in single] == [1, 1]
        assert label_token_count(single[0][0]) > 0 == label_token_count(single[1][0])


def test_where_processes_disagree_the_first_decides(pair):
    kept = [tuple(e["input_ids"]) for process in pair for e in process["edges"]["torn"]]
    assert len(kept) == 8


@given(st.lists(st.integers(1, 500), max_size=40), st.integers(1, 6))
def test_shares_are_even(lengths, processes):
    shares = deal(lengths, processes)
    counts = Counter(shares)
    assert set(shares) <= set(range(processes))
    assert max(counts.values(), default=0) - min(counts[rank] for rank in range(processes)) <= 1
    load = [
        sum(n for n, rank in zip(lengths, shares, strict=True) if rank == r)
        for r in range(processes)
    ]
    # No process is ahead by more than the longest example.
    assert max(load) - min(load) <= max(lengths, default=0)


def test_a_process_on_its_own_tells_nobody():
    exchange = Exchange()
    rows = torch.ones(2, 3)
    assert exchange.rows(rows) is rows
    assert exchange.total(rows) is rows
    assert exchange.names(["a"]) == ["a"]
    assert exchange.examples({1: {"input_ids": [2]}}) == {1: {"input_ids": [2]}}
