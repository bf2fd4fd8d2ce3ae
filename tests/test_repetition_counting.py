"""`run_repetition_counting.py` from end to end, on a replica of UCFRep."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from processes import COUNT, run_in_processes, script_target
from replicas_severe import UCFREP, passing, ucfrep
from runs import load, records, same

from engine.flags import parse
from engine.results import hash_of
from models.registry import create_model
from run_repetition_counting import RepetitionConfig
from scripts.table_cells import fill
from scripts.table_records import read_records
from sigma_video.options import OptionError

MODEL = ["--model", "vit_mini_patch8_32", "--num_frames", "4", "--device", "cpu", "--num_workers", "0"]
TRAINING = ["--epochs", "2", "--segments_per_video", "4", "--updates_per_batch", "2", "--batch_size", "4"]
TRAINING += ["--print_freq", "1", "--init_scale", "1", "--lr", "0.05", "--save_ckpt_steps", "4", "--keep_ckpts", "9"]


def run(*argv, size=1):
    finished = run_in_processes(script_target(COUNT, *map(str, argv)), size=size)
    assert all(rank.code == 0 for rank in finished), finished[0].stderr
    return finished


def counted(folder):
    with (folder / "counts.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ucfrep")
    ucfrep(folder)
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    torch.manual_seed(3)
    sizes = {"img_size": 32, "num_frames": 8, "decoder_depth": 1}
    model = create_model("pretrain_videomae_mini_patch8_32", target_type="pixel", **sizes)
    file = tmp_path_factory.mktemp("weights") / "checkpoint-799.pth"
    torch.save({"model": model.state_dict(), "epoch": 799, "args": {"num_frames": 8, "input_size": 32}}, file)
    args = {"target_type": "dino_v1", "mask_type": "tube", "epochs": 800}
    run = {"args": args, "data": "k.csv: format 'path label', 240,436 videos, 400 classes"}
    file.with_name("run.json").write_text(json.dumps([run]))
    return file


@pytest.fixture(scope="module")
def trained(root, pretrained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    run("--data_root", root, *MODEL, *TRAINING, "--finetune", pretrained, "--output_dir", folder)
    return folder


@pytest.mark.slow
def test_training_leaves_a_record_that_fills_its_cell(trained, root, pretrained):
    rows = counted(trained)
    assert [row["name"] for row in rows] == sorted(UCFREP["val"])
    true, found = (np.array([int(row[name]) for row in rows]) for name in ("repetitions", "counted"))
    assert true.tolist() == [len(UCFREP["val"][row["name"]]) - 1 for row in rows]
    record = json.loads((trained / "repetition-MAE.json").read_text())
    assert record["value"] == pytest.approx(np.mean(np.abs(found - true) / true))
    assert record["per_clip"] == pytest.approx(
        dict(zip(sorted(UCFREP["val"]), np.abs(found - true) / true, strict=True))
    )
    assert json.loads((trained / "repetition-OBO.json").read_text())["value"] == np.mean(np.abs(found - true) <= 1)
    validated = [row["val/MAE"] for row in records(trained) if "val/MAE" in row]
    assert len(validated) == 2 and validated[-1] == record["value"]
    best = json.loads((trained / "repetition-MAE_best_epoch.json").read_text())
    assert best["value"] == min(validated) and (trained / "checkpoint-best.pth").exists()
    assert record["checkpoint_sha256"] == hash_of(trained / "checkpoint-1.pth") and record["clips"] == 3
    assert record["options"]["regression_mean"] == "all" and record["options"]["segments"] == "every_epoch"
    read = read_records([trained])  # a tiny model has no row of its own
    tables, _ = fill([replace(row, row={**row.row, "backbone": "ViT-B"}) for row in read])
    ((row, cell),) = [
        (row, row.cells["UCF-RC"]) for row in tables["severe"] if row.cells["UCF-RC"].measured is not None
    ]
    assert row.method == "SIGMA-DINO" and cell.measured == record["value"] and cell.value == 0.169
    assert cell.marks == ["3 videos, the official list has 105"]


LEARNING = ["--model", "vit_mini_patch16_16", "--num_frames", "16", "--device", "cpu", "--num_workers", "0"]
LEARNING += ["--batch_size", "32", "--epochs", "3", "--updates_per_batch", "22", "--lr", "0.016", "--min_lr", "0.0004"]
LEARNING += ["--layer_decay", "1", "--init_scale", "1", "--drop_path", "0", "--regression_mean", "positive"]
LEARNING += ["--flip", "False", "--save_ckpt_steps", "550", "--disable_eval_during_finetuning"]


@pytest.mark.long
def test_counting_is_learnt(tmp_path):
    """Minutes from random weights: far better than the best constant."""
    passing(tmp_path / "data", train=80, val=40)
    run("--data_root", tmp_path / "data", *LEARNING, "--output_dir", tmp_path / "out")
    rows = counted(tmp_path / "out")
    true, found = (np.array([int(row[name]) for row in rows]) for name in ("repetitions", "counted"))
    constant = min(np.mean(np.abs(guess - true) / true) for guess in range(2, 13))
    assert constant > 0.35 and np.mean(np.abs(found - true) / true) < 0.1


@pytest.mark.slow
def test_counts_do_not_depend_on_the_number_of_ranks(trained, root, tmp_path):
    for size in (1, 2, 3):
        argv = ["--eval", "--data_root", root, *MODEL, "--finetune", trained / "checkpoint-1.pth", "--batch_size", "4"]
        run(*argv, "--output_dir", tmp_path / str(size), size=size)
        assert counted(tmp_path / str(size)) == counted(trained)
        record, first = (json.loads((f / "repetition-MAE.json").read_text()) for f in (tmp_path / str(size), trained))
        assert (record["value"], record["per_clip"]) == (first["value"], first["per_clip"])
        assert record["pretrained"] == first["pretrained"] != ""


@pytest.mark.slow
def test_training_resumes_to_the_same_bits(trained, root, pretrained, tmp_path):
    start = trained / "checkpoint-1-step2.pth"
    assert {path.name for path in trained.glob("*step*")} >= {"checkpoint-0-step4.pth", start.name}
    argv = ["--data_root", root, *MODEL, *TRAINING, "--finetune", pretrained, "--resume", start]
    run(*argv, "--output_dir", tmp_path, "--disable_eval_during_finetuning")
    ours, theirs = (load(folder / "checkpoint-1.pth") for folder in (tmp_path, trained))
    assert same(ours["model"], theirs["model"]) and same(ours["optimizer"], theirs["optimizer"])


@pytest.mark.slow
def test_two_ranks_train_as_one_with_their_batches(trained, root, pretrained, tmp_path):
    argv = ["--data_root", root, *MODEL, *TRAINING, "--finetune", pretrained, "--output_dir", tmp_path]
    run(*argv, "--batch_size", 2, "--epochs", 1, "--disable_eval_during_finetuning", size=2)
    losses = [[row["train/loss"] for row in records(folder) if "train/loss" in row] for folder in (tmp_path, trained)]
    # later on, what rounding does to the first update has decided between two anchors
    assert losses[0][:3] == pytest.approx(losses[1][:3], rel=1e-3) and losses[0][0] != losses[0][1]


def error(*argv):
    (finished,) = run_in_processes(script_target(COUNT, *map(str, argv)))
    assert finished.code == 2 and len(finished.errors) == 1 and "Traceback" not in finished.stderr, finished.stderr
    return finished.errors[0]


@pytest.mark.slow
def test_bad_input_is_one_line(root, pretrained, tmp_path):
    argv = ["--data_root", root, *MODEL]
    assert "no *.mat of UCFRep" in error("--data_root", tmp_path, *MODEL)
    assert "not a checkpoint of run_repetition_counting.py, for --eval" in error(
        *argv, "--eval", "--finetune", pretrained
    )
    assert "--eval: no weights" in error(*argv, "--eval")


def options(*argv):
    return parse(RepetitionConfig, ["--data_root", "x", *map(str, argv)])


def test_options_that_do_not_fit():
    with pytest.raises(OptionError, match=r"--save_ckpt_steps 10 has to be a multiple of --updates_per_batch 11"):
        options("--save_ckpt_steps", 10)
    with pytest.raises(OptionError, match=r"--num_frames 7: must be an even number from 4 on"):
        options("--num_frames", 7)
    config = options("--save_ckpt_steps", 22)
    assert (config.encoder.num_frames, config.encoder.img_size, config.heads.num_classes) == (16, 224, 42)
    schedule = config.optim.schedule(num_batches=1441, world_size=1)
    assert schedule.lr == schedule.min_lr == pytest.approx(5e-5) and schedule.warmup == 0
