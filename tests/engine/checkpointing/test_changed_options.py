"""Resuming with changed options: which ones are reported, and which are errors."""

import shutil

import pytest
import torch
from processes import PRETRAIN, run_script
from runs import load

from engine.checkpointing.checkpoint import TrainState
from engine.checkpointing.resume import resume
from engine.distributed.ddp import Backend
from engine.distributed.world import World
from engine.errors import CheckpointError
from engine.flags import parse
from run_sigma_pretraining import PretrainingConfig
from sigma_video.options import recorded


def test_a_table_of_what_has_changed(pretrained, data, tmp_path):
    shutil.copytree(pretrained, tmp_path / "run")
    changes = {"lr": 0.5, "opt_betas": "0.8|0.9", "num_workers": 1, "warmup_epochs": 0}
    finished = run_script(PRETRAIN, *data.flags(PRETRAIN, tmp_path / "run", **changes))
    assert finished.code == 0, finished.stderr
    lines = finished.stderr.splitlines()
    (start,) = (number for number, line in enumerate(lines) if "was made with other options" in line)
    table = [line.split() for line in lines[start + 1 : start + 5]]
    assert [row[0] for row in table] == ["epochs", "lr", "num_workers", "opt_betas"]
    assert " ".join(table[0][1:]) == "1 -> 2" and " ".join(table[1][1:]) == "0.00015 -> 0.5"
    assert " ".join(table[3][1:]) == "[0.9, 0.95] -> [0.8, 0.9]"
    assert load(tmp_path / "run" / "checkpoint-1.pth")["args"]["lr"] == 0.5


MODEL_CHANGES = [
    ({"target_type": "pixel"}, "target_type mlp, now pixel"),
    ({"model": "pretrain_videomae_small_patch16_32"}, "model pretrain_videomae_mini_patch8_32, now"),
    ({"num_frames": 6}, "num_frames 4, now 6"),
    ({"input_size": 64}, "input_size 32, now 64"),
    ({"opt": "sgd"}, "opt adamw, now sgd"),
]


@pytest.mark.parametrize(("changes", "words"), MODEL_CHANGES)
def test_another_model_is_refused_before_anything_is_loaded(changes, words, pretrained, data):
    world, model = World(0, 1, 0, torch.device("cpu")), torch.nn.Linear(2, 2)
    backend = Backend(model, torch.optim.SGD(model.parameters(), lr=0.1), world=world, amp="none")
    options = recorded(parse(PretrainingConfig, data.flags(PRETRAIN, pretrained, **changes)))
    where = {"explicit": "", "auto": True, "output_dir": str(pretrained), "world": world}
    with pytest.raises(CheckpointError) as refused:
        resume(TrainState(backend, steps_per_epoch=3), **where, options=options)
    assert words in str(refused.value) and "--output_dir" in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "words"), [*MODEL_CHANGES[:1], ({"num_prototypes": 13}, "does not fit this model")]
)
def test_a_run_of_another_model_changes_no_checkpoint(changes, words, pretrained, data, tmp_path):
    folder = shutil.copytree(pretrained, tmp_path / "run")
    before = [(path.name, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.pth"))]
    finished = run_script(PRETRAIN, *data.flags(PRETRAIN, folder, **changes))
    assert finished.code == 2 and len(finished.errors) == 1
    assert words in finished.errors[0] and "--output_dir" in finished.errors[0]
    assert [(path.name, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.pth"))] == before != []


def test_a_finished_run_looks_for_no_data(pretrained, data, tmp_path):
    folder = shutil.copytree(pretrained, tmp_path / "run")
    flags = {"epochs": 1, "warmup_epochs": 0, "data_path": "/no/such/list"}
    again = run_script(PRETRAIN, *data.flags(PRETRAIN, folder, **flags))
    assert again.code == 0 and "finished already" in again.stderr
