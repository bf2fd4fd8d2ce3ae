"""Through the entry script on a GPU: with --deterministic a resumed run has the bits of an uninterrupted one."""

import shutil
import sys

import pytest
from runs import load, same

pytest.importorskip("av")


@pytest.mark.gpu
def test_resuming_is_bit_equal(accelerator, data, tmp_path):
    from processes import PRETRAIN, ROOT, fresh

    def run(folder):
        changes = {"device": accelerator.type, "deterministic": True, "drop_path": 0.5, "save_ckpt_freq": 1}
        finished = fresh(sys.executable, ROOT / PRETRAIN, *data.flags(PRETRAIN, folder, **changes))
        assert finished.returncode == 0, finished.stderr
        return load(folder / "checkpoint-1.pth")

    whole = run(tmp_path / "whole")
    (tmp_path / "resumed").mkdir()
    shutil.copy(tmp_path / "whole" / "checkpoint-0.pth", tmp_path / "resumed")
    resumed = run(tmp_path / "resumed")
    for part in ("model", "optimizer", "scaler", "rng"):
        assert same(whole[part], resumed[part]), part
