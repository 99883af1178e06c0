"""Token ids that the model does not have are told before training, with whose they are."""

import pytest
from datasets import Dataset, IterableDataset
from peft import LoraConfig
from torch.utils.data import Dataset as TorchDataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from colm import CoLMConfig, CoLMSFTTrainer, CoLMTrainer, CoLMTrainingArguments
from colm.cli import main
from colm.training.vocabulary import vocabulary_size


def options(folder, **more) -> dict:
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "save_strategy": "no",
        "disable_tqdm": True,
        **more,
    }


def tokenized(*ids: int, rows: int = 8) -> Dataset:
    good = {"input_ids": [3, 4, 5], "labels": [-100, 4, 5]}
    return Dataset.from_list([good] * rows + [{"input_ids": [3, *ids], "labels": [-100, *ids]}])


@pytest.fixture
def size(tiny_model_folder) -> int:
    return vocabulary_size(AutoModelForCausalLM.from_pretrained(tiny_model_folder))


@pytest.mark.parametrize("candidate_ratio", [1, 2])
@pytest.mark.parametrize("beyond", [0, 10**6, "negative"])
def test_an_id_beyond_the_vocabulary_is_told(
    candidate_ratio, beyond, tiny_model_folder, tmp_path, size
) -> None:
    wrong = -1 if beyond == "negative" else size + beyond
    args = CoLMConfig(**options(tmp_path, candidate_ratio=candidate_ratio))
    with pytest.raises(ValueError, match=f"training data.*{wrong} .*tokenizer") as raised:
        CoLMSFTTrainer(str(tiny_model_folder), args, train_dataset=tokenized(wrong, 4))
    assert str(tiny_model_folder) in str(raised.value)
    assert f"ids 0 to {size - 1}" in str(raised.value)


def test_ids_are_read_in_any_order_and_in_evaluation(tiny_model_folder, tmp_path, size) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    plain = CoLMTrainingArguments(**options(tmp_path))
    last = tokenized(size - 1)
    CoLMTrainer(model, plain, train_dataset=last)
    wrong = tokenized(size, rows=30).shuffle(seed=1)
    with pytest.raises(ValueError, match="training data"):
        CoLMTrainer(model, plain, train_dataset=wrong.select(range(31)))
    with pytest.raises(ValueError, match=r"evaluation \(b\) data"):
        CoLMTrainer(model, plain, train_dataset=last, eval_dataset={"a": last, "b": wrong})


@pytest.mark.parametrize("peft", [False, True])
def test_tokens_that_were_added_to_the_tokenizer_alone(peft, tiny_model_folder, tmp_path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    size = vocabulary_size(model)
    tokenizer.add_tokens([f"<new-{i}>" for i in range(size)])
    data = Dataset.from_list([{"text": f"a b <new-{i + size - 9}>"} for i in range(9)])
    args = CoLMConfig(**options(tmp_path))
    adapter = LoraConfig(target_modules="all-linear") if peft else None
    with pytest.raises(ValueError, match="resize"):
        CoLMSFTTrainer(
            model, args, train_dataset=data, processing_class=tokenizer, peft_config=adapter
        )
    model.resize_token_embeddings(len(tokenizer))
    args = CoLMConfig(**options(tmp_path))
    CoLMSFTTrainer(model, args, train_dataset=data, processing_class=tokenizer)


def test_a_padding_token_that_the_model_lacks(tiny_model_folder, tmp_path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    words = [f"<new-{i}>" for i in range(vocabulary_size(model))]
    tokenizer.add_tokens(words)
    tokenizer.pad_token = words[-1]
    data = Dataset.from_list([{"text": "a b"}] * 8)
    with pytest.raises(ValueError, match="padding token '<new-"):
        CoLMSFTTrainer(
            model,
            CoLMConfig(**options(tmp_path)),
            train_dataset=data,
            processing_class=tokenizer,
        )


class Rows(TorchDataset):
    """A data set of PyTorch's."""

    def __init__(self, rows: Dataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict:
        return self.rows[row]


@pytest.mark.parametrize("kind", [Rows, lambda rows: IterableDataset.from_generator(rows.__iter__)])
def test_what_cannot_be_read_before_is_told_when_drawn(
    kind, tiny_model_folder, tmp_path, size
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    data = kind(Dataset.from_list([{"input_ids": [3, size], "labels": [3, size]}] * 8))
    args = CoLMTrainingArguments(**options(tmp_path))
    trainer = CoLMTrainer(model, args, train_dataset=data)
    with pytest.raises(ValueError, match=f"{size} in input_ids"):
        trainer.train()


def test_another_models_tokenizer_is_one_line(tiny_model_folder, tmp_path, capsys) -> None:
    folder = tmp_path / "model"
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    model.resize_token_embeddings(8)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(folder)
    data = tmp_path / "train.jsonl"
    data.write_text('{"prompt": "1+1=", "completion": "2"}\n' * 9)
    given = options(tmp_path / "out") | {"model_name_or_path": folder, "dataset_name": data}
    assert main(["sft", *(f"--{name}={value}" for name, value in given.items())]) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert f"model {folder} has embeddings for ids 0 to 7" in err.splitlines()[-1]
    assert not (tmp_path / "out" / "adapter_model.safetensors").exists()
