"""A chat template that refuses the data: one line with the file, the record and what it said."""

import json

import pytest
from transformers import AutoTokenizer

from colm.cli import main

pytestmark = pytest.mark.usefixtures("no_progress_bars")

TURN = "{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' -}}"
LOOP = "{{%- for m in messages -%}}{refusal}{turn}{{%- endfor -%}}"
#: What a template refuses, and what it says of it.
REFUSALS = {
    "system": (
        "{%- if m['role'] == 'system' -%}"
        "{{ raise_exception('System role not supported') }}{%- endif -%}",
        "System role not supported",
    ),
    "turns": (
        "{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
        "{{ raise_exception('Conversation roles must alternate') }}{%- endif -%}",
        "Conversation roles must alternate",
    ),
    "empty": (
        "{%- if not m['content'] -%}{{ raise_exception('An empty turn') }}{%- endif -%}",
        "An empty turn",
    ),
    "parts": ("", "str"),
    "undefined": ("{{- m['tool_call_id'].upper() -}}", "tool_call_id"),
}
USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
GOOD = {"messages": [USER, ANSWER]}
BAD = {
    "system": {"messages": [{"role": "system", "content": "s"}, USER, ANSWER]},
    "turns": {"messages": [USER, USER, ANSWER]},
    "empty": {"messages": [{"role": "user", "content": ""}, ANSWER]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, ANSWER]},
    "undefined": GOOD,
}


@pytest.fixture
def model(request, tiny_model_folder, tmp_path):
    """The tiny model with a chat template that refuses something."""
    import shutil

    folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = LOOP.format(refusal=REFUSALS[request.param][0], turn=TURN)
    tokenizer.save_pretrained(folder)
    return folder


def write(path, *records):
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def refused(capsys, *words) -> str:
    """The one line in which a command was refused."""
    assert main([str(word) for word in words]) == 2
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    line = shown.err.splitlines()[-1]
    assert line.startswith("colm: error: ")
    return line


def sft(capsys, model, folder, *more, command="sft") -> str:
    options = ("--max_steps=1", "--per_device_train_batch_size=2", "--report_to=none")
    plain = ("--bf16=false", "--use_cpu=true", "--use_peft=false", "--disable_tqdm=true")
    places = (f"--model_name_or_path={model}", f"--output_dir={folder / 'run'}")
    return refused(capsys, command, *places, *options, *plain, *more)


@pytest.mark.parametrize(("model", "kind"), [(k, k) for k in REFUSALS], indirect=["model"])
def test_sft_names_the_record(model, kind, tmp_path, capsys):
    good = [] if kind in ("parts", "undefined") else [GOOD] * 5
    path = write(tmp_path / "data.jsonl", *good, *[BAD[kind]] * 4)
    line = sft(capsys, model, tmp_path, f"--dataset_name={path}")
    assert f"{path}: record {len(good) + 1}: " in line
    assert REFUSALS[kind][1] in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", ["system"], indirect=True)
def test_the_file_of_a_mixture_is_named_also_of_a_stream(model, tmp_path, capsys):
    good = write(tmp_path / "good.jsonl", *[GOOD] * 4)
    # An empty record is left out, and counts as one all the same.
    bad = write(tmp_path / "bad.jsonl", GOOD, {"messages": []}, BAD["system"], *[GOOD] * 9)
    recipe = tmp_path / "recipe.yaml"
    for more in ("", "streaming: true\ncandidate_ratio: 1\n"):
        recipe.write_text(f"datasets:\n- path: {good}\n- path: {bad}\n{more}")
        words = ("--config", recipe, "--max_steps=8")
        for command in ("sft",) if more else ("sft", "select"):
            line = sft(capsys, model, tmp_path, *words, command=command)
            assert f"{bad}: record 3: " in line
            assert "System role not supported" in line
    recipe.write_text(f"datasets:\n- path: {bad}\nstreaming: true\ncandidate_ratio: 2\n")
    line = sft(capsys, model, tmp_path, "--config", recipe, command="select")
    assert f"{bad}: record 3: " in line


@pytest.mark.parametrize("model", ["system"], indirect=True)
def test_pairs_with_a_system_message(model, tmp_path, capsys):
    pair = {"instruction": "a", "output": "b"}
    path = write(tmp_path / "data.jsonl", pair, {**pair, "system": "Be brief."})
    prompts = {"prompt": [USER], "completion": [ANSWER]}
    other = write(
        tmp_path / "other.jsonl", prompts, {**prompts, "prompt": BAD["system"]["messages"][:2]}
    )
    for each in (path, other):
        held_out = ("evaluate", model, "--held-out", each, "--output", tmp_path / "result.json")
        assert f"{each}: record 2: " in refused(capsys, *held_out)
    asked = ("evaluate", model, "--data", path, "--output", tmp_path / "result.json")
    for method in ("auto", "chain", "direct"):
        line = refused(capsys, *asked, "--method", method)
        assert "data.jsonl: record 2: " in line
        assert "System role not supported" in line
    assert not list(tmp_path.glob("result*"))
