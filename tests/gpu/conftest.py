"""What the tests on a GPU share: the device that is compared with the CPU."""

import os

import pytest
import torch


@pytest.fixture
def accelerator() -> torch.device:
    """The GPU; with SIGMA_TEST_DEVICE=cpu the CPU in its place, which shows that the tests themselves run."""
    if os.environ.get("SIGMA_TEST_DEVICE") == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    return torch.device("cuda", 0)
