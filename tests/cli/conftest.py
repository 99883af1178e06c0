"""What tests of several commands ask for."""

import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture
def no_progress_bars() -> Iterator[None]:
    """What a process without a terminal has from the start, tests set: datasets is loaded."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()
    # Where a command ran before datasets was loaded, its bars are off for good, which it warns of.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        datasets.enable_progress_bars()
