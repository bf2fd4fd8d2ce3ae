"""Run folders as runs write them, made in a moment: with names that try to break out of the page."""

import csv
import json

import numpy as np
import pytest

from engine.tasks.classification import Classification
from engine.tasks.results import write_results
from engine.tasks.task import VideoPredictions

HOSTILE = ["</script><script>alert(1)</script>", '"><img src=x onerror="alert(2)">', "a & b\x1b[31m\u202e", "'quiet'"]


class Listed(list):
    """Paths of videos, as a list of videos gives them."""

    def samples(self):
        return ((path, None) for path in self)


def probabilities(rng, count, classes):
    raw = rng.random((count, 2, classes)).astype(np.float32)
    return raw / raw.sum(axis=2, keepdims=True)


def make_test(folder, paths, names=HOSTILE, *, seed=0):
    """The results of a test of classification, written by the code that a run writes them with."""
    views = probabilities(np.random.default_rng(seed), len(paths), len(names))
    labels = np.arange(len(paths)) % len(names)
    predictions, task = VideoPredictions(views.mean(axis=1), labels, views), Classification(class_names=names)
    write_results(task, predictions, Listed(paths), folder / "test")
    metrics = {f"test/{name}": value for name, value in task.metrics(predictions).items()}
    where = {"list": {"file": "<b>test.csv</b>", "fingerprint": "0123"}, "settings": {"data_root": ""}}
    result = {**metrics, "views_are": "2 clips", "videos": len(paths), "views": 2, **where}
    (folder / "test.json").write_text(json.dumps(result))
    return result


def make_log(folder, *, steps=40, per_epoch=10, shift=0.0):
    """The log of a fine-tuning; returns its records."""
    records = []
    for step in range(1, steps + 1):
        record = {"step": step, "epoch": (step - 1) // per_epoch, "train/loss": 3 / step + shift, "train/lr": 1e-4}
        record |= {"train/clips_per_second": 100.0 + step % 7, "train/step_time": 0.5, "train/data_time": 0.1}
        if step % per_epoch == 0:
            record |= {"train_epoch/loss": 1.0, "val/top1": 50.0 + (step * 7) % 30, "val/<i>x": step / 3}
        records.append(record)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.txt").write_text("".join(json.dumps(record) + "\n" for record in records))
    return records


def make_record(folder, *, total=40, **options):
    """The record of one start."""
    args = {"output_dir": str(folder), "epochs": 4, "lr": 1e-3, "data_path": "<script>lists</script>", **options}
    facts = {"commit": "abc", "torch": "2.13", "device": "cpu", "world_size": 1, "first_step": 0, "total_steps": total}
    start = {"time": "2026-11-28T10:00:00+0000", "command": ["run.py", "--x", "<b>"], "args": args, **facts}
    (folder / "run.json").write_text(json.dumps([start]))


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished fine-tuning: two videos can be shown, the others are gone."""
    from videos import write_video

    folder = tmp_path_factory.mktemp("runs") / "<img src=x onerror=alert(3)>"
    make_log(folder)
    make_record(folder)
    there = [str(write_video(folder / f"{name}.mp4", 8)) for name in ("one", "two")]
    make_test(folder, there + [f"/gone/{number} {name}" for number in range(11) for name in ("<u>a", "b")])
    (folder / "bad_videos.txt").write_text("<b>x\tcut off\trank 0\tepoch 0\n")
    return folder


def read_csv(file):
    with file.open(newline="", encoding="utf-8") as content:
        return list(csv.reader(content))
