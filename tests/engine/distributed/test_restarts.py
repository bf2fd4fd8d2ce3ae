"""A rank that raises ends the others, and torchrun's `--max-restarts` resumes from the last checkpoint."""

import sys

import pytest
from processes import PRETRAIN, ROOT, fresh, run_script
from runs import load, records, same

# Runs the entry script; in the first attempt rank 1 raises after five updates.
FAILS_ONCE = f"""
import os, runpy, sys
sys.path[:0] = [{str(ROOT)!r}]
from engine.distributed.ddp import Backend
step, steps = Backend.step, []
def failing(self):
    steps.append(1)
    if len(steps) == 6 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        raise RuntimeError("this rank fails")
    return step(self)
Backend.step = failing
sys.argv[0] = {str(ROOT / PRETRAIN)!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.long
def test_max_restarts_goes_on_from_the_last_checkpoint(data, tmp_path):
    program = tmp_path / "fails_once.py"
    program.write_text(FAILS_ONCE)
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    changes = {"batch_size": 2, "save_ckpt_steps": 2, "epochs": 3}
    assert all(f.code == 0 for f in run_script(PRETRAIN, *data.flags(PRETRAIN, straight, **changes), size=2))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    finished = fresh(*launcher, "--max-restarts", 1, program, *data.flags(PRETRAIN, cut, **changes))
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "this rank fails" in finished.stderr and "checkpoint-1-step1.pth: 1 epochs and 1 steps" in finished.stderr
    a, b = (load(folder / "checkpoint-2.pth") for folder in (straight, cut))
    assert all(same(a[key], b[key]) for key in ("model", "optimizer", "step", "rng"))
    assert [record["step"] for record in records(cut)] == list(range(1, 10))
