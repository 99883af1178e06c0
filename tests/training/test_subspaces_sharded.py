"""Subspaces in several processes, by DDP and by FSDP2: as one process with the same batch.

Merging needs no communication: W and B are cut along the same rows, and P is drawn by all alike.
"""

import pytest
import torch
from safetensors.torch import load_file

from tests.training.processes import run_in_processes
from tests.training.test_sharded import FSDP, as_on_accelerators, losses_of, train, whole_weights

pytestmark = pytest.mark.slow

RSO = {"subspace_rank": 4, "subspace_inner_steps": 2, "max_steps": 5}


def in_each_process(model_folder, folder, sharding):
    """A run, the same stopped and resumed within an inner loop, and what it saved."""
    if sharding:
        as_on_accelerators()
    done = {}
    trainer, kept = train(model_folder, folder / "whole", 2, False, **RSO, **sharding)
    done["whole"] = {"kept": kept, "losses": losses_of(trainer), "weights": whole_weights(trainer)}
    trainer.save_model(folder / "saved")
    saving = {"save_strategy": "steps", "save_steps": 3, **RSO, **sharding}
    train(model_folder, folder / "stopped", 2, False, stop=3, **saving)
    resumed, _ = train(model_folder, folder / "stopped", 2, False, resume=True, **saving)
    done["resumed"] = whole_weights(resumed)
    return done


@pytest.fixture(scope="module", params=[{}, FSDP], ids=["ddp", "fsdp2"])
def processes(request, tiny_model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    found = run_in_processes(
        in_each_process, folder, tiny_model_folder, folder, request.param, number=2
    )
    return found, folder


@pytest.fixture(scope="module")
def alone(tiny_model_folder, tmp_path_factory):
    trainer, kept = train(tiny_model_folder, tmp_path_factory.mktemp("alone"), 4, False, **RSO)
    return {"kept": kept, "losses": losses_of(trainer), "weights": whole_weights(trainer)}


def test_several_processes_train_as_one(processes, alone):
    found, _ = processes
    for step in range(RSO["max_steps"]):
        together = sorted(tokens for one in found for tokens in one["whole"]["kept"][step])
        assert together == sorted(alone["kept"][step])
    for one in found:
        torch.testing.assert_close(one["whole"]["losses"], alone["losses"], atol=2e-3, rtol=0)
        assert one["whole"]["weights"].keys() == alone["weights"].keys()
        for name, weight in alone["weights"].items():
            torch.testing.assert_close(one["whole"]["weights"][name], weight, atol=2e-3, rtol=0)


def test_a_stopped_run_resumes_bit_for_bit(processes):
    for one in processes[0]:
        for name, weight in one["whole"]["weights"].items():
            assert torch.equal(one["resumed"][name], weight), name


def test_what_is_saved_is_the_merged_model(processes):
    found, folder = processes
    saved = load_file(folder / "saved" / "model.safetensors")
    for name, weight in saved.items():
        assert torch.equal(weight, found[0]["whole"]["weights"][name]), name
    assert not any("subspace" in name for name in saved)
