"""The generated demo data set: short H.264 videos whose class is how an object moves, and nothing else.

A bright textured object moves over a dim smooth background. Its pose has four coordinates (place across, place down,
angle, size), each a phase on a circle: place and angle wrap around, size starts again from the other end. Every clip
draws all four phases uniformly, and a class moves one of them, at constant speed or to and fro. A uniform phase stays
uniform under any such motion, so in every frame of every class the pose has the same distribution, and a single frame
cannot tell the class. Shape, texture, colours, background and speed are drawn without looking at the class.

The motion is the same throughout a video, so a clip from anywhere in it has the label, up to a stride of about 4.
Mirroring turns `left` into `right`: train on this data without a flip.

Axes: T frames, H W pixels, S the side of the object's texture.
"""

import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np

logger = logging.getLogger(__name__)

ACROSS, DOWN, ANGLE, SIZE = range(4)  # the coordinates of a pose


@dataclass(frozen=True)
class Motion:
    """What a class does to the pose: moves one coordinate up (+1) or down (-1), or to and fro (0)."""

    coordinate: int
    direction: int


MOTIONS: dict[str, Motion] = {  # the order is the label
    "left": Motion(ACROSS, -1),
    "right": Motion(ACROSS, +1),
    "up": Motion(DOWN, -1),
    "down": Motion(DOWN, +1),
    "turn_clockwise": Motion(ANGLE, +1),
    "turn_counter_clockwise": Motion(ANGLE, -1),
    "approach": Motion(SIZE, +1),
    "recede": Motion(SIZE, -1),
    "oscillate_across": Motion(ACROSS, 0),
    "oscillate_down": Motion(DOWN, 0),
}
CLASS_NAMES = tuple(MOTIONS)

# Speeds in phases a frame: of the picture's side, of a full turn, of the range of sizes.
SPEED = (0.02, 0.04)
SWING = (0.06, 0.10)  # amplitude of a to-and-fro motion, in phases
PERIOD = (9.0, 13.0)  # of a to-and-fro motion, in frames: a 16-frame clip holds more than one
RADIUS = (0.11, 0.22)  # of the object, in parts of the picture's shorter side
TEXTURE_SIZE = 64  # pixels of the drawn object, whatever its size in the video
FRAME_RATE = 25
# Key frames only, at a constant quantiser: what is predicted from other frames carries traces of the motion, from which
# a classifier on single frames at full resolution got a quarter of the labels right (a tenth, chance, on key frames).
ENCODING = {"preset": "ultrafast", "qp": "22", "g": "1"}
LOG_SECONDS = 5.0
DRAWING_VERSION = 1  # part of the clips' folder name: raise it when the same settings draw other pictures


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


def draw_poses(motion: Motion, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Phases in [0, 1) of the four pose coordinates in every frame, (T, 4)."""
    frames = np.arange(num_frames)
    speed, swing, period, start = (rng.uniform(*bounds) for bounds in (SPEED, SWING, PERIOD, (0.0, 1.0)))
    phases = np.tile(rng.random(4), (num_frames, 1))
    if motion.direction:
        phases[:, motion.coordinate] += motion.direction * speed * frames
    else:
        phases[:, motion.coordinate] += swing * np.sin(2 * np.pi * (start + frames / period))
    return phases % 1.0


def draw_background(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Dim smooth colours, (H, W, 4) uint8 RGB and 0: 4 x 4 random ones, interpolated."""
    colours = rng.uniform(15, 75, (4, 4, 3)) + rng.uniform(-10, 25, 3)
    for axis, side in ((1, size[0]), (0, size[1])):
        place = np.linspace(0, 3, side)
        before = np.minimum(place.astype(int), 2)
        weight = (place - before).reshape((-1, 1) if axis else (-1, 1, 1))
        weight = weight * weight * (3 - 2 * weight)  # no creases at the given colours
        colours = colours.take(before, axis) * (1 - weight) + colours.take(before + 1, axis) * weight
    return np.pad(colours, ((0, 0), (0, 0), (0, 1))).astype(np.uint8)


def draw_object(rng: np.random.Generator) -> np.ndarray:
    """A bright textured shape in its unit circle, (S, S, 4) uint8 RGB and 255 inside, 0 outside; S = TEXTURE_SIZE."""
    axis = (np.arange(TEXTURE_SIZE) + 0.5) * (2 / TEXTURE_SIZE) - 1
    u, v = np.meshgrid(axis, axis)
    radius, theta = np.hypot(u, v), np.arctan2(v, u) + rng.uniform(0, 2 * np.pi)
    corners = int(rng.integers(3, 7))
    if rng.random() < 0.5:
        half = np.pi / corners
        outline = np.cos(half) / np.cos(theta % (2 * half) - half)  # a regular polygon
    else:
        waves = rng.uniform(0, 0.25)
        outline = (1 + waves * np.cos(corners * theta)) / (1 + waves)  # a disc, a flower or a star
    opacity = np.where(radius < 0.95 * outline, 255, 0)[..., None]  # a free border all around

    bright = rng.uniform(120, 255, 3)
    bright[rng.integers(3)] = 255
    other = rng.permutation(bright) * rng.uniform(0.35, 0.6)
    tiles = int(rng.integers(2, 5))
    patches = rng.random((tiles, tiles))
    place = np.arange(TEXTURE_SIZE) * tiles // TEXTURE_SIZE
    stripes = 0.5 + 0.5 * np.sin(tiles * 3 * (u * np.cos(corners) + v * np.sin(corners)) + rng.uniform(0, 2 * np.pi))
    mix = (patches[np.ix_(place, place)] if rng.random() < 0.6 else stripes)[..., None]
    colours = bright * mix + other * (1 - mix)
    return np.concatenate([colours, opacity], axis=2).astype(np.uint8)


def draw_clip(drawing: Drawing, label: int, rng: np.random.Generator) -> np.ndarray:
    """The frames of one video, (T, H, W, 4) uint8 RGB and a fourth channel without meaning."""
    (width, height), num_frames = drawing.size, drawing.num_frames
    poses = draw_poses(MOTIONS[CLASS_NAMES[label]], num_frames, rng)
    background, texture = draw_background(drawing.size, rng), draw_object(rng)
    centre_x, centre_y = poses[:, ACROSS, None] * width, poses[:, DOWN, None] * height
    radius = min(drawing.size) * RADIUS[0] * (RADIUS[1] / RADIUS[0]) ** poses[:, SIZE]
    angle = 2 * np.pi * poses[:, ANGLE]

    # A window of P x P pixels around the object's centre, (T, P, 1) down and (T, 1, P) across, and where in the
    # object's texture each of its pixels falls. A pixel is one uint32 here: one look-up instead of four.
    reach = int(np.ceil(radius.max())) + 1
    window = np.arange(-reach, reach + 1)
    rows, columns = np.floor(centre_y).astype(int) + window, np.floor(centre_x).astype(int) + window
    dy = (rows + 0.5 - centre_y).astype(np.float32)[:, :, None]
    dx = (columns + 0.5 - centre_x).astype(np.float32)[:, None, :]
    zoom = TEXTURE_SIZE / (2 * radius)
    cos = (zoom * np.cos(angle)).astype(np.float32)[:, None, None]
    sin = (zoom * np.sin(angle)).astype(np.float32)[:, None, None]
    u = (cos * dx + (sin * dy + TEXTURE_SIZE / 2)).astype(np.int32)
    v = (cos * dy + (TEXTURE_SIZE / 2 - sin * dx)).astype(np.int32)
    np.clip(u, 0, TEXTURE_SIZE - 1, out=u)  # the texture's border is outside the object
    np.clip(v, 0, TEXTURE_SIZE - 1, out=v)
    drawn = texture.view(np.uint32).ravel().take(v * TEXTURE_SIZE + u)

    frames = np.repeat(background.view(np.uint32).reshape(1, -1), num_frames, axis=0).ravel()
    starts = np.arange(num_frames)[:, None, None] * (width * height)
    pixel = starts + (rows % height * width)[:, :, None] + (columns % width)[:, None, :]
    opaque = np.nonzero(drawn.view(np.uint8)[..., 3::4])
    frames[pixel[opaque]] = drawn[opaque]
    return frames.view(np.uint8).reshape(num_frames, height, width, 4)


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


def generate(
    root: str | Path,
    *,
    num_pretrain: int,
    num_train: int,
    num_val: int,
    num_test: int | None = None,
    seed: int = 0,
    size: tuple[int, int] = (96, 96),
    num_frames: int = 32,
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
    paths: dict[str, list[Path]] = {}
    jobs: list[tuple[Drawing, Path, int, int]] = []
    for split_number, (split, count) in enumerate(counts.items()):
        folder = root / drawing.folder / split
        folder.mkdir(parents=True, exist_ok=True)
        present = {entry.name for entry in os.scandir(folder) if entry.stat().st_size}
        paths[split] = [folder / f"{index:06d}.mp4" for index in range(count)]
        jobs += [(drawing, p, split_number, i) for i, p in enumerate(paths[split]) if p.name not in present]

    manifest_file = root / "manifest.json"
    if jobs:
        manifest_file.unlink(missing_ok=True)  # it stands for a complete set
        logger.info("drawing %d of %d videos in %s", len(jobs), sum(counts.values()), root / drawing.folder)
        _draw_missing(jobs, workers, progress)
    lists = {split: root / f"{split}.csv" for split in counts}
    for split, file in lists.items():
        rows = [f"{path} {0 if split == 'pretrain' else _label(i)}\n" for i, path in enumerate(paths[split])]
        _write_whole(file, "".join(rows).encode())
    _write_whole(root / "labels.txt", "".join(f"{name}\n" for name in CLASS_NAMES).encode())
    manifest = {"drawing": asdict(drawing), "videos": counts, "classes": CLASS_NAMES, "folder": drawing.folder}
    _write_whole(manifest_file, json.dumps(manifest, indent=2).encode())
    return Generated(root=root, **lists, class_names=CLASS_NAMES, num_written=len(jobs))
