"""Run a function in several processes that talk through gloo, as ``torchrun`` would start them."""

import os
import socket

import torch
from torch import distributed, multiprocessing


def run_in_processes(function, folder, *arguments, number=2):
    """Return what ``function(*arguments)`` returns in each process; it must be importable."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_run, (function, folder, arguments, number, port), nprocs=number)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(number)]


def _run(rank, function, folder, arguments, number, port):
    os.environ |= {
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
