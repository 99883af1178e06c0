"""Plain steps arranged by length: the gradient of TRL's own step, in fewer tokens."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import Trainer, TrainerCallback, TrainingArguments
from trl import SFTConfig, SFTTrainer

from colm import CoLMSFTTrainer, CoLMTrainer, CoLMTrainingArguments
from colm.training.example import Pool
from tests.cases import quick_first
from tests.training.conftest import StopAt, build_trainer, make_records
from tests.training.processes import run_in_processes

LORA = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
PLAIN = {"trainer_class": SFTTrainer, "config_class": SFTConfig}
ARRANGED = {"candidate_ratio": 1}
# Without a learning rate every step starts from the same weights.
STILL = {
    "optim": "sgd",
    "learning_rate": 0.0,
    "max_grad_norm": 0.0,
    "gradient_accumulation_steps": 4,
    "max_steps": 3,
    "max_length": None,
}


class Gradients(TrainerCallback):
    """Keeps the gradients of each step."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        gradients = [(n, p.grad) for n, p in model.named_parameters() if p.grad is not None]
        self.steps.append({name: gradient.double().clone() for name, gradient in gradients})


def note_shapes(trainer):
    """The rows and tokens of each micro-batch, filled as the trainer runs."""
    shapes, compute = [], trainer.compute_loss

    def noting(model, inputs, *args, **options):
        if model.training:
            shapes.append(tuple(inputs["input_ids"].shape))
        return compute(model, inputs, *args, **options)

    trainer.compute_loss = noting
    return shapes


def run(folder, data=None, adapter=False, **options):
    """The gradients of each step and the shapes of its micro-batches."""
    gradients = Gradients()
    extra = {"callbacks": [gradients], **({"peft_config": LORA} if adapter else {})}
    data = Dataset.from_list(make_records()) if data is None else data
    trainer = build_trainer(folder, data, trainer_options=extra, **(STILL | options))
    shapes = note_shapes(trainer)
    trainer.train()
    return gradients.steps, shapes, trainer


def assert_same_gradients(ours, plain):
    """Equal in each step and each weight, to 1e-6 of its norm."""
    assert len(ours) == len(plain) > 0
    for one, other in zip(ours, plain, strict=True):
        assert one.keys() == other.keys()
        for name, gradient in other.items():
            assert (one[name] - gradient).norm() <= 1e-6 * gradient.norm(), name


def tokens(shapes):
    return [rows * length for rows, length in shapes]


@pytest.mark.slow
@pytest.mark.parametrize("padding_free", quick_first([False, True]))
@pytest.mark.parametrize("adapter", [False, True])
def test_a_step_has_the_gradient_of_trl(tiny_model_folder, tmp_path, adapter, padding_free):
    options = {"output_dir": str(tmp_path), "adapter": adapter, "padding_free": padding_free}
    ours, shapes, _ = run(tiny_model_folder, **options, **ARRANGED)
    plain, plain_shapes, _ = run(tiny_model_folder, **options, **PLAIN)
    assert_same_gradients(ours, plain)
    assert shapes != plain_shapes
    assert max(tokens(shapes)) <= max(tokens(plain_shapes))
    if padding_free:
        assert sum(tokens(shapes)) == sum(tokens(plain_shapes))
    else:
        assert sum(tokens(shapes)) < 0.9 * sum(tokens(plain_shapes))


def test_a_step_of_the_trainer_of_transformers_has_the_gradient_of_its_own(
    tiny_model_folder, dataset, tmp_path
):
    sft = build_trainer(tiny_model_folder, dataset, output_dir=str(tmp_path), max_steps=1)
    prepared = sft.train_dataset.select_columns(["input_ids", "labels"])
    kinds = (
        {"trainer_class": CoLMTrainer, "config_class": CoLMTrainingArguments, **ARRANGED},
        {"trainer_class": Trainer, "config_class": TrainingArguments},
    )
    still = {name: value for name, value in STILL.items() if name != "max_length"}
    runs = []
    for kind in kinds:
        gradients = Gradients()
        extra = {"callbacks": [gradients], "data_collator": sft.data_collator}
        trainer = build_trainer(
            tiny_model_folder,
            prepared,
            trainer_options=extra,
            output_dir=str(tmp_path),
            **still,
            **kind,
        )
        shapes = note_shapes(trainer)
        trainer.train()
        runs.append((gradients.steps, shapes))
    assert_same_gradients(runs[0][0], runs[1][0])
    assert sum(tokens(runs[0][1])) < 0.9 * sum(tokens(runs[1][1]))


def step_in_a_process(model_folder, folder, options):
    steps, shapes, _ = run(model_folder, output_dir=folder, **options)
    return steps, shapes


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize(
    "kind",
    [{}, {"padding_free": True}, {"accelerator_config": {"split_batches": True}}],
)
def test_a_step_of_two_processes_has_the_gradient_of_trl(
    tiny_model_folder, tmp_path, adapter, kind
):
    runs = []
    for number, trainer in enumerate((ARRANGED, PLAIN)):
        options = {"adapter": adapter, **kind, **trainer}
        folder = tmp_path / str(number)
        folder.mkdir()
        runs.append(
            run_in_processes(
                step_in_a_process, folder, str(tiny_model_folder), str(folder), options
            )
        )
    for (ours, shapes), (plain, plain_shapes) in zip(*runs, strict=True):
        assert_same_gradients(ours, plain)
        assert len(shapes) == len(plain_shapes)
        assert max(tokens(shapes)) <= max(tokens(plain_shapes))


class OwnLoss(CoLMSFTTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return model(**inputs).logits.float().mean()


UNTOUCHED = {
    "as drawn": ({"arrange": "as_drawn"}, {}),
    "one micro-batch a step, and no sources": ({"gradient_accumulation_steps": 1}, {}),
    "packed": ({"packing": True, "max_length": 64, "source_column": None}, {}),
    "a loss of one's own": (
        {},
        {"compute_loss_func": lambda outputs, labels, num_items_in_batch: outputs.logits.mean()},
    ),
    "another loss of one's own": ({"trainer_class": OwnLoss}, {}),
    "batches read for others": ({"accelerator_config": {"dispatch_batches": True}}, {}),
}


@pytest.mark.filterwarnings("ignore:.*compute_loss_func:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*[Pp]ack")
@pytest.mark.parametrize("name", UNTOUCHED)
def test_nothing_is_rearranged_where_nothing_is_to_gain_or_weights_would_change(
    make_trainer, dataset, name
):
    options, trainer_options = UNTOUCHED[name]
    if "no sources" in name:
        dataset = dataset.remove_columns("source")
    trainer = make_trainer(dataset, trainer_options=trainer_options, **ARRANGED, **options)
    assert not isinstance(next(iter(trainer.get_train_dataloader())), Pool)


def test_a_loss_that_is_replaced_later_is_over_micro_batches_as_drawn(make_trainer, dataset):
    drawn = make_trainer(dataset, **ARRANGED, arrange="as_drawn")
    expected = [each["input_ids"] for each in drawn.get_train_dataloader()][:2]
    trainer = make_trainer(dataset, **ARRANGED)
    pools = iter(trainer.get_train_dataloader())
    trainer.compute_loss_func = lambda outputs, labels, num_items_in_batch: outputs.logits.mean()
    batches, _ = trainer.get_batch_samples(pools, 2, trainer.args.device)
    for batch, ids in zip(batches, expected, strict=True):
        torch.testing.assert_close(batch["input_ids"], ids)


def test_a_loader_of_ones_own_is_trained_on_as_it_is(make_trainer, dataset):
    class Own(CoLMSFTTrainer):
        def get_train_dataloader(self):
            self.seen = [type(batch) for batch in super().get_train_dataloader()]
            return super().get_train_dataloader()

    trainer = make_trainer(dataset, trainer_class=Own, max_steps=1, **ARRANGED)
    trainer.train()
    assert Pool not in trainer.seen


def test_a_collator_of_ones_own_sees_the_columns_that_it_would(make_trainer, dataset):
    seen = []

    def run(**options):
        trainer = make_trainer(
            dataset, max_steps=1, remove_unused_columns=False, source_column="source", **options
        )
        collate = trainer.data_collator
        seen.append([])
        trainer.data_collator = lambda examples: (
            seen[-1].extend(dict(each) for each in examples) or collate(examples)
        )
        trainer.train()

    run(**ARRANGED)
    run(**ARRANGED, arrange="as_drawn")
    by_length, as_drawn = (sorted(map(str, each)) for each in seen)
    # The plain loader reads a batch ahead.
    assert set(by_length) <= set(as_drawn)
    assert len(by_length) == 8
    assert "source" in seen[0][0]


@pytest.mark.slow
@pytest.mark.parametrize("workers", quick_first([0, 1]))
def test_streams_and_workers_bring_what_they_would(tiny_model_folder, dataset, tmp_path, workers):
    runs = [
        run(
            tiny_model_folder,
            dataset.to_iterable_dataset(num_shards=1),
            output_dir=str(tmp_path),
            dataloader_num_workers=workers,
            dataloader_persistent_workers=workers > 0,
            max_steps=8,
            **kind,
        )
        for kind in (ARRANGED, PLAIN)
    ]
    assert_same_gradients(runs[0][0], runs[1][0])
    assert sum(tokens(runs[0][1])) < sum(tokens(runs[1][1]))


@pytest.mark.slow
def test_resumed_within_an_epoch_is_bit_identical_to_uninterrupted(make_trainer, dataset, tmp_path):
    options = ARRANGED | {
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 4,
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 2,
        "trainer_options": {"peft_config": LORA},
    }
    whole = make_trainer(dataset, **options, output_dir=str(tmp_path / "whole"))
    whole.train()
    first = make_trainer(dataset, **options)
    first.add_callback(StopAt(2))
    first.train()
    second = make_trainer(dataset, **options)
    second.train(resume_from_checkpoint=True)
    assert second.state.global_step == 6
    for one, other in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)


def logs_of(trainer, *names):
    """What a trainer has logged under these names, wherever it logged the first of them."""
    entries = [entry for entry in trainer.state.log_history if names[0] in entry]
    return [{name: entry[name] for name in names} for entry in entries]


def test_what_trl_logs_is_of_all_label_tokens_of_a_step(tiny_model_folder, tmp_path):
    """A micro-batch of all examples has the means that any split of them must have."""
    counting = {"include_num_input_tokens_seen": "non_padding", "logging_steps": 1}
    splits = (
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, **ARRANGED},
        {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 1, **PLAIN},
    )
    names = ("entropy", "mean_token_accuracy", "loss", "num_tokens", "num_input_tokens_seen")
    ours, whole = (
        logs_of(run(tiny_model_folder, output_dir=str(tmp_path), **counting, **split)[2], *names)
        for split in splits
    )
    assert len(ours) == 3
    for entry, expected in zip(ours, whole, strict=True):
        assert entry == pytest.approx(expected, rel=1e-5)


def test_several_steps_between_logs_are_averaged_over_their_tokens(tiny_model_folder, tmp_path):
    each, together = (
        run(tiny_model_folder, output_dir=str(tmp_path), logging_steps=steps, **ARRANGED)[2]
        for steps in (1, 3)
    )
    values = [entry["entropy"] for entry in logs_of(each, "entropy")]
    (mean,) = (entry["entropy"] for entry in logs_of(together, "entropy"))
    assert min(values) < mean < max(values)
