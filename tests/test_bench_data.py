"""bench/data.py: it runs, its baselines do the same job as what they are compared with, and its report is complete."""

import json
import time

import numpy as np
import pytest
import torch

from bench import data as bench_data
from datasets.classification import ViewDataset
from datasets.decoding.open import open_video
from datasets.lists.read import read_list
from datasets.transforms.normalization import normalize_clips
from datasets.transforms.presets import PretrainTransform, TrainTransform, ViewTransform
from datasets.transforms.randaugment import RandAugment

pytest.importorskip("decord")


@pytest.fixture(scope="module")
def frames():
    return np.stack(list(bench_data.moving_frames(96, 64, 4, 0)))


def normalised(clip):
    return normalize_clips(clip[None])[0]


LEVEL = 1 / 255 / 0.224  # one grey level after normalisation


@pytest.mark.slow
def test_quick_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_data, "QUICK", bench_data.Scale(((64, 48),), 3, 32, 32, rounds=2, clips=1, contents=1))
    bench_data.main(["--quick", "--json", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())
    assert {"date", "processor", "torch", "av", "decord"} <= set(report["facts"])
    names = {row["implementation"] for row in report["rows"]}
    assert {"ours, same file", "ours, re-encoded", "ours, all views in one pass", "PIL"} <= names
    first = {}
    for row in report["rows"]:
        base = first.setdefault(row["what"], row)
        assert row["milliseconds"] > 0 and row["ratio"] > 0 and row["baseline"] == base["milliseconds"]
    assert all(base["ratio"] == 1 for base in first.values()) and len(first) < len(report["rows"])
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(report["rows"])


def test_what_is_timed_is_the_work_of_a_sample():
    """A run that uses 20 ms of the processor for four samples, and one that sleeps meanwhile."""

    def work(number):
        end = time.process_time() + 0.02
        while time.process_time() < end:
            continue

    runs = {"work": work, "sleep": lambda number: time.sleep(0.02)}
    times = bench_data.alternate(runs, rounds=3, samples=4)
    assert [len(column) for column in times.values()] == [3, 3]
    assert min(times["work"]) >= 5 > 2 * min(times["sleep"])  # ms


def test_ratios_are_medians_of_the_rounds():
    """8 / 1, 2 / 2 and 5 / 2."""
    old, new = bench_data.rows("clip", {"old": [8.0, 2.0, 5.0], "new": [1.0, 2.0, 2.0]})
    assert (old.milliseconds, old.baseline, old.ratio) == (5, 5, 1)
    assert (new.milliseconds, new.baseline, new.ratio) == (2, 5, 2.5)


def test_pretraining_baseline_makes_the_same_clip(frames):
    transform = PretrainTransform(32)
    theirs = bench_data.pil_pretrain(bench_data.to_images(frames), transform, np.random.default_rng(3))
    ours = normalised(transform(torch.from_numpy(frames).permute(0, 3, 1, 2), np.random.default_rng(3)))
    assert (theirs - ours).abs().max() < 1.1 * LEVEL


def test_randaugment_baseline_makes_the_same_frames(frames):
    augment = RandAugment(bench_data.AUGMENT)
    for seed in range(20):
        images = bench_data.pil_randaugment(bench_data.to_images(frames), augment, np.random.default_rng(seed))
        theirs = np.stack([np.asarray(image) for image in images]).astype(int)
        ours = augment(torch.from_numpy(frames).permute(0, 3, 1, 2), np.random.default_rng(seed))
        off = np.abs(theirs - ours.permute(0, 2, 3, 1).numpy())
        assert (off > 3).mean() < 0.02, seed  # later operations magnify a level's difference of earlier ones


def test_finetuning_baseline_makes_the_same_clip(frames):
    transform = TrainTransform(32, aa=bench_data.AUGMENT, flip=True)
    for seed in range(5):
        theirs = bench_data.pil_train(bench_data.to_images(frames), transform, np.random.default_rng(seed))
        ours = transform(torch.from_numpy(frames).permute(0, 3, 1, 2), np.random.default_rng(seed))
        assert ((theirs - normalised(ours)).abs() > 4 * LEVEL).float().mean() < 0.02, seed


def test_view_baseline_makes_the_same_view(tmp_path):
    file = bench_data.encode(tmp_path / "a.mp4", bench_data.moving_frames(96, 64, 90, 1), (96, 64), 12)
    (tmp_path / "list.csv").write_text(f"{file} 0\n")
    dataset = ViewDataset(
        read_list(tmp_path / "list.csv", require_labels=True),
        transform=ViewTransform(32, 32, 3),
        sampler="dense",
        num_frames=bench_data.FRAMES,
        sampling_rate=bench_data.STRIDE,
        num_clips=2,
    )
    views = dataset[0]["clip"]
    for number, (clip, crop) in enumerate(np.ndindex(2, 3)):
        alone = bench_data.one_view(str(file), clip, crop, 2, 3, 32)
        assert (alone - normalised(views[number])).abs().max() < 3.1 * LEVEL  # two decoders, two colour conversions


def test_reencoding_keeps_frames_and_puts_key_frames(tmp_path):
    source = bench_data.encode(tmp_path / "a.mp4", bench_data.moving_frames(96, 64, 40, 1), (96, 64), 250)
    target = bench_data.reencode(source, tmp_path / "b.mp4", 48)
    with open_video(source) as old, open_video(target) as new:
        assert old.num_frames == new.num_frames == 40
        assert new.get_frames([39]).shape == (1, 3, 48, 72)
