"""The generated demo data set: short H.264 videos whose class is how the view moves over a texture, and nothing else.

The texture is a sum of waves in all directions, of random phases, with random colours. The view slides, turns or zooms
over it, at constant speed or to and fro. Shifting or turning waves of random phase and direction gives waves of random
phase and direction; their lengths lie on a circle (a wave that leaves at one end of the range, where it is faint,
returns at the other), so a zoom does not change the lengths' distribution either. In every frame of every class the
picture therefore has the same distribution, and a single frame cannot tell the class.

The motion is the same throughout a video, so a clip from anywhere in it has the label.
Mirroring turns `left` into `right`: train on this data without a flip.

Axes: T frames, H W pixels, K waves. Lengths are in units of the picture's shorter side.
"""

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

logger = logging.getLogger(__name__)

ACROSS, DOWN, ANGLE, ZOOM = range(4)  # the coordinates of the view


@dataclass(frozen=True)
class Motion:
    """What a class does to the view: moves one coordinate up (+1) or down (-1), or to and fro (0)."""

    coordinate: int
    direction: int


MOTIONS: dict[str, Motion] = {  # the order is the label; names say how the picture's content moves
    "left": Motion(ACROSS, -1),
    "right": Motion(ACROSS, +1),
    "up": Motion(DOWN, -1),
    "down": Motion(DOWN, +1),
    "turn_clockwise": Motion(ANGLE, +1),
    "turn_counter_clockwise": Motion(ANGLE, -1),
    "approach": Motion(ZOOM, +1),
    "recede": Motion(ZOOM, -1),
    "oscillate_across": Motion(ACROSS, 0),
    "oscillate_down": Motion(DOWN, 0),
}
CLASS_NAMES = tuple(MOTIONS)

SPEED = (0.03, 0.05)  # of a slide, per frame
# Turns (radians) and zooms (natural logarithm of the size) that move the picture's content about as fast as a slide.
SPEED_FACTOR = {ACROSS: 1.0, DOWN: 1.0, ANGLE: 3.0, ZOOM: 2.5}
PERIOD = (6.0, 9.0)  # of a to-and-fro motion, in frames
# Many short waves: all clips have about the same spectrum, and a place tells little about those beyond its neighbours.
# So the motion is what the parts of a clip share, which is what a model learns that predicts some parts from others.
NUM_WAVES = 32
WAVELENGTH = (0.12, 0.24)
CONTRAST = 2.5
FRAME_RATE = 25
# Key frames only, at a constant quantiser: what is predicted from other frames carries traces of the motion, from which
# a classifier on single frames at full resolution got a quarter of the labels right (a tenth, chance, on key frames).
ENCODING = {"preset": "ultrafast", "qp": "28", "g": "1"}
LOG_SECONDS = 5.0
DRAWING_VERSION = 3  # part of the clips' folder name: raise it when the same settings draw other pictures


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


def draw_view(motion: Motion, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Where the view is in every frame, (T, 4): shift across, shift down, angle, logarithm of the zoom."""
    frames = np.arange(num_frames)
    speed, period, start = (rng.uniform(*bounds) for bounds in (SPEED, PERIOD, (0.0, 1.0)))
    if motion.direction:
        moved = motion.direction * speed * frames
    else:  # on its way as fast as the others, give or take
        moved = 1.4 * speed * period / (2 * np.pi) * np.sin(2 * np.pi * (start + frames / period))
    view = np.zeros((num_frames, 4))
    view[:, motion.coordinate] = SPEED_FACTOR[motion.coordinate] * moved
    return view


def draw_texture(view: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A random texture under the given views, (T, H, W) float32, about normally distributed.

    A wave's phase is linear in x and y whatever the view, so cos(ax + by + c) splits into products of a function of x
    and one of y, and the sum over waves into a product of matrices.
    """
    x, y = ((np.arange(side) + 0.5 - side / 2) / min(size) for side in size)
    spread = (np.arange(NUM_WAVES) + rng.random(NUM_WAVES)) / NUM_WAVES  # random, but evenly over the range
    octaves = np.log2(WAVELENGTH[1] / WAVELENGTH[0])
    octave_TK = (octaves * rng.permutation(spread) + view[:, [ZOOM]] / np.log(2)) % octaves
    weight_TK = np.sin(np.pi * octave_TK / octaves) ** 2
    frequency_TK = 2 * np.pi / (WAVELENGTH[0] * 2**octave_TK)
    direction_TK = 2 * np.pi * spread + view[:, [ANGLE]]
    along_x, along_y = frequency_TK * np.cos(direction_TK), frequency_TK * np.sin(direction_TK)
    phase_TK = rng.uniform(0, 2 * np.pi, NUM_WAVES) - along_x * view[:, [ACROSS]] - along_y * view[:, [DOWN]]
    phase_TKW = (along_x[:, :, None] * x + (phase_TK % (2 * np.pi))[:, :, None]).astype(np.float32)
    phase_THK = (along_y[:, None] * y[:, None]).astype(np.float32)
    weight_TK = (weight_TK / (0.45 * np.sqrt(NUM_WAVES))).astype(np.float32)
    across = np.concatenate([np.cos(phase_TKW), -np.sin(phase_TKW)], axis=1)
    down = np.concatenate([np.cos(phase_THK), np.sin(phase_THK)], axis=2) * np.tile(weight_TK, 2)[:, None]
    return down @ across


def draw_clip(drawing: Drawing, label: int, rng: np.random.Generator) -> np.ndarray:
    """The frames of one video, (T, H, W, 4) uint8 RGB and a fourth channel without meaning."""
    texture = draw_texture(draw_view(MOTIONS[CLASS_NAMES[label]], drawing.num_frames, rng), drawing.size, rng)
    bright, dark = rng.uniform(120, 255, 3), rng.uniform(0, 120, 3)
    level = np.linspace(-3, 3, 256)
    mix = 1 / (1 + np.exp(-CONTRAST * level[:, None]))
    colours = np.pad(bright * mix + dark * (1 - mix), ((0, 0), (0, 1))).astype(np.uint8)
    # A pixel is one uint32 here: one look-up instead of four.
    index = np.clip((texture + 3) * (255 / 6), 0, 255).astype(np.uint8)
    return colours.view(np.uint32).ravel().take(index).view(np.uint8).reshape(*texture.shape, 4)


def encode_clip(frames: np.ndarray) -> bytes:
    """An H.264 file in an mp4 container from (T, H, W, 4) uint8 RGB and padding; the same bytes for the same frames."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options=ENCODING)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgba")))
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
