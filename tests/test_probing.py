"""`run_probing.py` from end to end, on replicas of the data sets."""

import csv
import json
import pickle
import shutil
from functools import partial

import numpy as np
import pytest
import replicas
import torch
from processes import PROBE, run_in_processes, script_target

from datasets.decoding.open import open_video
from datasets.lists.read import read_list
from datasets.transforms.images import ImageTestTransform, ImageTrainTransform
from engine.distributed.world import World
from engine.flags import parse
from engine.resilience.lock import RunLock
from evaluation.probing.heads import ProbeError
from models.registry import create_model
from run_probing import ProbingConfig, read_lists
from scripts.table_cells import fill
from scripts.table_records import read_records

SMALL = ["--num_frames", "4", "--input_size", "32", "--short_side_size", "32", "--num_workers", "0", "--device", "cpu"]
SMALL += ["--nb_classes", "2", "--any_length"]
RANDOM = ["--random_weights", "0", "--model", "vit_mini_patch8_32"]
LINEAR = ["--epochs", "3", "--holdout", "0.34"]
ATTENTIVE = ["--epochs", "1", "--batch_size", "4", "--probe_heads", "4", "--lrs", "1e-3", "3e-3", "--holdout", "0.34"]
NEAREST = ["--neighbours", "1", "6"]
MAKERS = {
    "Kinetics-400": replicas.kinetics,
    "SSV2": replicas.something_something,
    "UCF101": replicas.ucf101,
    "HMDB51": replicas.hmdb51,
    "ImageNet-1K": replicas.imagenet,
    "CIFAR-100": replicas.cifar100,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The replica of a data set, made at its first use."""
    root, found = tmp_path_factory.mktemp("replicas"), {}

    def make(name):
        if name not in found:
            found[name] = MAKERS[name](root / name)
        return found[name]

    return make


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """As pre-training writes it."""
    torch.manual_seed(3)
    model = create_model(
        "pretrain_videomae_mini_patch8_32", target_type="pixel", img_size=32, num_frames=4, decoder_depth=1
    )
    file = tmp_path_factory.mktemp("weights") / "checkpoint-0.pth"
    torch.save({"model": model.state_dict(), "args": {"num_frames": 4, "input_size": 32}}, file)
    return file


def run(name, replica, out, *argv, size=1):
    words = ["--data_set", name, *replica.flags, "--output_dir", out, *SMALL, *argv]
    return run_in_processes(script_target(PROBE, *map(str, words)), size=size)


def records(folder):
    return {record["metric"]: record for record in (json.loads(p.read_text()) for p in folder.glob("probe-*.json"))}


def refused(finished, *words):
    """One line on stderr with all these words, exit code 2."""
    assert finished.code == 2, finished.stderr
    (error,) = finished.errors
    assert all(word in error for word in words), error


def test_a_linear_probe_fills_its_cell_of_the_tables(made, checkpoint, tmp_path):
    (finished,) = run("UCF101", made("UCF101"), tmp_path, "--finetune", checkpoint, *LINEAR)
    assert finished.code == 0, finished.stderr
    found = records(tmp_path)
    assert found.keys() == {"top1"}
    options = found["top1"]["options"]
    assert options["all_metrics"].keys() == {"top1", "top5", "mean_per_class"}
    assert options["chosen_lr"] in options["lrs"] and len(options["tried"]) == 4 and options["holdout"] == 0.34
    assert options["final_norm"] is False and options["num_sample"] == 2
    assert (found["top1"]["probe"], found["top1"]["views"], found["top1"]["clips"]) == ("linear", "5x3", 4)
    (tmp_path / "row.json").write_text(
        json.dumps({"method": "SIGMA-DINO", "backbone": "ViT-B", "pretrained_on": "K400"})
    )
    tables, unplaced = fill(read_records([tmp_path]))
    (row,) = [row for row in tables["linear"] if (row.method, row.backbone) == ("SIGMA-DINO", "ViT-B")]
    assert row.cells["UCF101"].measured == found["top1"]["value"] and not unplaced
    assert any("4 videos, the official list has 3,783" in mark for mark in row.cells["UCF101"].marks)
    with np.load(tmp_path / "probe-linear-UCF101-predictions.npz") as kept:
        assert found["top1"]["value"] == 100 * np.mean(kept["predicted"] == kept["labels"])


@pytest.mark.parametrize(
    ("name", "probe"),
    [
        ("CIFAR-100", "pooler1"),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in [
                ("HMDB51", "knn"),
                ("Kinetics-400", "linear"),
                ("SSV2", "linear"),
                ("HMDB51", "linear"),
                ("ImageNet-1K", "linear"),
                ("UCF101", "attentive4"),
                ("SSV2", "pooler1"),
                ("ImageNet-1K", "knn"),
            ]
        ),
    ],
)
def test_each_probe_runs_on_each_data_set(made, tmp_path, name, probe):
    more = {"linear": LINEAR, "knn": ["--neighbours", "1", "4"]}.get(probe, ATTENTIVE)
    (finished,) = run(name, made(name), tmp_path, "--probe", probe, *RANDOM, *more)
    assert finished.code == 0, finished.stderr
    found = records(tmp_path)
    assert found.keys() == ({"top1_k1", "top1_k4"} if probe == "knn" else {"top1"})
    for record in found.values():
        assert record["probe"] == probe and record["clips"] == len(made(name).val) and 0 <= record["value"] <= 100
        assert record["checkpoint"] == "" and record["options"]["random_weights"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("probe", "more"), [("linear", LINEAR), ("knn", NEAREST), ("attentive4", ATTENTIVE)])
def test_results_do_not_depend_on_the_number_of_ranks(made, tmp_path, probe, more):
    """Augmentation is that of the sample; without mixing and dropout only the order of sums differs."""
    found = []
    for size in (1, 2, 3):
        out = tmp_path / str(size)
        batch = ["--batch_size", "6", "--lrs", "1e-3", "--weight_decays", "0.1"] if probe == "attentive4" else []
        argv = ["--probe", probe, *RANDOM, "--forward_batch", "4", *more, *batch]
        for finished in run("UCF101", made("UCF101"), out, *argv, size=size):
            assert finished.code == 0, finished.stderr
        found.append({name: (r["value"], r["options"].get("tried")) for name, r in records(out).items()})
        if probe != "attentive4":
            found[-1]["features"] = [path.read_bytes() for path in sorted(out.glob("features/*/features.npy"))]
    assert found[0] and found[0] == found[1] == found[2]


def mislabelled(replica, root):
    """CIFAR-100 with wrong labels in the test list alone."""
    shutil.copytree(replica.root, root)
    file = root / "cifar-100-python" / "test"
    content = pickle.loads(file.read_bytes(), encoding="bytes")
    content[b"fine_labels"] = [1 - label for label in content[b"fine_labels"]]
    file.write_bytes(pickle.dumps(content, protocol=2))
    return replicas.Replica(root, root, replica.train, tuple(content[b"fine_labels"]))


def test_the_choice_never_sees_the_test(made, tmp_path):
    """Wrong labels in the test list change the result, and nothing that was chosen."""
    replica, found = made("CIFAR-100"), []
    for name, other in (("a", replica), ("b", mislabelled(replica, tmp_path / "poisoned"))):
        (finished,) = run("CIFAR-100", other, tmp_path / name, *RANDOM, *LINEAR)
        assert finished.code == 0, finished.stderr
        found.append(records(tmp_path / name)["top1"])
    assert found[0]["options"]["tried"] == found[1]["options"]["tried"]
    assert found[0]["value"] == 100 - found[1]["value"]


def check_nearest(folder):
    """That each test sample got the class of the training sample with the most similar features, not its own."""
    parts = {}
    for part in ("train", "test"):
        (place,) = folder.glob(f"features/*-{part}-1x1-normed")
        rows = np.load(place / "features.npy").mean(axis=1)
        labels = [int(row["label"]) for row in csv.DictReader((place / "index.csv").open())]
        parts[part] = rows / np.linalg.norm(rows, axis=1, keepdims=True), np.array(labels)
    (bank, known), (queries, labels) = parts["train"], parts["test"]
    with np.load(next(folder.glob("probe-knn-*-predictions.npz"))) as kept:
        assert kept["labels"].tolist() == labels.tolist() != kept["predicted_k1"].tolist()
        assert kept["predicted_k1"].tolist() == known[(queries @ bank.T).argmax(axis=1)].tolist()


def test_features_of_another_checkpoint_are_refused(made, tmp_path):
    replica = mislabelled(made("CIFAR-100"), tmp_path / "replica")
    probe = partial(run, "CIFAR-100", replica, tmp_path, "--probe", "knn", "--neighbours", 1, *RANDOM[2:])
    (first,) = probe("--random_weights", "0")
    assert first.code == 0, first.stderr
    check_nearest(tmp_path)
    refused(probe("--random_weights", "1")[0], "CIFAR-100-train-1x1-normed", "another checkpoint", "--rebuild_features")
    (again,) = probe("--random_weights", "1", "--rebuild_features")
    assert again.code == 0, again.stderr


def test_lists_that_cannot_be_judged_are_refused_before_any_work(made, tmp_path):
    replica = made("CIFAR-100")
    words = ["--data_set", "CIFAR-100", *replica.flags, "--output_dir", tmp_path, *SMALL, *RANDOM]
    exact = [word for word in words if word != "--any_length"]
    (finished,) = run_in_processes(script_target(PROBE, *map(str, exact)))
    refused(finished, "6 samples; the train list of CIFAR-100 has 50,000 samples", "--any_length")
    same = tmp_path / "same"
    same.mkdir()
    with open(same / "train.csv", "w") as file:
        file.write("/d/a.mp4 0\n/d/b.mp4 1\n")
    shutil.copy(same / "train.csv", same / "test.csv")
    own = ["--data_set", "custom", "--data_path", same, "--output_dir", tmp_path, *SMALL, *RANDOM]
    (finished,) = run_in_processes(script_target(PROBE, *map(str, own)))
    refused(finished, "do not exist")
    for video in "ab":
        (tmp_path / f"{video}.mp4").write_bytes(b"x")
    for part in ("train", "test"):
        (same / f"{part}.csv").write_text(f"{tmp_path}/a.mp4 0\n{tmp_path}/b.mp4 1\n")
    (finished,) = run_in_processes(script_target(PROBE, *map(str, own)))
    refused(finished, "test.csv: 2 of its samples are in", "disjoint")
    (same / "test.csv").unlink()
    (finished,) = run_in_processes(script_target(PROBE, *map(str, own)))
    refused(finished, "test.csv")
    assert not list(tmp_path.glob("features*"))


@pytest.mark.slow
def test_a_test_video_that_one_rank_cannot_read_ends_all_with_its_name(made, tmp_path):
    replica = made("UCF101")
    shutil.copytree(replica.root, tmp_path / "videos")
    (video,) = (tmp_path / "videos").rglob("*_g01_*.avi")
    video.write_bytes(video.read_bytes()[:2000])
    broken = replicas.Replica(replica.lists, tmp_path / "videos", replica.train, replica.val)
    argv = ["--probe", "pooler1", *RANDOM, *ATTENTIVE, "--lrs", "1e-3"]
    for rank in run("UCF101", broken, tmp_path / "out", *argv, size=2):
        assert rank.code == 2 and "Traceback" not in rank.stderr and str(video) in rank.errors[0]


def test_folders_that_another_run_or_something_else_is_in(made, tmp_path):
    probe = partial(run, "CIFAR-100", made("CIFAR-100"), tmp_path, "--probe", "knn", "--neighbours", 1, *RANDOM)
    (tmp_path / "probe-knn-CIFAR-100-top1_k1.json").mkdir()
    refused(probe()[0], f"--output_dir {tmp_path}: ", "top1_k1.json is in the way: not a file. Remove it")
    other = RunLock(tmp_path)
    other.acquire()
    refused(probe()[0], f"--output_dir {tmp_path}: process ", "choose another --output_dir. If no such process")


def test_more_neighbours_than_training_samples_are_refused(made):
    """Six would vote, and the record would say seven."""
    argv = ["--data_set", "CIFAR-100", *made("CIFAR-100").flags, "--output_dir", "o", *SMALL, *RANDOM, "--probe", "knn"]
    alone = World(0, 1, 0, torch.device("cpu"))
    assert len(read_lists(parse(ProbingConfig, [*argv, "--neighbours", "6"]), alone).lists["train"]) == 6
    with pytest.raises(ProbeError, match=r"100.*: 6 samples, and --neighbours 7 of them are to vote"):
        read_lists(parse(ProbingConfig, [*argv, "--neighbours", "1", "7"]), alone)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--probe knn --lrs 1", "--lrs has no effect with --probe knn"),
        ("--mixup 0.5", "--mixup has no effect with --probe linear"),
        ("--probe attentive4 --cache_dir c", "--cache_dir has no effect with --probe attentive4"),
        ("--finetune a.pth", "either --finetune FILE or --random_weights SEED"),
        ("--lrs 1e38", "--lrs 1e.38: must be positive and at most 1000"),
        ("--holdout 0", "--holdout 0 leaves nothing to choose one of 4 heads on"),
        ("--data_set CIFAR-100 --aa none", "--aa has no effect"),
        ("--probe pooler1 --batch_size 3", "--batch_size is odd"),
    ],
)
def test_options_that_do_not_fit_are_refused(words, message):
    given = ["--random_weights", "0", "--data_path", "lists", "--data_set", "UCF101", "--output_dir", "o"]
    with pytest.raises(ValueError, match=message):
        parse(ProbingConfig, [*given, *words.split()])


# ------------------------------------------------------------------------------------------------- images as clips


def test_cifar_is_read_as_its_authors_pack_it(made, tmp_path):
    replica = made("CIFAR-100")
    videos = read_list(replica.root, list_format="cifar100", part="train")
    assert tuple(videos.labels) == replica.train and videos.class_names == ("apple", "aquarium_fish")
    with open_video(videos.paths[4]) as video:
        frames = video.get_frames([0, 0])
    expected = replicas.picture(replica.train[4], 4, height=32, width=32)
    assert video.num_frames == 1 and np.array_equal(frames[1].permute(1, 2, 0).numpy(), expected)
    (tmp_path / "cifar-100-python").mkdir()
    for name, content in (("meta", {}), ("train", Evil())):
        (tmp_path / "cifar-100-python" / name).write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"it holds .*system, which CIFAR's files do not"):
        read_list(tmp_path, list_format="cifar100", part="train")


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("true",)


def test_imagenet_is_read_as_ilsvrc_packs_it(made, tmp_path):
    replica = made("ImageNet-1K")
    for part, labels in (("train", replica.train), ("test", replica.val)):
        videos = read_list(replica.root, part=part)  # found out
        assert tuple(videos.labels) == labels and videos.class_names == ("n01440764", "n01443537")
    shutil.copytree(replica.root, tmp_path / "copy")
    (tmp_path / "copy" / "LOC_val_solution.csv").unlink()
    with pytest.raises(ValueError, match=r"LOC_val_solution.csv does not exist"):
        read_list(tmp_path / "copy", list_format="imagenet", part="test")


def test_images_are_resized_and_cropped_as_images():
    image = torch.zeros(1, 3, 40, 80, dtype=torch.uint8)
    image[..., 30:50] = 255  # the middle of the long side
    test = ImageTestTransform(28, 32)(image)
    assert test.shape == (1, 1, 3, 28, 28) and test.float().mean() > 120
    small = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(ImageTestTransform(32, 37, small=True)(small)[0], small)
    crops = {
        tuple(ImageTrainTransform(32, small=True, flip=False)(small, np.random.default_rng(n)).flatten()[:40].tolist())
        for n in range(20)
    }
    assert len(crops) > 10
    flipped = [ImageTrainTransform(32, min_area=1.0)(small, np.random.default_rng(n)) for n in range(8)]
    assert {torch.equal(f, flipped[0]) for f in flipped} == {True, False}
