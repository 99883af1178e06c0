"""A run is resumed on the same data, with the same model and options, or not at all."""

import json
import logging
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, IterableDataset, concatenate_datasets
from peft import IA3Config, LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling

from colm import CoLMConfig, CoLMTrainer, CoLMTrainingArguments
from colm.training.checkpoints import data_digest, manifest
from colm.training.checkpoints.data_digest import describe_data
from colm.training.checkpoints.identity import find_difference
from colm.training.checkpoints.model_digest import describe_model
from colm.training.checkpoints.run_options import MAY_DIFFER
from tests.cases import quick_first
from tests.training.conftest import build_trainer, make_records

SAVING = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2}
LONGER = SAVING | {"max_steps": 3}
RECORDS = make_records()
# What a finished run is resumed with in place of its data.
OTHER_DATA = {
    "reversed": RECORDS[::-1],
    "cut": RECORDS[:40],
    "longer": [*RECORDS, RECORDS[0]],
    "one text": [*RECORDS[:-1], RECORDS[-1] | {"completion": "another"}],
    "one source": [*RECORDS[:-1], RECORDS[-1] | {"source": "rare2"}],
    "merged sources": [record | {"source": "one"} for record in RECORDS],
}
OTHER_OPTIONS = {
    "learning_rate": 2e-3,
    "lr_scheduler_type": "constant",
    "warmup_steps": 1,
    "weight_decay": 0.1,
    "optim": "adafactor",
    "max_grad_norm": 0.5,
    "neftune_noise_alpha": 5.0,
    "max_length": 8,
    "completion_only_loss": False,
    "packing": True,
    "padding_free": True,
    "train_sampling_strategy": "sequential",
    "dataloader_drop_last": True,
    "gradient_accumulation_steps": 1,
    "per_device_train_batch_size": 2,
    "seed": 7,
    "data_seed": 7,
    "loss_type": "dft",
}
# Values that differ from those of a plain run, for what may.
ALLOWED = {
    "num_train_epochs": 9,
    "logging_steps": 7,
    "save_steps": 1,
    "save_total_limit": 1,
    "eval_steps": 3,
    "run_name": "another",
    "report_to": [],
    "selection_tokens": 100,
    "gradient_checkpointing": True,
    "dataset_num_proc": 1,
    "disable_tqdm": False,
    "per_device_eval_batch_size": 1,
    "match_every": 1,
}


IA3 = IA3Config(target_modules=["v_proj"], feedforward_modules=[], task_type="CAUSAL_LM")


def lora(**options):
    defaults = {"r": 4, "lora_alpha": 8, "target_modules": ["v_proj"], "task_type": "CAUSAL_LM"}
    return {"trainer_options": {"peft_config": LoraConfig(**defaults | options)}}


@pytest.fixture(scope="module")
def finished(tiny_model_folder, tmp_path_factory):
    """The checkpoint of a run, by the ratio of its candidates and whether it trains adapters."""
    folder, made = tmp_path_factory.mktemp("finished"), {}

    def get(ratio=2, adapters=True):
        name = f"{ratio}-{adapters}"
        if name not in made:
            options = SAVING | {"candidate_ratio": ratio, "output_dir": str(folder / name)}
            options |= lora() if adapters else {}
            build_trainer(tiny_model_folder, Dataset.from_list(RECORDS), **options).train()
            made[name] = str(folder / name / "checkpoint-2")
        return made[name]

    return get


@pytest.fixture
def resume(make_trainer):
    """Resume from a checkpoint; the line that refuses it, or the trainer."""

    def go_on(checkpoint, data=None, **options):
        data = Dataset.from_list(RECORDS) if data is None else data
        trainer = make_trainer(data, **LONGER | options)
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        except ValueError as error:
            line = str(error)
        else:
            assert trainer.state.global_step == 3
            return trainer
        assert "\n" not in line
        assert trainer.state.global_step == 0
        return line

    return go_on


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [2, 1])
def test_the_same_run_goes_on_whatever_may_differ(finished, resume, ratio, caplog):
    assert set(ALLOWED) <= {name for names in MAY_DIFFER.values() for name in names}
    with caplog.at_level(logging.WARNING, "colm"):
        trainer = resume(finished(ratio), candidate_ratio=ratio, **lora(), **ALLOWED)
    assert not isinstance(trainer, str), trainer
    assert not [record for record in caplog.records if record.name.startswith("colm")]


@pytest.mark.slow
@pytest.mark.parametrize("ratio", quick_first([2, 1]))
@pytest.mark.parametrize("name", OTHER_DATA)
def test_other_data_are_refused(finished, resume, name, ratio):
    data = Dataset.from_list(OTHER_DATA[name])
    line = resume(finished(ratio), data, **lora(), candidate_ratio=ratio)
    if ratio == 1 and "source" in name:
        # Where nothing is selected, nothing goes by the sources.
        assert not isinstance(line, str)
        return
    expected = {"cut": "40 training examples", "longer": "85 training examples"}
    expected |= {"one source": "'source'", "merged sources": "'source'"}
    assert expected.get(name, "column '") in line
    assert "checkpoint-2" in line


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_OPTIONS)
def test_other_options_are_refused_by_name(finished, resume, name):
    options = {"candidate_ratio": 1, name: OTHER_OPTIONS[name]}
    if name == "padding_free":
        options["max_length"] = None
    line = resume(finished(1), **lora(), **options)
    assert ("max_length" if name == "padding_free" else name) in line
    assert "written with" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "named"),
    [
        (lora(r=2), "lora_r is 2"),
        (lora(lora_alpha=64), "lora_alpha is 64"),
        (lora(lora_dropout=0.5), "lora_dropout is 0.5"),
        (lora(target_modules=["q_proj", "v_proj"]), "lora_target_modules"),
        (lora(use_rslora=True), "lora_use_rslora"),
        ({}, "kind of adapter is 'none'"),
        (
            {"trainer_options": {"peft_config": IA3},},
            "kind of adapter is ['IA3']",
        ),
        ({"subspace_rank": 2}, "subspace_rank is 2"),
    ],
)  # fmt: skip
def test_other_adapters_and_kinds_of_training_are_refused(finished, resume, options, named):
    assert named in resume(finished(), **options)


@pytest.mark.slow
def test_an_optimizer_of_ones_own_is_part_of_the_run(finished, make_trainer):
    trainer = make_trainer(Dataset.from_list(RECORDS), **LONGER)
    own = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    options = {"trainer_options": {"optimizers": (own, None)}}
    trainer = make_trainer(Dataset.from_list(RECORDS), **LONGER, **options)
    with pytest.raises(ValueError, match=r"optimizer is 'SGD', but .* written with None"):
        trainer.train(resume_from_checkpoint=finished(adapters=False))


def other_model(folder, tmp_path, **changes):
    """A model of the same kind with other weights, or of another size."""
    torch.manual_seed(9)
    config = AutoModelForCausalLM.from_pretrained(folder).config
    for name, value in changes.items():
        setattr(config, name, value)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "other")
    return tmp_path / "other"


@pytest.mark.slow
@pytest.mark.parametrize("changes", quick_first([{}, {"num_hidden_layers": 1}]))
@pytest.mark.parametrize("adapters", [True, False])
def test_another_base_model(finished, tiny_model_folder, tmp_path, adapters, changes, caplog):
    model = other_model(tiny_model_folder, tmp_path, **changes)
    options = LONGER | (lora() if adapters else {}) | {"output_dir": str(tmp_path / "run")}
    trainer = build_trainer(model, Dataset.from_list(RECORDS), **options)
    if adapters or changes:
        named = "num_hidden_layers of the model is 1" if changes else "frozen weights"
        with pytest.raises(ValueError, match=named):
            trainer.train(resume_from_checkpoint=finished(adapters=adapters))
        return
    # Where all weights come from the checkpoint, nothing goes wrong; it is said.
    with caplog.at_level(logging.WARNING, "colm"):
        trainer.train(resume_from_checkpoint=finished(adapters=False))
    assert "other weights" in caplog.text


@pytest.mark.slow
def test_a_model_that_was_trained_here_goes_on(make_trainer, dataset, tmp_path, caplog):
    trainer = make_trainer(dataset, **SAVING)
    trainer.train()
    trainer.args.max_steps = 3
    with caplog.at_level(logging.WARNING, "colm"):
        trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 3
    assert caplog.messages == []


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [2, 1])
def test_a_checkpoint_that_does_not_say_what_it_belongs_to_is_one_warning(
    make_trainer, dataset, tmp_path, caplog, ratio
):
    make_trainer(dataset, **SAVING, candidate_ratio=ratio).train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    (checkpoint / manifest.IDENTITY_FILE).unlink()
    manifest.write_manifest(checkpoint)
    with caplog.at_level(logging.WARNING, "colm"):
        make_trainer(dataset, **LONGER, candidate_ratio=ratio).train(resume_from_checkpoint=True)
    (line,) = caplog.messages
    assert "does not say which data" in line
    # What does not fit at all is one line, too.
    for options in (lora(), {"optim": "adafactor"}):
        trainer = make_trainer(dataset, **LONGER, candidate_ratio=ratio, **options)
        with pytest.raises(ValueError, match="does not fit this run") as caught:
            trainer.train(resume_from_checkpoint=str(checkpoint))
        assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "colm identity 1", "options": 3}', "[" * 9999]
)
def test_what_cannot_be_read_is_named(make_trainer, dataset, tmp_path, text):
    make_trainer(dataset, **SAVING).train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    (checkpoint / manifest.IDENTITY_FILE).write_text(text)
    manifest.write_manifest(checkpoint)
    with pytest.raises(ValueError, match=rf"{manifest.IDENTITY_FILE} that cannot be read"):
        make_trainer(dataset, **LONGER).train(resume_from_checkpoint=True)


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "problem"), [({}, None), ({"seed": 5}, "seed is 5")])
def test_what_earlier_versions_wrote_is_held_against_the_run(
    make_trainer, dataset, tmp_path, changes, problem, caplog
):
    make_trainer(dataset, **SAVING).train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    identity = json.loads((checkpoint / manifest.IDENTITY_FILE).read_text())
    (checkpoint / manifest.IDENTITY_FILE).unlink()
    former = json.dumps(identity | {"format": "colm run 1"})
    (checkpoint / "colm_run.json").write_text(former)
    manifest.write_manifest(checkpoint)
    trainer = make_trainer(dataset, **LONGER, **changes)
    if problem is None:
        with caplog.at_level(logging.WARNING, "colm"):
            trainer.train(resume_from_checkpoint=True)
        assert trainer.state.global_step == LONGER["max_steps"]
        assert caplog.messages == []
    else:
        with pytest.raises(ValueError, match=problem):
            trainer.train(resume_from_checkpoint=True)


def test_nothing_secret_is_written_down(make_trainer, dataset, tmp_path):
    make_trainer(dataset, **SAVING, hub_token="hf_secret", hub_model_id="me/mine").train()
    text = (tmp_path / "run" / "checkpoint-2" / manifest.IDENTITY_FILE).read_text()
    assert "secret" not in text
    assert str(tmp_path) not in text


# Streams, data sets of PyTorch, and how data lie in memory.


def streamed(records):
    return Dataset.from_list(records).to_iterable_dataset()


@pytest.mark.slow
def test_a_stream_goes_on_as_the_same_stream(finished, make_trainer, tmp_path, resume):
    make_trainer(streamed(RECORDS), **SAVING).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    assert "a stream, but" in resume(finished(), streamed(RECORDS), **lora())
    assert "84 examples" in resume(checkpoint)
    assert "column '" in resume(checkpoint, streamed(RECORDS[::-1]))
    assert "dataloader_num_workers is 1" in resume(
        checkpoint, streamed(RECORDS), dataloader_num_workers=1
    )
    assert resume(checkpoint, streamed(RECORDS)).state.global_step == 3


class Tokens(torch.utils.data.Dataset):
    """Examples as tensors, and no table."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"input_ids": torch.tensor(self.rows[index])}


class Endless(torch.utils.data.IterableDataset):
    """A stream that is gone once it is read."""

    def __init__(self, rows):
        self.left = iter(rows)

    def __iter__(self):
        return self.left


@pytest.mark.slow
def test_data_sets_of_pytorch(make_trainer, tmp_path):
    rows = [[5 + i % 90, 6, 7 + i % 11, 8] for i in range(600)]
    kind = {"trainer_class": CoLMTrainer, "config_class": CoLMTrainingArguments}

    def make(data, **options):
        trainer = make_trainer(data, **kind, **options)
        trainer.data_collator = DataCollatorForLanguageModeling(trainer.processing_class, mlm=False)
        return trainer

    make(Tokens(rows), **SAVING).train()
    for other, named in ((rows[::-1], "column 'input_ids'"), (rows[:500], "500 training examples")):
        with pytest.raises(ValueError, match=named):
            make(Tokens(other), **LONGER).train(resume_from_checkpoint=True)
    make(Tokens(rows), **LONGER).train(resume_from_checkpoint=True)
    assert describe_data(Endless(rows), {"input_ids"}) == {"kind": "stream"}


class Drawing(Tokens):
    """Examples that differ each time they are read."""

    def __getitem__(self, index):
        return {"input_ids": torch.randint(9, (4,)), "place": random.random()}


def test_what_differs_each_time_is_not_compared_and_no_generator_moves():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    data = Drawing([0] * 9)
    assert describe_data(data, set()) == {"kind": "whole", "number": 9}
    assert torch.equal(torch.rand(3), expected)

    def draw():
        yield from ({"a": random.random()} for _ in range(3))

    assert describe_data(IterableDataset.from_generator(draw), set()) == {"kind": "stream"}


ROWS = [
    {
        "input_ids": list(range(i % 5)),
        "mask": [i % 3 == 0] * (i % 4),
        "text": None if i % 7 == 0 else "é" * (i % 3),
        "number": i / 3,
        "whole": None if i % 6 == 0 else i,
        "deep": {"a": [{"b": [i, None]}], "c": None},
        "flag": bool(i % 2),
    }
    for i in range(3000)
]


@pytest.mark.slow
def test_a_digest_is_of_what_is_in_the_rows_and_not_of_how_they_lie(tmp_path):
    data = Dataset.from_list(ROWS)
    wanted = describe_data(data, set())
    assert set(wanted["columns"]) == set(ROWS[0])
    data.save_to_disk(tmp_path / "saved", num_shards=3)
    shuffled = data.shuffle(seed=1)
    back = np.argsort(np.array(shuffled._indices.column(0)))
    lie_otherwise = [
        Dataset.load_from_disk(tmp_path / "saved"),
        concatenate_datasets([data.select(range(13)), data.select(range(13, 3000))]),
        Dataset.from_list([ROWS[5], *ROWS, ROWS[7]]).select(range(1, 3001)),
        shuffled.select(back),
        data.with_format("torch"),
        data.map(lambda row: row, load_from_cache_file=False, writer_batch_size=7),
    ]
    for other in lie_otherwise:
        assert describe_data(other, set()) == wanted
    for name in ROWS[0]:
        changed = [dict(row) for row in ROWS]
        changed[1500][name] = ROWS[1501][name]
        found = describe_data(Dataset.from_list(changed, features=data.features), set())
        wrong = {
            key for key in wanted["columns"] if found["columns"][key] != wanted["columns"][key]
        }
        assert wrong == {name}
    assert describe_data(data, {"text", "missing"})["columns"].keys() == {"text"}


def test_nested_rows_are_told_apart():
    for one, other in (
        ([[1], [2, 3]], [[1, 2], [3]]),
        ([[1, 2], []], [[1], [2]]),
        (["ab", "c"], ["a", "bc"]),
        ([None, "a"], ["", "a"]),
        ([[None], [1]], [None, [1]]),
        ([0, None], [None, 0]),
        ([1.0, 2.0], [2.0, 1.0]),
    ):
        digests = [describe_data(Dataset.from_dict({"x": rows}), set()) for rows in (one, other)]
        assert digests[0] != digests[1]
    types = (
        pa.large_list(pa.int64()),
        pa.list_(pa.int64(), 2),
        pa.dictionary(pa.int8(), pa.string()),
        pa.binary(),
        pa.date32(),
    )
    values = ([[1, 2]], [[1, 2]], ["a"], [b"a"], [3])
    for kind, value in zip(types, values, strict=True):
        table = Dataset(pa.table({"x": pa.array(value, kind)}))
        assert describe_data(table, set()) == describe_data(table, set())


def test_of_very_many_rows_blocks_are_read(monkeypatch):
    monkeypatch.setattr(data_digest, "MOST_ROWS", 40)
    monkeypatch.setattr(data_digest, "BLOCK_ROWS", 10)
    rows = list(range(1000))
    digest = describe_data(Dataset.from_dict({"x": rows}), set())
    assert digest == describe_data(Dataset.from_dict({"x": rows}), set())
    for other in (rows[::-1], [*rows[:-1], -1], [-1, *rows[1:]]):
        assert describe_data(Dataset.from_dict({"x": other}), set()) != digest


def test_two_versions_of_a_library_may_have_other_options(finished):
    written = json.loads(Path(finished(), manifest.IDENTITY_FILE).read_text())
    later = json.loads(json.dumps(written))
    later["options"]["new_option"] = 3
    del later["options"]["adam_beta1"]
    assert find_difference(written, later, Path("run")) is None


def test_every_option_that_may_differ_has_a_reason_and_exists():
    known = set(CoLMConfig.__dataclass_fields__)
    listed = [name for names in MAY_DIFFER.values() for name in names]
    assert len(listed) == len(set(listed))
    assert set(listed) <= known


def test_the_type_of_a_model_is_that_of_its_weights(tiny_model_folder, tmp_path):
    """Saving writes the type into the model's own configuration, where nobody had set it."""
    config = AutoModelForCausalLM.from_pretrained(tiny_model_folder).config
    config.dtype = None
    model = AutoModelForCausalLM.from_config(config)
    before = describe_model(model)
    model.save_pretrained(tmp_path)
    assert model.config.dtype is not None
    assert describe_model(model) == before
    assert describe_model(model.bfloat16()) != before
