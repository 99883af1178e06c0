"""The loss of an evaluation: over all label tokens of the held-out examples, however batched."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from colm import CoLMSFTTrainer, CoLMTrainer, CoLMTrainingArguments
from tests.cases import quick_first
from tests.training.conftest import build_trainer, make_records
from tests.training.processes import run_in_processes

# 83 examples: the last batch is short, on one process and on two.
HELD_OUT = make_records(seed=1)[:83]
BATCH = {"per_device_eval_batch_size": 6}


def make(folder, held_out=None, *, trainer_options=None, **options):
    held_out = Dataset.from_list(HELD_OUT) if held_out is None else held_out
    return build_trainer(
        folder,
        Dataset.from_list(make_records()),
        trainer_options={"eval_dataset": held_out, **(trainer_options or {})},
        **({"max_length": None} | BATCH | options),
    )


def note_shapes(trainer):
    shapes, compute = [], trainer.compute_loss

    def noting(model, inputs, *args, **options):
        shapes.append(tuple(inputs["input_ids"].shape))
        return compute(model, inputs, *args, **options)

    trainer.compute_loss = noting
    return shapes


def expected(trainer, dataset=None):
    """Losses, entropies and hits of all label tokens, one example at a time, in float64."""
    model, totals = trainer.model.double().eval(), np.zeros(4)
    for example in trainer.eval_dataset if dataset is None else dataset:
        ids, labels = (torch.tensor(example[name]) for name in ("input_ids", "labels"))
        with torch.no_grad():
            log_probs = model(ids[None]).logits[0, :-1].log_softmax(-1)
        kept = labels[1:] != -100
        log_probs, targets = log_probs[kept], labels[1:][kept]
        totals += [
            len(targets),
            -log_probs.gather(1, targets[:, None]).sum(),
            -(log_probs.exp() * log_probs).sum(),
            (log_probs.argmax(-1) == targets).sum(),
        ]
    trainer.model.float()
    names = ("eval_loss", "eval_entropy", "eval_mean_token_accuracy")
    return dict(zip(names, totals[1:] / totals[0], strict=True))


@pytest.mark.parametrize("padding_free", quick_first([False, True]))
def test_it_is_the_mean_over_all_label_tokens(tiny_model_folder, tmp_path, padding_free):
    trainer = make(tiny_model_folder, output_dir=str(tmp_path), padding_free=padding_free)
    wanted = expected(trainer)
    shapes = note_shapes(trainer)
    metrics = trainer.evaluate()
    assert {name: metrics[name] for name in wanted} == pytest.approx(wanted, rel=1e-5)
    plain = make(
        tiny_model_folder,
        output_dir=str(tmp_path),
        padding_free=padding_free,
        trainer_class=SFTTrainer,
        config_class=SFTConfig,
    )
    plain_shapes = note_shapes(plain)
    plain_loss = plain.evaluate()["eval_loss"]
    assert plain_loss != pytest.approx(wanted["eval_loss"], rel=1e-5)
    as_drawn = make(
        tiny_model_folder, output_dir=str(tmp_path), padding_free=padding_free, arrange="as_drawn"
    )
    assert as_drawn.evaluate()["eval_loss"] == plain_loss
    ours, theirs = (np.prod(each, axis=1) for each in (shapes, plain_shapes))
    assert ours.max() <= theirs.max()
    if not padding_free:
        assert ours.sum() < 0.9 * theirs.sum()


def test_sets_by_name_and_sets_passed_later(tiny_model_folder, tmp_path):
    halves = {"one": Dataset.from_list(HELD_OUT[:40]), "two": Dataset.from_list(HELD_OUT[40:])}
    trainer = make(tiny_model_folder, halves, output_dir=str(tmp_path))
    metrics = trainer.evaluate()
    for name, dataset in trainer.eval_dataset.items():
        wanted = expected(trainer, dataset)["eval_loss"]
        assert metrics[f"eval_{name}_loss"] == pytest.approx(wanted, rel=1e-5)
    later = trainer.evaluate(Dataset.from_list(HELD_OUT[:40]), metric_key_prefix="later")
    assert later["later_loss"] == pytest.approx(metrics["eval_one_loss"], rel=1e-5)


def test_a_stream_has_its_mean_too(tiny_model_folder, tmp_path):
    whole = make(tiny_model_folder, output_dir=str(tmp_path)).evaluate()["eval_loss"]
    stream = Dataset.from_list(HELD_OUT).to_iterable_dataset()
    trainer = make(tiny_model_folder, stream, output_dir=str(tmp_path))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(whole, rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*return_outputs:FutureWarning")
def test_predictions_keep_the_order_of_their_examples(tiny_model_folder, tmp_path):
    seen = {}

    def compute_metrics(predictions):
        seen["labels"] = predictions.label_ids
        return {"examples": len(predictions.label_ids)}

    options = {"compute_metrics": compute_metrics}
    trainer = make(tiny_model_folder, output_dir=str(tmp_path), trainer_options=options)
    metrics = trainer.evaluate()
    assert metrics["eval_examples"] == len(HELD_OUT)
    assert metrics["eval_loss"] == pytest.approx(expected(trainer)["eval_loss"], rel=1e-5)
    predicted = trainer.predict(trainer.eval_dataset)
    for labels in (seen["labels"], predicted.label_ids):
        for row, example in zip(labels, trainer.eval_dataset, strict=True):
            assert row[row != -100].tolist() == [t for t in example["labels"] if t != -100]
    for row, example in zip(
        (ids for batch in trainer.get_eval_dataloader() for ids in batch["input_ids"]),
        trainer.eval_dataset,
        strict=True,
    ):
        assert row[: len(example["input_ids"])].tolist() == example["input_ids"]


def test_a_prediction_step_of_ones_own_sees_the_order_it_would(tiny_model_folder, tmp_path):
    class Own(CoLMSFTTrainer):
        def prediction_step(self, model, inputs, *args, **options):
            seen.extend(row.tolist() for row in inputs["input_ids"])
            return super().prediction_step(model, inputs, *args, **options)

    seen = []
    trainer = make(tiny_model_folder, output_dir=str(tmp_path), trainer_class=Own)
    trainer.evaluate()
    for row, example in zip(seen, trainer.eval_dataset, strict=True):
        assert row[: len(example["input_ids"])] == example["input_ids"]


def test_the_trainer_of_transformers_has_the_same_mean(tiny_model_folder, tmp_path):
    sft = make(tiny_model_folder, output_dir=str(tmp_path))
    trainer = CoLMTrainer(
        sft.model,
        CoLMTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **BATCH),
        train_dataset=sft.train_dataset,
        eval_dataset=sft.eval_dataset,
        data_collator=sft.data_collator,
    )
    wanted = expected(sft)["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(wanted, rel=1e-5)


def evaluate_in_a_process(folder, output, kind, options):
    trainer = make(folder, output_dir=output, **options)
    if kind == "transformers":
        trainer = CoLMTrainer(
            trainer.model,
            CoLMTrainingArguments(output_dir=output, use_cpu=True, report_to="none", **BATCH),
            train_dataset=trainer.train_dataset,
            eval_dataset=trainer.eval_dataset,
            data_collator=trainer.data_collator,
        )
    return trainer.evaluate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    [("trl", {}), ("trl", {"padding_free": True}), ("transformers", {})],
)
def test_no_example_counts_twice_in_two_processes(tiny_model_folder, tmp_path, kind, options):
    wanted = expected(make(tiny_model_folder, output_dir=str(tmp_path)))
    for metrics in run_in_processes(
        evaluate_in_a_process, tmp_path, str(tiny_model_folder), str(tmp_path), kind, options
    ):
        names = wanted if kind == "trl" else ["eval_loss"]
        assert {name: metrics[name] for name in names} == pytest.approx(
            {name: wanted[name] for name in names}, rel=1e-5
        )
