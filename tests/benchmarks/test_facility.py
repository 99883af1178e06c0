"""The facility benchmark: its own plain greedy, and the ratios to it."""

import argparse

import pytest
import torch

from benchmarks.measure import facility
from colm import facility_location


def options(**changed):
    said = {"metric": "l2", "dimensions": 4, "clusters": 3, "tie_tolerance": 0.0, "shares": [0.5]}
    return argparse.Namespace(**said | {"best_of": 1, "selection_only": True} | changed)


@pytest.mark.parametrize("tie_tolerance", [0.0, 1e-5])
def test_the_plain_greedy_reaches_the_same_objective(tie_tolerance):
    (row,) = facility.measure(40, 1, options(tie_tolerance=tie_tolerance), [])
    assert row["numpy_objective"] == pytest.approx(row["colm_objective"], rel=1e-6)
    assert row["numpy_over_colm"] == row["numpy_seconds"] / row["colm_seconds"]


def test_the_plain_greedy_picks_what_the_library_picks():
    matrix = torch.tensor([[3.0, 2.0, 0.0], [2.0, 3.0, 1.0], [0.0, 1.0, 3.0]])
    picks, _ = facility.select_with_numpy(matrix)(2)
    assert picks == facility_location(matrix, 2).indices.tolist() == [1, 2]


def test_ties_are_seen_through_as_in_training():
    features = facility.draw_features(9, 0, options(tie_tolerance=1e-5))
    assert features.dtype == torch.float64
    assert facility.tied_within(features, options()) == 0
    size = features.norm(dim=1).mean().item()
    assert facility.tied_within(features, options(tie_tolerance=1e-5)) == pytest.approx(3e-5 * size)


def test_large_n_goes_without_the_plain_greedy(monkeypatch):
    monkeypatch.setattr(facility, "MOST_FOR_NUMPY", 8)
    rows = facility.measure(9, 0, options(), []) + facility.measure(8, 0, options(), [])
    assert ["numpy_seconds" in row for row in rows] == [False, True]
    table = facility.shown(facility.summarize(rows, []))
    (large, small) = table.splitlines()[1:]
    assert large.split()[-1] == "-"
    assert "(" in small.split()[-1]
