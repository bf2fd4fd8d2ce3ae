"""The two entry scripts: released command lines, every flag in use, and what a run leaves behind."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from conftest import Data, write_list
from processes import FINETUNE, PRETRAIN, gloo_world, run_script
from runs import load, records, series
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import run_class_finetuning
import run_sigma_pretraining
from engine.checkpointing.read_weights import read_weights
from engine.config import TrainingConfig
from engine.flags import build_parser, parse
from run_class_finetuning import FinetuningConfig
from run_sigma_pretraining import PretrainingConfig
from sigma_video.options import Options, flag_of, recorded

CONFIGS = {run_sigma_pretraining: PretrainingConfig, run_class_finetuning: FinetuningConfig}

# -------------------------------------------------------------------------------- commands of the released documents

VIDEOMAE_PRETRAIN = """--data_path train.csv --mask_type tube --mask_ratio 0.9
    --model pretrain_videomae_base_patch16_224
    --decoder_depth 4 --batch_size 32 --num_frames 16 --sampling_rate 2 --opt adamw --opt_betas 0.9 0.95
    --warmup_epochs 40 --save_ckpt_freq 20 --epochs 801 --log_dir out --output_dir out"""
SIGMA_PRETRAIN = """--data_path /data/videos --data_path_csv train.csv --mask_type tube --mask_ratio 0.9
    --model pretrain_videomae_base_patch16_224 --decoder_depth 4 --batch_size 32 --num_frames 16 --sampling_rate 2
    --opt adamw --opt_betas 0.9 0.95 --warmup_epochs 40 --save_ckpt_freq 100 --epochs 801 --loss_func SWAV
    --target_type mlp --normlize_target True --num_prototypes 3000 --sinkhorn_eps 0.03 --sinkhorn_iterations 10
    --augmentation multi_scale_crop --run_name sigma --log_dir out --output_dir out"""
VIDEOMAE_FINETUNE = """--model vit_base_patch16_224 --data_set {data_set} --nb_classes {classes} --data_path lists
    --finetune checkpoint.pth --log_dir out --output_dir out --batch_size 8 --num_sample 1 --input_size 224
    --short_side_size 224 --save_ckpt_freq 10 --num_frames 16 --sampling_rate 4 --opt adamw --lr 1e-3
    --opt_betas 0.9 0.999 --weight_decay 0.05 --epochs 100 --dist_eval --test_num_segment 5 --test_num_crop 3"""
FINETUNE_COMMANDS = [
    VIDEOMAE_FINETUNE.format(data_set="SSV2", classes=174),
    VIDEOMAE_FINETUNE.format(data_set="Kinetics-400", classes=400),
    VIDEOMAE_FINETUNE.format(data_set="Kinetics-400", classes=400) + " --warmup_lr 1e-6 --update_freq 2",
    VIDEOMAE_FINETUNE.format(data_set="SSV2", classes=174) + " --linear_probing --drop_path 0.1 --layer_decay 0.75",
]


@pytest.mark.parametrize("command", [VIDEOMAE_PRETRAIN, SIGMA_PRETRAIN], ids=["VideoMAE", "SIGMA"])
def test_released_pretraining_commands_parse_unchanged(command):
    args = recorded(parse(PretrainingConfig, command.split()))
    expected = {"epochs": 801, "batch_size": 32, "warmup_epochs": 40, "opt_betas": [0.9, 0.95], "mask_ratio": 0.9}
    expected |= {"normalize_target": True, "sinkhorn_eps": 0.03 if "sinkhorn_eps" in command else 0.05}
    assert {name: args[name] for name in expected} == expected


@pytest.mark.parametrize("command", FINETUNE_COMMANDS, ids=["SSV2", "Kinetics", "update_freq", "probe"])
def test_released_finetuning_commands_parse_unchanged(command):
    args = recorded(parse(FinetuningConfig, command.split()))
    expected = {"lr": 1e-3, "epochs": 100, "num_sample": 1, "test_num_segment": 5}
    expected |= {"update_freq": 2 if "--update_freq" in command else 1}
    expected |= {"linear_probing": "--linear_probing" in command}
    assert {name: args[name] for name in expected} == expected


@pytest.mark.parametrize(("words", "value"), [("", True), ("True", True), ("False", False), ("0", False), ("on", True)])
def test_normlize_target_is_a_real_switch(words, value):
    for flag in ("--normlize_target", "--normalize_target"):
        config = parse(PretrainingConfig, ["--data_path", "x", flag, *words.split()])
        assert config.targets.normalize_target is value


def test_defaults_are_the_released_ones():
    """The published recipe, for what a command does not name: values of QUVA-Lab/SIGMA 9876f09, scripts and flags."""
    args = recorded(parse(PretrainingConfig, ["--data_path", "x"]).resolved())
    expected = {"epochs": 800, "lr": 1.5e-4, "min_lr": 1e-5, "warmup_epochs": 40, "mask_ratio": 0.9}
    expected |= {"weight_decay": 0.05, "decoder_depth": 4, "num_frames": 16, "sampling_rate": 2, "opt": "adamw"}
    assert {name: args[name] for name in expected} == expected
    args = recorded(parse(FinetuningConfig, ["--data_path", "x"]).resolved())
    expected = {"lr": 1e-3, "min_lr": 1e-6, "layer_decay": 0.75, "drop_path": 0.1, "mixup": 0.8, "cutmix": 1.0}
    expected |= {"reprob": 0.25, "smoothing": 0.1, "aa": "rand-m7-n4-mstd0.5-inc1", "num_sample": 2, "epochs": 30}
    assert {name: args[name] for name in expected} == expected


# ------------------------------------------------------------------------------------------------- every flag is used

WITHOUT_EFFECT = {
    "dist_eval",  # its help says so: implied
    "local_rank",  # hidden; the launcher of old passes it
}


# Reads from there are checks, parsing and recording: they do not make a flag useful.
NOT_USING = ("dataclasses", "sigma_video.options", "engine.flags")


def flags_read(world, runs):
    """Flags whose options each run of `script.main` read; runs are (script, command line), all in this process."""
    read = set()

    def watch(options, name):
        caller = sys._getframe(1)
        if caller.f_globals["__name__"] not in NOT_USING and caller.f_code.co_name != "__post_init__":
            field = type(options).__dataclass_fields__.get(name)
            read.add(name if field is None else flag_of(field))
        return object.__getattribute__(options, name)

    found = []
    for script, argv in runs:
        config = parse(CONFIGS[script], [str(word) for word in argv])
        read.clear()
        Options.__getattribute__ = TrainingConfig.__getattribute__ = watch
        script.main(config, world)
        del Options.__getattribute__, TrainingConfig.__getattribute__
        found.append(set(read))
    return found


@pytest.fixture(scope="module")
def small(data, tmp_path_factory):
    """Lists for two updates of pre-training an epoch, one of fine-tuning, and short tests."""
    folder = tmp_path_factory.mktemp("small")
    write_list(folder / "pretrain.csv", data.videos[:8])
    for name, number in (("train", 4), ("val", 3), ("test", 3)):
        write_list(folder / f"{name}.csv", data.videos[:number])
    return Data(folder, data.videos[:8])


@pytest.mark.slow
def test_every_flag_is_read(small, frozen_weights, tmp_path):
    networks = {"target_type": "dino_v1", "distillation_teacher": "dino_s", "mask_type": "motion"}
    networks |= {"teacher_weights": frozen_weights / "dino_v1.pth", "flow_weights": frozen_weights / "raft.pth"}
    weights = {"finetune": tmp_path / "s0" / "checkpoint-0.pth"}
    taught = {"target_type": "video", "teacher": weights["finetune"]}
    sharded = {"enable_deepspeed": True}
    runs = []
    for script, name, kinds in (
        (run_sigma_pretraining, PRETRAIN, ({}, networks, {**weights, **taught}, {**weights, **sharded})),
        (run_class_finetuning, FINETUNE, ({}, {**weights, "model_ema": True}, {**weights, **sharded})),
    ):
        for number, changes in enumerate(kinds):
            common = {"epochs": 1, "warmup_epochs": 0, "log_dir": tmp_path / "events"}
            output = tmp_path / f"{name[4]}{number}"
            runs.append((script, small.flags(name, output, **{**common, **changes})))
    (found,) = gloo_world(flags_read, runs, size=1)
    for script, config in CONFIGS.items():
        read = set().union(*(flags for (ran, _), flags in zip(runs, found, strict=True) if ran is script))
        # `distributed(config.run.device)` is outside of main
        known = {action.dest for action in build_parser(config)._actions} - {"help", "device"}
        known = {name for name in known if not name.startswith("released_")}  # tests/test_options.py
        assert known - read == WITHOUT_EFFECT & known


# ------------------------------------------------------------------------------------------------ what a run leaves


@pytest.fixture(scope="module")
def outputs(data, tmp_path_factory):
    """A pre-training and a fine-tuning from it, both with everything written: folder and what the second printed."""
    folder = tmp_path_factory.mktemp("outputs")
    flags = data.flags(PRETRAIN, folder / "p", log_dir=folder / "events", run_name="one", save_ckpt_freq=2, epochs=3)
    assert run_script(PRETRAIN, *flags).code == 0
    (folder / "lists").mkdir()
    for name in ("train", "val", "test"):
        (folder / "lists" / f"{name}.csv").write_text((data.folder / f"{name}.csv").read_text())
    (folder / "lists" / "labels.txt").write_text("left\nright\nup\n")
    flags = data.flags(FINETUNE, folder / "f", data_path=folder / "lists", finetune=folder / "p" / "checkpoint-2.pth")
    return folder, run_script(FINETUNE, *flags, "--update_freq", "2")


def test_checkpoints(outputs):
    folder, finished = outputs
    assert finished.code == 0, finished.stderr
    assert sorted(p.name for p in (folder / "p").glob("check*")) == ["checkpoint-1.pth", "checkpoint-2.pth"]
    content = load(folder / "p" / "checkpoint-2.pth")
    assert content.keys() >= {"model", "optimizer", "epoch", "scaler", "args", "step", "rng", "fingerprint"}
    assert (content["epoch"], content["step"]) == (2, 9)
    assert content["args"]["num_prototypes"] == 12
    assert load(folder / "f" / "checkpoint-1.pth")["class_names"] == ["left", "right", "up"]


def test_fine_tuning_starts_from_the_weights(outputs):
    """The encoder's weights are within reach of a few small steps from the pre-trained ones, not a new draw."""
    folder, _ = outputs
    before, after = load(folder / "p" / "checkpoint-2.pth")["model"], load(folder / "f" / "checkpoint-1.pth")["model"]
    for name in ("blocks.0.attn.qkv.weight", "blocks.3.mlp.fc2.weight"):
        change = (after[name] - before[f"encoder.{name}"]).norm() / before[f"encoder.{name}"].norm()
        assert 0 < change < 0.1


@pytest.mark.slow
def test_the_licence_of_the_weights_goes_on(outputs, data, tmp_path):
    folder, _ = outputs
    content = load(folder / "p" / "checkpoint-2.pth")
    torch.save({"model": content["model"], "args": content["args"], "licence": "cc-by-nc-4.0"}, tmp_path / "a.pth")
    for script, name in ((PRETRAIN, "p"), (FINETUNE, "f")):
        flags = data.flags(script, tmp_path / name, finetune=tmp_path / "a.pth", epochs=1, warmup_epochs=0)
        assert run_script(script, *flags).code == 0
        assert read_weights(tmp_path / name / "checkpoint-0.pth").licence == "cc-by-nc-4.0"
    assert read_weights(folder / "f" / "checkpoint-1.pth").licence == ""


def test_log_lines(outputs):
    folder, _ = outputs
    rows = records(folder / "p")
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert [row["epoch"] for row in rows] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    keys = {"train/loss", "train/video_loss", "train/target_loss", "train/grad_norm", "train/lr", "train/min_lr"}
    keys |= {"train/weight_decay", "train/loss_scale"}
    assert all(row.keys() >= keys for row in rows)
    parts = series(folder / "p", "train/video_loss", "train/target_loss").sum(dim=1)
    torch.testing.assert_close(series(folder / "p", "train/loss")[:, 0], parts)
    means = [np.mean([row["train/loss"] for row in rows if row["epoch"] == epoch]) for epoch in range(3)]
    assert [row["train_epoch/loss"] for row in rows if "train_epoch/loss" in row] == pytest.approx(means)
    accuracies = [row["val/top1"] for row in records(folder / "f") if "val/top1" in row]
    assert load(folder / "f" / "checkpoint-1.pth")["best"] == max(accuracies)
    best = load(folder / "f" / "checkpoint-best.pth")  # there even if nothing was right
    assert best["epoch"] == accuracies.index(max(accuracies))


def test_logged_rates_are_base_rates_times_the_batch_over_256(outputs):
    """As numbers: the batch is 4 in pre-training, in fine-tuning 4 x 2 accumulated; an epoch of warm-up from 0."""
    folder, _ = outputs
    top, bottom = 1.5e-4 * 4 / 256, 1e-5 * 4 / 256
    cosine = [bottom + (top - bottom) * share for share in (1, 0.9330127, 0.75, 0.5, 0.25, 0.0669873)]
    rates = [row["train/lr"] for row in records(folder / "p")]
    assert rates == pytest.approx([0, top / 2, top, *cosine], rel=1e-6)
    assert top == pytest.approx(2.34375e-6) and bottom == pytest.approx(1.5625e-7)
    assert [row["train/lr"] for row in records(folder / "f")] == pytest.approx([0, 3.125e-5])


def test_tensorboard_events(outputs):
    folder, _ = outputs
    events = EventAccumulator(str(folder / "events" / "one"))
    events.Reload()
    values = {event.step: event.value for event in events.Scalars("train/loss")}
    assert values == pytest.approx({row["step"]: row["train/loss"] for row in records(folder / "p")})


def test_run_record_and_plan(outputs, data):
    folder, finished = outputs
    (record,) = json.loads((folder / "f" / "run.json").read_text())
    assert record["args"]["update_freq"] == 2 and record["world_size"] == 1
    assert re.fullmatch(r"pyav [\d.]+ \(auto\)", record["args"]["decoder_used"])
    assert f"decoder   {record['args']['decoder_used']}" in finished.stderr
    assert record["torch"] == torch.__version__ and record["command"][0].endswith(FINETUNE)
    text = finished.stderr
    assert "8 = 4 x accumulation 2 x ranks 1" in text
    assert "= base 0.001 x 8 / 256" in text
    assert "2 = 2 epochs x 1" in text
    for name, count in (("train", 8), ("val", 5), ("test", 7)):
        assert re.search(rf"{name}\s.*{name}.csv: format 'path label', {count} videos, 3 classes", text)
    assert "7 videos, 4 views each: 2 clips x 2 crops" in text


def test_nothing_is_written_without_an_output_folder(data, tmp_path):
    for script in (PRETRAIN, FINETUNE):
        finished = run_script(script, *data.flags(script, epochs=1, warmup_epochs=0), cwd=tmp_path)
        assert finished.code == 0, finished.stderr
    assert list(tmp_path.iterdir()) == []


def test_wrong_number_of_class_names(data, outputs):
    folder, _ = outputs
    finished = run_script(FINETUNE, *data.flags(FINETUNE, data_path=folder / "lists", nb_classes=4))
    assert finished.code == 2 and "labels.txt: 3 names for 4 classes" in finished.errors[0]


def test_help_is_complete():
    for cls in CONFIGS.values():
        assert len(build_parser(cls).format_help()) > 2000
