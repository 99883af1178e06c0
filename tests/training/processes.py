"""Run a function in several processes that talk through gloo, as ``torchrun`` would start them.

They are forked from a process that has loaded the libraries and done nothing else, once for all of
a test session: each still begins with a state of its own, without seconds of imports.
"""

import gc
import os
import socket
from multiprocessing import get_context

import torch
from torch import distributed
from torch.multiprocessing import start_processes

LOADED_ONCE = ["trl", "peft", "datasets", "colm.training.trainer"]


def run_in_processes(function, folder, *arguments, number=2):
    """Return what ``function(*arguments)`` returns in each process; it must be importable."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    get_context("forkserver").set_forkserver_preload(LOADED_ONCE)
    told = (function, folder, arguments, number, port, dict(os.environ))
    start_processes(_run, told, nprocs=number, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(number)]


def _run(rank, function, folder, arguments, number, port, environment):
    gc.freeze()  # as in a test session: what was loaded once is no garbage
    os.environ |= environment | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    torch.save(function(*arguments), folder / f"{rank}.pt")
    distributed.destroy_process_group()
