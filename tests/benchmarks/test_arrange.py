"""The benchmark of arranged steps on a tiny shape: arms share their examples, not their tokens."""

import json
import sys

import pytest

from benchmarks import record
from benchmarks.measure import arrange

TINY = "--shape tiny --n 8 --micro_batch 2 --turns 2 --max_length 32 --dtype float32"


@pytest.mark.slow
def test_arms_train_on_the_same_examples_in_other_numbers_of_tokens(monkeypatch, tmp_path):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["arrange", *TINY.split()])
    arrange.main()
    (path,) = (tmp_path / "arrange").glob("*.json")
    result = json.loads(path.read_text())
    assert len(result["repeats"]) == 2
    for turn in result["repeats"]:
        assert turn["trl/real_tokens"] == turn["arranged/real_tokens"]
        assert turn["arranged/tokens"] < turn["trl/tokens"]
        assert turn["arranged/most_tokens"] <= turn["trl/most_tokens"]
    for arm in ("arranged", "group_by_length"):
        assert result["summary"][f"{arm}_processor_over_trl"] > 0
