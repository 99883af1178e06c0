"""The true match of a step against all gradients stacked, and that measuring changes nothing."""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from torch import nn
from torch.nn import functional
from transformers import Adafactor, TrainerCallback

from colm.gradients.per_example import example_gradients, trained_parameters
from colm.training.example import WEIGHT_KEY, label_token_count
from colm.training.limits import check_parallelism
from colm.training.step.match import GradientSums, adam_scale, match
from tests.cases import quick_first
from tests.training.conftest import SIZES, make_records, on_keep, select_among


def example_loss(model, input_ids, labels, reduction):
    """The slow twin: a model call, and the cross entropy written out, in float64."""
    logits = model(input_ids=torch.tensor([input_ids])).logits[0, :-1].double()
    return functional.cross_entropy(logits, torch.tensor(labels)[1:], reduction=reduction)


def stacked_gradients(model, examples, reduction="mean"):
    """``[n, P]`` gradients of examples, in evaluation mode."""
    model.eval()
    rows = []
    for example in examples:
        loss = example_loss(model, example["input_ids"], example["labels"], reduction)
        parts = torch.autograd.grad(loss, trained_parameters(model), allow_unused=True)
        zipped = zip(trained_parameters(model), parts, strict=True)
        rows.append(
            torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zipped])
        )
    return torch.stack(rows).double()


def dense_match(gradients, weights, counts, scale=None):
    """Score, error and norm from all gradients ``[n, P]`` at once; weights of the kept, or none."""
    gradients = gradients if scale is None else gradients * scale
    counts = torch.tensor(counts, dtype=torch.float64)
    kept = counts * torch.tensor([weight or 0.0 for weight in weights], dtype=torch.float64)
    n, k = len(gradients), sum(weight is not None for weight in weights)
    mean = counts @ gradients / counts.sum()
    error = (kept @ gradients / kept.sum() - mean).norm()
    # What counts twice the average is off by twice as much.
    off = (counts / counts.mean())[:, None] * (gradients - mean)
    random_choice = (1 / k - 1 / n) * off.square().sum() / (n - 1)
    return float(error / random_choice.sqrt()), float(error), float(mean.norm())


def as_batch(examples):
    """A right-padded batch."""
    longest = max(len(example["input_ids"]) for example in examples)

    def padded(key, value):
        return torch.tensor([e[key] + [value] * (longest - len(e[key])) for e in examples])

    mask = [[1] * len(e["input_ids"]) + [0] * (longest - len(e["input_ids"])) for e in examples]
    return {
        "input_ids": padded("input_ids", 0),
        "labels": padded("labels", -100),
        "attention_mask": torch.tensor(mask),
    }


EXAMPLES = [
    {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, -100, 7, 8, 9]},
    {"input_ids": [40, 41], "labels": [40, 41]},
    {"input_ids": [9, 5, 9, 5, 9, 5, 9], "labels": [-100] * 6 + [9]},
    {"input_ids": [3, 4, 5, 6], "labels": [-100] * 4},
]


@pytest.fixture
def model(make_trainer, dataset):
    lora = LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear", task_type="CAUSAL_LM")
    model = make_trainer(dataset, trainer_options={"peft_config": lora}).model.double()
    torch.manual_seed(1)
    for parameter in trained_parameters(model):  # LoRA's B is zero at first
        nn.init.normal_(parameter, std=0.1)
    return model.train()


@pytest.mark.parametrize("reduction", quick_first(["mean", "sum"]))
@pytest.mark.parametrize("layout", ["padded", "padding-free", "one by one"])
def test_each_gradient_is_that_of_an_example_by_itself(model, layout, reduction):
    expected = stacked_gradients(model, EXAMPLES[:3], reduction)
    batches = {
        "padded": [as_batch(EXAMPLES)],
        "one by one": [as_batch([example]) for example in EXAMPLES],
        "padding-free": [
            {
                key: torch.tensor([[token for example in EXAMPLES for token in example[key]]])
                for key in ("input_ids", "labels")
            }
            | {"position_ids": torch.cat([torch.arange(len(e["labels"])) for e in EXAMPLES])[None]}
        ],
    }[layout]
    gradients = list(example_gradients(model.train(), batches, reduction=reduction))
    flat = torch.stack([torch.cat([g.flatten() for g in gradient]) for gradient in gradients])
    torch.testing.assert_close(flat[:3], expected, rtol=1e-9, atol=1e-12)
    assert flat[3].count_nonzero() == 0
    assert expected.norm(dim=1).min() > 1e-3


def test_a_full_model_has_gradients_in_every_parameter(make_trainer, dataset):
    model = make_trainer(dataset).model.double()
    (gradient,) = example_gradients(model, [as_batch(EXAMPLES[:1])])
    expected = stacked_gradients(model, EXAMPLES[:1])[0]
    assert [part.shape for part in gradient] == [p.shape for p in model.parameters()]
    torch.testing.assert_close(torch.cat([g.flatten() for g in gradient]), expected)


def test_the_model_is_left_as_it_was(model):
    model.base_model.model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    held = trained_parameters(model)[0].grad = torch.ones_like(trained_parameters(model)[0])
    state = torch.random.get_rng_state()
    for _ in example_gradients(model, [as_batch(EXAMPLES)]):
        # Whenever an example is handed out, not only at the end.
        assert [module.training for module in model.modules()] == modes
        assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
        assert torch.is_grad_enabled()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert trained_parameters(model)[0].grad is held
    assert torch.equal(held, torch.ones_like(held))
    assert all(parameter.grad is None for parameter in trained_parameters(model)[1:])


def test_a_forward_without_gradients_before_it_takes_none_away(make_trainer, dataset):
    """Autocast keeps the weights it has cast, without their history where that was not wanted."""
    model = make_trainer(dataset).model
    batch = as_batch(EXAMPLES[:1])
    with torch.autocast("cpu", torch.bfloat16):
        (expected,) = example_gradients(model, [batch])
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            model(**batch)
        (gradient,) = example_gradients(model, [batch])
    for part, wanted in zip(gradient, expected, strict=True):
        assert torch.equal(part, wanted)
        assert part.count_nonzero() > 0


def test_what_has_no_gradient_is_refused(model):
    with pytest.raises(ValueError, match=r"^reduction.*mean, sum.* 'max'"):
        next(example_gradients(model, [], reduction="max"))
    with pytest.raises(ValueError, match="A batch needs 'labels'"):
        next(example_gradients(model, [{"input_ids": torch.ones(1, 2)}]))
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"No parameter of the PeftModel.* requires a gradient"):
        next(example_gradients(model, []))


def parameters_of(*shapes):
    return [nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in shapes]


def sums_of(gradients, weights, counts=None, scale=None):
    """Sums over rows of ``[n, 7]`` gradients, of parameters ``[2, 3]`` and ``[1]``."""
    first, second = parameters_of((2, 3), (1,))
    by_parameter = None
    if scale is not None:
        by_parameter = {id(first): scale[:6].view(2, 3), id(second): scale[6:]}
    sums = GradientSums([first, second], None if scale is None else lambda p: by_parameter[id(p)])
    for row, weight, count in zip(gradients, weights, counts or [1.0] * len(weights), strict=True):
        sums.add([row[:6].view(2, 3), row[6:]], weight, count)
    return sums


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([None, 1.0, 2.0, 5.0, 0.0]), st.integers(1, 40)),
        min_size=2,
        max_size=9,
    ),
    st.integers(0, 10**6),
)
def test_the_match_is_that_of_all_gradients_stacked(candidates, seed):
    weights, counts = (list(part) for part in zip(*candidates, strict=True))
    generator = torch.Generator().manual_seed(seed)
    gradients = 3 + torch.randn((len(weights), 7), generator=generator, dtype=torch.float64)
    scale = torch.rand(7, generator=generator, dtype=torch.float64) + 0.1
    match = sums_of(gradients, weights, counts, scale).match()
    if not any(weights):
        assert all(math.isnan(value) for value in match.metrics().values())
        return
    if None not in weights:
        assert math.isnan(match.score)
        assert math.isnan(match.score_adam)
        return
    score, error, norm = dense_match(gradients, weights, counts)
    assert match.score == pytest.approx(score)
    assert match.error == pytest.approx(error)
    assert match.norm == pytest.approx(norm)
    assert match.score_adam == pytest.approx(dense_match(gradients, weights, counts, scale)[0])
    assert match.metrics()["theorem_4_1"] == pytest.approx(error / norm)


@pytest.mark.slow
@pytest.mark.parametrize("counts", [[1.0] * 24, list(range(10, 34))], ids=["alike", "tokens"])
def test_a_random_choice_scores_one(counts):
    """Over 2,000 draws the mean square is within 5 standard errors of 1.

    To first order only where examples do not count the same: there within 5 % more.
    """
    generator = torch.Generator().manual_seed(0)
    gradients = 2 + torch.randn((24, 7), generator=generator, dtype=torch.float64)
    squares = []
    for _ in range(2000):
        weights = [None] * 24
        for row in torch.randperm(24, generator=generator)[:8].tolist():
            weights[row] = 1.0
        squares.append(sums_of(gradients, weights, counts).match().score ** 2)
    squares = torch.tensor(squares)
    slack = 0.0 if len(set(counts)) == 1 else 0.05
    assert abs(squares.mean() - 1) < 5 * squares.std() / math.sqrt(2000) + slack
    assert squares.std() < 2


PARTS = (slice(3), slice(3, None))


def test_sums_of_several_processes_join():
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn((8, 7), generator=generator, dtype=torch.float64)
    weights = [1.0, None, None, 1.0, None, 2.0, None, None]
    counts = [3.0, 1, 4, 1, 5, 9, 2, 6]
    whole = sums_of(gradients, weights, counts).match()
    parts = [sums_of(gradients[part], weights[part], counts[part]) for part in PARTS]
    waiting = iter([parts[1]._numbers, *parts[1]._all, *parts[1]._kept, *parts[1]._squared])
    parts[0].join(lambda own: own + next(waiting))
    assert parts[0].match().metrics() == pytest.approx(whole.metrics(), nan_ok=True)


def test_a_gradient_that_is_not_finite_is_passed_over():
    gradients = torch.randn((5, 7), dtype=torch.float64)
    gradients[2, 6] = math.inf
    without = sums_of(gradients[[0, 1, 3, 4]], [1.0, None, 1.0, None]).match()
    match = sums_of(gradients, [1.0, None, 1.0, 1.0, None]).match()
    assert match.metrics() == pytest.approx(without.metrics(), nan_ok=True)


def test_bfloat16_gradients_are_summed_in_float32():
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    sums = GradientSums([parameter])
    for number in range(1000):
        sums.add([torch.ones(1, dtype=torch.bfloat16)], 1.0 if number < 500 else None)
    # In bfloat16 a sum of ones stops at 256.
    assert (sums.match().norm, sums.match().error) == (1.0, 0.0)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam, torch.optim.NAdam])
def test_the_scale_is_what_the_optimiser_multiplies_by(kind):
    """With no mean of the past (beta1 = 0) a step is the scaled gradient."""
    parameters = parameters_of((3, 2), (4,))
    optimizer = torch.optim.AdamW(parameters, lr=0.5, betas=(0.0, 0.9), weight_decay=0.0)
    if kind is not torch.optim.AdamW:
        optimizer = kind(parameters, lr=0.5, betas=(0.0, 0.9))
    assert adam_scale(optimizer) is None
    for _ in range(3):
        before = [parameter.detach().clone() for parameter in parameters]
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    scale = adam_scale(optimizer)
    for parameter, old in zip(parameters, before, strict=True):
        step = (old - parameter.detach()) / 0.5
        if kind is torch.optim.NAdam:  # it scales its step by a momentum schedule on top
            ratio = step / (scale(parameter) * parameter.grad)
            torch.testing.assert_close(ratio, ratio.flatten()[0].expand_as(ratio))
        else:
            torch.testing.assert_close(step, scale(parameter) * parameter.grad)


def test_a_parameter_that_adam_has_not_seen_is_left_out():
    seen, unseen = parameters_of((2,), (3,))
    optimizer = torch.optim.AdamW([seen, unseen])
    seen.grad = torch.ones_like(seen)
    optimizer.step()
    scale = adam_scale(optimizer)
    assert scale(seen) is not None
    assert scale(unseen) is None
    sums = GradientSums([seen, unseen], scale)
    for value in (1.0, 2.0, 4.0):
        sums.add(
            [torch.full((2,), value), torch.full((3,), 9 * value)], 1.0 if value == 1 else None
        )
    assert math.isfinite(sums.match().score_adam)


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        torch.optim.RMSprop,
        lambda parameters: Adafactor(parameters, lr=1e-3, relative_step=False),
    ],
)
def test_other_optimisers_have_no_scale(make):
    parameters = parameters_of((3, 2), (4,))
    optimizer = make(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert adam_scale(optimizer) is None
    assert adam_scale(None) is None


def note_steps(trainer, monkeypatch):
    """Note candidates, kept weights and the stacked gradients of each measured step."""
    noted = []

    def matching(kept, *access):
        examples, kept_examples = noted[-1]
        modes = {module: module.training for module in trainer.model.modules()}
        gradients = stacked_gradients(trainer.model, examples)
        for module, mode in modes.items():
            module.training = mode
        noted[-1] = (examples, kept_examples, gradients, dense_adam_scale(trainer))
        return match(kept, *access)

    on_keep(trainer, lambda kept: noted.append((kept.split.own, kept.examples)))
    monkeypatch.setattr("colm.training.trainer.match", matching)
    return noted


def dense_adam_scale(trainer):
    """``[P]``, read from the optimiser's checkpoint format, or ``None`` before its first step."""
    states = trainer.optimizer.state_dict()["state"]
    if not states:
        return None
    order = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    by_parameter = {id(p): states[number] for number, p in enumerate(order)}
    parts = []
    for parameter in trained_parameters(trainer.model):
        state = by_parameter[id(parameter)]
        squares = state["exp_avg_sq"] / (1 - 0.999 ** float(state["step"]))
        parts.append(1 / (squares.sqrt() + 1e-8).flatten())
    return torch.cat(parts)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"selector": "colm"},
        {"selector": "colm", "weighted": True, "small_sources": "none"},
        {"selector": "mean_matching"},
        {"selector": "gradient_matching", "gradient_accumulation_steps": 1},
        {"selector": "balanced_sampling", "candidate_sampling": "uniform"},
        {"selector": "importance_sampling", "candidate_sampling": "uniform"},
    ],
    ids=[
        "colm",
        "weighted",
        "mean_matching",
        "gradient_matching",
        "balanced_sampling",
        "importance_sampling",
    ],
)
@pytest.mark.parametrize("adapter", [True, False])
def test_the_trainer_logs_the_true_match(make_trainer, monkeypatch, options, adapter):
    # No two examples alike, so that each kept one is found among the candidates.
    records = {record["prompt"]: record for record in make_records()}
    dataset = Dataset.from_list(list(records.values()))
    lora = LoraConfig(r=4, lora_dropout=0.3, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = make_trainer(
        dataset,
        match_every=2,
        max_steps=5,
        trainer_options={"peft_config": lora} if adapter else {},
        **options,
    )
    trainer.model.double()
    noted = note_steps(trainer, monkeypatch)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    names = {"match_error", "gradient_error", "gradient_norm", "theorem_4_1", "match_seconds"}
    for step, (entry, note) in enumerate(zip(logs, noted, strict=True)):
        wanted = set() if step % 2 else names | ({"match_error_adam"} if step else set())
        assert {name for name in names | {"match_error_adam"} if f"colm/{name}" in entry} == wanted
        if step % 2:
            continue
        examples, kept, gradients, scale = note
        weight_of = {tuple(e["input_ids"]): e.get(WEIGHT_KEY, 1.0) for e in kept}
        weights = [weight_of.get(tuple(e["input_ids"])) for e in examples]
        assert sum(weight is not None for weight in weights) == len(kept)
        counts = [float(label_token_count(example)) for example in examples]
        score, error, norm = dense_match(gradients, weights, counts)
        assert entry["colm/match_error"] == pytest.approx(score, rel=1e-6)
        assert entry["colm/gradient_error"] == pytest.approx(error, rel=1e-6)
        assert entry["colm/gradient_norm"] == pytest.approx(norm, rel=1e-6)
        assert entry["colm/theorem_4_1"] == pytest.approx(error / norm, rel=1e-6)
        if step:
            scaled = dense_match(gradients, weights, counts, scale)[0]
            assert entry["colm/match_error_adam"] == pytest.approx(scaled, rel=1e-6)
        if not adapter:  # no dropout: the step's own gradient
            shares = torch.tensor([c * (w or 0) for c, w in zip(counts, weights, strict=True)])
            trained = (shares.double() @ gradients / shares.sum()).norm()
            assert entry["grad_norm"] == pytest.approx(float(trained), rel=1e-3)
    different = {weight for note in noted for e in note[1] if (weight := e.get(WEIGHT_KEY))}
    assert (len(different) > 1) == trainer.args.weighted


@pytest.mark.slow
def test_where_all_are_kept_the_gradient_is_that_of_the_step(make_trainer, dataset):
    trainer = make_trainer(dataset, selector="none", match_every=1)
    trainer.train()
    for entry in trainer.state.log_history[:-1]:
        assert entry["grad_norm"] == pytest.approx(entry["colm/gradient_norm"], rel=1e-3)
        assert entry["colm/gradient_error"] == pytest.approx(0, abs=1e-6)
        assert "colm/match_error" not in entry


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        *(
            pytest.param(options, marks=pytest.mark.slow)
            for options in (
                {"gradient_checkpointing": True},
                {"bf16": True},
                {"selector": "random", "optim": "adafactor"},
                {"padding_free": True, "max_length": None},
            )
        ),
    ],
    ids=str,
)
def test_measuring_changes_no_weight_and_no_other_metric(make_trainer, dataset, options):
    runs = []
    for match_every in (0, 1):
        lora = LoraConfig(r=4, lora_dropout=0.3, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = make_trainer(
            dataset, match_every=match_every, trainer_options={"peft_config": lora}, **options
        )
        trainer.train()
        runs.append(trainer)
    plain, measured = runs
    for (name, value), other in zip(
        plain.model.named_parameters(), measured.model.parameters(), strict=True
    ):
        assert torch.equal(value, other), name
    for entry, other in zip(plain.state.log_history, measured.state.log_history, strict=True):
        if "loss" in entry:
            assert "colm/match_error" in other
            assert ("colm/match_error_adam" in other) == (
                options.get("optim") != "adafactor" and entry["step"] > 1
            )
        untimed = {k for k in entry if not k.endswith(("seconds", "runtime", "per_second"))}
        assert {key: entry[key] for key in untimed} == {key: other[key] for key in untimed}


def test_measuring_counts_neither_as_selection_nor_as_training(make_trainer, dataset, monkeypatch):
    trainer = make_trainer(dataset, match_every=1, max_steps=1, selector="random")
    now = iter(range(10**6))
    monkeypatch.setattr("colm.training.trainer.time.perf_counter", lambda: next(now))
    trainer.train()
    entry = trainer.state.log_history[0]
    # The clock ticks at each look: none of the looks for the match falls between those of others.
    assert entry["colm/selection_seconds"] == 1
    assert entry["colm/training_seconds"] == 1
    assert entry["colm/match_seconds"] == 1


def test_candidates_that_cannot_be_compared_take_no_part(make_trainer, dataset):
    trainer = make_trainer(dataset, match_every=1, selector="random")
    rows = list(trainer.train_dataset)[:8]
    unlabelled = [{**row, "labels": [-100] * len(row["input_ids"])} for row in rows[:2]]
    selection = trainer._build_selection("source", SIZES)
    selection._warned_unlabelled = True
    access, total = selection.observer.access, selection.exchange.total
    matches = [
        match(select_among(selection, examples, 3), access, total)
        for examples in (rows[2:], [*unlabelled, *rows[2:]])
    ]
    for name in ("match_error", "gradient_norm"):
        assert matches[0][name] == matches[1][name]


class Spread:
    """What ``check_parallelism`` reads of an accelerator."""

    parallelism_config = None
    state = SimpleNamespace(fsdp_plugin=SimpleNamespace(fsdp_version=2))

    def __init__(self, kind, **parallelism):
        from accelerate.utils import DistributedType

        self.distributed_type = DistributedType(kind)
        if parallelism:
            self.parallelism_config = type("Parallelism", (), parallelism)


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_sharded_parameters_are_refused(make_trainer, dataset, kind):
    args = make_trainer(dataset, match_every=5).args
    with pytest.raises(
        ValueError, match=f"match_every=5 needs whole .*{kind} shards.*=0"
    ) as caught:
        check_parallelism(Spread(kind), args)
    assert "\n" not in str(caught.value)
    args.match_every = 0
    check_parallelism(Spread(kind), args)


def test_tensor_parallel_processes_share_their_candidates(make_trainer, dataset):
    args = make_trainer(dataset, match_every=5).args
    with pytest.raises(ValueError, match="tensor parallelism shards"):
        check_parallelism(Spread("MULTI_GPU", tp_enabled=True), args)
    args.match_every, args.selection_scope = 0, "global"
    with pytest.raises(ValueError, match=r"selection_scope='global' would count.*'local'"):
        check_parallelism(Spread("MULTI_GPU", tp_enabled=True), args)


def test_the_docs_list_what_is_logged(make_trainer, dataset):
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    rows = re.findall(r"^\| (`colm/.*?) \|", page, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(colm/\w+)", row)}
    trainer = make_trainer(dataset, match_every=1, max_steps=2)

    class CountsWhatIsRare(TrainerCallback):
        def on_train_begin(self, *_args, **_options):
            trainer._selection_metrics.count("non_finite", 1)
            trainer._selection_metrics.count("without_label_tokens", 1)

    trainer.add_callback(CountsWhatIsRare())
    trainer.train()
    logged = {key for entry in trainer.state.log_history for key in entry if "colm/" in key}
    assert {"/".join(key.split("/")[:2]) for key in logged} == listed
