"""torchvision beside a torch without its C++ operators, and with them: each state in a process of its own."""

import sys

import pytest
from processes import ROOT, fresh

pytestmark = pytest.mark.slow  # each starts an interpreter that imports torch and timm

# The schemas of torchvision's own C++ operators, as a build that fits declares them when it is loaded.
DECLARE = """
import torch
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
IMPORT = "from sigma_video import compat\n"
USE = """
import sys
import torch, torchvision, timm
from torchvision.transforms.v2 import functional as F
frames = F.resize(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), [4, 4], antialias=True)
assert frames.shape == (2, 3, 4, 4)
assert compat.ensure_torchvision() is compat.ensure_torchvision()
sys.stdout.write(str(compat.ensure_torchvision()))
"""


def python(program):
    return fresh(sys.executable, "-c", program, cwd=ROOT)


@pytest.fixture(scope="module")
def native():
    """Whether this machine's torchvision loads by itself."""
    finished = python("import torchvision")
    if finished.returncode:
        assert "torchvision::nms does not exist" in finished.stderr
    return finished.returncode == 0


def test_as_it_is_on_this_machine(native):
    """Operators are declared if, and only if, they are missing."""
    finished = python(IMPORT + USE)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == str(not native)


def test_operators_that_are_there_are_left_alone():
    """A second declaration would raise: the present ones were not touched."""
    finished = python(DECLARE + IMPORT + "assert compat._library is None\n" + USE)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "False"


def test_another_fault_is_not_hidden(tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::other is broken')")
    finished = python(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + IMPORT)
    assert finished.returncode == 1 and "torchvision::other is broken" in finished.stderr
