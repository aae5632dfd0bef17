"""Marks this folder as needing a GPU, and skips it where there is none."""

from pathlib import Path

import pytest
import torch
from gpu_cases import DEVICE

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cuda)
            if DEVICE == "cuda" and not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def no_sync():
    """Torch's own synchronisations are errors; a CUDA graph's capture sees those of kernels."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")
