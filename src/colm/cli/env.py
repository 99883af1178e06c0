"""``colm env``: versions and hardware, to put into a report of a problem."""

import argparse
import platform
from typing import Any


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
    from colm.versions import library_versions

    facts = library_versions()
    facts["platform"] = platform.platform()
    facts["accelerator"] = _hardware()
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    return 0


def _hardware() -> str:
    """The device that training would use."""
    try:
        import torch
    except ImportError:
        return "unknown: torch is not installed"
    from colm.training.options.hardware import accelerator_names

    names = accelerator_names()
    if names:
        cuda, rocm = torch.version.cuda, getattr(torch.version, "hip", None)
        version = f" (CUDA {cuda})" if cuda else f" (ROCm {rocm})" if rocm else ""
        return f"{', '.join(names)}{version}"
    built_for = torch.accelerator.current_accelerator()
    missing = f" at hand, though torch is built for {built_for.type}" if built_for else ""
    return f"none{missing}, {torch.get_num_threads()} CPU threads"
