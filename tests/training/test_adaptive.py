"""Adaptive draws: where losses still fall, never after noise, the same however far a loader is."""

import logging
import math
from collections import Counter
from itertools import islice

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from colm import CoLMTrainer, CoLMTrainingArguments
from colm.training.step.adaptive import EVEN_PART, ROUND_DECAY, AdaptivePlan, LossTrend
from colm.training.step.samplers import MixtureSampler
from tests.cases import quick_first
from tests.training.conftest import SIZES, SaveAt, build_trainer, make_records
from tests.training.processes import run_in_processes

ADAPTIVE = {"candidate_sampling": "adaptive", "candidate_ratio": 1, "most_repeats": math.inf}


def told(losses, tokens=50.0, examples=4.0):
    """What a step tells of sources with these mean losses."""
    losses = torch.tensor(losses, dtype=torch.float64)
    tokens = torch.full_like(losses, tokens)
    return torch.stack([losses * tokens, tokens, torch.full_like(losses, examples)])


def test_a_trend_is_the_fall_of_the_loss_by_the_logarithm_of_examples():
    trend = LossTrend(3)
    for step in range(1, 9):
        seen = 4.0 * step
        trend.observe(told([3 - 0.5 * math.log(seen), 2.3, 1 + 0.1 * math.log(seen)]))
        trend.close_round()
    assert trend.falls().tolist() == pytest.approx([0.5, 0, 0], abs=1e-9)


def test_a_trend_is_weighed_as_least_squares_by_hand():
    generator = torch.Generator().manual_seed(0)
    trend, rows = LossTrend(1), []
    seen = 0.0
    for _ in range(12):
        loss, tokens = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        tokens = 1 + round(90 * tokens)
        trend.observe(told([loss], tokens, 3.0))
        trend.close_round()
        seen += 3
        rows.append((math.log(seen), loss, tokens))
    x, y, tokens = torch.tensor(rows, dtype=torch.float64).T
    weight = (tokens * ROUND_DECAY ** torch.arange(11, -1, -1)).sqrt()
    design = torch.stack([torch.ones_like(x), x], dim=1) * weight[:, None]
    slope = torch.linalg.lstsq(design, (y * weight)[:, None]).solution[1].item()
    assert trend.falls().item() == pytest.approx(max(0, -slope))


@pytest.mark.parametrize("odd", [math.inf, math.nan])
def test_a_loss_that_is_no_number_hides_no_other(odd):
    trend = LossTrend(2)
    for step in range(1, 9):
        falling = odd if step == 3 else 3 - 0.5 * math.log(4.0 * step)
        trend.observe(told([falling, 2.3]))
        trend.close_round()
    assert trend.falls().tolist() == pytest.approx([0.5, 0], abs=1e-9)


def test_of_whom_nothing_is_known_nothing_is_said():
    trend = LossTrend(2)
    for _ in range(5):
        step = told([1.0, 1.0])
        step[:, 1] = 0
        trend.observe(step)
        trend.close_round()
    assert trend.falls().isnan().tolist() == [False, True]


SOURCES = {"falling": 400, "noise": 400, "known": 400}


def a_plan(sizes=SOURCES, **options):
    defaults = {"draws": 10 * sum(sizes.values()), "step_draws": 10}
    return AdaptivePlan(sizes, **(defaults | options))


def tell(plan, steps, epoch=0, first=1):
    """Steps of a source that is learned, of one with a high loss that stays, of one without any."""
    noise = torch.Generator().manual_seed(first)
    for step in range(first, first + steps):
        wobble = 1 + 0.1 * torch.randn(1, generator=noise).item()
        falling = 3 - 0.4 * math.log(4 * step)
        plan.take(epoch, step, told([falling, 0.01, 6.0 * wobble]))  # falling, known, noise


def test_draws_go_where_losses_fall_and_not_after_noise():
    plan = a_plan()
    tell(plan, steps=120)
    rounds = list(plan.rounds(0))
    shares = {name: count / 80 for name, (_, count) in rounds[-1].items()}
    floor = EVEN_PART / 3
    assert shares["falling"] > 0.55
    assert floor - 0.02 < shares["noise"] < floor + 0.12
    assert floor - 0.02 < shares["known"] < floor + 0.02
    # Before anything is known they are even.
    assert all(26 <= count <= 27 for _, count in rounds[0].values())


@given(
    sizes=st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 60), min_size=1),
    step_draws=st.integers(1, 9),
    steps=st.integers(0, 30),
    most=st.sampled_from([1.0, 2.5, math.inf]),
)
@settings(max_examples=40, deadline=None)
def test_an_epoch_is_as_many_draws_as_examples_and_follows_on(sizes, step_draws, steps, most):
    plan = a_plan(sizes, draws=3 * sum(sizes.values()), step_draws=step_draws, most_repeats=most)
    generator = torch.Generator().manual_seed(steps)
    drawn = Counter()
    for epoch in range(3):
        total = 0
        for turn in plan.rounds(epoch):
            for name, (before, count) in turn.items():
                assert before == drawn[name]
                assert count >= 0
                drawn[name] += count
                total += count
            if most == math.inf and len(sizes) > 1:
                even = sum(count for _, count in turn.values()) / len(sizes)
                assert all(count >= EVEN_PART * even - 2 for _, count in turn.values())
        assert total == sum(sizes.values())
        for step in range(steps):
            losses = torch.rand(len(sizes), generator=generator).tolist()
            plan.take(epoch, epoch * steps + step + 1, told(losses))
        drawn = Counter()
        for turn in islice(plan.rounds(epoch + 1), 1):
            drawn.update({name: before for name, (before, _) in turn.items()})


def test_the_bound_on_repeats_holds_over_the_run():
    """4 of 84 examples; three epochs of a third for each would be 21 times each."""
    plan = a_plan(SIZES, draws=252, step_draws=6, most_repeats=4)
    counts = Counter()
    for epoch in range(3):
        for turn in plan.rounds(epoch):
            counts.update({name: count for name, (_, count) in turn.items()})
        tell(plan, steps=14, epoch=epoch, first=14 * epoch + 1)
    assert counts.total() == 252
    assert 12 <= counts["rare"] <= 17
    # What a small source has is spread over the run, not spent at its beginning.
    first = sum(turn["rare"][1] for turn in a_plan(SIZES, draws=252, most_repeats=4).rounds(0))
    assert 4 <= first <= 7


def test_what_is_drawn_does_not_depend_on_how_far_ahead_a_loader_is():
    """A loader that draws a round ahead of training, and one that draws as late as it can."""

    def drawn(ahead):
        plan = a_plan(draws=1200)
        rows, start = {}, 0
        for name, size in SOURCES.items():
            rows[name] = range(start, start + size)
            start += size
        sampler = iter(MixtureSampler(rows, seed=0, plan=plan))
        steps = []
        for step in range(60):
            while len(steps) < 10 * (step + 1) + ahead:
                steps.append(next(sampler))
            tell(plan, steps=1, first=step + 1)
        return steps[:600]

    assert drawn(ahead=0) == drawn(ahead=79) == drawn(ahead=10)


@pytest.mark.parametrize("at", [3, 8, 20, 24])
def test_a_plan_goes_on_from_its_state(at):
    whole, plan = a_plan(), a_plan()
    tell(whole, steps=40)
    tell(plan, steps=at)
    resumed = a_plan()
    resumed.load_state_dict({name: value.clone() for name, value in plan.state_dict().items()})
    noise_of_the_rest = torch.Generator().manual_seed(1)
    for step in range(1, 41):
        wobble = 1 + 0.1 * torch.randn(1, generator=noise_of_the_rest).item()
        losses = [3 - 0.4 * math.log(4 * step), 0.01, 6.0 * wobble]
        # What was told before is passed over.
        resumed.take(0, step, told(losses))
    assert list(resumed.rounds(0)) == list(whole.rounds(0))
    assert list(resumed.rounds(1)) == list(whole.rounds(1))


def test_a_state_of_other_rounds_or_sources_is_refused():
    state = a_plan().state_dict()
    with pytest.raises(ValueError, match="dataloader_num_workers"):
        a_plan(round_steps=12).load_state_dict(state)
    with pytest.raises(ValueError, match="adaptive"):
        a_plan({"a": 3, "b": 3}).load_state_dict(state)
    with pytest.raises(ValueError, match="adaptive"):
        a_plan().load_state_dict({})


def note_draws(trainer):
    """Token ids of what each step draws, whether it selects or not."""
    steps, drawn = [], trainer.drawn

    def noting(pools):
        found = drawn(pools)
        steps.append([tuple(each["input_ids"]) for each in found.examples])
        return found

    trainer.drawn = noting
    return steps


def learn_one_of_two(make_trainer, **options):
    """Train on what is always the same, and what is random; return the share of each by step."""
    generator = torch.Generator().manual_seed(0)
    records = []
    for number in range(160):
        digits = torch.randint(10, (6,), generator=generator).tolist()
        answer = "xyzxyz" if number % 2 else "".join(map(str, digits))
        source = "known" if number % 2 else "noise"
        records.append({"prompt": f"{source}: ", "completion": answer, "source": source})
    trainer = make_trainer(Dataset.from_list(records), **(ADAPTIVE | options))
    trainer.train()
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", quick_first([{}, {"gradient_accumulation_steps": 1, "arrange": "as_drawn"}])
)
def test_training_tells_what_is_learned_from_what_is_random(make_trainer, options):
    options |= {"max_steps": 72, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}
    plan = learn_one_of_two(make_trainer, **options)._plan
    known, noise = plan._known[-1]
    assert plan.sources == ["known", "noise"]
    assert known > 0.52 > 0.48 > noise


def test_selection_tells_it_by_what_is_kept(make_trainer):
    options = {"candidate_ratio": 2, "selector": "random", "max_steps": 12}
    trend = learn_one_of_two(make_trainer, **options)._plan._trend
    assert trend._seen.sum() == 12 * 8


def run_noting(make, folder, saved=(), resume=None, **options):
    trainer = make(Dataset.from_list(make_records()), output_dir=str(folder), **options)
    drawn = note_draws(trainer)
    trainer.add_callback(SaveAt(*saved))
    trainer.train(resume_from_checkpoint=resume)
    return drawn, trainer.model.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"candidate_ratio": 2, "selector": "random"}])
def test_a_resumed_run_draws_on_as_if_it_had_not_stopped(make_trainer, tmp_path, options):
    """84 examples are 21 steps of 4: a stop in an epoch, near its end, at it, and in the next."""
    options = (
        ADAPTIVE | {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2} | options
    )
    options |= {"max_steps": 34, "learning_rate": 3e-3}
    stops = (3, 20, 21, 30)
    whole, expected = run_noting(make_trainer, tmp_path, saved=stops, **options)
    for stop in stops:
        resume = str(tmp_path / f"checkpoint-{stop}")
        drawn, got = run_noting(make_trainer, tmp_path, resume=resume, **options)
        assert drawn == whole[stop:]
        assert all(torch.equal(value, got[name]) for name, value in expected.items())


@pytest.mark.slow
def test_workers_that_draw_ahead_change_nothing(make_trainer, tmp_path):
    """Two workers hold five batches: a step here, and rounds stay those of eight steps."""
    options = ADAPTIVE | {"max_steps": 40, "per_device_train_batch_size": 2, "learning_rate": 3e-3}
    runs = [
        run_noting(make_trainer, tmp_path / str(workers), dataloader_num_workers=workers, **options)
        for workers in (0, 2)
    ]
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(value, runs[1][1][name]) for name, value in runs[0][1].items())


def draw_in_process(model_folder, folder):
    def make(dataset, **options):
        return build_trainer(model_folder, dataset, **options)

    options = ADAPTIVE | {"per_device_train_batch_size": 2, "max_steps": 20, "learning_rate": 3e-3}
    options |= {"save_strategy": "steps", "save_steps": 13}
    whole, weights = run_noting(make, folder, **options)
    weights = {name: value.clone() for name, value in weights.items()}
    resumed, got = run_noting(make, folder, resume=str(folder / "checkpoint-13"), **options)
    assert resumed == whole[13:]
    assert all(torch.equal(value, got[name]) for name, value in weights.items())
    return whole


@pytest.mark.slow
def test_processes_share_what_was_told(tiny_model_folder, tmp_path):
    """Each draws its part of the same rounds, and a resumed run goes on."""
    folder = tmp_path / "two"
    folder.mkdir()
    first, second = run_in_processes(draw_in_process, folder, tiny_model_folder, folder / "run")
    assert len(first) == len(second) == 20
    # Two draws of each source's examples are of one round, dealt to both.
    assert not any(set(own) == set(others) for own, others in zip(first, second, strict=True))


@pytest.mark.slow
def test_a_second_training_begins_anew(make_trainer, dataset):
    trainer = make_trainer(dataset, max_steps=9, **ADAPTIVE)
    trainer.train()
    before = trainer._plan
    trainer.train()
    assert trainer._plan is not before
    assert trainer._plan._step == before._step == 9


def test_what_tells_no_losses_is_refused(tiny_model_folder, tmp_path, make_trainer, dataset):
    trainer = make_trainer(dataset, **ADAPTIVE)
    rows = trainer.train_dataset.select_columns(["input_ids", "labels", "source"])
    options = {"output_dir": str(tmp_path), "use_cpu": True, "label_smoothing_factor": 0.1}
    options |= {"report_to": "none"} | ADAPTIVE
    with pytest.raises(ValueError, match=r"candidate_sampling='adaptive'.*losses"):
        CoLMTrainer(trainer.model, CoLMTrainingArguments(**options), train_dataset=rows)


def test_one_source_is_drawn_as_ever(make_trainer, dataset):
    trainer = make_trainer(dataset.remove_columns("source"), max_steps=1, **ADAPTIVE)
    trainer.train()
    assert trainer._plan is None


def test_it_is_said_that_shares_change(make_trainer, dataset, caplog):
    caplog.set_level(logging.INFO, logger="colm")
    make_trainer(dataset, max_steps=1, **ADAPTIVE).train()
    lines = [record.getMessage() for record in caplog.records]
    assert any("losses still fall" in line for line in lines)
    assert sum("33.3 %" in line for line in lines) == 3
