"""The loss of each example is what a forward of its own gives, and comes out of training."""

from collections import Counter, defaultdict
from itertools import islice

import pytest
import torch
from datasets import Dataset

from colm.training.example import without_own_keys
from colm.training.processes.exchange import Exchange
from colm.training.step.arrange import BatchRows
from colm.training.step.record import (
    EXAMPLES_KEY,
    ExampleLosses,
    SourceLosses,
    StepLosses,
    mark,
)
from tests.cases import quick_first
from tests.training.conftest import SaveAt, build_trainer, make_records, on_keep
from tests.training.processes import run_in_processes
from tests.training.test_weighting import KINDS, each_kind


def losses_one_by_one(model, examples):
    """The summed loss and the label tokens of each example, each in a forward of its own."""
    found = []
    with torch.no_grad():
        for example in examples:
            ids, labels = (torch.tensor(example[k]) for k in ("input_ids", "labels"))
            logits = model(input_ids=ids.unsqueeze(0)).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits, labels[1:], reduction="sum")
            found.append((loss.item(), int((labels[1:] != -100).sum())))
    return found


def note_steps(trainer):
    """What a trainer takes in of each step, filled as it runs."""
    steps, take = [], trainer._take_losses

    def noting(losses):
        steps.append(losses)
        take(losses)

    trainer._take_losses = noting
    return steps


@pytest.mark.parametrize("options", quick_first([{}, {"candidate_ratio": 1}]))
def test_what_a_resumed_run_logs_is_what_the_uninterrupted_one_did(
    make_trainer, dataset, tmp_path, options
):
    def logged(trainer):
        return [
            {
                name: value
                for name, value in entry.items()
                if name.startswith("colm/") and "seconds" not in name
            }
            for entry in trainer.state.log_history
            if "loss" in entry
        ]

    options = {"logging_steps": 2, "max_steps": 6} | options
    whole = make_trainer(dataset, **options)
    whole.add_callback(SaveAt(2, 3))
    whole.train()
    for stop in (2, 3):
        resumed = make_trainer(dataset, **options)
        resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{stop}"))
        # What was not logged at the stop counts from there.
        first = -(-stop // 2) + stop % 2
        assert logged(resumed)[first:] == logged(whole)[first:]


@each_kind
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_are_those_of_each_example_by_itself(make_trainer, dataset, kind, weighted):
    options, prepare = KINDS[kind]
    trainer = make_trainer(prepare(dataset), selector="colm", weighted=weighted, **options)
    kept = []
    on_keep(trainer, lambda chosen: kept.extend(chosen.examples))
    pools = list(islice(trainer.get_train_dataloader(), 2))
    batches, items = trainer.get_batch_samples(iter(pools), 2, trainer.args.device)
    for batch in batches:
        trainer.training_step(trainer.model, batch, items)
        assert EXAMPLES_KEY not in batch
    told = trainer._example_losses.take()

    expected = losses_one_by_one(trainer.model, kept)
    assert sorted(told.label_tokens.tolist()) == sorted(tokens for _, tokens in expected)
    assert sorted(told.losses.tolist()) == pytest.approx(
        sorted(loss for loss, _ in expected), rel=1e-4
    )
    sums = defaultdict(float)
    for example, (loss, _) in zip(kept, expected, strict=True):
        sums[example["colm_source"]] += loss
    by_source = told.by_source()
    assert {name: loss for name, (loss, _, _) in by_source.items()} == pytest.approx(sums, rel=1e-4)
    assert sum(examples for _, _, examples in by_source.values()) == len(kept) == 8
    # Once taken they are gone.
    assert trainer._example_losses.take().sources == []


@pytest.mark.parametrize("kind", quick_first(KINDS))
def test_the_log_has_the_mean_loss_of_each_source(make_trainer, dataset, kind):
    options, prepare = KINDS[kind]
    trainer = make_trainer(prepare(dataset), max_steps=4, logging_steps=2, **options)
    steps = note_steps(trainer)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 2
    assert len([step for step in steps if step.sources]) == 4
    for entry, since in zip(logged, (steps[:2], steps[2:4]), strict=True):
        losses, tokens = Counter(), Counter()
        for step in since:
            for source, (loss, label_tokens, _) in step.by_source().items():
                losses[source] += loss
                tokens[source] += label_tokens
        told = {k.removeprefix("colm/loss/"): v for k, v in entry.items() if "colm/loss/" in k}
        assert told == pytest.approx({name: losses[name] / tokens[name] for name in losses})


def test_a_plain_step_of_one_micro_batch_tells_of_sources_and_stays_as_drawn(make_trainer, dataset):
    plain = make_trainer(dataset, candidate_ratio=1, arrange="as_drawn")
    expected = next(iter(plain.get_train_dataloader()))["input_ids"]
    trainer = make_trainer(
        dataset, candidate_ratio=1, gradient_accumulation_steps=1, max_steps=2, logging_steps=2
    )
    seen, compute = [], trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, *args, **options: (
        seen.append(inputs["input_ids"]) or compute(model, inputs, *args, **options)
    )
    trainer.train()
    assert torch.equal(seen[0], expected)
    (logged,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    by_source = {
        key: {
            name.removeprefix(f"colm/{key}/"): v for name, v in logged.items() if f"/{key}/" in name
        }
        for key in ("candidates", "loss", "label_tokens")
    }
    assert sum(by_source["candidates"].values()) == logged["colm/candidates"] == 4
    assert by_source["loss"].keys() == by_source["label_tokens"].keys()
    weights = by_source["label_tokens"]
    mean = sum(weights[name] * loss for name, loss in by_source["loss"].items())
    assert mean / sum(weights.values()) == pytest.approx(logged["loss"], rel=0.05)
    assert not any("colm/kept" in name for name in logged)


@pytest.mark.slow
def test_reading_changes_no_bit_of_training(make_trainer, dataset):
    """The hook only reads: TRL's trainer ends with the same weights as without a source column."""

    def weights(data):
        trainer = make_trainer(data, selector="random", small_sources="none")
        trainer.train()
        logged = [key for entry in trainer.state.log_history for key in entry]
        return any("colm/loss" in key for key in logged), list(trainer.model.parameters())

    (reads, read), (plain, unread) = weights(dataset), weights(dataset.remove_columns("source"))
    assert reads
    assert not plain
    assert all(torch.equal(a, b) for a, b in zip(read, unread, strict=True))


def test_a_loss_of_ones_own_is_left_alone(make_trainer, dataset):
    """What cannot be read is not; a method that replaces compute_loss sees the model's inputs."""
    options, prepare = KINDS["plain"]
    seen = []

    class Own(options["trainer_class"]):
        def compute_loss(self, model, inputs, *args, **kwargs):
            seen.append(set(inputs))
            return model(**inputs).loss

    trainer = make_trainer(prepare(dataset), **options | {"trainer_class": Own}, max_steps=1)
    trainer.train()
    assert seen == [{"input_ids", "labels", "attention_mask"}] * 2
    own = {"compute_loss_func": lambda outputs, labels, **_: outputs["logits"].float().mean()}
    trainer = make_trainer(
        prepare(dataset),
        **options | {"trainer_options": options["trainer_options"] | own},
        max_steps=1,
    )
    trainer.train()
    assert not any("colm/loss" in key for entry in trainer.state.log_history for key in entry)


def test_examples_that_cannot_be_told_apart_are_not_recorded():
    examples = [{"input_ids": [1, 2], "colm_source": "a"}, {"input_ids": [3], "colm_source": "b"}]
    batches = [
        {"labels": torch.zeros(3, 2, dtype=torch.int64)},
        {"input_ids": torch.zeros(2, 2)},
        {"labels": torch.zeros(2)},
    ]
    mark(batches, [examples] * 3)
    mark([unnamed := {"labels": torch.zeros(2, 2)}], [list(map(without_own_keys, examples))])
    assert not any(EXAMPLES_KEY in batch for batch in (*batches, unnamed))


def test_a_row_without_padding_is_summed_by_example():
    examples = [{"input_ids": [0] * 3}, {"input_ids": [0] * 1}, {"input_ids": [0] * 4}]
    rows = BatchRows.of(examples, (1, 10))
    # Of eight tokens the first is not predicted, and two places are filled up.
    values = torch.tensor([[1.0, 2, 4, 8, 16, 32, 64, 128, 256]])
    assert rows.sums(values).tolist() == [3, 4, 8 + 16 + 32 + 64]
    assert rows.spread(torch.tensor([1.0, 2, 3])).tolist() == [[1, 1, 1, 2, 3, 3, 3, 3, 0, 0]]
    assert BatchRows.of(examples, (3, 4)).sums(torch.ones(3, 3)).tolist() == [3, 3, 3]


def test_fillers_and_steps_without_a_forward_tell_nothing():
    losses = ExampleLosses()
    batch = {"labels": torch.tensor([[-100, 3, 4], [-100, -100, -100]])}
    part = [{"input_ids": [1, 2, 3], "colm_source": name} for name in "ab"]
    mark([batch], [part])
    losses.note(batch[EXAMPLES_KEY], torch.tensor([[0.5, 0.25], [0.0, 0.0]]))
    assert losses.take().by_source() == {"a": (0.75, 2, 1)}
    assert losses.take().by_source() == {}


def test_of_many_sources_those_with_the_most_tokens_are_named():
    sources = [f"s{i:03}" for i in range(60)]
    told = SourceLosses()
    tokens = torch.arange(60) + 1
    told.add(StepLosses(sources, tokens, tokens, tokens.double() * 2).by_source())
    logged = told.drain(Exchange())
    assert len(logged) == 2 * 51
    assert logged["colm/label_tokens/s059"] == 60
    assert logged["colm/label_tokens/other sources"] == sum(range(1, 11))
    assert logged["colm/loss/s059"] == logged["colm/loss/other sources"] == 2
    assert "colm/loss/s009" not in logged
    assert "colm/loss/s010" in logged
    assert told.drain(Exchange()) == {}


def trained_in_each(model_folder, folder):
    """In each of two processes: what was logged, and what its own examples told."""
    trainer = build_trainer(
        model_folder,
        Dataset.from_list(make_records()),
        output_dir=str(folder),
        max_steps=2,
        logging_steps=2,
    )
    steps = note_steps(trainer)
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
    counted = {k: v for k, v in logged.items() if k.startswith(("colm/candidates", "colm/kept"))}
    losses = {k: v for k, v in logged.items() if "colm/loss/" in k}
    return losses, counted, [s.by_source() for s in steps]


@pytest.mark.slow
def test_processes_average_and_count_over_the_examples_of_all(tiny_model_folder, tmp_path):
    (logged, counted, first), (same, counted_same, second) = run_in_processes(
        trained_in_each, tmp_path, tiny_model_folder, tmp_path / "run"
    )
    assert (logged, counted) == (same, counted_same)
    kept = Counter()
    for step in (*first, *second):
        kept.update({source: examples for source, (_, _, examples) in step.items()})
    assert counted["colm/kept"] == kept.total() / 2
    for source, number in kept.items():
        assert counted[f"colm/kept/{source}"] == number / 2
        assert counted[f"colm/candidates/{source}"] >= number / 2
    losses, tokens = Counter(), Counter()
    for step in (*first, *second):
        for source, (loss, label_tokens, _) in step.items():
            losses[source] += loss
            tokens[source] += label_tokens
    expected = {f"colm/loss/{name}": losses[name] / tokens[name] for name in losses}
    assert logged == pytest.approx(expected)
