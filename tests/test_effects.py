"""Every flag of the entry scripts, and what it does to saved weights and saved predictions.

A flag that is added gets a row in each table of its script: what a change of it must change, or that it must not.
"""

import importlib.util
from pathlib import Path

import pytest
from effects import LISTED, flag_in, make_inputs, make_networks, make_weight_files, run_in, scratch, split, verdicts
from processes import FINETUNE, PRETRAIN, gloo_world

DINO = "--target_type dino_v1 --distillation_teacher dino_s --teacher_weights {folder}/dino_v1.pth"
VIDEO = "--target_type video --teacher {folder}/begun/checkpoint-1.pth"
MOTION = "--mask_type motion --flow_weights {folder}/raft.pth"
# What pre-training and fine-tuning have in common. A run has two updates.
WEIGHTS = {
    "seed": "--seed 1",
    "batch_size": "--batch_size 1",
    "update_freq": "--update_freq 2",
    "epochs": "--epochs 2",
    "opt": "--opt sgd",
    "opt_eps": "--opt_eps 1e-3",
    "opt_betas": "--opt_betas 0.5 0.9",
    "momentum": ("--opt sgd", "--momentum 0.5"),
    "clip_grad": "--clip_grad 1e-6",
    "weight_decay": "--weight_decay 0.5",
    "weight_decay_end": "--weight_decay_end 0.5",
    "lr": "--lr 1e-2",
    "warmup_lr": ("--warmup_steps 1", "--warmup_lr 1e-4"),
    "min_lr": "--min_lr 1e-3",
    "warmup_epochs": ("--epochs 2", "--warmup_epochs 1"),
    "warmup_steps": "--warmup_steps 1",
    "amp": "--amp bf16",
    "drop_path": "--drop_path 0.5",
    "init_values": "--init_values 0.1",
    "tubelet_size": "--tubelet_size 4",
    "num_frames": "--num_frames 6",
    "sampling_rate": "--sampling_rate 1",
    "num_sample": "--num_sample 4",
    "data_root": ("--data_path {folder}/named", "--data_root {folder}/others"),
    "list_format": ("--data_path {folder}/takes", "--list_format videomae"),
    "max_bad_fraction": ("--data_path {folder}/broken", "--max_bad_fraction 1"),
    "resume": ("--epochs 2 --lr 0.1", "--resume {folder}/begun/checkpoint-0.pth"),
    "finetune": "--finetune {folder}/begun/checkpoint-1.pth",
    "model_key": ("--finetune {folder}/two.pth", "--model_key other"),
    "pretrained_clip": ("--finetune {folder}/begun/checkpoint-1.pth", "--pretrained_clip 8 32"),
    "trust_checkpoint": ("--finetune {folder}/pickled.pth", "--trust_checkpoint"),
    "dry_run": "--dry_run",
}
REFUSED = {  # the flag decides whether there is a result
    "auto_resume": ("--epochs 2 --output_dir {folder}/begun", "--no_auto_resume"),
    "cuda_graphs": "--cuda_graphs",  # there is no GPU
}
NOTHING = {
    "output_dir": "--output_dir {folder}/elsewhere",
    "log_dir": "--log_dir {folder}/events",
    "run_name": "--run_name a",
    "device": "--device auto",
    "save_ckpt_freq": "--save_ckpt_freq 1",
    "save_ckpt_steps": "--save_ckpt_steps 1",
    "keep_ckpts": "--keep_ckpts 1",
    "stall_timeout": "--stall_timeout 0",
    "deterministic": "--deterministic",
    "print_freq": "--print_freq 7",
    "profile": "--profile 1",
    "memory_plan": "--memory_plan 8",  # a script ends with it before its `main`: tests/engine/test_memory_plan.py
    "local_rank": "--local_rank 0",
    "use_checkpoint": "--use_checkpoint",
    # tests/engine/resilience/test_nonfinite.py has what they do where a loss is not finite
    "on_nonfinite": "--on_nonfinite skip",
    "nonfinite_limit": "--nonfinite_limit 1",
    "decoder": "--decoder pyav",
    "num_workers": "--num_workers 1",
    "decode_timeout": "--decode_timeout 0",
    "gpu_prefetch": "--no_gpu_prefetch",
    "pin_mem": "--no_pin_mem",
}
# Long to start, and equal up to rounding: with SGD the weights move by the size of the gradient. Compiled code draws
# random numbers of its own.
LONG = {
    "enable_deepspeed": ("--opt sgd --lr 10", "--enable_deepspeed"),
    "zero_stage": ("--opt sgd --lr 10 --enable_deepspeed", "--zero_stage 2"),
    "compile": ("--opt sgd --lr 10 --drop_path 0", "--compile"),
    "wandb": "--wandb project",
}
TABLES = {
    "pre-training": {
        "weights": {
            **WEIGHTS,
            "data_path": "--data_path {folder}/more",
            "data_path_csv": ("--data_path {folder}/others", "--data_path_csv {folder}/named"),
            "model": "--model pretrain_videomae_nano_patch16_32",
            "model: size": "--model pretrain_videomae_nano_patch8_48 --input_size 48",
            "fps": "--fps 10",
            "samples_per_epoch": "--samples_per_epoch 2",
            "augmentation": "--augmentation resize",
            "mask_type": "--mask_type random",
            "mask_type: motion": MOTION,
            "mask_ratio": "--mask_ratio 0.5",
            "num_masks": "--num_masks 2",
            "flow_weights": (MOTION, "--flow_weights {folder}/raft_other.pth"),
            "decoder_depth": "--decoder_depth 2",
            "decoder_mask_ratio": "--decoder_mask_ratio 0.5",
            "target_type": "--target_type pixel",
            "target_type: dino": DINO,
            "teacher": (VIDEO, "--teacher {folder}/other.pth"),
            "center_teacher": (VIDEO, "--center_teacher"),
            "teacher_weights": (DINO, "--teacher_weights {folder}/dino_v1_other.pth"),
            "mlp_preloading": "--mlp_preloading {folder}/begun/checkpoint-1.pth",
            "freeze_projection_epochs": "--freeze_projection_epochs 1",
            "loss_func": "--loss_func L2",
            "num_prototypes": "--num_prototypes 13",
            "sinkhorn_eps": "--sinkhorn_eps 0.5",
            "sinkhorn_iterations": "--sinkhorn_iterations 1",
            "sinkhorn_targets": "--sinkhorn_targets soft",
            "projection_dims": "--projection_dims 16 16",
            "decoder_num_classes": "--decoder_num_classes 16",
            "normalize_target": ("--target_type pixel", "--normalize_target False"),
        },
        "refused": {
            **REFUSED,
            "input_size": "--input_size 48",
            "distillation_teacher": (DINO, "--distillation_teacher dino_b"),
        },
        "nothing": {
            **NOTHING,
            "probe_data": "--probe_data {folder}/probe",
            "probe_every": ("--probe_data {folder}/probe", "--probe_every 1"),
            "stop_when_collapsed": "--stop_when_collapsed",
        },
    },
    "fine-tuning": {
        "weights": {
            **WEIGHTS,
            "data_path": "--data_path {folder}/more",
            "data_set": "--data_set SSV2 --nb_classes 3",
            "nb_classes": "--nb_classes 4",
            "model": "--model vit_nano_patch16_32",
            "model: size": ("--short_side_size 48", "--model vit_nano_patch8_48 --input_size 48"),
            "task": "--task multilabel",
            "fps": "--fps 20",
            "samples_per_epoch": "--samples_per_epoch 2",
            "freeze_blocks": ("--finetune {folder}/begun/checkpoint-1.pth", "--freeze_blocks 1"),
            "class_weights": ("--mixup 0 --cutmix 0", "--class_weights balanced"),
            "balanced_sampling": "--balanced_sampling",
            "sampling": "--sampling uniform",
            "sampling: of SSv2": ("--data_set SSV2 --nb_classes 3", "--sampling dense"),
            "flip": "--flip False",
            "flip: of SSv2": ("--data_set SSV2 --nb_classes 3", "--flip True"),
            "fc_drop_rate": "--fc_drop_rate 0.5",
            "drop": "--drop 0.5",
            "attn_drop_rate": "--attn_drop_rate 0.5",
            "layer_decay": "--layer_decay 0.5",
            "init_scale": "--init_scale 1",
            "use_mean_pooling": "--use_cls",
            "aa": "--aa none",
            "train_interpolation": "--train_interpolation bilinear",
            "finetuning_crops": "--finetuning_crops False",
            "min_crop_area": "--min_crop_area 0.9",
            "reprob": "--reprob 1",
            "remode": ("--reprob 1", "--remode const"),
            "recount": ("--reprob 1", "--recount 3"),
            "smoothing": "--smoothing 0.5",
            "smoothing: without mixing": ("--mixup 0 --cutmix 0", "--smoothing 0.5"),
            "mixup": "--mixup 0",
            "cutmix": "--cutmix 0",
            "cutmix_minmax": ("--mixup 0", "--cutmix_minmax 0.2 0.8"),
            "mixup_prob": "--mixup_prob 0",
            "mixup_switch_prob": "--mixup_switch_prob 1",
            "mixup_mode": "--mixup_mode elem",
            "linear_probing": ("--finetune {folder}/begun/checkpoint-1.pth", "--linear_probing"),
            "model_ema": "--model_ema",
            "model_ema_decay": ("--model_ema", "--model_ema_decay 0.5"),
            "eval": ("--finetune {folder}/begun/checkpoint-1.pth", "--eval"),
        },
        "predictions": {
            "eval_data_path": "--eval_data_path {folder}/more",
            "short_side_size": "--short_side_size 40",
            "test_num_segment": "--test_num_segment 3",
            "test_num_crop": "--test_num_crop 3",
            "test_best": ("--epochs 4 --lr 30 --init_scale 1", "--test_best"),
        },
        "refused": {
            **REFUSED,
            "input_size": "--input_size 48",
            "view_pooling": "--view_pooling max",  # for several classes a video
            "regression_loss": "--regression_loss smooth_l1",
            "lora_rank": "--lora_rank 2",  # nothing to start from; tests/test_lora.py has what it does
            "random_encoder": ("--finetune {folder}/begun/checkpoint-1.pth --linear_probing", "--random_encoder"),
        },
        "nothing": {
            **NOTHING,
            "disable_eval_during_finetuning": "--disable_eval_during_finetuning",
            "dist_eval": "--dist_eval",
            "model_ema_force_cpu": ("--model_ema", "--model_ema_force_cpu"),
        },
    },
    "testing": {
        "predictions": {
            "data_path": "--data_path {folder}/more",
            "eval_data_path": "--eval_data_path {folder}/more",
            "data_root": ("--data_path {folder}/named", "--data_root {folder}/others"),
            "list_format": ("--data_path {folder}/takes", "--list_format videomae"),
            "data_set": "--data_set SSV2 --nb_classes 3",
            "finetune": "--finetune {folder}/begun/checkpoint-0.pth",
            "model_key": "--finetune {folder}/two.pth --model_key other",
            "pretrained_clip": "--pretrained_clip 8 32",
            "trust_checkpoint": ("--finetune {folder}/pickled.pth", "--trust_checkpoint"),
            "resume": "--resume {folder}/begun/checkpoint-0.pth",
            "auto_resume": (
                "--output_dir {folder}/begun --finetune {folder}/begun/checkpoint-0.pth",
                "--no_auto_resume",
            ),
            "model_ema": "--model_ema",
            "num_frames": "--num_frames 6",
            "sampling_rate": "--sampling_rate 1",
            "sampling": "--sampling uniform",
            "fps": "--fps 20",
            "test_best": ("--output_dir {folder}/begun", "--test_best"),
            "short_side_size": "--short_side_size 40",
            "test_num_segment": "--test_num_segment 3",
            "test_num_crop": "--test_num_crop 3",
            "amp": "--amp bf16",
            "dry_run": "--dry_run",
        },
        "refused": {
            "model": "--model vit_nano_patch16_32",
            "input_size": "--input_size 48",
            "view_pooling": "--view_pooling max",
            "task": "--task multilabel",
            "regression_loss": "--regression_loss smooth_l1",
            "nb_classes": "--nb_classes 4",
            "memory_plan": "--memory_plan 8",
            "tubelet_size": "--tubelet_size 4",
            "init_values": "--init_values 0.1",
            "use_mean_pooling": "--use_cls",
        },
    },
}
ALONE = {"compile", "cuda_graphs", "freeze_blocks", "lora_rank", "wandb"}  # not together with all others
DECIDING = {flag_in(key) for column in TABLES["testing"].values() for key in column}
TABLES["testing"]["nothing"] = {  # what only training reads
    key: split(row)[1]
    for column in (*TABLES["fine-tuning"].values(), LONG)
    for key, row in column.items()
    if flag_in(key) not in DECIDING | ALONE | {"eval"}
} | {
    "output_dir": "--output_dir {folder}/tested",
    "warmup_epochs": "--epochs 2 --warmup_epochs 1",
    "zero_stage": "--enable_deepspeed --zero_stage 2",
    "balanced_sampling": ("", "--balanced_sampling"),
    "random_encoder": "--linear_probing --random_encoder",
}
TABLES["testing"]["long"] = {
    "compile": "--compile",
    "cuda_graphs": "--cuda_graphs",
    "freeze_blocks": "--freeze_blocks 1",
    "lora_rank": "--lora_rank 2",
    "wandb": LONG["wandb"],
}
TABLES["pre-training"]["long"] = TABLES["fine-tuning"]["long"] = LONG
SCRIPT_OF = {"pre-training": PRETRAIN, "fine-tuning": FINETUNE, "testing": FINETUNE}


@pytest.fixture(scope="module")
def folders(data):
    """What the rows name, and the command line that all runs of a table have in common, by the table's name."""
    with scratch() as root:
        places = {script: make_inputs(Path(root) / script, script, data) for script in (PRETRAIN, FINETUNE)}
        lines = {}
        for name, script in SCRIPT_OF.items():
            changes = {"epochs": 1, "warmup_epochs": 0, "batch_size": 2, "data_path": places[script] / "lists"}
            if script == FINETUNE:
                changes |= {"nb_classes": 3, "test_num_segment": 1, "test_num_crop": 1, "model": "vit_nano_patch8_32"}
            else:
                changes |= {"model": "pretrain_videomae_nano_patch8_32"}
            if name == "testing":
                changes |= {"eval": True, "finetune": places[script] / "trained" / "checkpoint-1.pth"}
            lines[name] = [str(word) for word in data.flags(script, **changes)]
        trained = "--epochs 2 --save_ckpt_freq 1 --lr 0.05 --init_scale 1"
        gloo_world(
            run_in,
            PRETRAIN,
            lines["pre-training"],
            [(places[PRETRAIN] / "begun", "--epochs 2 --save_ckpt_freq 1")],
            size=1,
        )
        begun = [
            (places[FINETUNE] / "begun", trained),
            (places[FINETUNE] / "trained", f"{trained} --model_ema --model_ema_decay 0.5"),
        ]
        gloo_world(run_in, FINETUNE, lines["fine-tuning"], begun, size=1)
        for place in places.values():
            make_weight_files(place)
        yield places, lines


def found(folders, name, rows, tolerance=0.0):
    """The verdicts over some rows of a table."""
    places, lines = folders
    script = SCRIPT_OF[name]
    return gloo_world(verdicts, script, lines[name], places[script], rows, tolerance, size=1)[0]


@pytest.mark.parametrize("name", TABLES)
def test_every_flag_has_a_row(name):
    table = TABLES[name]
    # Released flags without a place in the options, which are accepted for the value that they had, have no default.
    listed = {flag: row for flag, row in LISTED[SCRIPT_OF[name]].items() if row["default"] != "==SUPPRESS=="}
    rows = [key for column in table.values() for key in column]
    assert len(rows) == len(set(rows))
    assert {flag_in(key) for key in rows} | ({"eval"} if name == "testing" else set()) == listed.keys()
    for column in table.values():
        for key, row in column.items():
            assert set(listed[flag_in(key)]["flags"]) & set(split(row)[1].split()), key


def wrong_rows(folders, name, column, rows):
    """The verdicts of the rows that are not what their column says."""
    return {key: what for key, what in found(folders, name, rows).items() if what.partition(":")[0] != column}


def has_network(row):
    """Whether runs of a row have a frozen network, which takes longer."""
    return DINO in split(row) or MOTION in split(row)


def is_quick(name, key, row):
    """The code behind what both scripts have in common is the same: it is run quickly for pre-training."""
    return not has_network(row) and not (name == "fine-tuning" and key in WEIGHTS)


QUICK = [
    ("pre-training", "predictions"),
    ("pre-training", "refused"),
    ("fine-tuning", "refused"),
    ("testing", "refused"),
]
DECIDE = [(name, column) for name in TABLES for column in ("weights", "predictions", "refused")]


@pytest.mark.parametrize(
    ("name", "column"), [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in DECIDE]
)
def test_flags_that_decide(name, column, folders):
    rows = {key: row for key, row in TABLES[name].get(column, {}).items() if is_quick(name, key, row)}
    assert wrong_rows(folders, name, column, rows) == {}


@pytest.mark.slow
def test_common_flags_decide_in_fine_tuning(folders):
    assert wrong_rows(folders, "fine-tuning", "weights", WEIGHTS) == {}


@pytest.mark.slow
def test_flags_of_frozen_networks(folders, frozen_weights):
    places, _ = folders
    make_networks(places[PRETRAIN], frozen_weights)
    for column in ("weights", "refused"):
        rows = {key: row for key, row in TABLES["pre-training"][column].items() if has_network(row)}
        assert rows and wrong_rows(folders, "pre-training", column, rows) == {}


@pytest.mark.parametrize("name", TABLES)
def test_flags_that_decide_nothing(name, folders):
    """All in one run; if that differs, each by itself to say which."""
    rows = TABLES[name]["nothing"]
    # Clips that go through a model in another number are rounded differently.
    tolerance = 1e-6 if name == "testing" else 0
    together = " ".join(row for row in rows.values() if isinstance(row, str))
    several = {"all": together} | {key: row for key, row in rows.items() if not isinstance(row, str)}
    wrong = {key: what for key, what in found(folders, name, several, tolerance).items() if what != "nothing"}
    if "all" in wrong:
        wrong |= {key: what for key, what in found(folders, name, rows, tolerance).items() if what != "nothing"}
    assert wrong == {}


@pytest.mark.long
@pytest.mark.parametrize("name", TABLES)
def test_flags_that_decide_nothing_but_the_rounding(name, folders, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    rows = {key: row for key, row in TABLES[name]["long"].items() if key != "wandb" or importlib.util.find_spec(key)}
    wrong = {key: what for key, what in found(folders, name, rows, 1e-5).items() if what != "nothing"}
    assert wrong == {}
