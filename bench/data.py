"""The data path against the released code's: CPU time of one core, alternating, medians, one run.

python bench/data.py [--quick] [--json FILE]

Writes its own H.264 videos (moving textures, 10 s at 30 fps) to a temporary folder. `--quick` is a smoke run on tiny
ones, whose numbers mean nothing. The baseline is written out in data_baseline.py: decord at full size, one PIL image
for each frame, float32 before the batch is made. OpenCV, with which the released code resizes at test time, is not
installed here; torch's uint8 kernel, which is at least as fast, stands in for it.

Ours ends with a uint8 batch: the change to normalised float32 happens on the GPU and is not counted.
"""

import argparse
import importlib.util
import itertools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.data_baseline import (
    FRAMES,
    STRIDE,
    Clip,
    decord_frames,
    one_view,
    pil_pretrain,
    pil_randaugment,
    pil_train,
    to_images,
)
from bench.data_videos import encode, moving_frames, reencode
from datasets.classification import ViewDataset
from datasets.decoding.open import open_video, resolve_decoder
from datasets.lists.read import read_list
from datasets.samples import sample_rng
from datasets.sampling import draw_pretrain_clip
from datasets.transforms.presets import PretrainTransform, TrainTransform, ViewTransform
from datasets.transforms.randaugment import RandAugment

AUGMENT = "rand-m7-n4-mstd0.5-inc1"


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    sizes: tuple[tuple[int, int], ...] = ((320, 240), (340, 256), (454, 256), (426, 320))
    seconds: int = 10
    crop: int = 224
    short_side: int = 256
    rounds: int = 15
    clips: int = 5
    contents: int = 3


QUICK = Scale(sizes=((96, 64),), seconds=3, crop=32, short_side=48, rounds=2, clips=2, contents=1)


@dataclass(frozen=True)
class Row:
    """One row of the table: CPU milliseconds per sample."""

    what: str
    implementation: str
    milliseconds: float
    baseline: float
    ratio: float


# ---- measuring ----


def alternate(runs: dict[str, Callable[[int], Any]], rounds: int, samples: int) -> dict[str, list[float]]:
    """CPU-ms per sample of each run and round; a call makes `samples`. Every round starts with the next run."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(0)  # warm-up: imports and caches
    names = list(runs)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.process_time()
            runs[name](number)
            times[name].append(1000 * (time.process_time() - start) / samples)
    return times


def rows(what: str, times: dict[str, list[float]]) -> list[Row]:
    """The first run is the baseline; ratios are medians of the rounds' ratios."""
    base, *_ = times.values()
    return [
        Row(
            what,
            name,
            statistics.median(column),
            statistics.median(base),
            statistics.median(b / max(t, 1e-6) for b, t in zip(base, column, strict=True)),
        )
        for name, column in times.items()
    ]


def pil_loader(paths: Sequence[str], scale: Scale) -> Callable[[int], Any]:
    transform = PretrainTransform(scale.crop)

    def batch(number: int) -> Clip:
        clips = []
        for index in range(scale.clips):
            rng = sample_rng(0, number, index)
            frames = decord_frames(
                paths[index % len(paths)], lambda length, r=rng: draw_pretrain_clip(length, FRAMES, STRIDE, r)
            )
            clips.append(pil_pretrain(to_images(frames), transform, rng))
        return torch.stack(clips)

    return batch


def our_loader(paths: Sequence[str], scale: Scale) -> Callable[[int], Any]:
    transform = PretrainTransform(scale.crop)

    def batch(number: int) -> Clip:
        clips = []
        for index in range(scale.clips):
            rng = sample_rng(0, number, index)
            with open_video(paths[index % len(paths)]) as video:
                frames = video.get_frames(draw_pretrain_clip(video.num_frames, FRAMES, STRIDE, rng))
            clips.append(transform(frames, rng))
        return torch.stack(clips)

    return batch


def has_shards() -> bool:
    return importlib.util.find_spec("datasets.decoding.shards") is not None


def shard_paths(files: Sequence[Path], folder: Path) -> list[str] | None:
    """The files in one shard; None where this version has no shards."""
    if not has_shards():
        return None
    from datasets.decoding.shard_writing import write_shards

    return write_shards([(file.name, file) for file in files], folder, shard_size=1 << 30)


def bench_loaders(folder: Path, scale: Scale) -> list[Row]:
    """Whole samples, from file to batch, by frame size and keyframe interval."""
    found = []
    for (width, height), gop in itertools.product(scale.sizes, (250, 12)):
        name = f"{width}x{height}, key frame every {gop}"
        files = []
        for k in range(scale.contents):
            frames = moving_frames(width, height, 30 * scale.seconds, k)
            files.append(encode(folder / f"{width}x{height} {gop} {k}.mp4", frames, (width, height), gop))
        again = [reencode(file, file.with_name(f"re {file.name}"), scale.short_side) for file in files]
        runs = {
            "decord, PIL, float32": pil_loader(list(map(str, files)), scale),
            "ours, same file": our_loader(list(map(str, files)), scale),
            "ours, re-encoded": our_loader(list(map(str, again)), scale),
        }
        members = shard_paths(again, folder / f"shards {width} {height} {gop}")
        if members is not None:
            runs["ours, re-encoded, shard"] = our_loader(members, scale)
        found += rows(f"clip from {name}", alternate(runs, scale.rounds, scale.clips))
    return found


def bench_views(folder: Path, scale: Scale) -> list[Row]:
    """5 x 3 test views of one video, each decoded separately or all in one pass."""
    width, height = scale.sizes[-1]
    found = []
    for gop in (250, 12):
        path = folder / f"{width}x{height} {gop} 0.mp4"
        listed = folder / f"views {gop}.csv"
        listed.write_text(f"{path} 0\n")
        transform = ViewTransform(scale.crop, scale.crop, 3)
        dataset = ViewDataset(
            read_list(listed, require_labels=True),
            transform=transform,
            sampler="dense",
            num_frames=FRAMES,
            sampling_rate=STRIDE,
            num_clips=5,
        )

        def each(_: int, path: Path = path) -> list[Clip]:
            return [one_view(str(path), clip, crop, 5, 3, scale.crop) for clip in range(5) for crop in range(3)]

        runs = {
            "decord, once for each view, float32": each,
            "ours, all views in one pass": lambda _, d=dataset: d[0],
        }
        times = alternate(runs, max(scale.rounds // 3, 2), 1)
        found += rows(f"15 views from {width}x{height}, key frame every {gop}", times)
    return found


def bench_transforms(scale: Scale) -> list[Row]:
    """Transforms alone, from decoded frames."""
    found = []
    augment = RandAugment(AUGMENT)
    for width, height in scale.sizes:
        frames = np.stack(list(moving_frames(width, height, FRAMES, 0)))
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
        crop, train = PretrainTransform(scale.crop), TrainTransform(scale.crop, aa=AUGMENT, flip=True)
        seeds = range(4 * scale.clips)  # one call sees many draws, the same for both

        def many(make: Callable[[np.random.Generator], Any], seeds: range = seeds) -> Callable[[int], Any]:
            return lambda number: [make(sample_rng(1, number, seed)) for seed in seeds]

        for what, runs in {
            "pre-training transform": {
                "PIL, float32": many(lambda r, f=frames, t=crop: pil_pretrain(to_images(f), t, r)),
                "ours": many(lambda r, f=pixels, t=crop: t(f, r)),
            },
            "RandAugment": {
                "PIL": many(lambda r, f=frames: pil_randaugment(to_images(f), augment, r)),
                "ours": many(lambda r, f=pixels: augment(f, r)),
            },
            "fine-tuning transform": {
                "PIL, float32": many(lambda r, f=frames, t=train: pil_train(to_images(f), t, r)),
                "ours": many(lambda r, f=pixels, t=train: t(f, r)),
            },
        }.items():
            found += rows(f"{what}, {width}x{height}", alternate(runs, max(scale.rounds // 3, 2), len(seeds)))
    return found


# ---- report ----


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def facts() -> dict[str, str]:
    packages = ("torch", "torchvision", "numpy", "pillow", "av", "decord")
    return {
        "date": date.today().isoformat(),
        "processor": processor(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "decoder": resolve_decoder("auto"),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def markdown(found: Sequence[Row]) -> str:
    lines = ["| what | implementation | CPU-ms | samples/s per core | ratio |", "|---|---|---|---|---|"]
    for row in found:
        per_second = 1000 / max(row.milliseconds, 1e-6)
        numbers = f"{row.milliseconds:.1f} | {per_second:.1f} | {row.ratio:.2f}"
        lines.append(f"| {row.what} | {row.implementation} | {numbers} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run of some seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write facts and rows there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    scale = QUICK if options.quick else Scale()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = bench_loaders(folder, scale) + bench_views(folder, scale) + bench_transforms(scale)
    about = facts()
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    if not has_shards():
        print("shards: not available")
    print(markdown(found))
    if options.json:
        options.json.write_text(json.dumps({"facts": about, "rows": [asdict(row) for row in found]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
