"""A side block trained by two processes, by DDP: as by one with the same batch.

Where processes select together, what one trains on may have been looked at by the other, and what
the frozen layers put out for it stays there: it is run again.
"""

import pytest
import torch

from colm import side_block_of
from tests.training.processes import run_in_processes
from tests.training.test_sharded import losses_of, train

pytestmark = pytest.mark.slow

SHERL = {"side_block": 4, "max_steps": 4}


def block_weights(trainer):
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {name: value.clone() for name, value in side_block_of(model).state_dict().items()}


def in_each_process(model_folder, folder):
    """A run, and the same stopped and resumed."""
    trainer, kept = train(model_folder, folder / "whole", 2, False, **SHERL)
    done = {"kept": kept, "losses": losses_of(trainer), "weights": block_weights(trainer)}
    saving = {"save_strategy": "steps", "save_steps": 2, **SHERL}
    train(model_folder, folder / "stopped", 2, False, stop=2, **saving)
    resumed, _ = train(model_folder, folder / "stopped", 2, False, resume=True, **saving)
    return done | {"resumed": block_weights(resumed)}


def test_two_processes_train_as_one_and_resume_bit_for_bit(tiny_model_folder, tmp_path):
    found = run_in_processes(in_each_process, tmp_path, tiny_model_folder, tmp_path, number=2)
    trainer, kept = train(tiny_model_folder, tmp_path / "alone", 4, False, **SHERL)
    alone = block_weights(trainer)
    for step in range(SHERL["max_steps"]):
        together = sorted(tokens for one in found for tokens in one["kept"][step])
        assert together == sorted(kept[step])
    for one in found:
        torch.testing.assert_close(one["losses"], losses_of(trainer), atol=2e-3, rtol=0)
        for name, weight in alone.items():
            torch.testing.assert_close(one["weights"][name], weight, atol=1e-4, rtol=0, msg=name)
            assert torch.equal(one["resumed"][name], one["weights"][name]), name
