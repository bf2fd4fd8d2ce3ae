"""From a worker to the step: what handing over a batch costs, and the real loader in front of the real step.

python bench/loader.py [--clips B] [--rounds R] [--videos LIST] [--json FILE] [--quick]
python bench/loader.py --end_to_end [--tasks dino mlp pixel finetune] [--sizes base small] [--batch B] [--workers W]
                       [--steps N] [--rounds R] [--amp bf16] [--compile] [--videos LIST] [--device cpu] [--json FILE]
                       [--quick]

First form: one worker hands over clips of 16 x 224 x 224 that are ready in its memory, and the main process copies each
batch, as to page-locked memory; with --videos also pre-training clips that the worker decodes. "before" collates a
batch and then copies it to shared memory. Times are medians of rounds that alternate: CPU time of both processes, page
faults in the kernel among it, and wall time.

Second form, for a GPU: clips per second of training steps fed by the loader, its workers, page-locked memory and the
prefetcher, and as a share of the rate of the same step on one batch that is on the device already; wall time,
alternating. Without --videos nothing is decoded, so no decoder needs to be installed: samples are cut out of random
frames. Then the workers do the work of the loader but that of decoding and resizing.
"""

import argparse
import functools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import common
from bench.common import Cell
from bench.ours import OurStep, one_process
from datasets.loading.batch import Batch, WorkerCollate, collate
from datasets.loading.loaders import LoaderConfig, build_train_loader
from datasets.loading.shared import release
from datasets.masks.masks import MaskConfig
from models.vit import VARIANTS

POOL = 8  # different clips


class ReadyClips(Dataset):
    """Clips that lie in memory, with the channels last as transforms leave them; `repeats` of each, or None."""

    def __init__(self, clips: int, repeats: int | None, cell: Cell) -> None:
        shape = (POOL, cell.num_frames, cell.img_size, cell.img_size, 3)
        pool = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
        self.pool, self.repeats, self.clips = pool.permute(0, 1, 4, 2, 3), repeats, clips

    def __len__(self) -> int:
        return self.clips // (self.repeats or 1)

    def __getitem__(self, index: int) -> dict[str, Any]:
        clip = self.pool[index % POOL]
        clip = clip if self.repeats is None else torch.stack([clip] * self.repeats)
        return {"clip": clip, "index": index, "failures": []}


class CutClips(Dataset):
    """Training samples without videos: crops of random frames, with a mask or a label, by (epoch, index)."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        side = cell.img_size + 32
        self.frames = np.random.default_rng(0).integers(0, 256, (cell.num_frames, side, side, 3), dtype=np.uint8)
        self.masks = MaskConfig(mask_ratio=common.MASK_RATIO)

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        rng = np.random.default_rng(key)
        (top, left), size = rng.integers(32, size=2), self.cell.img_size
        pixels = np.ascontiguousarray(self.frames[:, top : top + size, left : left + size])
        item = {"clip": torch.from_numpy(pixels).permute(0, 3, 1, 2), "index": key[1], "failures": []}
        if self.cell.task == "finetune":
            return item | {"label": key[1] % common.NUM_CLASSES}
        return item | {"mask": torch.from_numpy(self.masks.draw(self.cell.grid, rng))}


# ---- handing over ----


def collate_twice(items: Sequence[dict[str, Any]]) -> Batch:
    """As it was before: joined by torch, then copied to shared memory."""
    join = torch.stack if items[0]["clip"].ndim == 4 else torch.cat
    clip = join([item["clip"] for item in items])
    rest = collate([item | {"clip": item["clip"][..., :1, :1]} for item in items])
    return replace(rest, clip=clip.share_memory_())


class TimedCollate:
    """A collation with the worker's CPU seconds: for itself, and in all since the one before."""

    def __init__(self, function: Callable[[Sequence[dict[str, Any]]], Batch]) -> None:
        self.function, self.ended = function, 0.0

    def __call__(self, items: Sequence[dict[str, Any]]) -> tuple[Batch, float, float]:
        start, before = time.process_time(), self.ended
        batch = self.function(items)
        self.ended = time.process_time()
        return batch, self.ended - start, self.ended - before


def collations() -> dict[str, Callable[[Sequence[dict[str, Any]]], Batch]]:
    return {
        "before": collate_twice,
        "straight into new shared memory": WorkerCollate(reuse=False),
        "into shared memory used again": WorkerCollate(reuse=True),
    }


def hand_over(
    dataset: Dataset, keys: Sequence[Any], batch_size: int, function: Callable[[Sequence[dict[str, Any]]], Batch]
) -> dict[str, float]:
    """CPU milliseconds a clip of the worker's collation, of the worker and of the main process, and wall time."""
    loader = DataLoader(dataset, sampler=keys, batch_size=batch_size, num_workers=1, collate_fn=TimedCollate(function))
    host, times = None, []
    batches = iter(loader)
    for _ in range(3):  # the worker starts; the first segments come about
        host = take(next(batches)[0], host)
    wall, main = time.perf_counter(), time.process_time()
    for batch, *seconds in batches:
        host = take(batch, host)
        times.append(seconds)
    wall, main = time.perf_counter() - wall, time.process_time() - main
    collating, worker = (statistics.median(column) for column in zip(*times, strict=True))
    clips = len(host)
    return {
        "collation": 1000 * collating / clips,
        "worker": 1000 * worker / clips,
        "main process": 1000 * main / len(times) / clips,
        "wall": 1000 * wall / len(times) / clips,
    }


def take(batch: Batch, host: torch.Tensor | None) -> torch.Tensor:
    """What the DataLoader's pinning thread does: copy to memory of its own, then give the batch's back."""
    host = torch.empty_like(batch.clip) if host is None else host
    host.copy_(batch.clip)
    if batch.reused:
        release(batch.clip)
    return host


def bench_hand_over(cell: Cell, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each kind of items and way of collation."""
    clips = 10 * options.clips
    kinds: dict[str, tuple[Dataset, Sequence[Any]]] = {
        "ready, one clip a sample": (ReadyClips(clips, None, cell), range(clips)),
        "ready, with repeats": (ReadyClips(clips, 1, cell), range(clips)),
    }
    if options.videos:
        videos = videos_of(cell, options.videos)
        kinds["decoded, pre-training"] = videos, [(0, number % len(videos)) for number in range(clips)]
    rows = []
    for what, (dataset, keys) in kinds.items():
        runs = {
            name: functools.partial(hand_over, dataset, keys, options.clips, function)
            for name, function in collations().items()
        }
        medians = common.alternate(runs, options.rounds)
        for name, found in medians.items():
            row = {f"{part}, ms / clip": milliseconds for part, milliseconds in found.items()}
            row |= {"speed-up of the worker": medians["before"]["worker"] / found["worker"]}
            rows.append({"items": what, "memory": name, **row})
    return rows


# ---- end to end ----


def videos_of(cell: Cell, path: str) -> Dataset:
    """The pre-training or fine-tuning data set over a list; needs a decoder."""
    from datasets.classification import TrainDataset
    from datasets.lists.read import read_list
    from datasets.pretraining import PretrainDataset
    from datasets.sampling import ClipConfig
    from datasets.transforms.presets import AugmentConfig, PretrainTransform, TrainTransform

    videos = read_list(path, require_labels=cell.task == "finetune")
    if cell.task == "finetune":
        transform = TrainTransform.from_config(AugmentConfig(), size=cell.img_size, flip=True)
        return TrainDataset(
            videos, transform=transform, sampler="dense", num_frames=cell.num_frames, sampling_rate=4, seed=0
        )
    return PretrainDataset(
        videos,
        ClipConfig(num_frames=cell.num_frames, sampling_rate=4),
        MaskConfig(mask_ratio=common.MASK_RATIO),
        transform=PretrainTransform(cell.img_size),
        grid=cell.grid,
        seed=0,
    )


def endless(loader: Any) -> Iterator[Batch]:
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


class Rate:
    """Clips per second of `steps` steps in a row, and the share of the time that the host waited for batches."""

    def __init__(self, step: OurStep, batches: Iterator[Any], *, clips: int, steps: int, device: torch.device) -> None:
        self.step, self.batches, self.clips, self.steps, self.device = step, batches, clips, steps, device
        self()  # warm-up: kernels, workers, and as many batches ahead as there will be

    def __call__(self) -> dict[str, float]:
        self._synchronize()
        start, waited = time.perf_counter(), 0.0
        for _ in range(self.steps):
            before = time.perf_counter()
            batch = next(self.batches)
            waited += time.perf_counter() - before
            self.step(batch)
        self._synchronize()
        seconds = time.perf_counter() - start
        return {"clips / s": self.steps * self.clips / seconds, "waiting, %": 100 * waited / seconds}

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def bench_end_to_end(cell: Cell, options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """The step on one synthetic batch, and fed by the loader with and without prefetching."""
    step = OurStep(cell, world=one_process(device), amp=options.amp, compiled=options.compile)
    synthetic = common.synthetic_batch(cell, options.batch, device)
    config = LoaderConfig(num_workers=options.workers)
    sources: dict[str, Iterator[Any]] = {"synthetic": iter(lambda: synthetic, None)}
    for prefetch in (True, False) if device.type == "cuda" else (False,):
        dataset = videos_of(cell, options.videos) if options.videos else CutClips(cell)
        kwargs = config.kwargs(rank=0, world_size=1, device=device)
        loader = build_train_loader(dataset, batch_size=options.batch, **kwargs)
        name = f"loader{', prefetching' if prefetch else ''}"
        source = endless(replace(config, gpu_prefetch=prefetch).prefetched(loader, device))
        sources[name] = (batch.to(device) for batch in source)
    rates = {
        name: Rate(step, batches, clips=options.batch, steps=options.steps, device=device)
        for name, batches in sources.items()
    }
    medians = common.alternate(rates, options.rounds)
    return [
        {
            "cell": cell.name,
            "clips": options.batch,
            "workers": options.workers,
            "samples": "videos" if options.videos else "random frames",
            "source": name,
            **found,
            "of synthetic": found["clips / s"] / medians["synthetic"]["clips / s"],
        }
        for name, found in medians.items()
    ]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--end_to_end", action="store_true", help="the loader in front of the step")
    parser.add_argument("--clips", type=int, default=16, help="of a batch that is handed over")
    parser.add_argument("--tasks", nargs="+", choices=common.TASKS, default=["pixel", "dino"])
    parser.add_argument("--sizes", nargs="+", choices=sorted(VARIANTS), default=["base"])
    parser.add_argument("--batch", type=int, help="clips per step; default: 64 on a GPU, 2 on a CPU")
    parser.add_argument("--workers", type=int, help="default: two less than there are CPUs, at most 14; at least 1")
    parser.add_argument("--steps", type=int, help="in a row; default: 20 on a GPU, 2 on a CPU")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--amp", choices=["none", "bf16"], default="bf16")
    parser.add_argument("--compile", action="store_true", help="with compiled blocks")
    parser.add_argument("--videos", metavar="LIST", help="decode the videos of this list")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="a smoke run on tiny models, whose numbers mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write facts and rows there")
    options = parser.parse_args(arguments)
    on_gpu = options.device == "cuda"
    options.batch = options.batch or (64 if on_gpu else 2)
    options.steps = options.steps or (20 if on_gpu else 2)
    options.workers = options.workers or max(1, min(len(os.sched_getaffinity(0)) - 2, 14))
    if options.quick:
        options.sizes, options.batch, options.steps, options.rounds, options.clips = ["mini"], 2, 2, 2, 4
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    device = torch.device(options.device)
    if device.type == "cpu" or not options.end_to_end:
        torch.set_num_threads(1)
    about = common.facts(device)
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    rows: list[dict[str, Any]] = []
    if not options.end_to_end:
        rows = bench_hand_over(Cell("pixel", "base", options.quick), options)
        print(common.markdown(rows))
        common.write_json(about, rows, options.json)
        return
    for size in options.sizes:
        for task in options.tasks:
            found = bench_end_to_end(Cell(task, size, options.quick), options, device)
            print(common.markdown(found), flush=True)
            rows += found
            common.write_json(about, rows, options.json)  # now: whatever happens to the next cell
            if device.type == "cuda":
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
