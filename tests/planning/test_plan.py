"""Plans, against what the trainer that they are of then holds: `benchmarks memory` measures it."""

import argparse
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.measure import memory
from colm import attach_side_block
from colm.planning import plan as planning
from colm.planning import run_counter
from colm.planning.machine import Machine
from colm.planning.plan import WAYS, make_plan
from colm.runs.arguments import parse_arguments

TOKENS, KEPT = 48, 4
NEAR = 0.15
LORA = ("--use_peft", "--lora_target_modules", "all-linear", "--lora_dropout=0.1")


def arguments_of(folder, tmp_path, *options):
    return parse_arguments(
        [
            f"--model_name_or_path={folder}",
            f"--output_dir={tmp_path / 'run'}",
            f"--per_device_train_batch_size={KEPT}",
            f"--max_length={TOKENS}",
            # All candidates are looked at, and no guess is made at how many tokens they contain.
            "--small_sources=none",
            "--bf16=false",
            "--gradient_checkpointing=false",
            "--report_to=none",
            "--disable_tqdm=true",
            *options,
        ]
    )


@pytest.fixture(autouse=True)
def _same_machine_everywhere(monkeypatch):
    machine = Machine({torch.float32: 1e9}, 1e30)
    monkeypatch.setattr(planning, "measure_machine", lambda *_: machine)


@pytest.fixture
def measure(monkeypatch):
    """Measure one step of each way on texts of three sources."""

    records = [
        {
            "prompt": [{"content": f"{source} {number} is a question of {source}"}],
            "completion": [{"content": "xyz" * (number % 5)}],
            "source": source,
        }
        for source in ("algebra", "logic", "rare")
        for number in range(60)
    ]
    monkeypatch.setattr(memory, "generate_mixture", lambda seed: SimpleNamespace(train=records))

    def run(arguments):
        options = argparse.Namespace(tokens=TOKENS, repeats=1, same_length=False, shape=None)
        bench = memory.MemoryBench(memory.build_trainer(arguments, options))
        bench.run_all(memory.timed)
        return bench.held_bytes() | bench.run_all(memory.counted_on(bench.model))

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        (),
        LORA,
        (*LORA, "--gradient_checkpointing=true", "--selector=colm"),
        ("--gradient_checkpointing=true", "--gradient_accumulation_steps=2"),
        ("--bf16=true", "--selector=colm", "--optim=adafactor"),
        (*LORA, "--bf16=true", "--dtype=bfloat16", "--selector=random", "--candidate_ratio=3"),
        ("--side_block=4",),
        ("--side_block=4", "--selector=colm", "--gradient_accumulation_steps=2"),
        ("--optim=low_rank_adam", "--optim_args=rank=4", "--dtype=bfloat16"),
        (*LORA, "--load_in_4bit"),
        (*LORA, "--load_in_8bit"),
        (*LORA, "--load_in_4bit", "--use_bnb_nested_quant", "--dtype=bfloat16", "--selector=colm"),
    ],
    ids=[
        "full",
        "lora",
        "lora-checkpointed",
        "accumulated",
        "autocast",
        "half",
        "side-block",
        "side-block-reused",
        "low-rank",
        "4-bit",
        "8-bit",
        "nested",
    ],
)
def test_a_plan_is_near_what_is_measured(options, tiny_model_folder, tmp_path, measure):
    planned = make_plan(arguments_of(tiny_model_folder, tmp_path, *options)).to_dict()
    measured = measure(arguments_of(tiny_model_folder, tmp_path, *options))
    exact = ("parameters", "trained_parameters", "weight_bytes", "gradient_bytes")
    assert {name: planned[name] for name in exact} == {name: measured[name] for name in exact}
    # Adam's step counts are tensors of one number each.
    assert planned["optimizer_bytes"] == pytest.approx(measured["optimizer_bytes"], rel=0.02)
    for way, plan in planned["ways"].items():
        alive = max(plan["training_bytes"], plan["look_bytes"])
        assert plan["saved_bytes"] == pytest.approx(measured[f"{way}_saved_bytes"], rel=NEAR), way
        assert alive == pytest.approx(measured[f"{way}_alive_bytes"], rel=NEAR), way


@pytest.mark.slow
@pytest.mark.parametrize("how", ["", "direction=subspace,update=adam,rank=4"])
def test_a_plan_of_losses_alone_is_near_what_is_measured(how, tiny_model_folder, tmp_path, measure):
    options = ("--optim=zeroth_order", f"--optim_args={how}", "--candidate_ratio=1")
    plan = make_plan(arguments_of(tiny_model_folder, tmp_path, *options))
    measured = measure(arguments_of(tiny_model_folder, tmp_path, *options))
    assert plan.gradient_bytes == 0
    assert plan.optimizer_bytes >= measured["optimizer_bytes"]
    assert (plan.optimizer_bytes > 0) == bool(how)
    way = plan.ways["colm"]
    assert way.saved_bytes == measured["colm_saved_bytes"] == 0
    assert way.training_bytes == pytest.approx(measured["colm_alive_bytes"], rel=NEAR)
    assert "plain_r_alive_bytes" not in measured


@pytest.mark.slow
@pytest.mark.parametrize(("is_checkpointed", "layers"), [(False, 8), (True, 3)])
def test_unless_told_otherwise_looks_do_not_move_the_peak(tmp_path, is_checkpointed, layers):
    folder = tmp_path / "model"
    config = memory.shape_config("tiny")
    config.num_hidden_layers = layers
    config.save_pretrained(folder)
    checkpointing = f"--gradient_checkpointing={str(is_checkpointed).lower()}"
    # More candidates than fit into one look.
    options = (*LORA, checkpointing, "--candidate_ratio=8")
    plan = make_plan(arguments_of(folder, tmp_path, *options))
    colm, plain = plan.ways["colm"], plan.ways["plain_r"]
    assert 0 < colm.look_bytes < colm.training_bytes == plain.training_bytes
    assert colm.total_bytes == plain.total_bytes
    if not is_checkpointed:
        assert colm.saved_bytes == plain.saved_bytes
        return
    freely = make_plan(arguments_of(folder, tmp_path, *options, "--selection_tokens=8192"))
    assert freely.ways["colm"].look_bytes > colm.look_bytes


@pytest.mark.slow
def test_what_is_saved_grows_with_the_micro_batch(tiny_model_folder, tmp_path):
    plan = make_plan(arguments_of(tiny_model_folder, tmp_path))
    ways = plan.ways
    assert list(ways) == list(WAYS)
    assert [way.examples for way in ways.values()] == [KEPT, KEPT, 2 * KEPT, 4 * KEPT]
    assert ways["plain_n"].saved_bytes == pytest.approx(2 * ways["plain_r"].saved_bytes, rel=0.01)
    assert ways["plain_2n"].flops == pytest.approx(4 * ways["plain_r"].flops, rel=0.01)
    assert ways["colm"].flops == ways["plain_r"].flops + ways["colm"].look_flops
    assert 0 < ways["colm"].look_flops < ways["plain_n"].flops
    assert ways["colm"].work_ratio == ways["colm"].time_ratio == 1
    assert plan.optimizer_bytes == 2 * plan.gradient_bytes
    # Where moving costs nothing, times compare as operations do.
    for way in ways.values():
        assert way.time_ratio == pytest.approx(way.work_ratio)


@pytest.mark.slow
def test_checkpointing_saves_less_and_works_more(tiny_model_folder, tmp_path):
    plain = make_plan(arguments_of(tiny_model_folder, tmp_path)).ways["plain_n"]
    options = ("--gradient_checkpointing=true",)
    saving = make_plan(arguments_of(tiny_model_folder, tmp_path, *options)).ways["plain_n"]
    assert saving.saved_bytes < 0.5 * plain.saved_bytes
    assert saving.flops > 1.05 * plain.flops


@pytest.mark.slow
def test_what_a_look_ran_beside_a_side_block_is_held_and_not_run_again(tmp_path):
    folder = tmp_path / "model"
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 8}
    config = LlamaConfig(vocab_size=64, num_attention_heads=2, **sizes)
    config.save_pretrained(folder)
    plans = {
        reuse: make_plan(
            arguments_of(folder, tmp_path, "--side_block=4", f"--side_block_reuse={reuse}")
        )
        for reuse in (True, False)
    }
    block = attach_side_block(AutoModelForCausalLM.from_config(config), 4)
    held = 2 * KEPT * TOKENS * sum(4 * 32 for _ in block.trunk.read)
    ours = {reuse: plan.ways["colm"] for reuse, plan in plans.items()}
    for plan in plans.values():
        assert plan.trained_parameters == sum(weight.numel() for weight in block.parameters())
        assert plan.ways["plain_r"] != plan.ways["colm"]
    assert ours[False].flops - ours[False].look_flops == plans[False].ways["plain_r"].flops
    # Seven layers of eight.
    assert ours[True].flops - ours[True].look_flops < 0.5 * plans[True].ways["plain_r"].flops
    assert ours[True].look_flops == ours[False].look_flops
    # Within a forward the block reads them anyway.
    assert 0.5 * held < ours[True].look_bytes - ours[False].look_bytes <= held


@pytest.mark.slow
def test_gradients_that_are_used_inside_the_backward_do_not_add_up(tmp_path):
    """In a model whose gradients, and not its activations, make the peak."""
    folder = tmp_path / "model"
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6}
    LlamaConfig(vocab_size=64, num_attention_heads=2, **sizes).save_pretrained(folder)
    plan = {
        optim: make_plan(arguments_of(folder, tmp_path, f"--optim={optim}"), tokens=2)
        for optim in ("sgd", "lomo")
    }
    assert plan["lomo"].optimizer_bytes == plan["sgd"].optimizer_bytes == 0
    assert plan["lomo"].gradient_bytes < plan["sgd"].gradient_bytes
    peaks = {name: one.ways["plain_r"].training_bytes for name, one in plan.items()}
    assert peaks["lomo"] < plan["sgd"].gradient_bytes < peaks["sgd"]


@pytest.mark.slow
def test_micro_batches_add_work_and_hardly_memory(tiny_model_folder, tmp_path):
    one = make_plan(arguments_of(tiny_model_folder, tmp_path))
    options = ("--gradient_accumulation_steps=3",)
    three = make_plan(arguments_of(tiny_model_folder, tmp_path, *options))
    assert three.ways["plain_r"].flops == 3 * one.ways["plain_r"].flops
    assert three.ways["colm"].look_flops == pytest.approx(3 * one.ways["colm"].look_flops, rel=0.05)
    assert three.ways["plain_r"].saved_bytes == one.ways["plain_r"].saved_bytes


def test_without_selection_colm_is_plain(tiny_model_folder, tmp_path):
    plan = make_plan(arguments_of(tiny_model_folder, tmp_path, "--candidate_ratio=1"))
    assert plan.ways["colm"] == plan.ways["plain_n"]
    assert any("candidate_ratio=1" in note for note in plan.notes)


@pytest.mark.slow
def test_copies_of_weights_are_told(tiny_model_folder, tmp_path):
    options = ("--bf16=true", *LORA)
    notes = make_plan(arguments_of(tiny_model_folder, tmp_path, *options), tokens=8).notes
    assert any("dtype: bfloat16" in note for note in notes)


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["exact", "directional", "zeroth_order"])
def test_every_estimator_can_be_planned_for(gradient, tiny_model_folder, tmp_path):
    options = ("--selector=colm", f"--gradient={gradient}")
    look = make_plan(arguments_of(tiny_model_folder, tmp_path, *options)).ways["colm"]
    assert look.look_flops > 0
    assert look.look_bytes > 0


@pytest.mark.slow
def test_a_machine_that_moves_slowly_is_told_apart(tiny_model_folder, tmp_path):
    arguments = arguments_of(tiny_model_folder, tmp_path)
    plan = make_plan(arguments, machine=Machine({torch.float32: 1e30}, 1.0))
    ways = plan.ways
    assert ways["plain_r"].time_ratio < ways["plain_n"].time_ratio < ways["plain_2n"].time_ratio
    assert ways["plain_n"].time_ratio != pytest.approx(ways["plain_n"].work_ratio, rel=0.001)
    # The optimiser's step takes the same whatever the batch: twice as much is less than twice.
    assert ways["plain_2n"].time_ratio < 2 * ways["plain_n"].time_ratio


@pytest.mark.slow
def test_where_kernels_compute_the_loss_its_tiles_are_not_counted(
    tiny_model_folder, tmp_path, monkeypatch
):
    from trl.kernels import chunked_logprob

    own = chunked_logprob._forward_tile
    arguments = arguments_of(tiny_model_folder, tmp_path)
    before = make_plan(arguments).ways["plain_n"]
    after = make_plan(arguments, accelerator=True).ways["plain_n"]
    assert chunked_logprob._forward_tile is own
    monkeypatch.setattr(run_counter, "has_loss_kernels", lambda _: True)
    assert make_plan(arguments).ways["plain_n"] == after
    assert after.saved_bytes == before.saved_bytes
    assert after.flops == before.flops
    # At least z, its exponential and the gradient, of each position and token of the vocabulary.
    tile_bytes = 4 * 2 * KEPT * (TOKENS - 1) * 259
    assert after.training_bytes < before.training_bytes - 3 * tile_bytes
