"""Every variant of the method pre-trains on generated videos, and does on two processes what it does on one."""

import shutil

import pytest
import torch
from conftest import write_list
from moving_videos import write_moving_square
from processes import PRETRAIN, gloo_world
from runs import load, records, same, series

from datasets.synthetic import generate
from engine.config import RunFacts
from engine.distributed.world import World
from engine.errors import ConfigError
from engine.flags import parse
from run_sigma_pretraining import PretrainingConfig, build_model, build_target_network, main

# SGD moves with the size of the gradient (AdamW would hide a wrong factor).
COMMON = {"opt": "sgd", "lr": 1.0, "epochs": 2, "sampling_rate": 1, "save_ckpt_freq": 2}
DINO_V2 = {"target_type": "dino_v2", "distillation_teacher": "dino_s", "teacher_weights": "dino_v2.pth"}
DINO_V2 |= {"model": "pretrain_videomae_mini_patch8_56", "input_size": 56}  # a multiple of both patches, 8 and 14
DINO = {"target_type": "dino_v1", "distillation_teacher": "dino_s", "teacher_weights": "dino_v1.pth"}
VARIANTS = {
    "sigma-mlp": {},
    "sigma-mlp frozen": {"mlp_preloading": "sigma-mlp"},
    "projection held": {"freeze_projection_epochs": 1, "save_ckpt_freq": 1},
    "sigma-dino": DINO,
    "sigma-dinov2": DINO_V2,
    "sigma-dino in bf16": {**DINO, "amp": "bf16"},
    "all at once": {
        **DINO,
        "mask_type": "motion_vectors",
        "data_path": "moving.csv",
        "num_sample": 2,
        "update_freq": 2,
    },
    "videomae": {"target_type": "pixel"},
    "soft targets": {"sinkhorn_targets": "soft"},
    "video teacher": {"target_type": "video", "teacher": "videomae"},
    "centered": {"target_type": "video", "teacher": "videomae", "center_teacher": True},
    "videomae raw": {"target_type": "pixel", "normalize_target": "False"},
    "regression on mlp": {"loss_func": "L2"},
    "regression on dino": {**DINO, "loss_func": "L2"},
    "random masks": {"mask_type": "random"},
    "motion": {"mask_type": "motion", "flow_weights": "raft.pth"},
    "motion vectors": {"mask_type": "motion_vectors", "num_frames": 8, "data_path": "moving.csv"},
    "repeated sampling": {"num_sample": 3, "mask_type": "motion_vectors", "data_path": "moving.csv"},
    "several masks": {**DINO, "num_masks": 2, "num_sample": 2},
    "geometry": {"num_frames": 6, "tubelet_size": 3, "input_size": 48, "init_values": 0.1, "use_checkpoint": True},
    "continued, longer clips": {"finetune": "sigma-mlp", "num_frames": 8},
}

QUICK = ("sigma-mlp", "projection held", "sigma-dino", "videomae")
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in VARIANTS]


@pytest.fixture(scope="module")
def folder(frozen_weights, tmp_path_factory):
    """Lists of generated videos, and the frozen networks' files."""
    root = tmp_path_factory.mktemp("variants")
    generate(root / "data", num_pretrain=4, num_train=10, num_val=10, num_test=10, size=(40, 40), num_frames=12)
    # the generated videos are made of key frames, which hold no motion vectors
    moving = [
        write_moving_square(root / f"{i}.mp4", 12, width=48, height=48, side=20, start=(4, 2 * i), velocity=(1, i % 2))
        for i in range(4)
    ]
    write_list(root / "moving.csv", moving)
    for file in frozen_weights.iterdir():
        (root / file.name).symlink_to(file)
    return root


def command(data, folder, output, changes):
    changes = {"data_path": "data/pretrain.csv", **changes}
    for flag in ("data_path", "teacher_weights", "flow_weights"):
        if flag in changes:
            changes = {**changes, flag: folder / changes[flag]}
    for flag in ("mlp_preloading", "finetune", "teacher"):
        if flag in changes:  # the result of another variant's run
            changes = {**changes, flag: output.parent / changes[flag] / "checkpoint-1.pth"}
    return data.flags(PRETRAIN, output, **{**COMMON, **changes})


def pretrain(world, command_lines):
    for argv in command_lines:
        main(parse(PretrainingConfig, list(map(str, argv))), world)


def run_variants(data, folder, names):
    one, two = (
        [command(data, folder, folder / part / name, {**VARIANTS[name], "batch_size": batch}) for name in names]
        for part, batch in (("one", 2), ("two", 1))
    )
    gloo_world(pretrain, one, size=1)
    gloo_world(pretrain, two, size=2)


@pytest.fixture(scope="module")
def runs(request, data, folder):
    """Folders of the variants' runs in one process with two clips a batch, and in two with one each.

    The quick variants have run; the others too, if one of their tests is among those that were chosen.
    """
    run_variants(data, folder, QUICK)
    if any(item.path == request.path and item.get_closest_marker("long") for item in request.session.items):
        run_variants(data, folder, [name for name in VARIANTS if name not in QUICK])
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_do_what_one_does(runs, name):
    names = ("step", "train/loss", "train/grad_norm", "train/cosine_predicted")
    one, two = (series(runs / part / name, *names) for part in ("one", "two"))
    assert len(one) == (2 if "update_freq" in VARIANTS[name] else 4)
    torch.testing.assert_close(two, one, rtol=2e-2 if "bf16" in name else 2e-3, atol=2e-5)
    a, b = (load(runs / part / name / "checkpoint-1.pth")["model"] for part in ("one", "two"))
    torch.testing.assert_close(b, a, rtol=1e-2, atol=1e-3 if "bf16" in name else 1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_it_trains(runs, name):
    """Weights move, numbers stay finite, and each of the objectives reports what belongs to it."""
    rows = records(runs / "one" / name)
    assert torch.isfinite(series(runs / "one" / name, "train/loss", "train/grad_norm")).all()
    assert all(row["train/grad_norm"] > 0 for row in rows)
    has_codes = VARIANTS[name].get("loss_func") != "L2" and VARIANTS[name].get("target_type") != "pixel"
    assert ("train/prototypes_used_target" in rows[0]) is has_codes
    assert rows[0]["train/loss"] != rows[-1]["train/loss"]


@pytest.mark.parametrize(("amp", "dtype"), [("none", torch.float32), ("bf16", torch.bfloat16)])
def test_the_teacher_runs_in_bf16_where_the_model_does(amp, dtype, data, folder):
    argv = command(data, folder, folder / "unused", {**DINO, "amp": amp})
    config = parse(PretrainingConfig, list(map(str, argv)))
    world = World(0, 1, 0, torch.device("cpu"))
    teacher = build_target_network(config, world, build_model(config, world, RunFacts()), RunFacts())
    assert {parameter.dtype for parameter in teacher.parameters()} == {dtype}
    assert not any(parameter.requires_grad for parameter in teacher.parameters()) and not teacher.network.training


def test_a_batch_of_one_clip_cannot_be_centered(data, folder):
    argv = command(data, folder, folder / "unused", {**DINO, "center_teacher": True, "batch_size": 1})
    config, world = parse(PretrainingConfig, list(map(str, argv))), World(0, 1, 0, torch.device("cpu"))
    with pytest.raises(ConfigError, match="--center_teacher: a batch of one clip has no mean to subtract"):
        build_target_network(config, world, build_model(config, world, RunFacts()), RunFacts())


def test_frozen_networks_stay_out_of_the_checkpoint_and_of_the_optimizer(runs):
    """Nowhere in the file."""
    content = load(runs / "one" / "sigma-dino" / "checkpoint-1.pth")
    assert not any("teacher" in name or "network" in name for name in content["model"])
    assert content["model"]["prototypes"].shape == (12, 384)
    assert sum(len(group["params"]) for group in content["optimizer"]["param_groups"]) == len(content["model"])


@pytest.mark.long
def test_a_frozen_projection_is_what_it_was(runs):
    """And the optimizer does not know it."""
    frozen = load(runs / "one" / "sigma-mlp frozen" / "checkpoint-1.pth")
    source = load(runs / "one" / "sigma-mlp" / "checkpoint-1.pth")
    projection = [name for name in source["model"] if name.startswith("head.")]
    assert all(torch.equal(frozen["model"][name], source["model"][name]) for name in projection)
    trained = sum(len(group["params"]) for group in frozen["optimizer"]["param_groups"])
    assert trained == len(frozen["model"]) - len(projection)


def test_a_projection_is_held_for_its_epochs(runs, data):
    """Neither gradient nor decay moves it, but all that is trained beside it; afterwards it is trained too."""
    argv = command(data, runs, runs / "unused", VARIANTS["projection held"])
    config, world = parse(PretrainingConfig, list(map(str, argv))), World(0, 1, 0, torch.device("cpu"))
    at_first = build_model(config, world, RunFacts()).state_dict()
    held, after = (load(runs / "one" / "projection held" / f"checkpoint-{n}.pth")["model"] for n in (0, 1))
    projection = {name for name in at_first if name.startswith("head.")}
    assert projection and {name for name in at_first if torch.equal(at_first[name], held[name])} == projection
    assert not any(torch.equal(at_first[name], after[name]) for name in at_first)
    rows = records(runs / "one" / "projection held")
    assert [row["train/min_lr"] == 0 for row in rows] == [True, True, False, False]


@pytest.mark.parametrize("last", [0, 1], ids=["before it is trained", "when it begins to be"])
def test_a_resumed_run_trains_the_projection_as_an_uninterrupted_one(last, data, folder):
    changes = {"freeze_projection_epochs": 2, "save_ckpt_freq": 1, "epochs": 4, "batch_size": 2}
    whole, resumed = (folder / f"{name}-{last}" for name in ("whole", "resumed"))
    gloo_world(pretrain, [command(data, folder, whole, changes)], size=1)
    resumed.mkdir()
    shutil.copy(whole / f"checkpoint-{last}.pth", resumed)
    gloo_world(pretrain, [command(data, folder, resumed, changes)], size=1)
    expected, found = (load(path / "checkpoint-3.pth") for path in (whole, resumed))
    assert same(found["model"], expected["model"])
    assert same(found["optimizer"]["state"], expected["optimizer"]["state"])


def test_a_projection_held_in_all_epochs_has_no_gradient(data, folder):
    argv = command(data, folder, folder / "unused", {"freeze_projection_epochs": 2})
    config, world = parse(PretrainingConfig, list(map(str, argv))), World(0, 1, 0, torch.device("cpu"))
    model = build_model(config, world, RunFacts())
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith("head.")}


@pytest.mark.long
def test_positions_of_a_longer_clip_are_remembered(runs):
    """What was trained with a resampled table says so to whoever loads it next."""
    args = load(runs / "one" / "continued, longer clips" / "checkpoint-1.pth")["args"]
    assert args["position_grid"] == [2, 4, 4] and args["num_frames"] == 8


@pytest.mark.long
def test_repeats_multiply_the_clips(runs):
    text = (runs / "one" / "repeated sampling" / "console.txt").read_text()
    assert "2 = 2 x accumulation 1 x ranks 1 videos, 3 clips of each (--num_sample): 6 clips" in text
    assert "= base 1 x 2 / 256" in text
