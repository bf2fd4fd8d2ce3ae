"""Where kernels are used: where Triton works, and only if it does so on every rank."""

import os
import re
import sys
import warnings

import pytest
import torch
from processes import gloo_world, run_in_processes

from engine.distributed.collectives import all_reduce_sum
from models.kernels import support
from models.sinkhorn.passes import describe_passes

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def kernels_on_the_cpu(monkeypatch):
    monkeypatch.setattr(support, "DEVICE_TYPES", ("cuda", "cpu"))
    monkeypatch.setattr(support, "_ranks_without", {})


@pytest.mark.parametrize("triton", ["raise RuntimeError('Failed to find C compiler')", ""], ids=["broken", "empty"])
def test_a_triton_that_does_not_run_is_done_without(triton, tmp_path):
    (tmp_path / "triton.py").write_text(triton)

    def target():
        os.environ["TRITON_INTERPRET"] = "0"  # which would run
        sys.path.insert(0, str(tmp_path))
        for name in list(sys.modules):
            if name.split(".")[0] == "triton" or name.startswith(
                "models.kernels.pro"
            ):  # another test has imported them
                del sys.modules[name]
        support.kernels_run.cache_clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = [support.kernels_run(CPU) for _ in range(2)]
        sys.stdout.write(f"{found} {len(caught)} {caught[0].message}")

    (done,) = run_in_processes(target)
    assert done.code == 0, done.stderr
    words = r"\[False, False\] 1 Triton kernels do not run here.*install a C compiler"
    assert re.match(words, done.stdout)


def test_they_run_where_triton_is_installed():
    pytest.importorskip("triton", reason="Triton is not installed (pip install triton)")
    assert support.kernels_run(torch.device("cuda") if torch.cuda.is_available() else CPU)


def agree(world, broken_ranks):
    """What a rank uses before and after, how often it was asked, what it warned of and what it tells people."""
    support.kernels_run = lambda device: world.rank not in broken_ranks
    calls = []

    def all_reduce(tensor):
        calls.append(tensor.clone())
        return all_reduce_sum(tensor)

    alone = support.use_kernels(CPU)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        agreed = [support.agree_on_kernels(CPU, all_reduce) for _ in range(3)]
    return alone, agreed, support.use_kernels(CPU), len(calls), len(caught), describe_passes(CPU, 10, 0.05)


def test_all_ranks_use_them_or_none_does():
    """Asked once; a rank that could run them says why it does not, the other one has said so already."""
    able, unable = gloo_world(agree, [1])
    told = "plain PyTorch: Triton kernels do not run on 1 rank(s)"
    assert able == (True, [False] * 3, False, 1, 1, told)
    assert unable == (False, [False] * 3, False, 1, 0, told)
    for rank in gloo_world(agree, []):
        assert rank == (True, [True] * 3, True, 1, 0, "Triton kernels")


def test_other_devices_are_not_asked(monkeypatch):
    monkeypatch.setattr(support, "DEVICE_TYPES", ("cuda",))
    assert not support.agree_on_kernels(CPU, pytest.fail)
    assert not support.use_kernels(CPU)
