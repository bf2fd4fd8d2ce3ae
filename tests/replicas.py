"""Tiny replicas of data sets in their official layouts, with generated videos and images.

Each function takes a folder that may not exist yet, and returns a `Replica`: the folder of the lists, that of the
videos or images, and the labels of both parts in the order of the lists. A class is a colour, its samples differ in
texture and in where a square moves. Sizes are arguments; names and lists are as the data sets are published.
"""

import csv
import json
import pickle
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image

COLOURS = ((200, 60, 50), (60, 180, 70), (60, 80, 210), (210, 190, 60), (150, 60, 190), (70, 190, 200))
ENCODERS = {".avi": "mpeg4", ".mp4": "libx264", ".webm": "libvpx"}
OPTIONS = {"libx264": {"preset": "ultrafast"}, "libvpx": {"deadline": "realtime", "cpu-used": "8"}, "mpeg4": {}}


@dataclass(frozen=True)
class Replica:
    """Where a replica lies, and the labels of its lists."""

    lists: Path
    root: Path
    train: tuple[int, ...]
    val: tuple[int, ...]

    @property
    def flags(self):
        """Where an entry script finds it."""
        return ["--data_path", str(self.lists), "--data_root", str(self.root)]


def picture(label, seed, *, height=48, width=64, at=0):
    """uint8 (H, W, 3): the class's colour under a texture of its own, with a bright square."""
    random = np.random.default_rng([label, seed])
    drawn = np.array(COLOURS[label % len(COLOURS)]) + random.normal(0, 18, (height, width, 1))
    y = int(random.integers(height // 2))
    drawn[y : y + height // 4, at % width : at % width + width // 4] += 40
    return drawn.clip(0, 255).astype(np.uint8)


def write_clip(path, label, seed, *, frames=20, height=48, width=64):
    """A video in which the square moves; its container and codec follow from the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = ENCODERS[path.suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=OPTIONS[codec])
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(frames):
            image = picture(label, seed, height=height, width=width, at=2 * number)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def labels_of(classes, each):
    """`each` samples of every class: 0 0 1 1 ..."""
    return tuple(label for label in range(classes) for _ in range(each))


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def kinetics(root, *, classes=2, train=3, val=2, frames=20):
    """K400: `train.csv` and `validate.csv` of DeepMind, videos in folders of the classes."""
    names = ("abseiling", "air drumming", "skiing (not slalom or crosscountry)", "skiing crosscountry")[:classes]
    parts = {"train": labels_of(classes, train), "validate": labels_of(classes, val)}
    for part, labels in parts.items():
        rows = []
        for number, label in enumerate(labels):
            video = f"{part[:2]}-{number:08d}"
            folder = root / "videos" / part / names[label]
            write_clip(folder / f"{video}_000010_000020.mp4", label, number, frames=frames)
            rows.append((names[label], video, 10, 20, part))
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        with (root / "annotations" / f"{part}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("label", "youtube_id", "time_start", "time_end", "split"), *rows])
    return Replica(root / "annotations", root / "videos", *parts.values())


def something_something(root, *, classes=2, train=3, val=2, frames=20):
    """SSv2: a JSON a part, `labels.json`, webm files called by their number."""
    names = ("Pushing [something] from left to right", "Pushing [something] from right to left", "Holding [something]")
    names, first = names[:classes], {"train": 1, "validation": 100_001}
    parts = {"train": labels_of(classes, train), "validation": labels_of(classes, val)}
    lists = root / "labels"
    for part, labels in parts.items():
        records = []
        for number, label in enumerate(labels, start=first[part]):
            write_clip(root / "20bn-something-something-v2" / f"{number}.webm", label, number, frames=frames)
            text = names[label].replace("[something]", "a cup")
            records.append({"id": str(number), "label": text, "template": names[label], "placeholders": ["a cup"]})
        write_lines(lists / f"something-something-v2-{part}.json", [json.dumps(records)])
    numbered = {name.replace("[", "").replace("]", ""): str(label) for label, name in enumerate(names)}
    write_lines(lists / "labels.json", [json.dumps(numbered)])
    return Replica(lists, root / "20bn-something-something-v2", *parts.values())


def ucf101(root, *, classes=2, train=3, val=2, frames=20):
    """UCF101, split 1: `classInd.txt`, `trainlist01.txt`, `testlist01.txt`, avi files in folders of the classes."""
    names = ("ApplyEyeMakeup", "HandstandPushups", "YoYo", "Archery", "Biking")[:classes]  # as numbered here, from 1
    lists = root / "ucfTrainTestlist"
    write_lines(lists / "classInd.txt", [f"{number} {name}" for number, name in enumerate(names, start=1)])
    parts = {"train": labels_of(classes, train), "test": labels_of(classes, val)}
    for part, labels in parts.items():
        lines = []
        for number, label in enumerate(labels, start=1):
            group = number if part == "test" else number + 50
            stem = names[label].replace("Handstand", "HandStand")  # the files spell it so
            file = f"{names[label]}/v_{stem}_g{group:02d}_c01.avi"
            write_clip(root / "UCF-101" / file, label, group, frames=frames)
            lines.append(f"{file} {label + 1}" if part == "train" else file)
        write_lines(lists / f"{part}list01.txt", lines)
    return Replica(lists, root / "UCF-101", *parts.values())


def hmdb51(root, *, classes=2, train=3, val=2, frames=20):
    """HMDB51, split 1: a list a class, with 1 for training, 2 for testing and 0 for neither; names with brackets."""
    names = ("brush_hair", "cartwheel", "catch", "chew")[:classes]
    for label, name in enumerate(names):
        lines = []
        for number in range(train + val + 1):
            file = f"[clip]_{name}_{number}.avi" if number == 0 else f"clip_{name}_{number}.avi"
            mark = 1 if number < train else 2 if number < train + val else 0
            lines.append(f"{file} {mark}")
            write_clip(root / "videos" / name / file, label, number, frames=frames)
        write_lines(root / "splits" / f"{name}_test_split1.txt", lines)
    return Replica(root / "splits", root / "videos", labels_of(classes, train), labels_of(classes, val))


def imagenet(root, *, classes=2, train=3, val=2):
    """ImageNet-1K as ILSVRC packs it: a folder a class for training, a flat one for validation with its solution."""
    names = ("n01440764", "n01443537", "n01484850", "n01491361")[:classes]
    texts = ("tench, Tinca tinca", "goldfish, Carassius auratus", "great white shark", "tiger shark")
    data = root / "ILSVRC" / "Data" / "CLS-LOC"
    write_lines(root / "LOC_synset_mapping.txt", [f"{a} {b}" for a, b in zip(names, texts, strict=False)])
    parts = {"train": labels_of(classes, train), "val": labels_of(classes, val)[::-1]}  # its files are in no order
    rows = ["ImageId,PredictionString"]
    for part, labels in parts.items():
        for number, label in enumerate(labels, start=1):
            name = f"{names[label]}_{number}" if part == "train" else f"ILSVRC2012_val_{number:08d}"
            folder = data / part / (names[label] if part == "train" else "")
            folder.mkdir(parents=True, exist_ok=True)
            image = picture(label, number, height=60, width=40 + 20 * (number % 3))
            Image.fromarray(image).save(folder / f"{name}.JPEG", format="JPEG")
            if part == "val":
                rows.append(f"{name},{names[label]} 1 1 30 30 ")
    write_lines(root / "LOC_val_solution.csv", rows)
    return Replica(root, root, *parts.values())


def cifar100(root, *, classes=2, train=3, val=2):
    """CIFAR-100, the Python version: pickles with bytes as keys, rows of 3 x 32 x 32 values."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": labels_of(classes, train), "test": labels_of(classes, val)}
    for part, labels in parts.items():
        images = [picture(label, number, height=32, width=32) for number, label in enumerate(labels)]
        content = {
            b"filenames": [f"{part}_s_{number:06d}.png".encode() for number in range(len(labels))],
            b"batch_label": b"1 of 1",
            b"fine_labels": list(labels),
            b"coarse_labels": [label // 2 for label in labels],
            b"data": np.stack(images).transpose(0, 3, 1, 2).reshape(len(labels), -1),
        }
        (folder / part).write_bytes(pickle.dumps(content, protocol=2))
    names = [b"apple", b"aquarium_fish", b"baby", b"bear"][:classes]
    meta = {b"fine_label_names": names, b"coarse_label_names": [b"fish", b"fruit"]}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    return Replica(root, root, *parts.values())
