"""Training a side block with the trainers: reuse of the look, checkpoints, what is saved."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from colm import CoLMTrainer, CoLMTrainingArguments, load_side_block, side_block_of
from colm.run_record import read_record
from colm.runs.arguments import parse_arguments
from colm.runs.evaluated import load_evaluated
from colm.runs.model_card import describe_training, write_model_card
from colm.training.example import TRUNK_KEY
from colm.training.papers import name_of_method, papers_of
from colm.training.side_block_training import check_side_block
from colm.training.step.trunk_outputs import carry, placed
from tests.training.conftest import keeping_the_best, on_keep

DOCS = Path(__file__).parents[2] / "docs"
SHERL = {"side_block": 4}
SELECTIONS = {
    "default": {},
    "of two blocks": {"selector": "balanced_sampling"},
    "estimated": {"gradient": "directional"},
    "by hidden states": {"selector": "hidden_facility_location"},
    "weighted": {"selector": "importance_sampling"},
    "padding-free": {"padding_free": True, "max_length": None},
}
PLAIN = {"candidate_ratio": 1.0, "selector": "none"}


def block_weights(trainer):
    state = side_block_of(trainer.model).state_dict()
    return {name: value.clone() for name, value in state.items()}


def trunk_weights(model):
    return {n: w.clone() for n, w in model.state_dict().items() if not n.startswith("side_block")}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def count_runs(trainer):
    """How often the first layer computes in training's own forwards, step by step."""
    runs, in_training, step = [], [], trainer.training_step
    trainer.model.model.layers[0].mlp.register_forward_hook(
        lambda *_: runs.append(bool(in_training))
    )

    def stepping(*args, **options):
        in_training.append(True)
        try:
            return step(*args, **options)
        finally:
            in_training.clear()

    trainer.training_step = stepping
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("selection", SELECTIONS)
def test_with_reuse_and_without_the_same_is_trained(make_trainer, dataset, selection):
    """Small sources, which no look sees, included; with reuse the last layer alone is run."""
    found = {}
    for reuse in (True, False):
        options = SHERL | SELECTIONS[selection] | {"side_block_reuse": reuse}
        trainer = make_trainer(dataset, **options)
        before = trunk_weights(trainer.model)
        runs, kept = count_runs(trainer), []
        on_keep(trainer, lambda one, kept=kept: kept.append(one.examples))
        trainer.train()
        assert_same(trunk_weights(trainer.model), before)
        assert any("rare" in str(each) for step in kept for each in step)
        assert runs.count(True) == (0 if reuse else 8)
        tokens = [[tuple(each["input_ids"]) for each in step] for step in kept]
        norms = [e["grad_norm"] for e in trainer.state.log_history if "grad_norm" in e]
        found[reuse] = tokens, norms, block_weights(trainer)
    assert found[True][0] == found[False][0]
    torch.testing.assert_close(found[True][1], found[False][1], rtol=1e-4, atol=0)
    for name, weight in found[True][2].items():
        torch.testing.assert_close(weight, found[False][2][name], atol=2e-5, rtol=0, msg=name)


def test_with_reuse_no_layer_but_the_last_runs_in_training(make_trainer, dataset):
    trainer = make_trainer(dataset, **SHERL, max_steps=1)
    runs = count_runs(trainer)
    before = trunk_weights(trainer.model)
    trainer.train()
    assert runs
    assert not any(runs)
    assert_same(trunk_weights(trainer.model), before)
    block = side_block_of(trainer.model)
    assert all(
        parameter.grad is None or parameter.requires_grad for parameter in block.parameters()
    )
    assert block.up.norm.weight.any()
    assert not any("forward" in vars(layer) for layer in trainer.model.model.layers)


@pytest.mark.slow
@pytest.mark.parametrize("selection", [{}, PLAIN], ids=["selecting", "plain"])
def test_a_stopped_run_resumes_as_if_it_had_not_stopped(make_trainer, dataset, tmp_path, selection):
    options = SHERL | selection
    whole = make_trainer(dataset, **options)
    whole.train()
    saving = {"save_strategy": "steps", "save_steps": 1, "output_dir": str(tmp_path / "saved")}
    make_trainer(dataset, **options, **saving).train()
    checkpoint = tmp_path / "saved" / "checkpoint-2"
    assert not list(checkpoint.glob("model*.safetensors"))
    resumed = make_trainer(dataset, **options, output_dir=str(tmp_path / "resumed"))
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert_same(block_weights(resumed), block_weights(whole))
    with pytest.raises(ValueError, match=r"side_block is None, but .* was written with 4"):
        make_trainer(dataset, **selection).train(resume_from_checkpoint=str(checkpoint))
    with pytest.raises(ValueError, match=r"side_block is 8, but .* was written with 4"):
        make_trainer(dataset, **options | {"side_block": 8}).train(
            resume_from_checkpoint=str(checkpoint)
        )
    other = make_trainer(dataset, **options)
    with torch.no_grad():
        other.model.model.layers[0].mlp.up_proj.weight.add_(1)
    with pytest.raises(ValueError, match="the frozen weights of the model are not those"):
        other.train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.slow
def test_the_best_model_is_loaded_at_the_end(make_trainer, dataset):
    """The best is that of the highest loss here, so that it is the first."""
    trainer = make_trainer(
        dataset,
        **SHERL,
        metric_for_best_model="loss",
        greater_is_better=True,
        **keeping_the_best(dataset),
    )
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert best.endswith("-1")
    mine = block_weights(trainer)
    load_side_block(trainer.model, best)
    assert_same(block_weights(trainer), mine)


@pytest.mark.slow
def test_what_is_saved_is_evaluated_and_told(make_trainer, dataset, tmp_path, tiny_model_folder):
    trainer = make_trainer(dataset, **SHERL, save_strategy="steps", save_steps=4)
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("model*.safetensors"))
    found = load_evaluated(str(tmp_path / "saved"))
    assert found.base == str(tiny_model_folder)
    assert_same(
        {n: w.clone() for n, w in side_block_of(found.model).state_dict().items()},
        block_weights(trainer),
    )
    tokens = torch.arange(10).unsqueeze(0)
    trainer.model.eval()
    assert torch.equal(found.model.eval()(tokens).logits, trainer.model(tokens).logits)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "saved")) == len(found.tokenizer)
    record = read_record(tmp_path / "run")
    assert record.memory == {"side_block": 4, "side_block_every": 1, "side_block_reuse": True}
    assert not any(name.startswith("side_block") for name in record.options)
    text = describe_training(record)
    assert "### Side block" in text
    assert "| `side_block` | `4` |" in text
    plain = trainer.model
    side_block_of(plain).detach()
    assert_same(
        plain.state_dict(), AutoModelForCausalLM.from_pretrained(tiny_model_folder).state_dict()
    )


@pytest.mark.slow
def test_the_card_of_the_model_says_how_to_load_it(make_trainer, dataset, tiny_model_folder):
    trainer = make_trainer(dataset, **SHERL, max_steps=1)
    trainer.train()
    trainer.save_model()
    text = write_model_card(trainer, str(tiny_model_folder)).read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    shown = {}
    exec(code.replace("print(output", "shown = (output").replace("128", "4"), shown)
    assert isinstance(shown["shown"], str)
    assert side_block_of(shown["model"]).up.norm.weight.any()


@pytest.mark.slow
def test_training_goes_on_with_the_block_that_is_there(make_trainer, dataset, tmp_path):
    first = make_trainer(dataset, **SHERL)
    first.train()
    first.save_model(tmp_path / "saved")
    then = block_weights(first)
    first.train()
    assert not torch.equal(block_weights(first)["up.map.weight"], then["up.map.weight"])
    second = make_trainer(dataset, **SHERL, learning_rate=0.0)
    load_side_block(second.model, tmp_path / "saved")
    second.train()
    assert_same(block_weights(second), then)


@pytest.mark.slow
def test_transformers_own_trainer_has_side_blocks_too(make_trainer, dataset):
    sft = make_trainer(dataset)
    trainer = make_trainer(
        sft.train_dataset,
        trainer_class=CoLMTrainer,
        config_class=CoLMTrainingArguments,
        trainer_options={"data_collator": sft.data_collator},
        **SHERL,
    )
    runs = count_runs(trainer)
    trainer.train()
    assert side_block_of(trainer.model).up.norm.weight.any()
    assert runs
    assert not any(runs)


@pytest.mark.slow
def test_after_an_error_the_model_has_its_block_and_no_more(make_trainer, dataset):
    trainer = make_trainer(dataset, **SHERL)

    def fail(*_):
        raise KeyboardInterrupt

    handle = trainer.model.lm_head.register_full_backward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    handle.remove()
    layers = trainer.model.model.layers
    assert not any("forward" in vars(layer) for layer in layers)
    side_block_of(trainer.model).detach()
    modules = list(trainer.model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side_block": 0}, "side_block must be a whole number at least 1; got 0"),
        ({"side_block_every": 0}, "side_block_every must be a whole number at least 1; got 0"),
        ({"side_block_reuse": 2}, "side_block_reuse must be True or False; got 2"),
        ({"subspace_rank": 2}, "side_block=4 freezes the layers that subspace_rank=2 trains"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line(tmp_path, options, message):
    with pytest.raises(ValueError, match=message) as error:
        CoLMTrainingArguments(output_dir=str(tmp_path), **SHERL | options)
    assert "\n" not in str(error.value)


def test_nothing_is_checkpointed_that_has_no_backward(tmp_path):
    args = CoLMTrainingArguments(
        output_dir=str(tmp_path), activation_checkpointing=True, use_cpu=True, **SHERL
    )
    assert (args.activation_checkpointing, args.gradient_checkpointing) == (False, False)


@pytest.mark.slow
def test_what_no_block_is_trained_with_is_refused(make_trainer, dataset):
    lora = {"peft_config": LoraConfig(target_modules=["v_proj"])}
    with pytest.raises(ValueError, match=r"side_block=4 does not go with adapters \(use_peft"):
        make_trainer(dataset, **SHERL, trainer_options=lora)
    with pytest.raises(ValueError, match="side_block=4 does not go with neftune_noise_alpha=5"):
        make_trainer(dataset, **SHERL, neftune_noise_alpha=5)
    given = {"optimizers": (torch.optim.AdamW([torch.zeros(1, requires_grad=True)]), None)}
    with pytest.raises(ValueError, match="side_block=4 does not go with an optimizer"):
        make_trainer(dataset, **SHERL, trainer_options=given)
    for every in (2, 3):
        with pytest.raises(ValueError, match="side_block=4: every must be at most 1"):
            make_trainer(dataset, **SHERL, side_block_every=every).train()
    trainer = make_trainer(dataset, **SHERL)
    trainer.train()
    trainer.args.side_block = None
    with pytest.raises(ValueError, match=r"has a side block, and side_block=None"):
        check_side_block(trainer)


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_sharded_weights_are_refused_by_name(kind):
    args = SimpleNamespace(side_block=4, side_block_every=1, n_gpu=0, neftune_noise_alpha=None)
    accelerator = SimpleNamespace(distributed_type=SimpleNamespace(name=kind))
    trainer = SimpleNamespace(
        args=args, model=nn.Linear(1, 1), optimizer=None, model_init=None, accelerator=accelerator
    )
    with pytest.raises(ValueError, match=f"side_block=4 .* {kind}"):
        check_side_block(trainer)


@pytest.mark.parametrize(
    ("options", "name", "numbers"),
    [
        ({"candidate_ratio": 1}, "SFT of a side block (SHERL)", ["2407.07523"]),
        ({}, "CoLM of a side block (SHERL)", ["2407.19580", "2407.07523"]),
    ],
)
def test_the_method_is_said_and_cited(options, name, numbers, tmp_path):
    args = CoLMTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **SHERL | options)
    assert name_of_method(args) == name
    assert [paper.arxiv for paper in papers_of(args)] == numbers


def examples_with_outputs(lengths, width=2, number=3):
    """Outputs that tell the example, the output and the place of each token."""
    examples = []
    for number_of_example, length in enumerate(lengths):
        at = torch.arange(length).reshape(1, -1, 1)
        which = 100 * torch.arange(number).reshape(-1, 1, 1)
        outputs = (1000 * (number_of_example + 1) + which + at).expand(-1, -1, width).float()
        ids = [10 * (number_of_example + 1) + place for place in range(length)]
        examples.append({"input_ids": ids, TRUNK_KEY: outputs})
    return examples


@pytest.mark.parametrize("side", ["right", "left", "one row"])
def test_outputs_stand_where_their_tokens_do(side):
    examples = examples_with_outputs([3, 1, 2])
    if side == "one row":
        ids = torch.tensor([[token for each in examples for token in each["input_ids"]]])
        batch = {"input_ids": ids, "position_ids": torch.tensor([[0, 1, 2, 0, 0, 1]])}
    else:
        rows = [(each["input_ids"], [0] * (4 - len(each["input_ids"]))) for each in examples]
        rows = [ids + pad if side == "right" else pad + ids for ids, pad in rows]
        ids = torch.tensor(rows)
        batch = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    carry([batch], [examples])
    found = placed(batch[TRUNK_KEY], batch)
    assert len(found) == 3
    for which, output in enumerate(found):
        assert output.shape == (*ids.shape, 2)
        expected = torch.where(ids > 0, 1000 * (ids // 10) + 100 * which + ids % 10, 0)
        assert torch.equal(output, expected.unsqueeze(-1).expand_as(output).float())


def test_a_batch_of_other_tokens_carries_nothing():
    examples = examples_with_outputs([3, 2])
    ids = torch.tensor([[10, 11, 12], [20, 0, 0]])
    cut = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    without = [{k: v for k, v in each.items() if k != TRUNK_KEY} for each in examples[1:]]
    whole = {"input_ids": ids.clone()}
    whole["input_ids"][1, 1] = 21
    whole["attention_mask"] = (whole["input_ids"] > 0).long()
    carry([cut], [examples])
    carry([whole], [examples[:1] + without])
    assert TRUNK_KEY not in cut
    assert TRUNK_KEY not in whole
    carry([whole], [examples])
    assert TRUNK_KEY in whole


def blocks_of_the_card():
    section = (DOCS / "memory.md").read_text().partition("## A side block")[2]
    return re.findall(r"```(yaml|python)\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)


def test_the_card_says_how_to_set_it(tmp_path):
    (_, recipe), *_ = blocks_of_the_card()
    (tmp_path / "recipe.yaml").write_text(recipe)
    parsed = parse_arguments(["--config", "quickstart", "--config", str(tmp_path / "recipe.yaml")])
    assert parsed.training.side_block == 8
    assert not parsed.model.use_peft


@pytest.mark.slow
def test_the_card_in_python_runs(dataset, tmp_path, tiny_model_folder, monkeypatch):
    _, (_, code) = blocks_of_the_card()
    monkeypatch.chdir(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    short = "CoLMConfig(max_steps=1, bf16=False, use_cpu=True, report_to='none', "
    exec(code.replace("CoLMConfig(side", short + "side"), {"model": model, "data": dataset})
    assert side_block_of(model).reduction == 8


def test_the_files_say_what_they_are_of(make_trainer, dataset, tmp_path, tiny_model_folder):
    trainer = make_trainer(dataset, **SHERL, max_steps=1, candidate_ratio=1.0)
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    told = json.loads((tmp_path / "saved" / "colm_side_block.json").read_text())
    assert told == {
        "format": "colm side block 1",
        "base_model_name_or_path": str(tiny_model_folder),
        "reduction": 4,
        "every": 1,
        "layers": 2,
    }
