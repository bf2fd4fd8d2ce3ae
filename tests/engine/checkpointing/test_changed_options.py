"""Resuming with changed options: which ones are reported, and which are errors."""

import pytest
from processes import PRETRAIN, run_script
from runs import load


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory):
    """Folder of a run of two epochs, that stands as if it had been cut off after the first."""
    folder = tmp_path_factory.mktemp("changed")
    finished = run_script(PRETRAIN, *data.flags(PRETRAIN, folder, save_ckpt_freq=1))
    assert finished.code == 0, finished.stderr
    (folder / "checkpoint-1.pth").unlink()
    return folder


def test_a_table_of_what_has_changed(pretrained, data):
    changes = {"epochs": 3, "lr": 0.5, "opt_betas": "0.8|0.9", "num_workers": 1}
    finished = run_script(PRETRAIN, *data.flags(PRETRAIN, pretrained, **changes))
    assert finished.code == 0, finished.stderr
    lines = finished.stderr.splitlines()
    (start,) = (number for number, line in enumerate(lines) if "was made with other options" in line)
    table = [line.split() for line in lines[start + 1 : start + 5]]
    assert [row[0] for row in table] == ["epochs", "lr", "num_workers", "opt_betas"]
    assert " ".join(table[0][1:]) == "2 -> 3" and " ".join(table[1][1:]) == "0.00015 -> 0.5"
    assert " ".join(table[3][1:]) == "[0.9, 0.95] -> [0.8, 0.9]"
    assert load(pretrained / "checkpoint-2.pth")["args"]["lr"] == 0.5
    for epoch in (1, 2):
        (pretrained / f"checkpoint-{epoch}.pth").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target_type": "pixel"}, "target_type mlp, now pixel"),
        ({"model": "pretrain_videomae_small_patch16_32"}, "model pretrain_videomae_mini_patch8_32, now"),
        ({"num_frames": 6}, "num_frames 4, now 6"),
        ({"input_size": 64}, "input_size 32, now 64"),
        ({"opt": "sgd"}, "opt adamw, now sgd"),
        ({"num_prototypes": 13}, "does not fit this model"),
    ],
)
def test_another_model_is_refused(changes, words, pretrained, data):
    before = sorted((path.name, path.stat().st_mtime_ns) for path in pretrained.glob("*.pth"))
    finished = run_script(PRETRAIN, *data.flags(PRETRAIN, pretrained, **changes))
    assert finished.code == 2 and len(finished.errors) == 1
    assert words in finished.errors[0] and "--output_dir" in finished.errors[0]
    assert sorted((path.name, path.stat().st_mtime_ns) for path in pretrained.glob("*.pth")) == before


def test_nothing_is_said_where_nothing_has_changed(pretrained, data):
    finished = run_script(PRETRAIN, *data.flags(PRETRAIN, pretrained, save_ckpt_freq=1))
    assert finished.code == 0 and "other options" not in finished.stderr
    again = run_script(PRETRAIN, *data.flags(PRETRAIN, pretrained, data_path="/no/such/list", save_ckpt_freq=1))
    assert again.code == 0 and "finished already" in again.stderr  # before it looks for any data
