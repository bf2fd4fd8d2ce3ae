"""The generated demo data set: short H.264 videos whose class is how the camera moves (scenes.py), and nothing else."""

import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np

from .scenes import CLASS_NAMES, draw_scene

logger = logging.getLogger(__name__)

FRAME_RATE = 25
# Key frames only, at a constant quantiser: what is predicted from other frames carries traces of the motion, from which
# a classifier on single frames at full resolution got a quarter of the labels right (a tenth, chance, on key frames).
ENCODING = {"preset": "ultrafast", "qp": "28", "g": "1"}
LOG_SECONDS = 5.0
DRAWING_VERSION = 4  # part of the clips' folder name: raise it when the same settings draw other pictures


@dataclass(frozen=True)
class Drawing:
    """Everything that decides what a clip of a given split and number looks like."""

    seed: int
    size: tuple[int, int]  # width, height
    num_frames: int
    version: int = DRAWING_VERSION

    def __post_init__(self) -> None:
        if min(self.size) < 32 or any(side % 2 for side in self.size):
            raise ValueError(f"size {self.size}: width and height must be even and at least 32")
        if self.num_frames < 2:
            raise ValueError(f"num_frames {self.num_frames}: motion needs at least 2 frames")

    @property
    def folder(self) -> str:
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]
        return f"clips-{digest}"


@dataclass(frozen=True)
class Generated:
    """Where a generated data set lies."""

    root: Path
    pretrain: Path
    train: Path
    val: Path
    test: Path
    class_names: tuple[str, ...]
    num_written: int  # clips drawn by this call; the others were there


def draw_clip(drawing: Drawing, label: int, rng: np.random.Generator) -> np.ndarray:
    """The frames of one video, (T, H, W, 3) uint8 RGB."""
    return draw_scene(label, drawing.num_frames, drawing.size, rng).astype(np.uint8)


def encode_clip(frames: np.ndarray) -> bytes:
    """An H.264 file in an mp4 container from (T, H, W, 3) uint8 RGB; the same bytes for the same frames."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options=ENCODING)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that is never seen half written, even if the process is killed."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    temporary.write_bytes(content)
    temporary.replace(path)


def _write_clip(job: tuple[Drawing, Path, int, int]) -> None:
    drawing, path, split_number, index = job
    rng = np.random.default_rng([drawing.seed, split_number, index])
    _write_whole(path, encode_clip(draw_clip(drawing, _label(index), rng)))


def _label(index: int) -> int:
    return index % len(CLASS_NAMES)  # every class equally often


@contextmanager
def _pool_map(workers: int) -> Iterator[Callable[..., Iterable[None]]]:
    """`map` over processes, or in this one for a single worker. Leaving early drops the work not yet begun."""
    if workers <= 1:
        yield map
        return
    pool = ProcessPoolExecutor(workers)
    try:
        yield lambda function, jobs: pool.map(function, jobs, chunksize=16)
    finally:
        pool.shutdown(cancel_futures=True)


def _draw_missing(
    jobs: list[tuple[Drawing, Path, int, int]], workers: int, progress: Callable[[int, int], None] | None
) -> None:
    started = reported = time.monotonic()
    with _pool_map(workers) as pool_map:
        for done, _ in enumerate(pool_map(_write_clip, jobs), start=1):
            if progress is not None:
                progress(done, len(jobs))
            now = time.monotonic()
            if now - reported >= LOG_SECONDS or done == len(jobs):
                left = (now - started) / done * (len(jobs) - done)
                logger.info("videos: %d of %d drawn, %.0f s left", done, len(jobs), left)
                reported = now


def _plan(
    root: Path, drawing: Drawing, counts: Mapping[str, int]
) -> tuple[dict[str, list[Path]], list[tuple[Drawing, Path, int, int]]]:
    """The paths of every split, and the jobs for those that do not exist."""
    paths: dict[str, list[Path]] = {}
    jobs: list[tuple[Drawing, Path, int, int]] = []
    for split_number, (split, count) in enumerate(counts.items()):
        folder = root / drawing.folder / split
        folder.mkdir(parents=True, exist_ok=True)
        present = {entry.name for entry in os.scandir(folder) if entry.stat().st_size}
        paths[split] = [folder / f"{index:06d}.mp4" for index in range(count)]
        jobs += [(drawing, p, split_number, i) for i, p in enumerate(paths[split]) if p.name not in present]
    return paths, jobs


def _write_list(file: Path, paths: Sequence[Path], *, has_labels: bool) -> None:
    rows = [f"{path} {_label(index) if has_labels else 0}\n" for index, path in enumerate(paths)]
    _write_whole(file, "".join(rows).encode())


def generate(
    root: str | Path,
    *,
    num_pretrain: int,
    num_train: int,
    num_val: int,
    num_test: int | None = None,
    seed: int = 0,
    size: tuple[int, int] = (128, 96),
    num_frames: int = 20,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Generated:
    """Write the videos, their lists and the class names below `root`, or what of them is missing.

    Lists are in VideoMAE's format, absolute path and label: train.csv, val.csv, test.csv, and pretrain.csv, whose
    label is always 0. labels.txt names the classes, one a line; manifest.json, written last, holds the settings.
    Videos lie in a folder named after the drawing's settings, so those of other settings are never taken for them,
    and a clip depends on its split and number only, so a larger set keeps the clips of a smaller one. Where Python
    spawns its processes (macOS, or Linux from Python 3.14), call it below `if __name__ == "__main__":`.

    Args:
        num_test: as many as `num_val` if not given.
        size: width and height in pixels, both even.
        workers: processes that draw; 1 draws in this process.
        progress: called with (videos drawn, videos to draw) after each one, in this process.

    Raises:
        ValueError: a split would have no video, or the size or length cannot be drawn.
        OSError: a file cannot be written.
    """
    drawing = Drawing(seed, size, num_frames)
    counts = {"pretrain": num_pretrain, "train": num_train, "val": num_val}
    counts["test"] = num_val if num_test is None else num_test
    if min(counts.values()) < 1:
        raise ValueError(f"every split needs at least one video: {counts}")

    root = Path(root).absolute()
    paths, jobs = _plan(root, drawing, counts)
    manifest_file = root / "manifest.json"
    if jobs:
        manifest_file.unlink(missing_ok=True)  # it stands for a complete set
        logger.info("drawing %d of %d videos in %s", len(jobs), sum(counts.values()), root / drawing.folder)
        _draw_missing(jobs, workers, progress)
    lists = {split: root / f"{split}.csv" for split in counts}
    for split, file in lists.items():
        _write_list(file, paths[split], has_labels=split != "pretrain")
    _write_whole(root / "labels.txt", "".join(f"{name}\n" for name in CLASS_NAMES).encode())
    manifest = {"drawing": asdict(drawing), "videos": counts, "classes": CLASS_NAMES, "folder": drawing.folder}
    _write_whole(manifest_file, json.dumps(manifest, indent=2).encode())
    return Generated(root=root, **lists, class_names=CLASS_NAMES, num_written=len(jobs))
