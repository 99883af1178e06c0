"""Optimisers that ``optim`` names beside those of transformers: read, refused, made, resumed."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from transformers import TrainingArguments

from colm import CoLMConfig, CoLMTrainer, CoLMTrainingArguments
from colm.runs.arguments import parse_arguments
from colm.training.optimizers import OPTIMIZERS, read_optim_args
from colm.training.options.optimizer_arguments import STANDS_IN

PAGE = Path(__file__).parents[2] / "docs" / "memory.md"
BLOCK = re.compile(r"^```yaml\n(optim: .*?)^```$", re.MULTILINE | re.DOTALL)
LAMB = {"optim": "lamb", "weight_decay": 0.1, "lr_scheduler_type": "constant"}


@pytest.fixture
def config(tmp_path):
    def make(kind=CoLMConfig, **options):
        return kind(**{"output_dir": str(tmp_path), "use_cpu": True, "bf16": False} | options)

    return make


@pytest.mark.parametrize("kind", [CoLMConfig, CoLMTrainingArguments])
def test_a_name_of_colms_stays_and_can_be_written(config, kind):
    args = config(kind, optim="came", optim_args="beta3=0.99")
    assert args.optim == "came"
    assert args.to_dict()["optim"] == "came"
    assert json.loads(args.to_json_string())["optim_args"] == "beta3=0.99"
    assert dataclasses.replace(args).optim == "came"


def test_transformers_names_and_default_are_what_they_were(config, tmp_path):
    plain = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert config().optim is plain.optim
    assert plain.optim == STANDS_IN
    assert config(optim="adafactor").optim.value == "adafactor"


def test_recipes_and_the_command_line_take_them(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("optim: came\noptim_args: eps2=1e-10\n")
    assert parse_arguments(["--config", str(recipe)]).training.optim_args == "eps2=1e-10"
    assert parse_arguments(["--config", str(recipe), "--optim=lamb", "--optim_args="])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optim": "camel"}, "optim must be one of came, lamb.* adamw_torch.*; got 'camel'"),
        ({"optim": "lamb", "optim_args": "rank=3"}, "optim='lamb' may be nothing.*got 'rank=3'"),
        ({"optim": "came", "optim_args": "rank=3"}, "may be beta3=..., eps1=.*got 'rank=3'"),
        ({"optim": "came", "optim_args": "eps1"}, "each once; got 'eps1'"),
        ({"optim": "came", "optim_args": "eps1=1,eps1=2"}, "each once; got 'eps1=1,eps1=2'"),
        ({"optim": "came", "optim_args": "beta3=1"}, r"beta3 in .* below 1; got 1.0"),
        ({"optim": "came", "optim_args": "beta3=x"}, r"beta3 in .* a number .*; got 'x'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(config, options, message):
    with pytest.raises(ValueError, match=message) as error:
        config(**options)
    assert "\n" not in str(error.value)


def test_what_the_page_says_to_set_can_be_set(config):
    blocks = [yaml.safe_load(block) for block in BLOCK.findall(PAGE.read_text())]
    assert {block["optim"] for block in blocks} == {*OPTIMIZERS}
    for block in blocks:
        assert config(**block).optim == block["optim"]


def test_arguments_are_read_as_transformers_reads_them():
    read = read_optim_args("came", " beta3 = 0.5 , eps1=0")
    defaults = {name: each.default for name, each in OPTIMIZERS["came"].arguments.items()}
    assert read == defaults | {"beta3": 0.5, "eps1": 0.0}
    assert read_optim_args("came", None) == read_optim_args("came", "") == defaults


def test_the_package_that_is_missing_is_named(make_trainer, dataset, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"optim='came' needs .* pip install 'colm\[optimizers\]'"):
        make_trainer(dataset, optim="came")


def lamb_by_hand(weights, gradients, lr, decay, beta1=0.9, beta2=0.999, eps=1e-8):
    """LAMB, arXiv 1904.00962, without bias correction."""
    moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
    for step in gradients:
        for i, (w, g) in enumerate(zip(weights, step, strict=True)):
            m, v = moments[i]
            moments[i] = m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
            update = m / (v.sqrt() + eps) + decay * w
            weights[i] = w - lr * min(w.norm(), 10) / update.norm() * update
    return weights


def test_lamb_is_that_of_the_paper(config):
    pytest.importorskip("pytorch_optimizer")
    args = config(optim="lamb", learning_rate=0.1)
    kind, options = CoLMTrainer.get_optimizer_cls_and_kwargs(args)
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(size, generator=generator) for size in ((4, 6), (5,))]
    gradients = [[torch.randn(w.shape, generator=generator) for w in weights] for _ in range(5)]
    trained = [w.clone().requires_grad_() for w in weights]
    optimizer = kind(trained, **options, weight_decay=0.1)
    for step in gradients:
        for weight, gradient in zip(trained, step, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()
    for mine, its in zip(lamb_by_hand(weights, gradients, 0.1, 0.1), trained, strict=True):
        torch.testing.assert_close(its.detach(), mine)


@pytest.mark.slow
@pytest.mark.parametrize("optim", ["came", "lamb"])
def test_a_stopped_run_resumes_as_if_it_had_not_stopped(make_trainer, dataset, tmp_path, optim):
    package = pytest.importorskip("pytorch_optimizer")
    options = LAMB | {"optim": optim, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(dataset, **options)
    whole.train()
    inner = getattr(whole.optimizer, "optimizer", whole.optimizer)
    assert isinstance(inner, {"came": package.CAME, "lamb": package.Lamb}[optim])
    resumed = make_trainer(dataset, **options, output_dir=str(tmp_path / "resumed"))
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert whole.run_record().options["optim"] == optim
    with pytest.raises(ValueError, match="optim"):
        make_trainer(dataset, **options | {"optim": "sgd"}).train(resume_from_checkpoint=True)
