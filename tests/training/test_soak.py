"""A short version of ``benchmarks soak``: faults at random, and nothing is left behind."""

import math

import pytest

from benchmarks.measure.soak import run_soak

STEPS, EVERY = 100, 10
# Between two notes a few objects come and go, and the trainer keeps its own log.
OBJECTS_LEFT = 2000


@pytest.mark.slow
def test_a_run_under_random_faults_leaves_nothing_behind():
    soak = run_soak(STEPS, EVERY, seed=0)
    kinds = ("out of memory", "crashes", "resumed", "new trainers", "not finite")
    assert {kind for kind in kinds if not soak.faults[kind]} == set()
    assert soak.notes[-1]["step"] == STEPS
    assert {note["hooks"] for note in soak.notes} == {0}
    assert all(math.isfinite(loss) for loss in soak.losses)
    # The first notes still see libraries loading what they load once.
    middle, last = soak.notes[len(soak.notes) // 3], soak.notes[-1]
    assert last["files"] <= middle["files"]
    assert last["threads"] <= middle["threads"]
    assert last["objects"] - middle["objects"] < OBJECTS_LEFT
