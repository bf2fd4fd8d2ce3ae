"""What is kept of a run, `run.json`, and the plan on the console: what computes it."""

import dataclasses
import json

import pytest
import torch

from engine.config import RunConfig
from engine.distributed.world import World
from engine.record import computed_by, write_run_record

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


@pytest.mark.parametrize("found", [b"[", b"\xff\xfe[]", b'{"a": 1}', b"null", b"3"])
def test_a_damaged_record_of_earlier_runs_is_replaced(found, tmp_path):
    (tmp_path / "run.json").write_bytes(found)
    world = World(0, 1, 0, torch.device("cpu"))
    for count in (1, 2):
        write_run_record(str(tmp_path), world, {"lr": 0.5})
        records = json.loads((tmp_path / "run.json").read_text())
        assert [record["args"] for record in records] == [{"lr": 0.5}] * count
