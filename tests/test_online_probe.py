"""The probe during pre-training: it changes nothing of the training, and agrees with run_probing.py on the weights."""

import json
import shutil

import pytest
import torch
from processes import PRETRAIN, PROBE, run_script
from runs import load, records

from engine.distributed.world import World
from engine.errors import ConfigError
from programs.pretraining.online_probe import read_probe_lists

NAMES = ["probe/knn", "probe/linear", "probe/rankme", "probe/rankme_tokens"]
# Stochastic depth draws random numbers in every step.
CHANGES = {"epochs": 3, "warmup_epochs": 0, "drop_path": 0.2, "save_ckpt_freq": 1, "lr": 0.1}


@pytest.fixture(scope="module")
def lists(data, tmp_path_factory):
    """Labelled videos: eight to learn from, five to be tested on, one of which is no video."""
    folder = tmp_path_factory.mktemp("probe")
    broken = folder / "broken.mp4"
    broken.write_bytes(b"no video")
    for name, videos in (("train", data.videos[:8]), ("val", [*data.videos[8:], broken])):
        (folder / f"{name}.csv").write_text("".join(f"{video} {i % 2}\n" for i, video in enumerate(videos)))
    return folder


def _paths(file):
    return [line.rsplit(" ", 1)[0] for line in file.read_text().splitlines()]


def pretrain(data, output, size=1, **changes):
    finished = run_script(PRETRAIN, *data.flags(PRETRAIN, output, **{**CHANGES, **changes}), size=size)
    for rank in finished if size > 1 else [finished]:
        assert rank.code == 0, rank.stderr
    return finished


@pytest.fixture(scope="module")
def probed(data, lists, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probed")
    return folder, pretrain(data, folder, probe_data=lists, probe_every=2)


def probes(folder):
    """(step, values of the probe) of the lines that have them."""
    return [(row["step"], [row[name] for name in NAMES]) for row in records(folder) if NAMES[0] in row]


def test_every_so_many_epochs_and_after_the_last(probed):
    folder, finished = probed
    assert [step for step, _ in probes(folder)] == [6, 9]
    assert "probe          every 2 epochs and after the last: 8-NN and a linear layer, 8 videos of " in finished.stderr
    assert finished.stderr.count("before training  probe/knn ") == 1
    assert "broken.mp4: " in finished.stderr  # named, and counted as wrong
    for _, (knn, linear, rank, rank_tokens) in probes(folder):
        assert {knn % 20, linear % 20} == {0} and max(knn, linear) <= 80  # of five videos
        assert 1 <= rank <= 12 and 1 <= rank_tokens <= 129


def test_training_is_the_same_without_it(probed, data, tmp_path):
    pretrain(data, tmp_path)
    for name in ("checkpoint-0.pth", "checkpoint-2.pth"):
        a, b = (load(folder / name) for folder in (probed[0], tmp_path))
        torch.testing.assert_close(a["model"], b["model"], rtol=0, atol=0)
        torch.testing.assert_close(a["optimizer"]["state"], b["optimizer"]["state"], rtol=0, atol=0)


def check_neighbours(run, lists, folder):
    """The last probe of a run against `run_probing.py` on its last checkpoint, with one view of each video."""
    shutil.copy(lists / "train.csv", folder)
    decodable = (lists / "val.csv").read_text().splitlines()[:-1]
    (folder / "test.csv").write_text("\n".join(decodable) + "\n")
    flags = {"probe": "knn", "data_set": "custom", "data_path": folder, "finetune": run / "checkpoint-2.pth"}
    flags |= {"short_side_size": 32, "sampling_rate": 2, "neighbours": 8, "num_workers": 0, "device": "cpu"}
    flags |= {"output_dir": folder / "out"}
    finished = run_script(PROBE, *(word for name, value in flags.items() for word in (f"--{name}", str(value))))
    assert finished.code == 0, finished.stderr
    (record,) = [json.loads(file.read_text()) for file in (folder / "out").glob("*.json") if "knn" in file.name]
    _, (knn, *_) = probes(run)[-1]
    assert knn == pytest.approx(record["value"] * len(decodable) / 5)


def test_neighbours_are_those_of_the_probe_of_the_checkpoint(probed, lists, tmp_path):
    check_neighbours(probed[0], lists, tmp_path)


def test_a_resumed_run_says_the_same(probed, data, lists, tmp_path):
    shutil.copytree(probed[0], tmp_path / "run")
    (tmp_path / "run" / "checkpoint-2.pth").unlink()
    finished = pretrain(data, tmp_path / "run", probe_data=lists, probe_every=2)
    assert "before training" not in finished.stderr and "resumed from" in finished.stderr
    assert probes(tmp_path / "run") == probes(probed[0])


@pytest.mark.slow
def test_ranks_share_it_out(data, lists, tmp_path):
    pretrain(data, tmp_path / "run", size=2, batch_size=2, probe_data=lists, probe_every=3)
    check_neighbours(tmp_path / "run", lists, tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"probe_every": 3}, ["--probe_every 3 needs --probe_data"]),
        ({"probe_data": "{lists}/absent"}, ["--probe_data", "absent: has no train.csv"]),
        ({"probe_data": "{lists}", "probe_every": 0}, ["--probe_every 0: must be at least 1"]),
        ({"probe_data": "{same}"}, ["train.csv", "val.csv"]),
    ],
)
def test_refused(changes, words, data, lists, tmp_path):
    for name in ("train", "val"):
        shutil.copy(lists / "train.csv", tmp_path / f"{name}.csv")
    changes = {name: str(value).format(lists=lists, same=tmp_path) for name, value in changes.items()}
    finished = run_script(PRETRAIN, *data.flags(PRETRAIN, tmp_path / "out", **changes))
    assert finished.code == 2 and len(finished.errors) == 1, finished.stderr
    assert all(word in finished.errors[0] for word in words), finished.errors


@pytest.mark.parametrize(
    ("labels", "words", "never"),
    [
        (
            {"train": "01", "val": None},
            ["has no val.csv", "give a folder with train.csv and val.csv"],
            "--disable_eval",
        ),
        ({"train": None, "val": "01"}, ["has no train.csv"], "--data_path"),
        ({"train": ["0.5", "1.5"], "val": "01"}, ["line 1", "label '0.5'"], "--task"),
        ({"train": ["0", "1000000000"], "val": "01"}, ["1000000000", "correct it"], "--nb_classes"),
        ({"train": "00", "val": "00"}, ["one class alone"], "--nb_classes"),
        ({"train": "11", "val": "01"}, ["one class alone in ", "train.csv"], "--nb_classes"),
    ],
    ids=str,
)
def test_lists_that_are_refused(labels, words, never, lists, tmp_path):
    """By a message that names the flag, and no flag that pre-training has not."""
    videos = {part: _paths(lists / f"{part}.csv")[:2] for part in labels}
    for part, values in labels.items():
        if values is not None:
            rows = (f"{video} {label}\n" for video, label in zip(videos[part], values, strict=True))
            (tmp_path / f"{part}.csv").write_text("".join(rows))
    with pytest.raises(ConfigError) as refused:
        read_probe_lists(str(tmp_path), "", World(rank=0, size=1, local_rank=0, device=torch.device("cpu")))
    assert all(word in str(refused.value) for word in ["--probe_data", *words]), refused.value
    assert never not in str(refused.value)


def test_lists_that_judge_little(data, lists, tmp_path):
    """Classes that the training videos have not are told in the plan; where nothing is decoded the run ends."""
    shutil.copy(lists / "train.csv", tmp_path)
    (tmp_path / "val.csv").write_text("".join(f"{video} {i}\n" for i, video in enumerate(data.videos[8:])))
    flags = data.flags(PRETRAIN, tmp_path / "out", probe_data=tmp_path)
    dry = run_script(PRETRAIN, *flags, "--dry_run")
    assert "2 videos of " in dry.stderr and "are of 2 classes without a video in " in dry.stderr, dry.stderr
    (tmp_path / "val.csv").write_text(f"{lists / 'broken.mp4'} 1\n")
    ended = run_script(PRETRAIN, *flags)
    assert ended.code == 2 and "nothing is judged" in ended.errors[-1] and "--probe_data" in ended.errors[-1]


def test_a_collapsed_run_ends(data, tmp_path):
    changes = {"loss_func": "L2", "epochs": 20, "lr": 30.0, "opt": "adamw", "drop_path": 0}
    flags = data.flags(PRETRAIN, tmp_path, **{**CHANGES, **changes}, stop_when_collapsed=True)
    finished = run_script(PRETRAIN, *flags)
    assert finished.code == 2 and "features are all alike" in finished.errors[0], finished.stderr
    assert "--stop_when_collapsed" in finished.errors[0] and records(tmp_path)[-1]["step"] < 60
