"""The plain loop of ``examples`` runs, selects, and learns."""

import importlib.util
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "plain_loop.py"


def test_the_plain_loop_trains_on_what_it_selects(tiny_model_folder, capsys):
    spec = importlib.util.spec_from_file_location("plain_loop", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    losses = module.main(
        ["--model", str(tiny_model_folder), "--steps", "8", "--learning-rate", "1e-2"]
    )
    assert len(losses) == 8
    assert losses[-1] < losses[0] - 0.5
    assert "kept 8 of 16" in capsys.readouterr().out
