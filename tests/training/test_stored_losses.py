"""Losses are stored by example, decide what an epoch draws, and lie in the checkpoint."""

import math
from collections import Counter

import pytest
import torch
from datasets import Dataset
from torch.utils.data import IterableDataset

from colm import CoLMConfig
from colm.randomness import keyed_generator
from colm.training.example import ROW_KEY, WEIGHT_KEY
from colm.training.step.samplers import make_stored_loss_sampler
from colm.training.step.stored_losses import (
    StoredLosses,
    WithRows,
    hard,
    infobatch,
    tailsft,
)
from tests.cases import quick_first
from tests.training.conftest import SaveAt, build_trainer, make_records, on_keep
from tests.training.processes import run_in_processes
from tests.training.test_weighting import KINDS

NAN = math.nan
RULES = ("hard", "infobatch", "tailsft")
each_rule = pytest.mark.parametrize("rule", RULES)
#: Two passes and a half over 84 examples, 8 a step.
LENGTH = {"candidate_ratio": 1, "selector": "none", "max_steps": 26}


def chosen(choice):
    return choice.drawn.nonzero().flatten().tolist(), choice.weighed.nonzero().flatten().tolist()


def test_hard_keeps_the_highest_and_what_has_no_loss():
    last = torch.tensor([1.0, NAN, 3.0, 2.0, 0.0, NAN])
    assert chosen(hard(last, 0.5)) == ([1, 2, 5], [])
    assert chosen(hard(last, 0.6)) == ([1, 2, 3, 5], [])
    # What has no loss is kept beyond the share, and of equals the first.
    assert chosen(hard(last, 0.1)) == ([1, 5], [])
    assert chosen(hard(torch.ones(4), 0.5)) == ([0, 1], [])


def test_infobatch_leaves_out_a_share_below_the_mean_and_expects_the_same_sum():
    losses = torch.rand(400, generator=keyed_generator(0)) + 0.1
    losses[:10] = NAN
    below = losses < losses[10:].mean()
    total = torch.zeros(400)
    for number in range(500):
        found = infobatch(losses, 0.25, keyed_generator(number))
        assert bool(found.drawn[~below].all())
        assert torch.equal(found.weighed, found.drawn & below)
        total += found.drawn * (1 + found.weighed * (1 / 0.75 - 1))
    # Each counts once on average: within six standard deviations of 500 draws.
    assert (total / 500 - 1).abs().max() < 6 * math.sqrt((1 / 0.75 - 1) / 500)
    assert bool(infobatch(torch.full((7,), 0.1), 0.9, keyed_generator(0)).drawn.any())


def test_tailsft_leaves_out_what_improved_most_and_nothing_that_did_not():
    first, last = torch.tensor([3.0, 3, 3, NAN, 3]), torch.tensor([1.0, 2, 3, NAN, 4])
    assert chosen(tailsft(first, last, 0.2)) == ([1, 2, 3, 4], [])
    assert chosen(tailsft(first, last, 0.9)) == ([2, 3, 4], [])
    assert chosen(tailsft(first, first, 0.9)) == ([0, 1, 2, 3, 4], [])


def sampler_of(losses, rule, *, share=0.5, draws=10_000, column=None, sampling="uniform"):
    args = CoLMConfig(
        stored_losses=rule,
        stored_share=share,
        candidate_sampling=sampling,
        small_sources="none",
        bf16=False,
        use_cpu=True,
    )
    dataset = Dataset.from_dict({"source": ["a"] * 60 + ["b"] * 20, "input_ids": [[1]] * 80})
    return make_stored_loss_sampler(dataset, column, args, draws, losses)


@each_rule
def test_the_first_pass_is_whole_and_an_epoch_has_as_many_draws_as_ever(rule):
    losses = StoredLosses(80)
    sampler = sampler_of(losses, rule)
    assert sorted(sampler) == list(range(80))
    losses.store(torch.arange(80), torch.arange(80) + 1.0)
    losses.store(torch.arange(80), torch.arange(80) * 0.5)
    sampler.set_epoch(1)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == 80
    assert drawn == list(sampler)  # and the same whenever it is asked
    counts = Counter(row % 80 for row in drawn)
    left_out = set(range(80)) - set(counts)
    if rule == "hard":
        assert left_out == set(range(40))
        assert set(counts.values()) == {2}
    elif rule == "tailsft":
        assert left_out == set(range(40, 80))
        assert set(counts.values()) == {2}
    else:
        weighed = {row % 80 for row in drawn if row >= 80}
        assert weighed
        assert weighed <= set(range(40))
        assert left_out <= set(range(40))
        assert {row for row in drawn if row < 80} == set(range(40, 80))


def test_what_was_not_trained_on_comes_first():
    losses = StoredLosses(80)
    rows = torch.arange(0, 80, 2)
    losses.store(rows, torch.ones(40))
    drawn = list(sampler_of(losses, "hard", share=0.75))
    assert set(drawn[:40]) == set(range(1, 80, 2))


def test_losses_told_in_an_epoch_decide_the_next():
    losses = StoredLosses(80)
    losses.store(torch.arange(80), torch.arange(80) * 1.0)
    sampler = sampler_of(losses, "hard")
    sampler.set_epoch(1)
    before = list(sampler)
    losses.store(torch.arange(80), -torch.arange(80) * 1.0)
    assert list(sampler) == before
    sampler.set_epoch(2)
    assert set(sampler) == set(range(40))


def test_the_last_eighth_of_infobatch_is_whole():
    losses = StoredLosses(80)
    losses.store(torch.arange(80), torch.arange(80) * 1.0)
    sampler = sampler_of(losses, "infobatch", draws=320)
    sampler.set_epoch(3)
    drawn = list(sampler)
    # Of four epochs the last half of the last.
    assert any(row >= 80 for row in drawn[:40])
    assert len(set(drawn[40:])) == 40
    assert max(drawn[40:]) < 80


def test_draws_by_source_keep_their_shares_and_choose_within_each():
    losses = StoredLosses(80)
    losses.store(torch.arange(80), torch.arange(80) * 1.0)
    sampler = sampler_of(losses, "hard", column="source", sampling="unimax", draws=160)
    sampler.set_epoch(1)
    drawn = Counter(sampler)
    assert set(drawn) == {*range(30, 60), *range(70, 80)}
    assert sum(count for row, count in drawn.items() if row >= 60) == 40


def test_losses_that_are_no_number_are_passed_over_and_the_later_counts():
    losses = StoredLosses(3)
    losses.store(torch.tensor([0, 1, 0, 2]), torch.tensor([5.0, 4.0, 3.0, math.inf]))
    losses.store(torch.tensor([1]), torch.tensor([NAN]))
    first, last = losses.decide(0)
    assert first[:2].tolist() == [5, 4]
    assert last[:2].tolist() == [3, 4]
    assert bool(last[2].isnan())
    again = StoredLosses(3)
    again.load_state_dict({**losses.state_dict(), "other": torch.zeros(7)})
    assert str(again.state_dict()) == str(losses.state_dict())
    for state, number in (({}, 3), (losses.state_dict(), 4)):
        with pytest.raises(ValueError, match=f"stored losses of {number} "):
            StoredLosses(number).load_state_dict(state)


@pytest.mark.parametrize("data", [Dataset.from_dict({"x": [7, 8]}), [{"x": 7}, {"x": 8}]])
def test_examples_tell_their_row_and_weight(data):
    marked = WithRows(data, 2.0)
    assert marked[1] == {"x": 8, ROW_KEY: 1}
    both = [{"x": 7, ROW_KEY: 0, WEIGHT_KEY: 2.0}, {"x": 8, ROW_KEY: 1}]
    assert marked.__getitems__([2, 1]) == both
    assert len(marked) == 2


def note_stored(trainer):
    """The rows that each step told, and what draws were weighed, filled as training goes on."""
    steps, take = [], trainer._take_losses

    def noting(losses):
        steps.append(losses.rows.tolist())
        take(losses)

    trainer._take_losses = noting
    return steps


@pytest.mark.slow
@pytest.mark.parametrize("kind", quick_first(KINDS))
@each_rule
def test_training_stores_the_loss_of_every_example(make_trainer, dataset, kind, rule):
    options, prepare = KINDS[kind]
    trainer = make_trainer(prepare(dataset), stored_losses=rule, **options | LENGTH)
    steps = note_stored(trainer)
    trainer.train()
    steps = [rows for rows in steps if rows]
    assert len(steps) == 26
    # Eleven steps are a pass: it is whole, and the next is not.
    assert sorted(row for rows in steps[:11] for row in rows) == list(range(84))
    second = {row for rows in steps[11:22] for row in rows}
    assert len(second) == {"hard": 42, "tailsft": 84}.get(rule, len(second))
    assert len(second) < 84 or rule == "tailsft"
    state = trainer._stored.state_dict()
    assert bool(state["stored.first"].isfinite().all())
    repeated = sorted(second)
    assert bool((state["stored.first"] != state["stored.last"])[repeated].all())
    # What an epoch draws are the examples themselves, and no others.
    bare = trainer.train_dataset[steps[-1][0]]["input_ids"]
    with torch.no_grad():
        ids = torch.tensor(bare).unsqueeze(0)
        assert math.isfinite(trainer.model(input_ids=ids).logits.sum())


@pytest.mark.slow
def test_stored_losses_are_the_means_of_their_own_examples(make_trainer, dataset):
    """A model that does not move tells the same loss in every pass, and each example's own."""
    trainer = make_trainer(dataset, stored_losses="hard", learning_rate=0, **LENGTH)
    trainer.train()
    state = trainer._stored.state_dict()
    torch.testing.assert_close(state["stored.first"], state["stored.last"])
    for row in (0, 41, 83):
        example = trainer.train_dataset[row]
        ids, labels = torch.tensor(example["input_ids"]), torch.tensor(example["labels"])
        with torch.no_grad():
            logits = trainer.model(input_ids=ids.unsqueeze(0)).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, labels[1:])
        assert state["stored.last"][row] == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.slow
def test_infobatch_weighs_in_the_loss(make_trainer, dataset):
    trainer = make_trainer(dataset, stored_losses="infobatch", **LENGTH)
    weights, step = [], trainer.training_step

    def noting(model, batch, *arguments):
        weights.append(batch.get(WEIGHT_KEY))
        return step(model, batch, *arguments)

    trainer.training_step = noting
    trainer.train()
    assert all(weight is None for weight in weights[:21])
    weighed = torch.cat([w.flatten() for w in weights[21:40] if w is not None])
    # Scaled to a step's label tokens, but each one of two values there.
    assert len(weighed)
    assert weighed.max() > weighed.min() * 1.9
    assert all(weight is None for weight in weights[-4:])  # the last eighth


@pytest.mark.slow
@pytest.mark.parametrize("scope", quick_first(["local", "global"]))
def test_selection_stores_what_it_trains_on(make_trainer, dataset, scope):
    trainer = make_trainer(
        dataset, stored_losses="infobatch", selector="colm", selection_scope=scope, max_steps=12
    )
    kept = []
    on_keep(trainer, lambda chosen: kept.extend(chosen.examples))
    trainer.train()
    state = trainer._stored.state_dict()
    told = set(state["stored.last"].isfinite().nonzero().flatten().tolist())
    assert told == {example[ROW_KEY] for example in kept}
    assert any(WEIGHT_KEY in example for example in kept)


@pytest.mark.slow
@each_rule
def test_a_resumed_run_draws_on_to_the_bit(make_trainer, dataset, tmp_path, rule):
    stops = (5, 11, 15)

    def run(resume=None):
        options = {"stored_losses": rule, "output_dir": str(tmp_path), **LENGTH}
        trainer = make_trainer(dataset, **options)
        steps = note_stored(trainer)
        if resume is None:
            trainer.add_callback(SaveAt(*stops))
        trainer.train(resume_from_checkpoint=resume)
        return [rows for rows in steps if rows], trainer

    whole, trainer = run()
    for stop in stops:
        after, resumed = run(str(tmp_path / f"checkpoint-{stop}"))
        assert after == whole[stop:]
        assert all(
            torch.equal(a, b)
            for a, b in zip(trainer.model.parameters(), resumed.model.parameters(), strict=True)
        )
        states = [each._stored.state_dict() for each in (trainer, resumed)]
        assert str(states[0]) == str(states[1])


TOGETHER = {"stored_losses": "hard", "candidate_ratio": 1, "selector": "none", "max_steps": 12}


def trained_in_each(model_folder, folder):
    """In each of two processes: what its steps told, and what all have stored."""
    trainer = build_trainer(
        model_folder,
        Dataset.from_list(make_records()),
        output_dir=str(folder),
        save_strategy="steps",
        save_steps=8,
        **TOGETHER,
    )
    steps = note_stored(trainer)
    trainer.train()
    return [rows for rows in steps if rows], trainer._stored.state_dict()


@pytest.mark.slow
def test_processes_store_the_losses_of_all(tiny_model_folder, make_trainer, dataset, tmp_path):
    (first, stored), (second, same) = run_in_processes(
        trained_in_each, tmp_path, tiny_model_folder, tmp_path / "run"
    )
    assert str(stored) == str(same)
    assert bool(stored["stored.last"].isfinite().all())
    # Six steps of 16 are a pass; the next is of the harder half, twice.
    rows = [[a + b for a, b in zip(first, second, strict=True)][step] for step in range(6, 12)]
    assert len({row for step in rows for row in step}) == 42
    # One process goes on from what two have stored, with as many examples a step.
    trainer = make_trainer(
        dataset, output_dir=str(tmp_path / "run"), gradient_accumulation_steps=4, **TOGETHER
    )
    steps = note_stored(trainer)
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-8"))
    after = [rows for rows in steps if rows]
    # The epoch ends with what is left, which processes make up to a batch each.
    assert [sorted(step) for step in after[:3]] == [sorted(step) for step in rows[2:5]]
    assert len(after[3]) == 4
    assert set(after[3]) < set(rows[5])


@pytest.mark.slow
def test_workers_and_data_that_is_a_list_tell_rows_too(make_trainer, dataset):
    options, prepare = KINDS["plain"]
    data = prepare(dataset)
    trainer = make_trainer(
        [data[row] for row in range(len(data))],
        stored_losses="hard",
        dataloader_num_workers=1,
        **options | LENGTH,
    )
    steps = note_stored(trainer)
    trainer.train()
    rows = [rows for rows in steps if rows]
    assert sorted(row for step in rows[:11] for row in step) == list(range(84))
    assert len({row for step in rows[11:22] for row in step}) == 42


@pytest.mark.slow
def test_a_run_of_less_than_a_pass_says_so(make_trainer, dataset, caplog):
    options = {"stored_losses": "hard", "candidate_ratio": 1}
    make_trainer(dataset, max_steps=10, **options).train()
    assert sum("stored_losses='hard' changes nothing" in line for line in caplog.messages) == 1
    caplog.clear()
    make_trainer(dataset, max_steps=11, **options).train()
    assert not any("stored_losses" in line for line in caplog.messages)


class Stream(IterableDataset):
    def __iter__(self):
        yield {"input_ids": [1, 2, 3], "labels": [1, 2, 3]}


@pytest.mark.filterwarnings("ignore:.*is deprecated")
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"candidate_sampling": "inverse_source_size", "small_sources": "none"}, "inverse_source"),
        ({"train_sampling_strategy": "sequential"}, "sequential"),
        ({"packing": True, "max_length": 64}, "packing"),
        ({"packing": True, "max_length": 64, "candidate_ratio": 1}, "packing"),
        ({"accelerator_config": {"dispatch_batches": True}, "candidate_ratio": 1}, "dispatch"),
    ],
)
def test_what_cannot_go_by_stored_losses_is_refused_in_one_line(
    make_trainer, dataset, options, named
):
    with pytest.raises(ValueError, match=f"stored_losses='hard'.*{named}") as caught:
        make_trainer(dataset, stored_losses="hard", **{"selector": "random"} | options)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*is deprecated")
def test_streams_and_losses_of_ones_own_are_refused(make_trainer, dataset):
    options, prepare = KINDS["plain"]
    with pytest.raises(ValueError, match=r"stored_losses='hard'.*stream"):
        make_trainer(Stream(), stored_losses="hard", **options)
    own = {"compute_loss_func": lambda *a, **k: None}
    with pytest.raises(ValueError, match=r"stored_losses='hard'.*loss"):
        make_trainer(
            prepare(dataset),
            stored_losses="hard",
            **options | {"trainer_options": options["trainer_options"] | own},
        )
    with pytest.raises(ValueError, match=r"stored_losses='infobatch'.*label_smoothing"):
        make_trainer(dataset, stored_losses="infobatch", label_smoothing_factor=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stored_losses": "easy"}, r"stored_losses.*hard.*infobatch.*tailsft.*'easy'"),
        ({"stored_share": 0}, "stored_share.* 0"),
        ({"stored_share": 1.0}, r"stored_share.* 1"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CoLMConfig(bf16=False, use_cpu=True, **options)
