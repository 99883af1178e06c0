"""The examples that train with the trainer do what their docstrings say."""

import re
from pathlib import Path

import pytest
import torch

from colm.coreset.candidates import Candidates, SelectionOptions
from colm.coreset.registry import _SELECTORS

EXAMPLES = Path(__file__).parents[2] / "examples"

# Of 16 candidates more may be of small sources than there is room for: that is said, once.
pytestmark = pytest.mark.filterwarnings("ignore:.*small sources")


@pytest.fixture
def few(tmp_path):
    """A folder with the first lines of the examples' data."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("problems.jsonl", "held-out.jsonl"):
        lines = (EXAMPLES / "data" / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join(lines[:40]))
    return folder


@pytest.fixture
def options(tiny_model_folder, tmp_path):
    return ["--model", str(tiny_model_folder), "--output_dir", str(tmp_path)]


def test_chats_tell_by_source_what_was_drawn_and_kept(example, options, few, capsys):
    module = example("chat_with_sources")
    module.PROBLEMS = few / "problems.jsonl"
    seen = module.main([*options, "--steps", "2"])
    assert sum(drawn for drawn, _ in seen.values()) == 2 * 16
    assert sum(kept for _, kept in seen.values()) == 2 * 8
    assert all(kept <= drawn for drawn, kept in seen.values())
    chats = sum(map(int, re.findall(r"(\d+) chats", capsys.readouterr().out)))
    assert chats == 40


def test_a_selector_of_ones_own_competes_for_equal_time(example, options, few, monkeypatch):
    monkeypatch.setattr("colm.coreset.registry._SELECTORS", dict(_SELECTORS))
    module = example("own_selector")
    module.DATA = few
    losses = module.main([*options, "--seconds", "0.01"])
    assert losses.keys() == {"half_hardest", "random"}

    values = torch.tensor([0.3, 0.9, 0.1, 0.7, 0.5])
    candidates = Candidates(torch.zeros(5, dtype=torch.long), SelectionOptions(), losses=values)
    drawn = {
        tuple(module.half_hardest(candidates, 3, torch.Generator().manual_seed(seed)).tolist())
        for seed in range(30)
    }
    # The highest loss always, and any two of the others.
    assert {rows[0] for rows in drawn} == {1}
    assert {frozenset(rows[1:]) for rows in drawn} == {
        frozenset(pair) for pair in [(0, 2), (0, 3), (0, 4), (2, 3), (2, 4), (3, 4)]
    }


def test_memory_methods_hold_what_they_say(example, options, few, tiny_model_folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    weights = sum(weight.nbytes for weight in model.parameters())
    module = example("memory_method")
    module.PROBLEMS = few / "problems.jsonl"
    held = module.main([*options, "--steps", "1", "--rank", "4"])
    assert held["adamw"]["gradients"] == held["low_rank_adam"]["gradients"] == weights
    assert held["adamw"]["optimizer"] == pytest.approx(2 * weights, rel=1e-3)
    assert held["low_rank_adam"]["optimizer"] < 0.6 * held["adamw"]["optimizer"]
    assert sum(held["side_block"].values()) < 0.1 * sum(held["low_rank_adam"].values())
