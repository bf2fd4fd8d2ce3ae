"""Runs over two hundred videos with every kind of odd or broken file among them."""

import json
import os
import re

import numpy as np
import pytest
from odd_files import REASONS, write_odd_files
from processes import FINETUNE, PRETRAIN, run_script
from runs import records
from videos import write_video

NUM_VIDEOS, SEED = 200, 3
pytestmark = pytest.mark.slow


def write_list(file, paths):
    file.write_text("".join(f"{path} {number % 3}\n" for number, path in enumerate(paths)))
    return file


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    return write_odd_files(tmp_path_factory.mktemp("odd"))


@pytest.fixture(scope="module")
def videos(odd, tmp_path_factory):
    """Their paths, in the order of the list: the odd ones, and copies of few good ones."""
    folder = tmp_path_factory.mktemp("videos")
    good = [write_video(folder / f"good {i}.mp4", 18 + i, first=100 * i) for i in range(4)]
    copies = [folder / f"copy {i}.mp4" for i in range(NUM_VIDEOS - len(odd) - len(good))]
    for number, copy in enumerate(copies):
        os.link(good[number % len(good)], copy)
    paths = [*(file.path for file in odd.values()), *good, *copies]
    return [paths[place] for place in np.random.default_rng(0).permutation(NUM_VIDEOS)]


def pretrain(data, folder, paths, **changes):
    flags = {"epochs": 1, "warmup_epochs": 0, "batch_size": 20, "print_freq": 1, "seed": SEED} | changes
    file = write_list(folder / "list.csv", paths)
    return run_script(PRETRAIN, *data.flags(PRETRAIN, folder / "out", data_path=file, **flags))


def bad_videos(folder):
    rows = [line.split("\t") for line in (folder / "out" / "bad_videos.txt").read_text().splitlines()]
    assert all(len(row) == 5 for row in rows)
    return sorted(rows)


def first_replacement(place):
    """The video that is drawn first for one that cannot be opened, by the rule of the samples alone."""
    return int(np.random.default_rng([SEED, 0, place, 0]).integers(NUM_VIDEOS))


def test_training_ends_and_lists_the_broken_ones(videos, data, tmp_path):
    broken = {str(path): REASONS[path.name] for path in videos if path.name in REASONS}
    tables, losses = [], []
    for name, num_workers in (("first", 0), ("second", 2)):
        folder = tmp_path / name
        folder.mkdir()
        finished = pretrain(data, folder, videos, max_bad_fraction=0.05, num_workers=num_workers)
        assert finished.code == 0, finished.stderr
        assert "missing files  1" in finished.stderr and finished.stderr.count("undecodable video") == len(broken) == 7
        tables.append(bad_videos(folder))
        losses.append([row["train/loss"] for row in records(folder / "out")])
    assert len(losses[0]) == NUM_VIDEOS // 20 and losses[0] == losses[1]
    assert [row[0] for row in tables[0]] == sorted(broken)  # each once, and no other
    for path, reason, worker, epoch, replaced in tables[0]:
        assert re.fullmatch(broken[path], reason) and (worker, epoch) == ("rank 0", "epoch 0")
        assert replaced.startswith("replaced by /") and replaced.removeprefix("replaced by ") not in broken
    names = [str(path) for path in videos]
    unopened = {row[0]: row[4].removeprefix("replaced by ") for row in tables[0] if "bit_rot" not in row[0]}
    drawn = {path: names[first_replacement(names.index(path))] for path in unopened}
    assert len(unopened) == 6 and all(unopened[path] == by for path, by in drawn.items() if by not in broken)
    assert [row[:2] + row[3:] for row in tables[0]] == [row[:2] + row[3:] for row in tables[1]]


def test_more_than_the_share_end_the_run(videos, data, tmp_path):
    finished = pretrain(data, tmp_path, videos, epochs=20)  # 1 % of 200 are 2, and three are always allowed
    assert finished.code == 2 and "epoch 1 " not in finished.stderr
    assert re.search(r"of (the first )?\d+ videos cannot be decoded, .*--max_bad_fraction", finished.errors[0])
    assert sum(str(path) in finished.errors[0] for path in videos if path.name in REASONS) == 3


@pytest.mark.parametrize("kind", ["missing", "html"])
def test_none_of_the_files_is_a_video(kind, odd, data, tmp_path):
    paths = [tmp_path / f"{i}.mp4" for i in range(NUM_VIDEOS)]
    if kind == "html":
        for path in paths:
            os.link(odd["html.mp4"].path, path)
    finished = pretrain(data, tmp_path, paths)
    assert finished.code == 2 and "step 1/" not in finished.stderr
    assert len({path for path in paths if f"{path}" in finished.errors[0]}) == 3, finished.errors
    assert not list((tmp_path / "out").glob("*.pth"))


def test_a_test_counts_every_video_or_ends(odd, data, finetuned, tmp_path):
    """Nothing takes a video's place: what can be decoded is tested, however odd, and what cannot ends the test."""
    sound = [file.path for file in odd.values() if file.numbers is not None]
    for name in ("train", "val"):
        write_list(tmp_path / f"{name}.csv", sound)
    changes = {"data_path": tmp_path, "finetune": finetuned / "checkpoint-0.pth", "eval": True}
    for number, paths in enumerate((sound, [*sound, odd["bit_rot.mp4"].path])):
        write_list(tmp_path / "test.csv", paths)
        out = tmp_path / str(number)
        finished = run_script(FINETUNE, *data.flags(FINETUNE, out, **changes))
        if paths is sound:
            assert finished.code == 0, finished.stderr
            assert json.loads((out / "test.json").read_text())["videos"] == len(sound) == 12
        else:
            assert finished.code == 2 and str(odd["bit_rot.mp4"].path) in finished.errors[0]
            assert not (out / "test.json").exists()
