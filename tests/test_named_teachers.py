"""Runs whose teacher `--teacher` names: what the plan and checkpoints say of it, and that a run keeps it."""

import shutil

import pytest
import timm
import torch
from processes import PRETRAIN, run_script
from runs import load, series

SHORT = {"epochs": 1, "warmup_epochs": 0}


def run(data, output, size=1, **changes):
    return run_script(PRETRAIN, *data.flags(PRETRAIN, output, **{**SHORT, **changes}), size=size)


@pytest.fixture(scope="module")
def teachers(data, pretrained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    shutil.copy(pretrained / "checkpoint-0.pth", folder / "video.pth")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), folder / "image.pth")
    return folder


def test_a_video_teacher(data, teachers, tmp_path):
    file = tmp_path / "teacher.pth"
    shutil.copy(teachers / "video.pth", file)
    changes = {"target_type": "video", "teacher": file, "epochs": 2, "save_ckpt_freq": 1}
    finished = run(data, tmp_path / "out", **changes)
    assert finished.code == 0, finished.stderr
    assert "method         SIGMA with a video teacher (swapped prediction of 12 prototypes" in finished.stderr
    assert f"teacher        {file}, licence of its weights: none stated, float32" in finished.stderr
    content = load(tmp_path / "out" / "checkpoint-1.pth")
    assert content["args"]["teacher_used"] == {
        "name": str(file),
        "licence": "none stated",
        "model": "pretrain_videomae_mini_patch8_32",
        "target_type": "mlp",
        "epochs": "1",
    }
    assert content["model"]["prototypes"].shape == (12, 128)  # compared as they are
    assert not any("teacher" in name or "network" in name for name in content["model"])
    assert series(tmp_path / "out", "train/loss").isfinite().all()

    moved = tmp_path / "moved.pth"
    file.rename(moved)
    changed = torch.load(moved)
    changed["model"]["encoder.blocks.0.mlp.fc1.weight"] += 1
    torch.save(changed, file)
    (tmp_path / "out" / "checkpoint-1.pth").unlink()
    refused = run(data, tmp_path / "out", **changes)
    assert refused.code == 2 and "teacher_digest" in refused.errors[0], refused.stderr
    goes_on = run(data, tmp_path / "out", **{**changes, "teacher": moved})
    assert goes_on.code == 0 and "resumed from" in goes_on.stderr, goes_on.stderr


def test_a_timm_teacher(data, teachers, tmp_path):
    changes = {"target_type": "timm", "teacher": "test_vit", "teacher_weights": teachers / "image.pth"}
    finished = run(data, tmp_path, **changes)
    assert finished.code == 0, finished.stderr
    assert "teacher        test_vit.r160_in1k, licence of its weights: apache-2.0, float32" in finished.stderr
    args = load(tmp_path / "checkpoint-0.pth")["args"]
    assert args["teacher_used"]["timm"] == timm.__version__ and len(args["teacher_digest"]) == 12


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target_type": "video"}, ["--target_type video needs --teacher FILE"]),
        ({"target_type": "timm"}, ["--target_type timm needs --teacher NAME"]),
        ({"teacher": "test_vit"}, ["--teacher test_vit is for --target_type timm or video, not mlp"]),
        ({"target_type": "video", "teacher": "absent.pth"}, ["absent.pth"]),
        ({"target_type": "timm", "teacher": "resnet18"}, ["resnet18", "no ViT"]),
        (
            {"target_type": "video", "teacher": "{video}", "tubelet_size": 1},
            ["video.pth", "its tubelets are 2x8x8, the model's 1x8x8"],
        ),
        (
            {"target_type": "video", "teacher": "{video}", "decoder_num_classes": 64},
            ["--decoder_num_classes 64: the teacher gives 128"],
        ),
        ({"target_type": "timm", "teacher": "test_vit", "teacher_weights": "{video}"}, ["video.pth", "test_vit"]),
        (
            {"target_type": "video", "teacher": "{video}", "teacher_weights": "x.pth"},
            ["--teacher_weights x.pth is for --target_type dino_v1 or dino_v2 or timm, not video"],
        ),
    ],
)
def test_refused(changes, words, data, teachers, tmp_path):
    changes = {name: str(value).format(video=teachers / "video.pth") for name, value in changes.items()}
    finished = run(data, tmp_path, **changes)
    assert finished.code == 2 and len(finished.errors) == 1, finished.stderr
    assert all(word in finished.errors[0] for word in words), finished.errors
    assert not list(tmp_path.glob("*.pth"))
