"""`benchmarks accuracy`: what is right is kept, what was asked and answered is not."""

import json
import sys

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from benchmarks import record
from benchmarks.measure import accuracy


def test_accuracies_are_kept_without_questions(tiny_model_folder, tmp_path, monkeypatch):
    kept = tmp_path / "adapters" / "mine" / "plain-r-seed0"
    base = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(base, lora).save_pretrained(kept)
    data = tmp_path / "choices.jsonl"
    rows = [
        {"prompt": f"secret question {i}", "candidates": ["yes", "no"], "label": i % 2}
        for i in range(4)
    ]
    data.write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(accuracy, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    given = ["--adapters", tmp_path / "adapters", "--label", "mine", "--data", data]
    given += ["--answers", tmp_path / "answers", "--limit", "3"]
    monkeypatch.setattr(sys, "argv", ["accuracy", *map(str, given)])
    accuracy.main()
    path = tmp_path / "results" / "accuracy" / "mine" / "plain-r-seed0.json"
    text = path.read_text()
    result = json.loads(text)
    assert result["sets"]["choices"]["questions"] == 3
    assert result["sets"]["choices"]["accuracy"] == result["summary"]["choices"]
    assert "secret" not in text
    assert str(tmp_path) not in text
    assert "secret" in (tmp_path / "answers" / "mine" / "plain-r-seed0.json").read_text()
    before = path.stat().st_mtime_ns
    accuracy.main()
    assert path.stat().st_mtime_ns == before


def test_a_folder_without_adapters_is_named(tmp_path):
    options, _ = accuracy.parse(
        ["--adapters", str(tmp_path), "--label", "x", "--data", "y", "--answers", "z"]
    )
    with pytest.raises(SystemExit, match="no adapter in"):
        accuracy.adapters(options)
