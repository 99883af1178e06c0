"""Bytes of optimisers' state, against those that optimisers have once they have stepped."""

from itertools import chain

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from benchmarks.optimizer_tensors import state_tensors
from colm import CoLMTrainer, CoLMTrainingArguments, LowRankAdam
from colm.planning.held import optimizer_bytes
from colm.training.optimizers import OPTIMIZERS, read_optim_args


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Embedding(13, 6), nn.Linear(6, 9), nn.LayerNorm(9), nn.Linear(9, 4))
    return layers.to(torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("optim", "options"),
    [
        ("adamw_torch", None),
        ("adamw_torch_fused", None),
        ("adafactor", None),
        ("sgd", None),
        ("sgd", "momentum=0.9"),
        ("adagrad", None),
        ("rmsprop", None),
    ],
)
def test_bytes_are_those_of_the_optimiser(optim, options, dtype, model, tmp_path):
    model = model.to(dtype)
    model[1].weight.requires_grad = False
    args = TrainingArguments(
        str(tmp_path), optim=optim, optim_args=options, use_cpu=True, report_to="none"
    )
    kind, arguments = Trainer.get_optimizer_cls_and_kwargs(args, model)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = kind(trained, **arguments)
    model(torch.arange(5)).sum().backward()
    optimizer.step()
    state = chain.from_iterable(state.values() for state in optimizer.state.values())
    tensors = [part for part in state if isinstance(part, torch.Tensor) and part.numel() > 1]
    held = sum(part.numel() * part.element_size() for part in tensors)
    planned = optimizer_bytes(optim, trained, options)
    assert planned == held


SUBSPACES = {
    "top": "rank=3",
    "sampled": "rank=2",
    "random": "rank=3",
    "wavelet": "levels=2",
    "sketched": "sparsity=1",
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("optim", "options"),
    [
        ("came", None),
        ("lamb", None),
        *(("low_rank_adam", f"subspace={name},{own}") for name, own in SUBSPACES.items()),
    ],
)
def test_bytes_are_those_of_colms_own(optim, options, dtype, model, tmp_path):
    if OPTIMIZERS[optim].package is not None:
        pytest.importorskip(OPTIMIZERS[optim].package)
    model = model.to(dtype)
    targets = [model[1].weight]
    if optim == "low_rank_adam":
        kind, arguments = LowRankAdam, read_optim_args(optim, options) | {"targets": targets}
    else:
        args = CoLMTrainingArguments(str(tmp_path), optim=optim, use_cpu=True, report_to="none")
        kind, arguments = CoLMTrainer.get_optimizer_cls_and_kwargs(args, model)
    trained = list(model.parameters())
    optimizer = kind(trained, **arguments)
    model(torch.arange(5)).sum().backward()
    optimizer.step()
    # What is as small as a norm is counted for low-rank Adam alone, whose formula has it.
    least = 0 if optim == "low_rank_adam" else 1
    held = sum(
        part.numel() * part.element_size()
        for state in optimizer.state.values()
        for name, part in state.items()
        if isinstance(part, torch.Tensor) and name != "step" and part.numel() > least
    )
    assert optimizer_bytes(optim, trained, options, targets) == held


@pytest.mark.filterwarnings("ignore:This implementation of AdamW is deprecated")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("optim", "options"),
    [
        ("galore_adamw", "rank=3"),
        ("galore_adamw", "rank=3,proj_type=reverse_std"),
        ("galore_adamw", "rank=3,proj_type=left"),
        ("galore_adamw", "rank=3,proj_type=right"),
        ("galore_adamw", "rank=3,proj_type=full"),
        ("galore_adamw", None),  # a rank above that of the matrices
        ("galore_adafactor", "rank=3"),
        ("apollo_adamw", "rank=3"),
        ("apollo_adamw", None),
        ("apollo_adamw", "rank=100,proj=svd"),
    ],
)
def test_bytes_are_those_of_projecting_optimisers(optim, options, dtype, model, tmp_path):
    pytest.importorskip(f"{optim.partition('_')[0]}_torch")
    model = model.to(dtype)
    args = TrainingArguments(
        str(tmp_path),
        optim=optim,
        optim_args=options,
        optim_target_modules="all-linear",
        use_cpu=True,
        report_to="none",
    )
    kind, arguments = Trainer.get_optimizer_cls_and_kwargs(args, model)
    optimizer = kind(arguments.pop("optimizer_dict", None) or arguments.pop("params"), **arguments)
    model(torch.arange(5)).sum().backward()
    optimizer.step()
    held = sum(part.nbytes for part in state_tensors(optimizer) if part.ndim)
    targets = [model[1].weight, model[3].weight]
    assert optimizer_bytes(optim, list(model.parameters()), options, targets) == held
    with_hooks = optimizer_bytes(f"{optim}_layerwise", model.parameters(), options, targets)
    assert with_hooks == held


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_those_of_galore_in_eight_bits(dtype, monkeypatch):
    galore = pytest.importorskip("galore_torch")
    # The package waits for CUDA after each update, wherever the weights are.
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    # Both kinds in eight bits, with a block that is not full, and too small for that.
    shapes = (100, 90), (50, 40), (60, 70), (9,)
    weights = [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes]
    targets, others = weights[:2], weights[2:]
    projection = {"rank": 47, "update_proj_gap": 2, "scale": 1.0, "proj_type": "std"}
    optimizer = galore.GaLoreAdamW8bit([{"params": others}, {"params": targets, **projection}])
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    kinds = [optimizer.state[weight]["state1"].dtype for weight in weights]
    assert kinds == [torch.uint8, torch.float32] * 2
    # The two tables of what eight bits stand for are the same tensors for all.
    tables = {part.data_ptr() for part in optimizer.name2qmap.values()}
    parts = [part for part in state_tensors(optimizer) if part.data_ptr() not in tables]
    held = sum(part.nbytes for part in parts if part.numel() > 1)
    for optim in ("galore_adamw_8bit", "galore_adamw_8bit_layerwise"):
        assert optimizer_bytes(optim, weights, "rank=47", targets) == held


def test_projections_that_no_package_has_are_refused():
    weight = torch.zeros(3, 4)
    for optim, options in [("galore_adamw", "rank=x"), ("apollo_adamw", "proj_type=full")]:
        with pytest.raises(ValueError, match="optim_args"):
            optimizer_bytes(optim, [weight], options, [weight])


def test_eight_bits_take_a_quarter_and_pages_are_not_told_apart():
    weights = [torch.zeros(4096, 4)]
    whole = optimizer_bytes("adamw_torch", weights)
    eight = optimizer_bytes("adamw_8bit", weights)
    assert 0.25 * whole < eight < 0.26 * whole
    assert optimizer_bytes("paged_adamw_8bit", weights) == eight
    assert optimizer_bytes("paged_adamw_32bit", weights) == whole


def test_an_unknown_optimiser_is_not_guessed():
    assert optimizer_bytes("grokadamw", [torch.zeros(3)]) is None
