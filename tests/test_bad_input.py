"""What a user can get wrong: exit code 2, one line that starts with `error: `, no traceback, before any work."""

import shutil
import sys

import pytest
import torch
from conftest import write_list
from processes import FINETUNE, PRETRAIN, ROOT, fresh, run_script

from datasets.errors import AnnotationError
from engine.flags import parse
from models import ModelError
from run_class_finetuning import FinetuningConfig
from run_sigma_pretraining import PretrainingConfig
from sigma_video.options import OptionError

REFUSED = [  # script, changes of the tiny run's flags, words of the message
    (PRETRAIN, {"data_path": "/nowhere/list.csv"}, ["/nowhere/list.csv", "Check the path"]),
    (PRETRAIN, {"distillation_teacher": "dino_s"}, ["--distillation_teacher dino_s", "--target_type dino_v1"]),
    (
        PRETRAIN,
        {"teacher_weights": "x.pth"},
        ["--teacher_weights x.pth", "dino_v1 or dino_v2 or timm, not mlp"],
    ),
    (PRETRAIN, {"mlp_preloading": "x.pth", "target_type": "pixel"}, ["--mlp_preloading x.pth", "--target_type mlp"]),
    (PRETRAIN, {"flow_weights": "x.pth"}, ["--flow_weights x.pth", "--mask_type motion"]),
    (PRETRAIN, {"mask_type": "motion_vectors", "decoder": "decord"}, ["--mask_type motion_vectors", "--decoder pyav"]),
    (PRETRAIN, {"target_type": "dino_v1", "distillation_teacher": "dino_l"}, ["dino_l", "no such teacher", "dino_b"]),
    (PRETRAIN, {"target_type": "dino_v2", "teacher_weights": "x.pth"}, ["x.pth", "no such checkpoint file"]),
    (PRETRAIN, {"target_type": "dino_v1", "decoder_num_classes": 8}, ["--decoder_num_classes 8", "768"]),
    (PRETRAIN, {"num_sample": 0}, ["--num_sample 0", "at least 1"]),
    (PRETRAIN, {"num_masks": 0}, ["--num_masks 0", "at least 1"]),
    (PRETRAIN, {"decoder_mask_ratio": 1}, ["--decoder_mask_ratio 1", "below 1"]),
    (PRETRAIN, {"finetune": "x.pth"}, ["x.pth", "no such checkpoint file"]),
    (FINETUNE, {"model_ema": True, "model_ema_decay": 1}, ["--model_ema_decay 1"]),
    (PRETRAIN, {"target_type": "pixel", "decoder_num_classes": 7}, ["--target_type pixel", "384"]),
    (PRETRAIN, {"mask_ratio": 0}, ["--mask_ratio 0.0"]),
    (PRETRAIN, {"mask_ratio": 1}, ["--mask_ratio 1.0"]),
    (PRETRAIN, {"mask_ratio": 0.01}, ["--mask_ratio", "masks 0 of 4 x 4"]),
    (PRETRAIN, {"warmup_epochs": 2}, ["--warmup_epochs 2", "--epochs 2"]),
    (PRETRAIN, {"warmup_steps": 6}, ["--warmup_steps 6", "6 steps"]),
    (PRETRAIN, {"num_frames": 5}, ["num_frames 5", "tubelet_size 2"]),
    (PRETRAIN, {"input_size": 30}, ["--input_size", "30", "patch_size 8"]),
    (PRETRAIN, {"model": "pretrain_videomae_gigantic_patch16_224"}, ["--model", "gigantic", "base"]),
    (PRETRAIN, {"model": "vit_mini_patch8_32"}, ["--model vit_mini_patch8_32", "pretrain_videomae"]),
    (PRETRAIN, {"batch_size": 13}, ["12 videos", "--batch_size 13"]),
    (PRETRAIN, {"update_freq": 4}, ["--update_freq 4"]),
    (PRETRAIN, {"device": "cuda"}, ["--device cuda"]),
    (PRETRAIN, {"amp": "fp16"}, ["--amp fp16", "GPU"]),
    (PRETRAIN, {"sinkhorn_eps": 0}, ["--sinkhorn_eps 0.0: must be positive"]),
    (PRETRAIN, {"num_prototypes": 0}, ["--num_prototypes 0: must be at least 1"]),
    (PRETRAIN, {"opt_betas": "0.9|1"}, ["--opt_betas 0.9 1.0"]),
    (PRETRAIN, {"projection_dims": "32|0"}, ["--projection_dims 32 0"]),
    (PRETRAIN, {"lr": "nan"}, ["--lr nan"]),
    (PRETRAIN, {"seed": -1}, ["--seed -1"]),
    (PRETRAIN, {"output_dir": "/proc/nowhere"}, ["--output_dir /proc/nowhere"]),
    (PRETRAIN, {"resume": "/nowhere.pth"}, ["/nowhere.pth: no such checkpoint file"]),
    (FINETUNE, {"data_path": "/nowhere"}, ["/nowhere/train.csv"]),
    (FINETUNE, {"eval_data_path": "/nowhere"}, ["/nowhere/val.csv"]),
    (FINETUNE, {"data_set": "Kinetics-4000"}, ["Kinetics-4000", "Kinetics-400,", "custom"]),
    (FINETUNE, {"nb_classes": 2}, ["train.csv, line 3: label 2", "--nb_classes"]),
    (FINETUNE, {"short_side_size": 31}, ["--short_side_size 31", "--input_size 32"]),
    (FINETUNE, {"eval": True}, ["--eval", "--finetune"]),
    (FINETUNE, {"finetune": "/nowhere.pth"}, ["/nowhere.pth: no such checkpoint file"]),
    (FINETUNE, {"model": "pretrain_videomae_mini_patch8_32"}, ["--model pretrain_videomae", "vit_"]),
    (FINETUNE, {"num_frames": 5}, ["num_frames 5"]),
    (FINETUNE, {"batch_size": 3, "num_sample": 1}, ["--batch_size 3", "--num_sample 1", "--mixup 0"]),
    (FINETUNE, {"num_sample": 0}, ["--num_sample 0: must be at least 1"]),
    (FINETUNE, {"aa": "augmix-m5"}, ["--aa augmix-m5"]),
    (FINETUNE, {"cutmix_minmax": "0.8|0.2"}, ["--cutmix_minmax"]),
    (FINETUNE, {"test_num_crop": 0}, ["--test_num_crop 0"]),
    (FINETUNE, {"drop_path": 1}, ["--drop_path 1.0"]),
    (FINETUNE, {"layer_decay": 1.5}, ["--layer_decay 1.5"]),
    (PRETRAIN, {"zero_stage": 2}, ["--zero_stage 2", "--enable_deepspeed"]),
    (PRETRAIN, {"enable_deepspeed": True, "amp": "fp16"}, ["--amp fp16", "--enable_deepspeed", "bf16"]),
    (FINETUNE, {"enable_deepspeed": True, "zero_stage": 3, "model_ema": True}, ["--model_ema", "--zero_stage 3"]),
]

CONFIGS = {PRETRAIN: PretrainingConfig, FINETUNE: FinetuningConfig}


def check_refused(finished, *words, trained=False):
    """One line on stderr, the last one, with these words; `trained`: the error can only come in the middle of a run."""
    assert finished.code == 2, finished.stderr
    assert len(finished.errors) == 1, finished.stderr
    assert finished.stderr.splitlines()[-1] == finished.errors[0]
    for word in words:
        assert word in finished.errors[0]
    assert "Traceback" not in finished.stderr
    assert finished.stdout == ""
    assert trained or "epoch 0" not in finished.stderr


@pytest.mark.parametrize(("script", "changes", "words"), REFUSED, ids=lambda value: str(value)[:60])
def test_refused_before_any_work(script, changes, words, data, tmp_path):
    """By the options alone, or by the script, which shows either in the same form."""
    argv = data.flags(script, **{"output_dir": tmp_path, **changes})
    try:
        parse(CONFIGS[script], argv)
    except (OptionError, ModelError, AnnotationError) as error:
        assert all(word in str(error) for word in words) and "\n" not in str(error), error
    else:
        check_refused(run_script(script, *argv), *words)
    assert not list(tmp_path.glob("*.pth")) and not (tmp_path / "log.txt").exists()


@pytest.mark.slow
def test_from_a_shell(data, tmp_path):
    """From a fresh interpreter in any folder: nothing that the tests' own process has set up is needed."""
    finished = fresh(sys.executable, ROOT / FINETUNE, *data.flags(FINETUNE, warmup_epochs=9), cwd=tmp_path)
    assert finished.returncode == 2 and finished.stdout == ""
    assert finished.stderr.startswith("error: --warmup_epochs 9") and finished.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["lists no videos"]),
        ("{0} 0\n{0}, 1\n", ["line 2"]),
        ("{0} 0\n{0} 1\n{0} one\n", ["line 3", "one"]),
        ("{0} 0\n\n{0} -2\n", ["line 3", "-2"]),
    ],
    ids=["empty", "comma", "label is a word", "negative label"],
)
@pytest.mark.parametrize("script", [PRETRAIN, FINETUNE])
def test_lists_that_cannot_be_read(script, content, words, data, tmp_path):
    file = tmp_path / ("pretrain.csv" if script == PRETRAIN else "train.csv")
    file.write_text(content.format(data.videos[0]))
    path = file if script == PRETRAIN else tmp_path
    check_refused(run_script(script, *data.flags(script, data_path=path)), str(file), *words)


def test_labels_that_start_from_one_or_are_missing(data, tmp_path):
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}.csv").write_text("".join(f"{video} {i % 3 + 1}\n" for i, video in enumerate(data.videos)))
    finished = run_script(FINETUNE, *data.flags(FINETUNE, data_path=tmp_path, nb_classes=3))
    check_refused(finished, "train.csv, line 3: label 3", "0..2")
    (tmp_path / "train.csv").write_text("".join(f"{video}\n" for video in data.videos))
    check_refused(run_script(FINETUNE, *data.flags(FINETUNE, data_path=tmp_path)), "train.csv, line 1: no label")


@pytest.mark.parametrize("script", [PRETRAIN, FINETUNE])
def test_more_than_a_handful_of_missing_videos(script, data, tmp_path):
    absent = [tmp_path / f"absent {i}.mp4" for i in range(6)]
    write_list(tmp_path / "train.csv", [*data.videos, *absent])
    path = tmp_path / "train.csv" if script == PRETRAIN else tmp_path
    finished = run_script(script, *data.flags(script, data_path=path))
    check_refused(finished, "6 of 18 videos", *map(str, absent[:3]), "--data_root")
    assert str(absent[3]) not in finished.stderr


def test_a_missing_video_of_a_test_list_is_refused(data, tmp_path):
    for name in ("train", "val"):
        shutil.copy(data.folder / f"{name}.csv", tmp_path)
    write_list(tmp_path / "test.csv", [*data.videos[:3], tmp_path / "absent.mp4"])
    check_refused(run_script(FINETUNE, *data.flags(FINETUNE, data_path=tmp_path)), str(tmp_path / "absent.mp4"))


@pytest.fixture
def broken(data, tmp_path):
    """A file with the name of a video: cut off in the middle."""
    file = tmp_path / "broken.mp4"
    file.write_bytes(data.videos[0].read_bytes()[:1200])
    return file


@pytest.mark.parametrize("script", [PRETRAIN, FINETUNE])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_goes_on_without_an_undecodable_and_a_missing_video(script, num_workers, data, broken, tmp_path):
    absent = tmp_path / "absent.mp4"
    write_list(tmp_path / "train.csv", [broken, *data.videos[:6], absent])
    for name in ("val", "test"):
        shutil.copy(data.folder / f"{name}.csv", tmp_path)
    path = tmp_path / "train.csv" if script == PRETRAIN else tmp_path
    output = tmp_path / "out"
    finished = run_script(script, *data.flags(script, output, data_path=path, num_workers=num_workers))
    assert finished.code == 0, finished.stderr
    rows = [line.split("\t") for line in (output / "bad_videos.txt").read_text().splitlines()]
    assert sorted(row[0] for row in rows) == sorted([str(absent), str(broken)])  # once each, though met in both epochs
    worker = "rank 0 worker 0" if num_workers else "rank 0"
    assert all(row[1] and row[2] == worker and row[3].startswith("epoch ") for row in rows)
    assert all(row[4].removeprefix("replaced by ") in map(str, data.videos[:6]) for row in rows)
    assert finished.stderr.count("undecodable video") == 2
    assert (output / "checkpoint-1.pth").exists()


def test_training_stops_at_too_many_undecodable_videos(data, broken, tmp_path):
    copies = [shutil.copy(broken, tmp_path / f"broken {i}.mp4") for i in range(4)]
    write_list(tmp_path / "train.csv", [*data.videos[:8], *copies])
    flags = data.flags(PRETRAIN, tmp_path / "out", data_path=tmp_path / "train.csv")
    finished = run_script(PRETRAIN, *flags)
    check_refused(finished, "4 of 12 videos", "--max_bad_fraction", str(tmp_path / "broken"), trained=True)
    listed = (tmp_path / "out" / "bad_videos.txt").read_text().splitlines()
    assert sorted(line.split("\t")[0] for line in listed) == sorted(map(str, copies))
    assert run_script(PRETRAIN, *flags, "--max_bad_fraction", "0.5").code == 0


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("name", ["val", "test"])
def test_evaluation_never_replaces_a_video(name, num_workers, data, broken, tmp_path):
    for other in ("train", "val", "test"):
        shutil.copy(data.folder / f"{other}.csv", tmp_path)
    write_list(tmp_path / f"{name}.csv", [*data.videos[:4], broken])
    flags = data.flags(FINETUNE, tmp_path / "out", data_path=tmp_path, num_workers=num_workers, epochs=1)
    finished = run_script(FINETUNE, *flags, "--warmup_epochs", "0")
    check_refused(finished, str(broken), trained=True)
    assert not (tmp_path / "out" / "test.json").exists()


def test_video_that_is_cut_off_inside_its_header(data, tmp_path):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data.videos[0].read_bytes()[:1500])
    write_list(tmp_path / "train.csv", [cut, *data.videos[:3]])
    flags = data.flags(PRETRAIN, tmp_path / "out", data_path=tmp_path / "train.csv")
    assert run_script(PRETRAIN, *flags).code == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "vit_tiny_patch8_32"}, ["another architecture", "patch_embed.proj.weight", "--model"]),
        ({"tubelet_size": 4}, ["another architecture", "--tubelet_size"]),
        ({"model_key": "ema"}, ["no weights under the key ema", "optimizer"]),
        ({"eval": True}, ["--eval", "head.weight", "3 classes"]),
    ],
    ids=["width", "tubelet", "model key", "eval without head"],
)
def test_weights_that_do_not_fit(changes, words, data, pretrained):
    file = pretrained / "checkpoint-0.pth"
    check_refused(run_script(FINETUNE, *data.flags(FINETUNE, finetune=file, **changes)), str(file), *words)


def test_file_that_is_no_checkpoint(data, tmp_path):
    (tmp_path / "weights.pth").write_text("<html>404</html>")
    torch.save([1, 2, 3], tmp_path / "list.pth")
    for name, words in (("weights.pth", "not a checkpoint"), ("list.pth", "list")):
        finished = run_script(FINETUNE, *data.flags(FINETUNE, finetune=tmp_path / name))
        check_refused(finished, str(tmp_path / name), words)


def test_diverging_run_stops_with_one_line(data, tmp_path):
    finished = run_script(FINETUNE, *data.flags(FINETUNE, tmp_path, init_values=1e38, warmup_epochs=0))
    check_refused(finished, "not finite", "--lr", trained=True)
    assert not list(tmp_path.glob("*.pth"))


def test_error_on_every_rank_is_that_error(data):
    ranks = run_script(PRETRAIN, *data.flags(PRETRAIN, batch_size=7), size=2)
    for rank in ranks:
        check_refused(rank, "12 videos, fewer than the 14")


@pytest.mark.parametrize("script", [PRETRAIN, FINETUNE])
def test_error_found_by_the_main_process_is_that_of_every_rank(script, data, tmp_path):
    write_list(tmp_path / "train.csv", [*data.videos, *(tmp_path / f"absent {i}.mp4" for i in range(6))])
    path = tmp_path / "train.csv" if script == PRETRAIN else tmp_path
    for rank in run_script(script, *data.flags(script, data_path=path), size=2):
        check_refused(rank, "6 of 18 videos", "--data_root")
