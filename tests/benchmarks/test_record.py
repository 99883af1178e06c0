"""The benchmark of recorded losses on a tiny shape: its arms take the same steps."""

import json
import sys

import pytest

from benchmarks import record
from benchmarks.measure import record as recorded
from colm.training.step import weigh

TINY = "--shape tiny --n 4 --micro_batch 2 --max_length 32 --turns 3 --dtype float32"


@pytest.mark.slow
def test_a_tiny_shape_is_timed(monkeypatch, tmp_path):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["record", *TINY.split()])
    monkeypatch.setattr(weigh, "mark", weigh.mark)  # which the benchmark times
    recorded.main()
    (path,) = (tmp_path / "record").glob("*.json")
    result = json.loads(path.read_text())
    assert len(result["repeats"]) == 3
    for turn in result["repeats"]:
        shares = [turn[f"{arm}/recording_share"] for arm in ("recorded", "stored")]
        # What records nothing only asks whether there is something to record.
        assert turn["unrecorded/recording_share"] < min(shares)
        assert max(shares) < 1
    assert result["summary"]["recorded_processor_over_unrecorded"] > 0
