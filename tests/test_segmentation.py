"""`run_segmentation.py` from end to end, on a replica of DAVIS."""

import json
import re
import shlex
import shutil
import subprocess

import numpy as np
import pytest
import torch
from masked_videos import davis, write_mask, youtube_vos
from PIL import Image
from processes import ROOT, SEGMENT, run_in_processes, script_target

from engine.distributed.world import World
from engine.flags import build_parser, parse
from engine.resilience.lock import RunLock
from engine.results import hash_of
from models.registry import create_model
from run_segmentation import SegmentationConfig, build_encoder, check, propagate_all
from sigma_video.options import OptionError

MODEL = ["--model", "vit_mini_patch8_32", "--input_size", "32", "--num_frames", "4", "--device", "cpu"]
MODEL += ["--kmeans_restarts", "1"]  # quick
METRICS = ["miou_hungarian", "miou_overclustering_precision", "miou_overclustering_greedy"]


def run(*argv, size=1):
    return run_in_processes(script_target(SEGMENT, *map(str, argv)), size=size)


def records(folder):
    return {record["metric"]: record for record in (json.loads(p.read_text()) for p in folder.glob("segm*.json"))}


@pytest.fixture(scope="module")
def replica(tmp_path_factory):
    root = tmp_path_factory.mktemp("davis")
    davis(root)
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """As pre-training writes it, of clips of twice as many frames."""
    torch.manual_seed(3)
    sizes = {"img_size": 32, "num_frames": 8, "decoder_depth": 1, "num_prototypes": 8, "decoder_num_classes": 16}
    model = create_model(
        "pretrain_videomae_mini_patch8_32", target_type="pixel", **sizes | {"decoder_num_classes": None}
    )
    file = tmp_path_factory.mktemp("weights") / "checkpoint-0.pth"
    torch.save({"model": model.state_dict(), "epoch": 0, "args": {"num_frames": 8, "input_size": 32}}, file)
    return file


def test_clustering_leaves_a_record_for_each_metric(replica, checkpoint, tmp_path):
    argv = ["--data_root", replica, "--finetune", checkpoint, *MODEL, "--output_dir", tmp_path, "--overlays"]
    (finished,) = run(*argv, "--frames", "random", "--seeds", "1", "2")
    assert finished.code == 0, finished.stderr
    found = records(tmp_path)
    assert sorted(found) == sorted(METRICS)
    for record in found.values():
        assert record["task"] == "segmentation-clustering" and record["clips"] == 3
        assert list(record["per_clip"]) != [] and set(record["per_clip"]) == {"bear", "dog", "goat"}
        assert record["value"] == pytest.approx(np.mean(list(record["per_clip"].values())))
        assert record["value"] == pytest.approx(np.mean(record["per_seed"])) and record["seeds"] == [1, 2]
        assert 0 < record["value"] <= 100
        assert record["checkpoint_sha256"] == hash_of(checkpoint)
        assert record["list_sha256"] == hash_of(replica / "ImageSets/2017/val.txt")
        assert record["options"]["upsample"] == "features" and record["options"]["num_frames"] == 4
        assert {"torch", "scipy", "scikit-learn"} <= set(record["versions"])
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        assert record["commit"].rstrip("+") == head
    with Image.open(tmp_path / "overlays.png") as sheet, Image.open(tmp_path / "overlays" / "dog.webp") as video:
        assert sheet.width > 900
        assert video.n_frames == 4


@pytest.mark.slow
@pytest.mark.parametrize("task", ["clustering", "propagation"])
def test_results_do_not_depend_on_the_number_of_ranks(replica, tmp_path, task):
    results = []
    for size in (1, 2, 3):
        argv = ["--data_root", replica, "--random_weights", 0, *MODEL, "--frame_size", 64, "--task", task]
        assert all(rank.code == 0 for rank in run(*argv, "--output_dir", tmp_path / str(size), size=size))
        found = records(tmp_path / str(size))
        results.append({name: (record["value"], record["per_clip"]) for name, record in found.items()})
    assert results[0] == results[1] == results[2]
    assert len(results[0]) == (3 if task == "clustering" else 7)


def test_propagation_follows_and_saves_masks(replica, checkpoint, tmp_path):
    argv = ["--task", "propagation", "--data_root", replica, "--finetune", checkpoint, *MODEL, "--frame_size", 64]
    (finished,) = run(*argv, "--preset", "vjepa2.1", "--output_dir", tmp_path, "--overlays", "--save_masks")
    assert finished.code == 0, finished.stderr
    found = records(tmp_path)
    names = ["bear:1", "bear:2", "dog:1", "dog:2", "goat:1", "goat:2"]
    assert list(dict.fromkeys(sorted(found["j_and_f"]["per_clip"]))) == names
    assert found["j_and_f"]["value"] == pytest.approx((found["j_mean"]["value"] + found["f_mean"]["value"]) / 2)
    assert found["j_and_f"]["options"]["context"] == 15 and found["j_and_f"]["seeds"] == []
    assert found["j_mean"]["value"] > 30  # coloured squares, followed even by random weights
    with (
        Image.open(tmp_path / "masks" / "dog" / "00000.png") as first,
        Image.open(replica / "Annotations/480p/dog/00000.png") as truth,
    ):
        assert first.mode == "P"
        np.testing.assert_array_equal(np.asarray(first), np.asarray(truth))
    assert len(list((tmp_path / "masks" / "dog").glob("*.png"))) == 6


def test_sliding_frames(replica, checkpoint):
    """At the size of the clips, from the tokens of a clip around each frame."""
    argv = ["--task", "propagation", "--data_root", replica, "--finetune", checkpoint, *MODEL, "--frame_size", "60"]
    config = parse(SegmentationConfig, list(map(str, [*argv, "--frame_tokens", "sliding"])))
    world = World(0, 1, 0, torch.device("cpu"))
    videos, _ = check(config)
    model = build_encoder(config, world)
    seen = []
    model.patch_embed.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    with torch.inference_mode():
        found = propagate_all(config, world, model, videos)
    assert set(seen) == {(1, 3, 4, 32, 32)} and len(seen) == sum(len(video.masks) for video in videos)
    assert sorted(found["j_mean"][""]) == ["bear:1", "bear:2", "dog:1", "dog:2", "goat:1", "goat:2"]
    with pytest.raises(OptionError, match="--frame_tokens sliding is for --task propagation"):
        parse(SegmentationConfig, [*map(str, argv[2:]), "--frame_tokens", "sliding"])


def errors(*argv):
    (finished,) = run(*argv)
    assert finished.code == 2 and len(finished.errors) == 1, finished.stderr
    assert "Traceback" not in finished.stderr
    return finished.errors[0]


def test_weights_have_to_be_named(replica, checkpoint, tmp_path):
    data = ["--data_root", replica, *MODEL]
    assert "give either --finetune FILE or --random_weights SEED" in errors(*data)
    assert "give either --finetune" in errors(*data, "--finetune", checkpoint, "--random_weights", 0)
    assert "--overlays writes into --output_dir" in errors(*data, "--random_weights", 0, "--overlays")
    assert "--save_masks is for --task propagation" in errors(
        *data, "--random_weights", 0, "--save_masks", "--output_dir", tmp_path
    )


def test_a_classifier_that_pools_has_no_final_norm(replica, tmp_path):
    model = create_model("vit_mini_patch8_32", num_classes=3, num_frames=4)
    torch.save({"model": model.state_dict()}, tmp_path / "tuned.pth")
    argv = ["--data_root", replica, *MODEL, "--finetune", tmp_path / "tuned.pth"]
    assert "tuned.pth: it has no final norm" in errors(*argv)
    assert run(*argv, "--no-final_norm")[0].code == 0


def test_masks_that_cannot_be_scored(tmp_path):
    random = ["--random_weights", 0, *MODEL]
    masks = davis(tmp_path, ["dog"], objects=3, size=(64, 64))
    data = ["--data_root", tmp_path, *random]
    said = errors(*data, "--overclusters", "3")
    assert "Annotations/480p/dog: 4 labels in the clip, more than --overclusters 3; give at least as many" in said
    points = ["--upsample", "labels", "--temporal", "subsample_gt", "--overclusters", 33]  # 2 x 4 x 4 tokens
    assert "--overclusters 33: with --upsample labels a clip has 32 points" in errors(*data, *points)
    folder = tmp_path / "Annotations/480p/dog"
    for frame, mask in enumerate(masks["dog"]):
        write_mask(np.where(mask > 0, 255, 0).astype(np.uint8), folder / f"{frame:05d}.png")
    assert "if it is the object's label, as in DAVIS 2016, give --void_label -1" in errors(*data)
    for frame, mask in enumerate(masks["dog"]):
        write_mask(np.where(mask > frame % 3, mask, 0).astype(np.uint8), folder / f"{frame:05d}.png")
    propagation = [*data, "--task", "propagation", "--frame_size", 64]
    write_mask(np.where(masks["dog"][0] == 3, 0, masks["dog"][0]).astype(np.uint8), folder / "00000.png")
    assert "dog/00001.png: label 3 is not in the first mask" in errors(*propagation)
    write_mask(np.zeros((64, 64), np.uint8), folder / "00000.png")
    assert "dog/00000.png: no object to follow" in errors(*propagation)


def test_folders_that_another_run_or_something_else_is_in(replica, tmp_path):
    argv = ["--data_root", replica, "--random_weights", 0, *MODEL, "--output_dir", tmp_path]
    (tmp_path / "segmentation-clustering-miou_hungarian.json").mkdir()
    said = errors(*argv)
    assert f"--output_dir {tmp_path}: " in said and "miou_hungarian.json is in the way: not a file. Remove it" in said
    other = RunLock(tmp_path)
    other.acquire()
    said = errors(*argv)
    assert f"--output_dir {tmp_path}: process " in said and "choose another --output_dir. If no such process" in said


@pytest.mark.slow
@pytest.mark.parametrize("task", ["clustering", "propagation"])
def test_a_damaged_image_of_one_rank_ends_all_with_its_name(replica, tmp_path, task):
    shutil.copytree(replica, tmp_path, dirs_exist_ok=True)
    image = tmp_path / "JPEGImages/480p/goat/00003.jpg"
    image.write_bytes(image.read_bytes()[:1000])  # its header is whole
    argv = ["--data_root", tmp_path, "--random_weights", 0, *MODEL, "--frame_size", 64, "--task", task]
    for rank in run(*argv, "--num_frames", 6, size=2):
        assert rank.code == 2 and "Traceback" not in rank.stderr and "goat/00003.jpg: damaged" in rank.errors[0]


def test_frames_that_patches_do_not_divide(replica):
    data = ["--data_root", replica, "--random_weights", 0, *MODEL, "--task", "propagation"]
    assert "--frame_size 60 is not a multiple of the patch size 8: choose one" in errors(*data, "--frame_size", 60)


def test_every_flag_has_a_help():
    assert all(action.help for action in build_parser(SegmentationConfig)._actions)


def commands(page):
    """The commands of a page's bash blocks, from the script on."""
    for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            yield shlex.split(line)[2:]


PAGE = list(commands(ROOT / "docs" / "segmentation.md"))


@pytest.mark.parametrize("number", range(len(PAGE)))
def test_commands_of_the_page_run_on_a_replica(tmp_path, replica, checkpoint, number):
    """As they stand there, but for the sizes of the replica and of its model."""
    youtube_vos(tmp_path / "youtube")
    own = {"DAVIS": replica, "YTVOS": tmp_path / "youtube", "output/pretraining/checkpoint-799.pth": checkpoint}
    argv = [str(own.get(word, word)) for word in PAGE[number]]
    output = argv.index("--output_dir") + 1
    argv[output] = str(tmp_path / "output")
    (finished,) = run(*argv, *MODEL, "--frame_size", "64")
    assert finished.code == 0, finished.stderr
    assert len(records(tmp_path / "output")) == (7 if "propagation" in argv else 3)
