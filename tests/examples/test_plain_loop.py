"""The plain loop of ``examples`` runs, selects, and learns."""


def test_the_plain_loop_trains_on_what_it_selects(example, tiny_model_folder, capsys):
    losses = example("plain_loop").main(
        ["--model", str(tiny_model_folder), "--steps", "8", "--learning_rate", "1e-2"]
    )
    assert len(losses) == 8
    assert losses[-1] < losses[0] - 0.5
    assert "kept 8 of 16" in capsys.readouterr().out
