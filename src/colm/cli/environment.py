"""``colm env``: versions and hardware, to put into a report of a problem."""

import argparse
import importlib.metadata
import platform
from typing import Any

PACKAGES = ("colm", "torch", "transformers", "trl", "peft", "accelerate", "datasets")


def add_parser(subparsers: Any) -> None:
    """Add the command.

    Args:
        subparsers: What ``add_subparsers`` returned.
    """
    parser = subparsers.add_parser("env", help="print versions and hardware")
    parser.set_defaults(run=run)


def run(_: argparse.Namespace) -> int:
    """Print one line a fact.

    Returns:
        Exit code 0.
    """
    facts = {package: _version(package) for package in PACKAGES}
    facts["python"] = platform.python_version()
    facts["platform"] = platform.platform()
    facts["accelerator"] = _accelerator()
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    return 0


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _accelerator() -> str:
    """The device that training would use."""
    try:
        import torch
    except ImportError:
        return "unknown: torch is not installed"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return f"{', '.join(names)} (CUDA {torch.version.cuda})"
    accelerator = torch.accelerator.current_accelerator()
    return accelerator.type if accelerator else f"none, {torch.get_num_threads()} CPU threads"
