"""A small decoder with everything a subspace has to cope with, and a batch for it."""

import pytest
import torch

from tests.tiny_llama import tiny_llama


@pytest.fixture
def model():
    """Two layers, grouped-query attention, head and embeddings apart."""
    return tiny_llama()


@pytest.fixture
def batch():
    ids = torch.randint(64, (4, 12), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "labels": ids}
