"""The plan on the console: what computes a run."""

import dataclasses

import pytest
import torch

from engine.config import RunConfig
from engine.record import computed_by

CUDA = torch.device("cuda")


@pytest.mark.parametrize(("compiles", "said"), [(True, "compiled"), (False, "not compiled")])
def test_whether_blocks_are_compiled(compiles, said):
    assert computed_by(RunConfig(compile=compiles), torch.device("cpu"), resumed=True) == {"blocks": said}


def test_resuming_on_a_gpu_names_the_flag_for_equal_bits():
    run = RunConfig(compile=False)
    assert "resumed" not in computed_by(run, CUDA, resumed=False)
    assert "--deterministic" in computed_by(run, CUDA, resumed=True)["resumed"]
    assert "resumed" not in computed_by(dataclasses.replace(run, deterministic=True), CUDA, resumed=True)


def test_the_version_of_cudnn_is_shown():
    assert computed_by(RunConfig(), CUDA, resumed=False)["cuDNN"].startswith(str(torch.backends.cudnn.version()))
