"""A run that was cut off inside an epoch ends as one that was not: bit for bit, through the entry scripts."""

import shutil

import pytest
import torch
from processes import FINETUNE, PRETRAIN, run_script
from runs import load, records, same, series

from engine.checkpointing.files import newest_valid

STATE = ("model", "optimizer", "scaler", "epoch", "step", "best", "rng")
CHANGES = {
    PRETRAIN: {"drop_path": 0.5, "batch_size": 2, "update_freq": 2},  # 3 updates an epoch
    FINETUNE: {"drop_path": 0.5, "fc_drop_rate": 0.5, "batch_size": 2, "model_ema": True},  # 4 updates
}
TIMES = ("step_time", "data_time", "clips_per_second", "tflops", "mfu", "memory_gib")


def without_times(folder):
    return [{k: v for k, v in record.items() if not k.endswith(TIMES)} for record in records(folder)]


def train(data, script, folder, *, size=1, code=0, **changes):
    flags = {"save_ckpt_freq": 2, "save_ckpt_steps": 1, "keep_ckpts": 3, "print_freq": 5, **changes}
    finished = run_script(script, *data.flags(script, folder, **flags), size=size)
    finished = finished if size > 1 else [finished]
    assert [f.code for f in finished] == [code] * size, finished[0].stderr
    return finished[0]


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """The folder of a pre-training that nothing interrupted. Tests only read it."""
    folder = tmp_path_factory.mktemp("straight")
    train(data, PRETRAIN, folder, **CHANGES[PRETRAIN])
    return folder


def cut_off(straight, folder, checkpoint, *, damaged=""):
    """A copy of a finished run's folder as it was just after it had made a checkpoint, and half of another."""
    shutil.copytree(straight, folder)
    names = sorted(path.name for path in folder.glob("*.pth"))
    for name in names:
        if name > checkpoint and not name.startswith("checkpoint-0"):  # `-` sorts before `.`: steps before their epoch
            (folder / name).unlink()
    if damaged:
        (folder / damaged).write_bytes((straight / damaged).read_bytes()[:1000])
    assert newest_valid(folder).name == checkpoint
    return folder


@pytest.mark.parametrize(
    ("script", "size"),
    [
        (PRETRAIN, 1),
        pytest.param(PRETRAIN, 2, marks=pytest.mark.slow),
        pytest.param(FINETUNE, 1, marks=pytest.mark.slow),
        pytest.param(FINETUNE, 2, marks=pytest.mark.slow),
    ],
)
def test_final_state_and_log_are_the_same(script, size, data, tmp_path, request):
    """Also where the file behind the last whole one is damaged: it is passed over."""
    changes = dict(CHANGES[script])
    if size > 1:
        changes |= {"batch_size": 1} | ({"mixup": 0, "cutmix": 0} if script == FINETUNE else {})
    if (script, size) == (PRETRAIN, 1):
        straight = request.getfixturevalue("straight")
    else:
        train(data, script, straight := tmp_path / "straight", size=size, **changes)
    steps = 3 if script == PRETRAIN else 4
    kept = [f"checkpoint-1-step{step}.pth" for step in (steps - 2, steps - 1)]
    before_validation = f"checkpoint-1-step{steps}.pth" if script == FINETUNE else "checkpoint-1-step0.pth"
    files = {*kept, before_validation, "checkpoint-1.pth"}
    assert {path.name for path in straight.glob("checkpoint-[0-9]*")} == files
    assert load(straight / kept[0])["unfinished"]["step"] == steps - 2
    for checkpoint, num_workers in list(zip(kept, (2, 0), strict=True))[: 3 - size]:
        damaged = kept[1] if checkpoint == kept[0] else ""
        resumed = cut_off(straight, tmp_path / checkpoint, checkpoint, damaged=damaged)
        said = train(data, script, resumed, size=size, **changes, num_workers=num_workers).stderr
        assert f"{checkpoint}: 1 epochs and" in said and "made with another list" not in said
        assert ("trying the one before" in said) is bool(damaged)
        a, b = (load(folder / "checkpoint-1.pth") for folder in (straight, resumed))
        for key in (*STATE, *(("model_ema",) if script == FINETUNE else ())):
            assert same(a[key], b[key]), key
        assert not same(a["model"], load(straight / checkpoint)["model"])
        assert {path.name for path in resumed.glob("checkpoint-[0-9]*")} == files
        assert without_times(resumed) == without_times(straight)


# Only what belongs to a sample is random, and SGD shows a wrong factor.
STEADY = {"opt": "sgd", "lr": 3, "batch_size": 4}


@pytest.mark.slow
def test_another_number_of_ranks_goes_on_with_the_same_batches(data, tmp_path):
    """On one rank for four updates, then two for one, then four for the last, which all train on the same videos."""
    straight, two, four = tmp_path / "straight", tmp_path / "two", tmp_path / "four"
    train(data, PRETRAIN, straight, **STEADY)
    cut_off(straight, two, "checkpoint-1-step1.pth")
    train(data, PRETRAIN, two, size=2, **{**STEADY, "batch_size": 2})
    cut_off(two, four, "checkpoint-1-step2.pth")
    assert len(load(four / "checkpoint-1-step2.pth")["rng"]) == 2
    train(data, PRETRAIN, four, size=4, **{**STEADY, "batch_size": 1})
    expected = load(straight / "checkpoint-1.pth")["model"]
    for folder in (two, four):
        torch.testing.assert_close(load(folder / "checkpoint-1.pth")["model"], expected, rtol=1e-3, atol=1e-5)
        assert records(folder)[-1]["train_epoch/loss"] == pytest.approx(
            records(straight)[-1]["train_epoch/loss"], rel=2e-4
        )
    refused = train(
        data,
        PRETRAIN,
        cut_off(straight, tmp_path / "r", "checkpoint-1-step1.pth"),
        code=2,
        **{**STEADY, "batch_size": 3},
    )
    assert len(refused.errors) == 1 and "--batch_size" in refused.errors[0]


@pytest.mark.slow
def test_another_total_batch_is_refused_inside_an_epoch_only(data, tmp_path):
    """Twelve videos in batches of 5 and of 6 make two updates an epoch, so that the schedule is the same."""
    straight = tmp_path / "straight"
    train(data, PRETRAIN, straight, batch_size=5)
    inside = cut_off(straight, tmp_path / "inside", "checkpoint-1-step1.pth")
    refused = train(data, PRETRAIN, inside, code=2, batch_size=6)
    assert "total batch of 5 videos, now 6" in refused.errors[0] and "checkpoint-1-step1.pth" in refused.errors[0]
    reseeded = train(data, PRETRAIN, inside, code=2, batch_size=5, seed=5)
    assert "seed was 0 and is now 5" in reseeded.errors[0]
    (inside / "checkpoint-1-step1.pth").unlink()
    assert newest_valid(inside).name == "checkpoint-1-step0.pth"  # the end of epoch 0
    assert "checkpoint-1-step0.pth: 1 epochs, 2 steps" in train(data, PRETRAIN, inside, batch_size=6).stderr
    assert series(inside, "step")[-1, 0] == 4


def test_another_list_of_the_same_length_is_refused_inside_an_epoch(data, straight, tmp_path):
    lines = data.pretrain_list.read_text().splitlines()
    other = tmp_path / "other.csv"
    other.write_text("\n".join(reversed(lines)) + "\n")
    inside = cut_off(straight, tmp_path / "inside", "checkpoint-1-step1.pth")
    changes = CHANGES[PRETRAIN]
    refused = train(data, PRETRAIN, inside, code=2, **changes, data_path=other)
    assert len(refused.errors) == 1 and "made with another list, fingerprint" in refused.errors[0]
    refused = train(data, PRETRAIN, inside, code=2, **changes, num_sample=2)
    assert len(refused.errors) == 1 and "--num_sample 1, now 2" in refused.errors[0]
    at_the_end = train(data, PRETRAIN, inside, **changes, data_path=other, resume=straight / "checkpoint-1.pth")
    assert "made with another list, fingerprint" in at_the_end.stderr
