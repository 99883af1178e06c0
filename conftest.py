"""The environment of every test and docstring example, set before a heavy library reads it."""

import atexit
import functools
import gc
import importlib
import os
import shutil
import tempfile
from collections.abc import Generator

import pytest

_CACHE = tempfile.mkdtemp(prefix="colm-tests-")
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)

os.environ["HF_HOME"] = _CACHE
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "agg"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


# Tests of full disks patch this themselves; the others would wait thousands of times.
os.fsync = lambda _: None

_LIBRARIES = (
    "datasets",
    "peft.auto",
    "sklearn.cluster",
    "transformers.trainer",
    "trl.trainer.sft_trainer",
)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Have the collector pass over the libraries: each training runs it, over a million objects.

    It does not run while they are loaded, either, when there is next to nothing for it to find.
    A process that shares the work first loads what most of its tests would.
    """
    gc.disable()
    try:
        if "PYTEST_XDIST_WORKER" in os.environ:
            for library in _LIBRARIES:
                importlib.import_module(library)
            _look_once_for_packages()
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def _look_once_for_packages() -> None:
    """Remember what is installed: accelerate reads a package's whole description at each step."""
    from accelerate.utils import imports

    imports._is_package_available = functools.cache(imports._is_package_available)
