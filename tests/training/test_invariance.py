"""Selections follow the candidates and nothing else: chunks, padding and order play no part.

Each relation runs a few steps of ``ExampleSelection``, moments and all, on random weights and
compares what is kept; the number of processes is the matter of ``test_global_scope.py``.
"""

import random
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from datasets import Dataset

from colm import available_selectors
from colm.gradients.example_observer import ExampleObserver
from colm.training.example import WEIGHT_KEY
from colm.training.options.by_selector import options_by_selector
from colm.training.processes.candidate_table import content_key, tabulate
from colm.training.processes.exchange import Exchange
from colm.training.step.arrange import arrange
from colm.training.step.look import CandidateObserver
from colm.training.step.match import match
from tests.training.conftest import SIZES, build_trainer, make_records, select_among

BATCHINGS = {
    "plain": {},
    "small chunks": {"selection_tokens": 40},
    "one chunk": {"selection_tokens": 10**6},
    "padding-free": {"padding_free": True},
}
STEPS = 3
DRAWN = 24
KEPT = 9

LOOKERS = [name for name in available_selectors() if name not in ("random", "none", "longest")]
# Beside the default gradient: whatever compares features, with every other kind of them.
FEATURES = [
    {"gradient": "directional", "num_directions": 2},
    {"gradient": "zeroth_order", "num_directions": 2},
    {"gradient": "exact", "normalization": "none", "distance": "cosine"},
    {"gradient": "exact", "projections": ["q", "o"], "kept_dimensions": 40},
    {"gradient": "exact", "dimension_criterion": "weight_gradient"},
    {"gradient": "exact", "prompt_features": True},
    {"gradient": "exact", "weighted": True, "allocation": "none"},
]
CASES = [{"selector": name} for name in available_selectors() if name != "none"]
CASES += [{"selector": name} | case for name in ("colm", "mean_matching") for case in FEATURES]


def named(case):
    return "-".join(map(str, case.values()))


@pytest.fixture(scope="module")
def trainers(tiny_model_folder, tmp_path_factory):
    """One for each way of batching; selections of many options are then built on it."""
    return {
        name: build_trainer(
            tiny_model_folder,
            Dataset.from_list(make_records()),
            output_dir=str(tmp_path_factory.mktemp("run")),
            max_length=None,
            selector="colm",
            **options,
        )
        for name, options in BATCHINGS.items()
    }


@contextmanager
def selection_of(trainer, options):
    """The selection of other options, which a trainer has for as long as it is asked."""
    given = {name: getattr(trainer.args, name) for name in options}
    vars(trainer.args).update(options)
    yield trainer._build_selection("source", SIZES)
    vars(trainer.args).update(given)


@pytest.fixture
def keep(trainers):
    """What a run keeps, step by step, in order: token ids and weights."""

    def run(case, seed, batching="plain", shuffle=None):
        trainer = trainers[batching]
        options = (
            {"seed": seed}
            | options_by_selector(case.get("selector", "colm"))
            | BATCHINGS[batching]
            | case
        )
        with selection_of(trainer, options) as selection:
            set_random_weights(trainer.model, seed)
            rng, kept = random.Random(seed), []
            for step in range(STEPS):
                examples = rng.sample(list(trainer.train_dataset), DRAWN)
                if shuffle is not None:
                    random.Random(shuffle + step).shuffle(examples)
                kept.append(select_among(selection, examples, KEPT, step).examples)
        return [[(tuple(e["input_ids"]), e.get(WEIGHT_KEY, 1.0)) for e in step] for step in kept]

    return run


def set_random_weights(model, seed):
    """Weights far from the equal ones of a fresh model, where every logit is about the same."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))


def as_sets(selections):
    return [sorted(ids for ids, _ in step) for step in selections]


def weights_of(selections):
    return [weight for step in selections for _, weight in sorted(step)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("case", CASES, ids=named)
def test_selections_depend_on_the_candidates_alone(keep, case, seed):
    plain = keep(case, seed)
    assert all(len(step) == KEPT for step in plain)
    # In another order the same examples share a chunk: equal to the last bit, in order, too.
    assert keep(case, seed, shuffle=7) == plain
    for batching in ("small chunks", "one chunk", "padding-free"):
        other = keep(case, seed, batching)
        assert as_sets(other) == as_sets(plain), batching
        assert weights_of(other) == pytest.approx(weights_of(plain), rel=1e-3), batching


@pytest.mark.slow
@pytest.mark.parametrize("selector", LOOKERS)
def test_another_model_selects_others(keep, selector):
    """Or the relations above would hold of a selection that looks at nothing."""
    case = {"selector": selector, "small_sources": "none"}
    assert as_sets(keep(case, 0)) != as_sets(keep(case, 1))


def test_random_draws_anew_each_step_and_seed(keep, make_trainer):
    trainer = make_trainer(Dataset.from_list(make_records()), selector="random")
    examples = list(trainer.train_dataset)[:DRAWN]
    kept = [
        frozenset(map(content_key, select_among(trainer._selection, examples, KEPT, step).examples))
        for step in range(4)
    ]
    assert len(set(kept)) == 4
    again = make_trainer(Dataset.from_list(make_records()), selector="random", seed=1)
    assert (
        frozenset(map(content_key, select_among(again._selection, examples, KEPT).examples))
        != kept[0]
    )


def test_the_published_code_goes_by_the_order_of_the_batch(keep):
    case = {"selector": "random", "reference_behaviour": True}
    assert as_sets(keep(case, 0, shuffle=7)) != as_sets(keep(case, 0))
    assert keep(case, 0, "padding-free") == keep(case, 0)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_what_is_seen_of_a_row_is_its_own(trainers, batching):
    """Rows asked for in any order, against each example by itself."""
    trainer = trainers[batching]
    set_random_weights(trainer.model, 0)
    examples = [
        {key: example[key] for key in ("input_ids", "labels")}
        for example in list(trainer.train_dataset)[:DRAWN]
    ]
    table = tabulate(examples, ["all"] * DRAWN, Exchange())
    needs = ("gradients", "hidden", "prompt")
    access = trainer._selection.observer.access
    observe = CandidateObserver(trainer.args, access, needs, 0, Exchange())
    rows = torch.tensor(random.Random(5).sample(range(DRAWN), 17))
    seen = observe.look(examples, table, rows, step=0).observed
    alone = ExampleObserver(trainer.model, needs)
    for place, row in enumerate(rows.tolist()):
        batch = {key: torch.tensor([value]) for key, value in examples[row].items()}
        expected = alone(batch | {"attention_mask": torch.ones_like(batch["input_ids"])})
        for name in (*needs, "losses"):
            value, wanted = getattr(seen, name)[place], getattr(expected, name)[0]
            torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gradient", ["directional", "zeroth_order"])
@pytest.mark.parametrize("reference", [False, True])
def test_directions_are_drawn_each_step_but_once_a_run_in_the_published_code(
    make_trainer, monkeypatch, gradient, reference
):
    trainer = make_trainer(
        Dataset.from_list(make_records()), gradient=gradient, reference_behaviour=reference
    )
    observe = trainer._selection.observer
    first, again, second = (observe._draw_directions(step)[0] for step in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first, second) == reference


@pytest.mark.parametrize("selector", ["colm", "random", "mean_matching"])
def test_copies_of_an_example_are_interchangeable(make_trainer, selector):
    """Which copy is kept is left to its place; how many are must not be."""
    trainer = make_trainer(Dataset.from_list(make_records()), selector=selector)
    rows = list(trainer.train_dataset)
    examples = rows[:8] * 2 + rows[8:12]
    kept = []
    for shuffle in (None, 1, 2):
        selection = trainer._build_selection("source", SIZES)
        if shuffle is not None:
            random.Random(shuffle).shuffle(examples)
        kept.append(sorted(e["input_ids"] for e in select_among(selection, examples, 7).examples))
    assert kept[0] == kept[1] == kept[2]


def test_a_key_is_of_the_content():
    example = {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}
    key = content_key(example)
    assert 0 <= key < 2**63
    assert content_key({k: torch.tensor(v) for k, v in example.items()} | {"source": "b"}) == key
    others = [
        {"input_ids": [5, 6, 7]},
        {"input_ids": [5, 6, 7], "labels": None},
        {"input_ids": [5, 6, 8], "labels": [-100, 6, 7]},
        {"input_ids": [5, 6, 7], "labels": [-100, -100, 7]},
        {"input_ids": [5, 6, 7, -100], "labels": [6, 7]},
    ]
    assert len({key, *map(content_key, others)}) == 5
    assert content_key(others[0]) == content_key(others[1])


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["exact", "directional", "zeroth_order"])
@pytest.mark.parametrize("selector", ["colm", "mean_matching", "random", "selective_backprop"])
def test_no_global_random_state_is_touched(trainers, selector, gradient):
    trainer = trainers["plain"]
    options = {"selector": selector, "gradient": gradient, "dimension_criterion": "random"}
    examples = list(trainer.train_dataset)[:DRAWN]
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    state = torch.random.get_rng_state()
    with selection_of(trainer, options_by_selector(selector) | options) as selection:
        kept = select_among(selection, examples, KEPT)
        match(kept, selection.observer.access, Exchange().total)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert random.getstate() == random.Random(3).getstate()
    fresh = np.random.RandomState(3).get_state()
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), fresh, strict=True))  # noqa: NPY002


def test_the_kept_come_longest_first_and_without_their_source(make_trainer):
    trainer = make_trainer(Dataset.from_list(make_records()), selector="random")
    kept = select_among(trainer._selection, list(trainer.train_dataset)[:DRAWN], KEPT).examples
    parts = arrange(trainer, kept, 2)
    lengths = [len(example["input_ids"]) for part in parts for example in part]
    assert len(lengths) == len(kept) == KEPT
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[-1]
    assert not any("source" in example for example in kept)


@pytest.mark.parametrize("selector", ["random", "longest"])
def test_a_selector_that_looks_at_nothing_costs_no_forward(make_trainer, selector):
    trainer = make_trainer(Dataset.from_list(make_records()), selector=selector)
    calls = []
    trainer.model.register_forward_pre_hook(lambda *_: calls.append(1))
    select_among(trainer._selection, list(trainer.train_dataset)[:DRAWN], KEPT)
    assert calls == []


@pytest.mark.parametrize("selector", ["top_loss", "hidden_facility_location"])
def test_a_selector_without_gradients_costs_no_backward(make_trainer, monkeypatch, selector):
    trainer = make_trainer(Dataset.from_list(make_records()), selector=selector)

    def backward(*_args, **_options):
        raise AssertionError("a backward was run")

    monkeypatch.setattr(torch.autograd, "grad", backward)
    select_among(trainer._selection, list(trainer.train_dataset)[:DRAWN], KEPT)
