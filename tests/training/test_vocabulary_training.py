"""Training with a pruned vocabulary: as without one where it is exact, and whole models out."""

import gc
import json
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate import DistributedType
from datasets import Dataset
from peft import LoraConfig
from torch import nn
from transformers import AutoModelForCausalLM, TrainerCallback

from colm import CoLMTrainer, CoLMTrainingArguments
from colm.runs.model_card import describe_training
from colm.training.checkpoints import manifest
from colm.training.vocabulary_training import TOKENS_FILE, check_vocabulary
from tests.training.conftest import StopAt, build_trainer, keeping_the_best, make_records
from tests.training.processes import run_in_processes

CARD = (
    (Path(__file__).parents[2] / "docs" / "memory.md")
    .read_text()
    .partition("## A pruned vocabulary")[2]
)
#: As the page sets it.
PRUNED = yaml.safe_load(CARD.partition("```yaml")[2].partition("```")[0])
PLAIN = {"candidate_ratio": 1.0, "selector": "none"}
SELECTIONS = {
    "default": {},
    "balanced_sampling": {"selector": "balanced_sampling"},
    "plain": PLAIN,
}
ONE_QUICK = [pytest.param(name, marks=pytest.mark.slow) for name in ("default", "plain")]
ONE_QUICK += ["balanced_sampling"]
VOCABULARY = 259


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def tied(trainer):
    """Let the head be the embedding's weight, in the model and in what is saved of it."""
    trainer.model.config.tie_word_embeddings = True
    trainer.model.lm_head.weight = trainer.model.get_input_embeddings().weight
    return trainer


def left_out(trainer):
    """Which tokens no text of the data uses; special ones are used."""
    is_left = torch.ones(VOCABULARY, dtype=torch.bool)
    is_left[:3] = False
    for row in trainer.train_dataset:
        is_left[torch.tensor(row["input_ids"])] = False
    return is_left


class Plainly(TrainerCallback):
    """Calls a function at the end of each step."""

    def __init__(self, function):
        self.function = function

    def on_step_end(self, *_, **__):
        self.function()


@pytest.mark.slow
@pytest.mark.parametrize("selection", ONE_QUICK)
def test_with_a_frozen_head_training_is_what_it_was(make_trainer, dataset, selection):
    trainers = []
    for option in ({}, PRUNED):
        trainer = make_trainer(dataset, max_steps=3, **option, **SELECTIONS[selection])
        trainer.model.lm_head.requires_grad_(False)
        trainer.train()
        trainers.append(trainer)
    plain, pruned = trainers
    assert logged(pruned, "loss") == logged(plain, "loss")
    assert not logged(pruned, "colm/missing_mass")
    for name, weight in weights(plain).items():
        torch.testing.assert_close(weights(pruned)[name], weight, atol=1e-6, rtol=1e-6)


@pytest.mark.slow
def test_on_data_that_use_every_token_training_is_what_it_was(make_trainer):
    rows = torch.randperm(VOCABULARY * 2, generator=torch.Generator().manual_seed(0)) % VOCABULARY
    data = Dataset.from_dict({"input_ids": rows.reshape(-1, 14).tolist()})
    plain, pruned = (
        tied(make_trainer(data, max_steps=3, selector="balanced_sampling", **option))
        for option in ({}, PRUNED)
    )
    plain.train()
    pruned.train()
    assert logged(pruned, "loss") == logged(plain, "loss")
    assert logged(pruned, "colm/missing_mass") == [0.0] * 3
    assert_same(weights(pruned), weights(plain))


@pytest.mark.parametrize("selection", ONE_QUICK)
def test_rows_left_out_stay_and_what_is_saved_is_a_plain_model(
    make_trainer, dataset, tmp_path, selection
):
    options = PRUNED | SELECTIONS[selection]
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    trainer = tied(make_trainer(dataset, **options, **saving))
    before = weights(trainer)
    trainer.train()
    after, name = weights(trainer), "model.embed_tokens.weight"
    is_left = left_out(trainer)
    assert 200 < is_left.sum() < VOCABULARY
    assert torch.equal(after[name][is_left], before[name][is_left])
    assert (after[name] != before[name]).any(1)[~is_left].sum() > 20
    checkpoint = tmp_path / "run" / "checkpoint-2"
    saved = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert saved.config.vocab_size == VOCABULARY
    assert_same(saved.state_dict(), after)
    moments = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    sizes = {len(each["exp_avg"]) for each in moments.values()}
    assert int((~is_left).sum()) in sizes
    assert VOCABULARY not in sizes


def test_the_missing_mass_is_that_of_the_whole_model(make_trainer, tmp_path):
    """Of a model that stands still, on examples that are all the same."""
    data = Dataset.from_list([{"prompt": "copy xyz", "completion": "xyz"}] * 16)
    options = {**PRUNED, **PLAIN, "max_steps": 2, "learning_rate": 0.0}
    trainer = make_trainer(data, **options)
    example = trainer.train_dataset[0]
    ids, labels = (torch.tensor([example[key]]) for key in ("input_ids", "labels"))
    is_left = left_out(trainer)
    with torch.no_grad():
        shares = trainer.model(ids).logits[0, :-1].softmax(-1)[labels[0, 1:] != -100]
    trainer.train()
    expected = float(shares[:, is_left].sum(-1).mean())
    assert logged(trainer, "colm/missing_mass") == pytest.approx([expected] * 2, rel=1e-5)
    within = shares[:, ~is_left] / shares[:, ~is_left].sum(-1, keepdim=True)
    used = (~is_left).nonzero().flatten()
    places = torch.searchsorted(used, labels[0, 1:][labels[0, 1:] != -100])
    loss = -within.gather(1, places[:, None]).log().mean()
    assert logged(trainer, "loss") == pytest.approx([float(loss)] * 2, rel=1e-4)


def test_an_evaluation_is_that_of_the_whole_model(make_trainer, dataset, tmp_path):
    """Also of texts with tokens that nobody knew of."""
    held_out = {"eval_dataset": dataset.select(range(8))}
    other = [{"prompt": "XYZ", "completion": "{~} QRS", "source": "rare"}] * 4
    trainer = make_trainer(dataset, **PRUNED, max_steps=1, trainer_options=held_out)
    unseen = {"eval_dataset": Dataset.from_list(other)}
    seen = make_trainer(dataset, trainer_options=unseen).eval_dataset
    losses, logits = [], []
    prompt = {"input_ids": torch.tensor([[200, 201, 202]])}

    def look():
        losses.extend((trainer.evaluate(seen)["eval_loss"], trainer.evaluate()["eval_loss"]))
        with torch.no_grad():
            logits.append(trainer.model(**prompt).logits)

    trainer.add_callback(Plainly(look))
    trainer.train()
    assert [trainer.evaluate(seen)["eval_loss"], trainer.evaluate()["eval_loss"]] == losses
    trainer.save_model(tmp_path / "saved")
    loaded = build_trainer(
        tmp_path / "saved",
        dataset,
        output_dir=str(tmp_path / "loaded"),
        trainer_options={"eval_dataset": seen},
    )
    assert torch.equal(logits[0], loaded.model(**prompt).logits)
    assert loaded.evaluate()["eval_loss"] == losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("rank", [None, 4])
def test_a_stopped_run_resumes_as_if_it_had_not_stopped(
    make_trainer, dataset, tmp_path, selection, rank
):
    options = PRUNED | SELECTIONS[selection] | {"max_steps": 5, "save_steps": 2}
    options |= {"subspace_rank": rank, "subspace_inner_steps": 3}
    whole = tied(make_trainer(dataset, **options))
    whole.train()
    saving = {"save_strategy": "steps", "output_dir": str(tmp_path / "saved")}
    tied(make_trainer(dataset, **options, **saving)).train()
    resumed = tied(make_trainer(dataset, **options, output_dir=str(tmp_path / "resumed")))
    resumed.train(resume_from_checkpoint=str(tmp_path / "saved" / "checkpoint-2"))
    assert_same(weights(resumed), weights(whole))
    assert logged(resumed, "colm/missing_mass") == logged(whole, "colm/missing_mass")


@pytest.mark.slow
def test_the_best_model_is_loaded_whole_at_the_end(make_trainer, dataset):
    """An absurd learning rate makes later checkpoints worse."""
    trainer = tied(
        make_trainer(
            dataset,
            **PRUNED,
            max_steps=3,
            learning_rate=0.5,
            lr_scheduler_type="constant",
            **keeping_the_best(dataset),
        )
    )
    trainer.train()
    best = AutoModelForCausalLM.from_pretrained(trainer.state.best_model_checkpoint)
    assert not trainer.state.best_model_checkpoint.endswith("-3")
    assert_same(weights(trainer), best.state_dict())


@pytest.mark.slow
def test_adapters_train_on_a_model_that_is_cut(make_trainer, dataset, tmp_path):
    """The embedding is frozen, and rows alone are saved; with a head of its own, exactly."""
    adapter = {"peft_config": LoraConfig(r=4, target_modules=["v_proj", "q_proj"])}
    plain, pruned = (
        make_trainer(dataset, **option, trainer_options=adapter) for option in ({}, PRUNED)
    )
    rows, embedding = [], pruned.model.get_input_embeddings()
    pruned.add_callback(Plainly(lambda: rows.append(len(embedding.weight))))
    plain.train()
    pruned.train()
    assert set(rows) == {int((~left_out(pruned)).sum())}
    assert logged(pruned, "loss") == logged(plain, "loss")
    assert_same(weights(pruned), weights(plain))
    pruned.save_model(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size < 20_000


@pytest.mark.slow
def test_transformers_own_trainer_prunes_too_and_losses_are_still_read(make_trainer, dataset):
    sft = make_trainer(dataset)
    options = {"trainer_class": CoLMTrainer, "config_class": CoLMTrainingArguments}
    ours = {"data_collator": sft.data_collator}
    by_trl = tied(make_trainer(dataset, **PRUNED, **PLAIN))
    by_trl.train()
    own = tied(make_trainer(sft.train_dataset, **options, **PRUNED, **PLAIN, trainer_options=ours))
    own.train()
    assert logged(own, "loss") == pytest.approx(logged(by_trl, "loss"), rel=1e-4)
    read = logged(own, "colm/loss/adding")
    assert len(read) == 4
    assert read == pytest.approx(logged(by_trl, "colm/loss/adding"), rel=1e-4)


@pytest.mark.slow
def test_an_exception_leaves_a_plain_model_and_nothing_held(make_trainer, dataset):
    trainer = make_trainer(dataset, **PRUNED)
    held = []

    def fail():
        held.append(weakref.ref(trainer.model.get_input_embeddings().weight))
        raise RuntimeError("as somebody wishes")

    trainer.add_callback(Plainly(fail))
    with pytest.raises(RuntimeError, match="as somebody wishes"):
        trainer.train()
    assert not {"generate", "save_pretrained"} & vars(trainer.model).keys()
    assert not any(module._forward_pre_hooks for module in trainer.model.modules())
    assert len(trainer.model.get_input_embeddings().weight) == VOCABULARY
    gc.collect()
    assert held[0]() is None


@pytest.mark.slow
def test_nothing_is_held_at_the_end_and_training_can_go_on(make_trainer, dataset):
    trainer = make_trainer(dataset, **PRUNED, max_steps=1)
    held = []
    note = Plainly(lambda: held.append(weakref.ref(trainer.model.lm_head.weight)))
    trainer.add_callback(note)
    trainer.train()
    gc.collect()
    assert held[0]() is None
    before = weights(trainer)
    trainer.train()
    assert not torch.equal(weights(trainer)["lm_head.weight"], before["lm_head.weight"])


def test_the_record_and_the_card_say_so(make_trainer, dataset, tmp_path):
    trainer = make_trainer(dataset, **PRUNED, max_steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    used = int((~left_out(trainer)).sum())
    record = json.loads((tmp_path / "run" / "colm_run.json").read_text())
    assert record["memory"] == PRUNED
    assert record["model"]["vocabulary"] == {"tokens": used, "all_tokens": VOCABULARY}
    card = describe_training(trainer.run_record())
    assert f"the {used} tokens" in card
    assert trainer._name == "CoLM with a pruned vocabulary (PEMA)"
    assert "2309.08708" in trainer._paper["citation"]


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_tokens_alone(make_trainer, dataset, tmp_path):
    saving = PRUNED | {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    make_trainer(dataset, **saving).train()
    other = Dataset.from_list([{"prompt": "XYZ", "completion": "{~}", "source": "rare"}])
    with pytest.raises(ValueError, match="held-out data use other tokens than when") as error:
        make_trainer(dataset, **saving, trainer_options={"eval_dataset": other}).train(
            resume_from_checkpoint=True
        )
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"prune_vocabulary is False, but .* with True"):
        make_trainer(dataset, **saving | {"prune_vocabulary": False}).train(
            resume_from_checkpoint=True
        )
    checkpoint = tmp_path / "run" / "checkpoint-1"
    (checkpoint / TOKENS_FILE).unlink()
    manifest.write_manifest(checkpoint)
    with pytest.raises(ValueError, match=f"has no {TOKENS_FILE}"):
        make_trainer(dataset, **saving).train(resume_from_checkpoint=True)


def test_a_token_that_a_collator_brings_is_refused_by_its_text(make_trainer, dataset):
    trainer = make_trainer(dataset, **PRUNED, **PLAIN)
    collate = trainer.data_collator
    unused = int(trainer.processing_class.convert_tokens_to_ids("Q"))

    def brings(examples):
        batch = collate(examples)
        batch["input_ids"][0, 0] = unused
        return batch

    trainer.data_collator = brings
    with pytest.raises(ValueError, match=rf"token 'Q' \(id {unused}\) is none of the"):
        trainer.train()


def test_what_cannot_be_is_refused_in_one_line(make_trainer, dataset):
    stream = dataset.to_iterable_dataset()
    model = make_trainer(dataset).model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for options, message in (
        ({"train_dataset": stream}, "the training data are no datasets.Dataset"),
        ({"eval_dataset": {"own": stream}}, r"the evaluation \(own\) data are no datasets.Dataset"),
        ({"optimizers": (optimizer, None)}, "cannot be with an optimiser .* pass none"),
    ):
        data = options.pop("train_dataset", dataset)
        with pytest.raises(ValueError, match=f"^prune_vocabulary=True .*{message}") as error:
            make_trainer(data, **PRUNED, trainer_options=options)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"^prune_vocabulary must be True or False; got 'yes'"):
        make_trainer(dataset, prune_vocabulary="yes")
    with pytest.raises(ValueError, match=r"^side_block=4 freezes .* prune_vocabulary=True cuts"):
        make_trainer(dataset, **PRUNED, side_block=4)
    trainer = make_trainer(dataset, **PRUNED)
    trainer.model.lm_head = nn.Sequential(trainer.model.lm_head)
    with pytest.raises(ValueError, match=r"^prune_vocabulary=True: Llama.* a head of Sequential"):
        trainer.train()
    computed = Dataset.from_dict({"input_ids": [[3, 4]]}).with_transform(lambda rows: rows)
    plain = "adamw_torch"
    for kind, gpus, optim, message in (
        (DistributedType.NO, 1, "zeroth_order", "cannot be with optim='zeroth_order', whose log"),
        (
            DistributedType.NO,
            1,
            plain,
            "the training data compute theirs when an example is asked for",
        ),
        (DistributedType.FSDP, 1, plain, "cannot be with FSDP, which shards"),
        (DistributedType.DEEPSPEED, 1, plain, "cannot be with DEEPSPEED, which shards"),
        (DistributedType.NO, 2, plain, "cannot be with nn.DataParallel: start"),
    ):
        spread = SimpleNamespace(
            accelerator=SimpleNamespace(distributed_type=kind),
            args=SimpleNamespace(n_gpu=gpus, optim=optim),
            train_dataset=computed,
            eval_dataset=None,
            optimizer=None,
            model_init=None,
        )
        with pytest.raises(ValueError, match=message):
            check_vocabulary(spread)


def in_each_process(model_folder, folder):
    """A run, and the same stopped and resumed."""
    done = {}
    for name, stop in (("whole", None), ("stopped", 2), ("resumed", None)):
        trainer = tied(
            build_trainer(
                model_folder,
                Dataset.from_list(make_records()),
                output_dir=str(folder / ("whole" if name == "whole" else "stopped")),
                per_device_train_batch_size=2,
                selection_scope="global",
                save_strategy="steps",
                save_steps=2,
                max_steps=3,
                ddp_timeout=180,
                eval_strategy="steps",
                eval_steps=3,
                trainer_options={"eval_dataset": Dataset.from_list(make_records()[:8])},
                **PRUNED,
            )
        )
        if stop is not None:
            trainer.add_callback(StopAt(stop))
        trainer.train(resume_from_checkpoint=name == "resumed")
        done[name] = weights(trainer), logged(trainer, "loss"), logged(trainer, "eval_loss")
    return done


@pytest.mark.slow
def test_several_processes_train_as_one(make_trainer, dataset, tiny_model_folder, tmp_path):
    found = run_in_processes(in_each_process, tmp_path, tiny_model_folder, tmp_path)
    alone = tied(
        make_trainer(
            dataset,
            **PRUNED,
            max_steps=3,
            eval_strategy="steps",
            eval_steps=3,
            trainer_options={"eval_dataset": dataset.select(range(8))},
        )
    )
    alone.train()
    for one in found:
        assert_same(one["resumed"][0], one["whole"][0])
        assert one["whole"][1] == pytest.approx(logged(alone, "loss"), abs=2e-3)
        assert one["whole"][2] == pytest.approx(logged(alone, "eval_loss"), abs=2e-3)
        for name, weight in weights(alone).items():
            torch.testing.assert_close(one["whole"][0][name], weight, atol=2e-3, rtol=0)
