"""Overlays of labels on frames, and masks as DAVIS stores them.

Letters: T frames, H W pixels.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

GAP = 4  # pixels between pictures
OPACITY = 0.55
COLOURS = np.array(  # of labels 1, 2, ...; 0 stays as it is
    [
        (230, 60, 60),
        (60, 160, 235),
        (250, 200, 50),
        (70, 190, 90),
        (180, 90, 210),
        (245, 140, 40),
        (80, 210, 210),
        (235, 110, 170),
        (150, 110, 80),
        (170, 210, 60),
        (110, 110, 230),
    ],
    np.uint8,
)


def palette() -> np.ndarray:
    """(256, 3) uint8: black for the background, then the colours, over and over."""
    return np.concatenate([np.zeros((1, 3), np.uint8), np.resize(COLOURS, (255, 3))])


def overlay(frames: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) uint8 frames with each pixel blended with the colour of its label; those of label 0 unchanged.

    Args:
        labels: (T, H, W) integers from 0 to 255.
    """
    blended = (1 - OPACITY) * frames + OPACITY * palette()[labels]
    return np.where((labels > 0)[..., None], blended.round(), frames).astype(np.uint8)


def strip(rows: Sequence[np.ndarray], *, columns: int) -> np.ndarray:
    """One picture: a row for each (T, H, W, 3), with `columns` evenly spaced frames side by side."""
    chosen = [(2 * k + 1) * len(rows[0]) // (2 * columns) for k in range(min(columns, len(rows[0])))]
    return _join([_join([row[k] for k in chosen], axis=1) for row in rows], axis=0)


def write_sheet(pictures: Sequence[Path], path: Path, *, width: int = 480) -> None:
    """A contact sheet of picture files: two columns, each picture scaled to one width."""
    small = []
    for file in pictures:
        with Image.open(file) as image:
            small.append(np.asarray(image.convert("RGB").resize((width, width * image.height // image.width))))
    height = max(picture.shape[0] for picture in small)
    small = [np.pad(p, ((0, height - p.shape[0]), (0, 0), (0, 0)), constant_values=255) for p in small]
    small += [np.full_like(small[0], 255)] * (len(small) % 2)
    rows = [_join(small[i : i + 2], axis=1, gap=4 * GAP) for i in range(0, len(small), 2)]
    write_picture(_join(rows, axis=0, gap=4 * GAP), path)


def write_picture(picture: np.ndarray, path: Path) -> None:
    """Write (H, W, 3) uint8 as an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def write_video(frames: np.ndarray, path: Path, *, fps: int = 12) -> None:
    """Write (T, H, W, 3) uint8 as an animated WebP, which browsers show."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=others, duration=1000 // fps, loop=0, quality=80)


def write_mask(mask: np.ndarray, path: Path) -> None:
    """Write (H, W) labels as a palette PNG whose pixel values are the labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette(palette().ravel().tolist())
    image.save(path)


def _join(pictures: Sequence[np.ndarray], *, axis: int, gap: int = GAP) -> np.ndarray:
    shape = list(pictures[0].shape)
    shape[axis] = gap
    parts = [part for picture in pictures for part in (np.full(shape, 255, np.uint8), picture)]
    return np.concatenate(parts[1:], axis=axis)
