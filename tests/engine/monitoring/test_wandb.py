"""Weights & Biases: optional, and one run for all restarts."""

import importlib.util

import pytest
from processes import PRETRAIN, run_script
from runs import records

INSTALLED = importlib.util.find_spec("wandb") is not None


def test_missing(data, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else find_spec(name, *rest)
    )
    finished = run_script(PRETRAIN, *data.flags(PRETRAIN, tmp_path / "a"), "--wandb", "project")
    assert finished.code == 2 and "--wandb: wandb is not installed" in finished.errors[0]
    assert not (tmp_path / "a").exists()


def test_needs_a_folder_for_its_id(data):
    finished = run_script(PRETRAIN, *data.flags(PRETRAIN), "--wandb", "project")
    assert finished.code == 2 and "--wandb needs --output_dir" in finished.errors[0]


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="wandb, which is optional, is not installed")
def test_one_run_for_all_restarts(data, tmp_path, monkeypatch):
    """Offline: both starts write into runs of the same id, with the values of log.txt."""
    import wandb  # noqa: F401  (here, once, for the processes that are forked)

    monkeypatch.setenv("WANDB_MODE", "offline")
    flags = data.flags(PRETRAIN, tmp_path / "run", save_ckpt_freq=1)
    assert run_script(PRETRAIN, *flags, "--wandb", "project").code == 0
    (tmp_path / "run" / "checkpoint-1.pth").unlink()
    finished = run_script(PRETRAIN, *flags, "--wandb", "project")
    assert finished.code == 0, finished.stderr
    name = (tmp_path / "run" / "wandb_id.txt").read_text().strip()
    files = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
    assert len(files) == len(list((tmp_path / "run" / "wandb").glob("offline-run-*"))) == 2
    losses = [str(row["train/loss"]).encode() for row in records(tmp_path / "run")]
    for file, of_steps in zip(files, (losses, losses[3:]), strict=True):  # the second start did the last epoch again
        text = file.read_bytes()
        assert [loss for loss in losses if loss in text] == of_steps
