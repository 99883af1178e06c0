"""``colm sft`` from file to saved model, and every bad input: one line, code 2, nothing touched."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from colm.cli import main
from colm.run_record import read_record
from tests.cases import quick_first

pytestmark = pytest.mark.usefixtures("no_progress_bars")
SOURCES = {"algebra": 12, "logic": 8, "rare": 2}
QUICK = (
    "--max_steps=2",
    "--per_device_train_batch_size=2",
    "--learning_rate=1e-2",
    "--max_length=64",
    "--bf16=false",
    "--gradient_checkpointing=false",
    "--logging_steps=1",
    "--report_to=none",
    "--save_strategy=no",
    "--disable_tqdm=true",
)


def records(layout: str) -> list[dict]:
    """A mixture of three sources in a layout."""
    rows = []
    for source, count in SOURCES.items():
        for i in range(count):
            asked, answer = f"{source} {i}?", f"{i * i} is it"
            said = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
            row = {
                "prompt": {"prompt": asked, "completion": answer},
                "conversation": {"prompt": said[:1], "completion": said[1:]},
                "instruction": {"instruction": asked, "input": "now", "output": answer},
                "question": {"question": asked, "answer": answer},
                "messages": {"messages": said},
                "sharegpt": {
                    "conversations": [
                        {"from": "human", "value": asked},
                        {"from": "gpt", "value": answer},
                    ]
                },
                "text": {"text": f"{asked} {answer}"},
            }[layout]
            rows.append({**row, "source": source})
    return rows


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    if path.suffix == ".csv":
        import pandas

        pandas.DataFrame(rows).to_csv(path, index=False)
    elif path.suffix == ".parquet":
        import pandas

        pandas.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "train.jsonl", records("instruction"))


@pytest.fixture
def sft(tmp_path: Path, tiny_model_folder: Path, data: Path, capsys):
    """Run ``colm sft``; later arguments override the quick ones. Returns exit code and stderr."""

    def run(*arguments: str, model: Path = tiny_model_folder) -> tuple[int, str]:
        options = [
            f"--model_name_or_path={model}",
            f"--dataset_name={data}",
            f"--output_dir={tmp_path / 'out'}",
            *QUICK,
            *map(str, arguments),
        ]
        capsys.readouterr()
        code = main(["sft", *options])
        return code, capsys.readouterr().err

    return run


def log_of(folder: Path) -> list[dict]:
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout", ["prompt", "conversation", "instruction", "question", "messages", "sharegpt", "text"]
)
def test_every_layout_is_trained_on(sft, tmp_path, tiny_model_folder, layout: str) -> None:
    path = write(tmp_path / "layout.jsonl", records(layout))
    code, err = sft(f"--dataset_name={path}")
    assert code == 0, err
    assert "22 examples of 3 sources: algebra 12, logic 8, rare 2" in err
    before, after = weights_of(tiny_model_folder), weights_of(tmp_path / "out")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    logged = [entry for entry in log_of(tmp_path / "out") if "loss" in entry]
    assert [entry["step"] for entry in logged] == [1, 2]
    assert [entry["colm/candidates"] for entry in logged] == [4, 4]
    assert [entry["colm/kept"] for entry in logged] == [2, 2]


@pytest.mark.parametrize("layout", quick_first(["prompt", "instruction", "question", "text"]))
def test_a_tokenizer_without_chat_template_will_do(
    sft, tmp_path, tiny_base_model_folder, layout: str
) -> None:
    path = write(tmp_path / "layout.jsonl", records(layout))
    code, err = sft(f"--dataset_name={path}", model=tiny_base_model_folder)
    assert code == 0, err


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_every_kind_of_file_is_trained_on(sft, tmp_path, suffix: str) -> None:
    path = write(tmp_path / f"table{suffix}", records("question"))
    code, err = sft(f"--dataset_name={path}")
    assert code == 0, err
    assert "22 examples of 3 sources" in err


@pytest.mark.slow
def test_the_kind_of_file_does_not_change_the_model(sft, tmp_path) -> None:
    weights = []
    for suffix in (".jsonl", ".csv", ".parquet"):
        path = write(tmp_path / f"table{suffix}", records("question"))
        assert sft(f"--dataset_name={path}", f"--output_dir={tmp_path / suffix[1:]}")[0] == 0
        weights.append(weights_of(tmp_path / suffix[1:]))
    for other in weights[1:]:
        assert all(torch.equal(weights[0][name], other[name]) for name in other)


@pytest.mark.slow
def test_a_recipe_of_several_sources(sft, tmp_path) -> None:
    for source in SOURCES:
        rows = [row for row in records("question") if row.pop("source") == source]
        write(tmp_path / f"{source}.jsonl", rows)
    write(tmp_path / "logic.jsonl", records("instruction")[12:20])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"""
datasets:
  - path: {tmp_path}/algebra.jsonl
    name: numbers
  - path: {tmp_path}/logic.jsonl
    columns: [instruction, input, output]
  - path: {tmp_path}/rare.jsonl
learning_rate: 1e-3
use_peft: true
lora_target_modules: all-linear
source_column: source
""")
    code, err = sft("--config", str(recipe), "--max_steps=4")
    assert code == 0, err
    assert "dataset_name" in err
    assert "22 examples of 3 sources: numbers 12, logic 8, rare 2" in err
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    logged = [entry for entry in log_of(tmp_path / "out") if "loss" in entry]
    drawn = {key for entry in logged for key in entry if key.startswith("colm/candidates/")}
    assert drawn <= {f"colm/candidates/{source}" for source in ("numbers", "logic", "rare")}
    assert "colm/candidates/numbers" in drawn


def test_a_file_without_sources_is_one(sft, tmp_path) -> None:
    rows = [{k: v for k, v in row.items() if k != "source"} for row in records("question")]
    path = write(tmp_path / "plain.jsonl", rows)
    code, err = sft(f"--dataset_name={path}")
    assert code == 0, err
    assert "22 examples of 1 source: plain 22" in err


def test_empty_records_are_skipped_and_counted(sft, tmp_path) -> None:
    rows = [*records("question"), {"question": "?", "answer": None, "source": "rare"}]
    code, err = sft(f"--dataset_name={write(tmp_path / 'gaps.jsonl', rows)}")
    assert code == 0, err
    assert "colm: gaps: left out 1 of 23 records: empty in question + answer" in err


def test_examples_without_label_tokens_are_skipped_and_counted(sft, tmp_path) -> None:
    rows = [*records("question"), {"question": "?" * 80, "answer": "cut off", "source": "rare"}]
    path = write(tmp_path / "long.jsonl", rows)
    code, err = sft(f"--dataset_name={path}")
    assert code == 0, err
    assert "left out 1 of 23 training examples: no label tokens within max_length 64" in err
    path = write(tmp_path / "too_long.jsonl", rows[-1:] * 4)
    before = tree(tmp_path)
    code, err = sft(f"--dataset_name={path}", f"--output_dir={tmp_path / 'none'}")
    assert code == 2
    assert "none of the 4 training examples has label tokens within max_length 64" in err
    assert tree(tmp_path) == before


@pytest.mark.slow
def test_stopped_and_resumed_equals_uninterrupted(sft, tmp_path) -> None:
    saving = ["--max_steps=4", "--save_strategy=steps", "--save_steps=2", "--use_peft"]
    code, err = sft(*saving, f"--output_dir={tmp_path / 'whole'}")
    assert code == 0, err
    stopped = tmp_path / "stopped"
    (tmp_path / "whole" / "checkpoint-2").rename(tmp_path / "checkpoint-2")
    stopped.mkdir()
    (tmp_path / "checkpoint-2").rename(stopped / "checkpoint-2")
    code, err = sft(*saving, f"--output_dir={stopped}", "--resume_from_checkpoint=true")
    assert code == 0, err
    name = "adapter_model.safetensors"
    whole, resumed = load_file(tmp_path / "whole" / name), load_file(stopped / name)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    logs = [[e for e in log_of(f) if "loss" in e] for f in (tmp_path / "whole", stopped)]
    assert [e["loss"] for e in logs[0]] == [e["loss"] for e in logs[1]]


def test_a_run_is_not_resumed_under_other_settings(sft, tmp_path) -> None:
    assert sft("--save_strategy=steps", "--save_steps=1")[0] == 0
    before = tree(tmp_path)
    code, err = sft("--resume_from_checkpoint=true", "--max_steps=4", "--candidate_ratio=4")
    assert code == 2
    assert "candidate_ratio is 4.0" in err
    assert tree(tmp_path) == before


def test_files_can_be_named_on_the_command_line(sft, tmp_path) -> None:
    paths = [write(tmp_path / f"{name}.jsonl", [{"text": name}] * 4) for name in ("one", "two")]
    code, err = sft("--datasets", *paths)
    assert code == 0, err
    assert "8 examples of 2 sources: one 4, two 4" in err


@pytest.mark.slow
def test_evaluation_holds_out_of_every_source(sft, tmp_path) -> None:
    code, err = sft("--eval_strategy=steps", "--eval_steps=1")
    assert code == 0, err
    assert "held out 3 of 22 examples for evaluation, from every source its share" in err
    assert "no test split" in err
    evaluated = [entry for entry in log_of(tmp_path / "out") if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluated] == [1, 2]
    code, err = sft("--test_split_size=0.5", "--eval_strategy=epoch", f"--output_dir={tmp_path}/o2")
    assert code == 0, err
    assert "held out 11 of 22" in err
    assert "no test split" not in err


def test_a_folder_with_a_test_split_is_evaluated_on_it(sft, tmp_path) -> None:
    write(tmp_path / "both" / "train.jsonl", records("question"))
    write(tmp_path / "both" / "test.jsonl", records("question")[:3])
    code, err = sft(
        f"--dataset_name={tmp_path / 'both'}", "--eval_strategy=steps", "--eval_steps=2"
    )
    assert code == 0, err
    assert "held out" not in err
    assert [e["step"] for e in log_of(tmp_path / "out") if "eval_loss" in e] == [2]


def test_a_model_card_is_written(sft, tmp_path, tiny_model_folder) -> None:
    code, err = sft("--candidate_ratio=3", "--gradient_accumulation_steps=2")
    assert code == 0, err
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\n")
    assert "- colm\n" in card
    record = read_record(tmp_path / "out")
    assert (record.command, record.state) == ("colm sft", "ended")
    assert record.model["name"] == str(tiny_model_folder)
    assert record.data["dataset_name"].endswith(".jsonl")
    assert record.sources == {"algebra": 12, "logic": 8, "rare": 2}
    assert "trained with CoLM, a method introduced in" in card
    assert "Mini-batch Coresets" in card
    assert re.search(r"drew 12 examples.* 4 of them", card)
    assert "| `candidate_ratio` | `3.0` |" in card
    assert "| algebra | 12 |\n| logic | 8 |\n| rare | 2 |" in card
    assert f"fine-tuned version of `{tiny_model_folder}`" in card
    assert f'model="{tmp_path / "out"}"' in card
    assert "None" not in card


def test_a_stream_is_trained_on(sft, data) -> None:
    code, err = sft("--dataset_streaming=true")
    assert code == 0, err
    code, err = sft("--dataset_streaming=true", "--eval_strategy=steps", f"--output_dir={data}-2")
    assert code == 2
    assert "nothing can be held out of a stream" in err


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


BAD = {
    "an unknown option": (["--learning_rat=1"], "did you mean --learning_rate"),
    "a value of the wrong kind": (["--learning_rate=fast"], "invalid float value: 'fast'"),
    "an unknown selector": (["--selector=magic"], "magic"),
    "a ratio below 1": (["--candidate_ratio=0.5"], "candidate_ratio"),
    "no model": (["--model_name_or_path="], "set model_name_or_path"),
    "a missing model folder": (["--model_name_or_path=./no"], "there is no folder ./no"),
    "a tracker that is not installed": (
        ["--report_to=wandb", "--model_name_or_path=nowhere"],
        "report_to names wandb, which is not installed or not set up here: pip install wandb,",
    ),
    "a tracker that nobody knows": (["--report_to=tensorbord"], "there is none, all, azure_ml"),
    "a missing model": (["--model_name_or_path=nobody/nothing"], "'nobody/nothing'"),
    "no data": (["--dataset_name="], "set dataset_name"),
    "a missing file": (["--dataset_name=nothing.jsonl"], "nothing.jsonl: no such file"),
    "a missing data set": (["--dataset_name=nobody/nothing"], "'nobody/nothing'"),
    "a missing split": (["--dataset_train_split=x"], "no split 'x'; there is train"),
    "a missing source column": (
        ["--source_column=kind"],
        "no source column 'kind'; the columns are instruction, input, output, source",
    ),
    "an unknown small source": (["--small_sources", "rar"], "algebra, logic, rare"),
    "a missing checkpoint": (["--resume_from_checkpoint=true"], "holds no checkpoint"),
    "a missing recipe": (["--config=nothing.yaml"], "nothing.yaml: no such file"),
    "a missing adapter layer": (
        ["--use_peft", "--lora_target_modules=no_such_layer"],
        "no_such_layer",
    ),
}


@pytest.mark.parametrize("mistake", BAD)
def test_bad_input_is_one_line_and_touches_nothing(sft, tmp_path, mistake: str) -> None:
    arguments, complaint = BAD[mistake]
    if arguments[0] == "--report_to=wandb" and find_spec("wandb"):
        pytest.skip("wandb is installed")
    before = tree(tmp_path)
    code, err = sft(*arguments)
    assert code == 2
    assert err.startswith("colm: error: ")
    assert err.count("\n") == 1
    assert complaint in err
    assert tree(tmp_path) == before


BAD_FILES = {
    "broken line": ('{"text": "a"}\n{"text": \n', "bad.jsonl:2: not valid JSON"),
    "no layout": ('{"a": "b"}\n', "bad.jsonl: no known layout in columns a, source"),
    "nothing to learn": ('{"text": " "}\n', "bad.jsonl: each of the 1 records is empty in text"),
    "sources missing": (
        '{"text": "a", "source": null}\n{"text": "b", "source": "c"}',
        "is empty in 1 of 2",
    ),
    "no text": ('{"text": [1]}\n', "bad.jsonl: record 1: text is not text but [1]"),
}


@pytest.mark.parametrize("mistake", BAD_FILES)
def test_a_bad_file_is_one_line_and_touches_nothing(sft, tmp_path, mistake: str) -> None:
    content, complaint = BAD_FILES[mistake]
    (tmp_path / "bad.jsonl").write_text(content)
    before = tree(tmp_path)
    code, err = sft(f"--dataset_name={tmp_path / 'bad.jsonl'}")
    assert code == 2
    assert err.startswith("colm: error: ")
    assert err.count("\n") == 1
    assert complaint in err
    assert tree(tmp_path) == before


def test_messages_need_a_chat_template(sft, tmp_path, tiny_base_model_folder) -> None:
    path = write(tmp_path / "chat.jsonl", records("messages"))
    code, err = sft(f"--dataset_name={path}", model=tiny_base_model_folder)
    assert code == 2
    assert "chat_template_path" in err
    template = tmp_path / "chat.jinja"
    template.write_text(
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}\n{% endfor %}"
    )
    code, err = sft(
        f"--dataset_name={path}", f"--chat_template_path={template}", model=tiny_base_model_folder
    )
    assert code == 0, err


def test_calls_of_tools_need_a_chat_template_too(sft, tmp_path, tiny_base_model_folder) -> None:
    rows = []
    for place, arguments in enumerate(({"x": 1}, {"y": 1.84, "x": 2}, {}, {"z": None}) * 2):
        call = {"function": {"name": "f", "arguments": arguments}}
        asked = {"role": "user", "content": f"Call f, {place}."}
        answer = {"role": "assistant", "tool_calls": [call], "content": ""}
        rows.append({"messages": [asked, answer], "tools": [{"name": "f", "of": arguments}]})
    path = write(tmp_path / "calls.jsonl", rows)
    code, err = sft(f"--dataset_name={path}", model=tiny_base_model_folder)
    assert code == 2
    assert "chat template" in err
    template = tmp_path / "chat.jinja"
    # Stops over keys that were made up for an object, and over other numbers.
    template.write_text(
        "{{ tools | tojson }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}"
        "{% for c in m.tool_calls %}{{ c | tojson }}"
        "{% if c.function.arguments != tools[0].of %}{{ raise_exception('differ') }}{% endif %}"
        "{% if c | tojson not in ["
        + ", ".join(repr(json.dumps(row["messages"][1]["tool_calls"][0])) for row in rows)
        + "] %}{{ raise_exception(c | tojson) }}{% endif %}{% endfor %}{% endfor %}"
    )
    code, err = sft(
        f"--dataset_name={path}", f"--chat_template_path={template}", model=tiny_base_model_folder
    )
    assert code == 0, err


@pytest.mark.slow
def test_columns_that_are_not_used_are_named_once(sft, tmp_path) -> None:
    rows = [{**row, "level": 3, "url": None} for row in records("question")]
    for name in ("a", "b"):
        write(tmp_path / f"{name}.jsonl", rows)
    code, err = sft(f"--dataset_name={tmp_path}/*.jsonl")
    assert code == 0, err
    assert err.count("not used") == 1
    assert "a, b: not used: columns level, url" in err


def test_a_pattern_that_matches_nothing_is_one_line(sft, tmp_path) -> None:
    code, err = sft(f"--dataset_name={tmp_path}/none-*.jsonl")
    assert code == 2
    assert "none-*.jsonl" in err


def test_a_folder_with_another_run_is_left_alone(sft, tmp_path) -> None:
    assert sft()[0] == 0
    before = tree(tmp_path)
    code, err = sft()
    assert code == 2
    assert "holds another run" in err
    assert err.count("\n") == 1
    assert tree(tmp_path) == before


@pytest.mark.slow
def test_the_installed_command_tells_bad_input_in_one_line(
    tmp_path, data, tiny_model_folder
) -> None:
    data.write_text('{"text": "a"}\n{"text": \n')
    command = [sys.executable, "-c", "import sys; from colm.cli import main; sys.exit(main())"]
    options = [f"--model_name_or_path={tiny_model_folder}", f"--dataset_name={data}"]
    done = subprocess.run(
        [*command, "sft", *options, f"--output_dir={tmp_path / 'out'}"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (f"colm: error: {data}:2: not valid JSON: Expecting value, column 10\n")
    assert not (tmp_path / "out").exists()
