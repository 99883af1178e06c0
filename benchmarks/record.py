"""Writing a benchmark's result: the figures of every repeat, and what it takes to repeat them."""

import json
import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

# Elsewhere where the environment says so.
RESULTS = Path(os.environ.get("BENCHMARK_RESULTS") or Path(__file__).parent / "results")
LIBRARIES = ("colm", "torch", "transformers", "trl", "peft", "accelerate", "datasets")


def write_result(
    name: str,
    settings: dict[str, Any],
    repeats: list[dict[str, float]],
    summary: dict[str, float],
    path: Path | None = None,
) -> Path:
    """Write ``results/NAME/DATE.json`` and return its path; an older result stays.

    Args:
        name: of the benchmark.
        settings: every option of the run, the seed among them.
        repeats: the figures of each repeat, units in their names.
        summary: the figures to quote.
        path: that an earlier call of the same run returned, to write over.
    """
    now = datetime.now(UTC)
    result = {
        "benchmark": name,
        "date": now.isoformat(timespec="seconds"),
        "commit": COMMIT,
        "versions": {"python": platform.python_version()}
        | {library: _version(library) for library in LIBRARIES},
        "machine": machine(),
        "settings": {name: without_folder(value) for name, value in settings.items()},
        "summary": summary,
        "repeats": repeats,
    }
    path = path or RESULTS / name / f"{now:%Y%m%d-%H%M%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def _version(library: str) -> str:
    """Return its version; run from a checkout on the path, colm has the commit alone."""
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def without_folder(value: Any) -> Any:
    """Return a file or folder by its name: where it lies is one machine's business."""
    if isinstance(value, list):
        return [without_folder(part) for part in value]
    is_place = isinstance(value, str) and (Path(value).is_file() or Path(value).is_absolute())
    return Path(value).name if is_place else value


def machine() -> dict[str, str | int]:
    """Describe the processor and the accelerator that the figures come from."""
    described: dict[str, str | int] = {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    if torch.cuda.is_available():
        described["accelerator"] = torch.cuda.get_device_name()
    return described


def _processor() -> str:
    names = [
        line.split(":", 1)[1].strip()
        for line in _read("/proc/cpuinfo").splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0]} x {len(names)}" if names else platform.processor()


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


def _commit() -> str:
    """Return the commit, marked where the tree differs from it; 'unknown' outside a checkout."""
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        if shutil.which("git") is None:
            return ""
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD") or "unknown"
    changed = git("status", "--porcelain", "--", "src", "benchmarks/*.py")
    return f"{commit}+changes" if changed else commit


# Of the code that runs: the tree may move on while it measures.
COMMIT = _commit()
