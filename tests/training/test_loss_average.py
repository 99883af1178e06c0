"""The loss of a step is an average over label tokens, examples, or between them, and exactly so."""

from itertools import islice

import pytest
import torch
from datasets import Dataset

from colm import CoLMConfig
from tests.cases import quick_first
from tests.training.conftest import build_trainer, make_records, on_keep
from tests.training.processes import run_in_processes
from tests.training.test_weighting import KINDS, each_kind, uneven  # noqa: F401

POWERS = {"token": 1, "root": 0.5, "example": 0}
each_average = pytest.mark.parametrize("average", POWERS)


def averaged_gradient(model, examples, average, weights=None):
    """The gradient of sum_i w_i c_i^p m_i / sum_i w_i c_i^p in float64, example by example."""
    numerator, denominator = 0.0, 0.0
    for example, weight in zip(examples, weights or [1.0] * len(examples), strict=True):
        ids, labels = (torch.tensor(example[k]) for k in ("input_ids", "labels"))
        logits = model(input_ids=ids.unsqueeze(0)).logits[0, :-1].double()
        losses = torch.nn.functional.cross_entropy(logits, labels[1:], reduction="none")
        tokens = int((labels[1:] != -100).sum())
        share = weight * tokens ** POWERS[average]
        numerator = numerator + share * losses.sum() / tokens
        denominator += share
    loss = numerator / denominator
    return loss.item(), torch.autograd.grad(loss, list(model.parameters()))


def gradient_of_a_step(trainer, pools):
    """The loss and the gradients of the step that a trainer makes of pools."""
    batches, items = trainer.get_batch_samples(iter(pools), len(pools), trainer.args.device)
    trainer.current_gradient_accumulation_steps = len(batches)
    loss = sum(trainer.training_step(trainer.model, batch, items) for batch in batches)
    return float(loss), [parameter.grad for parameter in trainer.model.parameters()]


def assert_same(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    for a, b in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("kind", quick_first(KINDS))
@each_average
@pytest.mark.parametrize("options", [{}, {"arrange": "as_drawn", "gradient_accumulation_steps": 1}])
def test_plain_training_averages_as_asked(make_trainer, dataset, kind, average, options):
    of_kind, prepare = KINDS[kind]
    data = prepare(dataset)
    trainer = make_trainer(
        data, candidate_ratio=1, selector="none", loss_average=average, **of_kind | options
    )
    trainer.model.double()
    number = trainer.args.gradient_accumulation_steps
    pools = list(islice(trainer.get_train_dataloader(), number))
    if average == "token" and number == 1:
        assert not hasattr(pools[0], "_examples")  # TRL's own batches, untouched
        return
    examples = [example for pool in pools for example in pool]
    found = gradient_of_a_step(trainer, pools)
    assert_same(found, averaged_gradient(trainer.model, examples, average))
    others = [averaged_gradient(trainer.model, examples, other)[0] for other in POWERS]
    # The three are told apart by these examples.
    assert len({round(loss, 3) for loss in others}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", quick_first(KINDS))
@each_average
@pytest.mark.parametrize("weighted", [False, True])
def test_selection_averages_as_asked(make_trainer, dataset, uneven, kind, average, weighted):  # noqa: F811
    of_kind, prepare = KINDS[kind]
    trainer = make_trainer(
        prepare(dataset), selector=uneven, weighted=weighted, loss_average=average, **of_kind
    )
    trainer.model.double()
    kept = []
    on_keep(trainer, lambda chosen: kept.extend(chosen.examples))
    found = gradient_of_a_step(trainer, list(islice(trainer.get_train_dataloader(), 2)))
    weights = [example.get("colm_weight", 1.0) for example in kept]
    assert (max(weights) > 1) == weighted
    assert_same(found, averaged_gradient(trainer.model, kept, average, weights))


def step_of_each(model_folder, folder):
    """In each of two processes: how a step of each average moves the model, and its examples."""
    moves = {}
    for average in POWERS:
        trainer = build_trainer(
            model_folder,
            Dataset.from_list(make_records()),
            output_dir=str(folder / average),
            candidate_ratio=1,
            loss_average=average,
            max_steps=1,
            max_grad_norm=0,
            optim="sgd",
            learning_rate=1.0,
            lr_scheduler_type="constant",
        )
        drawn, draw = [], trainer.drawn

        def noting(pools, drawn=drawn, draw=draw):
            found = draw(pools)
            drawn.extend(found.examples)
            return found

        trainer.drawn = noting
        before = [p.detach().clone() for p in trainer.model.parameters()]
        trainer.train()
        after = trainer.model.parameters()
        moves[average] = drawn, [b - p.detach() for b, p in zip(before, after, strict=True)]
    return moves


@pytest.mark.slow
def test_processes_average_together(tiny_model_folder, make_trainer, tmp_path):
    """One step of SGD at a rate of 1 moves by the gradient of all processes' examples."""
    first, second = run_in_processes(step_of_each, tmp_path, tiny_model_folder, tmp_path / "run")
    model = make_trainer(Dataset.from_list(make_records())).model
    for average in POWERS:
        (examples, moved), (others, same) = first[average], second[average]
        assert all(torch.equal(a, b) for a, b in zip(moved, same, strict=True))
        assert len(examples + others) == 16
        _, expected = averaged_gradient(model, examples + others, average)
        for a, b in zip(moved, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*is deprecated")
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"loss_type": "dft"}, "dft"),
        ({"packing": True, "max_length": 64}, "packing"),
        ({"optim": "lomo", "gradient_accumulation_steps": 1}, "lomo"),
        ({"accelerator_config": {"dispatch_batches": True}}, "dispatch_batches"),
        ({"trainer_options": {"compute_loss_func": lambda *a, **k: None}}, "compute_loss_func"),
    ],
)
def test_what_cannot_be_averaged_is_refused_in_one_line(make_trainer, dataset, options, named):
    with pytest.raises(ValueError, match=f"loss_average='root'.*{named}") as caught:
        make_trainer(dataset, candidate_ratio=1, loss_average="root", **options)
    assert "\n" not in str(caught.value)


def test_an_average_that_there_is_none_of_is_named():
    with pytest.raises(ValueError, match=r"loss_average.*token.*root.*example.*'square'"):
        CoLMConfig(loss_average="square", bf16=False, use_cpu=True)
