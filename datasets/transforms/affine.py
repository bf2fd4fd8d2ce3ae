"""Affine moves of whole clips, as PIL makes them of one frame but rounded: the geometric operations of RandAugment.

Pixels whose source lies outside the frame get the fill colour, with no blending along the border.

Shapes: T frames, C = 3 channels, H W pixels, all uint8.
"""

import itertools

import numpy as np
import torch
from torch.nn.functional import embedding_bag

from .pixel_ops import cut_off, to_planes

FILL = 128  # grey level of pixels that come from outside the frame
_BLOCK = 16384  # pixels of all frames that `_gather` makes at a time


def _tap_weights(d: np.ndarray, interpolation: str) -> list[np.ndarray]:
    """Weights of the 2 or 4 neighbours of a point that lies `d` behind the first, or the second, of them.

    The cubic is PIL's in affine transforms (a = -1); torch's own has a = -0.75.
    """
    e = 1 - d
    if interpolation == "bilinear":
        return [e, d]
    return [-d * e * e, 1 - d * d * (1 + e), 1 - e * e * (1 + d), -d * d * e]


def _lead(interpolation: str) -> int:
    """How many of the neighbours lie before the one at or below the point."""
    return 0 if interpolation == "bilinear" else 1


def _source(matrix: tuple[float, ...], y: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels of some lines come from: x and y, float32 (len(y), W), in pixels from the outer corner."""
    a, b, c, d, e, f = (np.float32(number) for number in matrix)
    x = np.arange(width, dtype=np.float32) + np.float32(0.5)
    y = y.astype(np.float32)[:, None] + np.float32(0.5)
    return a * x + b * y + c, d * x + e * y + f


def warp(frames: torch.Tensor, matrix: tuple[float, ...], interpolation: str) -> torch.Tensor:
    """PIL's affine transform of every frame.

    Args:
        frames: uint8 (T, C, H, W).
        matrix: (a, b, c, d, e, f): the output point (x, y) shows the input point (ax + by + c, dx + ey + f), in
            pixels from the outer corner of the frame.
        interpolation: "bilinear" or "bicubic".
    """
    a, b, c, d, e, f = matrix
    planes = to_planes(frames)
    if (a, d, e, f) == (1, 0, 1, 0):
        return _slide(planes, matrix, interpolation, axis=1)
    if (a, b, c, e) == (1, 0, 0, 1):
        return _slide(planes, matrix, interpolation, axis=0)
    return _gather(planes, matrix, interpolation)


def _slide(planes: torch.Tensor, matrix: tuple[float, ...], interpolation: str, *, axis: int) -> torch.Tensor:
    """`warp` where whole lines move along themselves: rows (axis 1) or columns (axis 0).

    Lines are moved by whole pixels first. What is left is a fraction of a pixel, the same all along a line: a filter of
    2 or 4 neighbours.
    """
    height, width = planes.shape[-2:]
    size = planes.shape[2 + axis]
    source = _source(matrix, np.arange(height), width)[1 - axis]
    outside = (source < 0) | (source >= size)
    along = np.arange(size) if axis else np.arange(size)[:, None]
    offset = (source - np.float32(0.5) - along.astype(np.float32)).mean(axis=axis, keepdims=True)  # of each line
    steps = np.floor(offset)
    weights = [torch.from_numpy(weight) for weight in _tap_weights(offset - steps, interpolation)]
    moved = _moved(planes.flatten(0, 1).numpy(), steps.astype(int).ravel(), _lead(interpolation), len(weights), axis)
    keep, fill = np.where(outside, np.uint8(0), np.uint8(255)), np.where(outside, np.uint8(FILL), np.uint8(0))

    new, levels, total = torch.empty_like(planes), torch.empty(moved.shape[1:]), torch.empty(height, width)
    for plane, target in zip(torch.from_numpy(moved), new.flatten(0, 1), strict=True):
        levels.copy_(plane)
        torch.mul(levels.narrow(axis, 0, size), weights[0], out=total)
        for k, weight in enumerate(weights[1:], start=1):
            total.addcmul_(levels.narrow(axis, k, size), weight)
        cut_off(total.round_(), target)
        filled = target.numpy()
        np.bitwise_or(np.bitwise_and(filled, keep, out=filled), fill, out=filled)  # many times as fast as a condition
    return new


def _moved(planes: np.ndarray, steps: np.ndarray, lead: int, num_taps: int, axis: int) -> np.ndarray:
    """Lines of uint8 (N, H, W) moved by whole pixels, longer by `num_taps` - 1 of which `lead` come first.

    What lies before a line or behind it is its first or last pixel.
    """
    num, height, width = planes.shape
    size = (height, width)[axis]
    length = size + num_taps - 1
    cuts = np.flatnonzero(np.diff(steps)) + 1
    if axis == 0 and len(cuts):  # columns by themselves are too narrow to be copied
        places = np.clip(np.arange(length)[:, None] - lead + steps, 0, size - 1) * width + np.arange(width)
        moved = np.empty((num, *places.shape), np.uint8)
        return np.take(planes.reshape(num, -1), places, axis=1, out=moved, mode="clip")  # "clip" needs no buffer
    moved = np.empty((num, length, width) if axis == 0 else (num, height, length), np.uint8)
    source, target = (planes.swapaxes(1, 2), moved.swapaxes(1, 2)) if axis == 0 else (planes, moved)
    for begin, end in itertools.pairwise([0, *cuts, len(steps)]):
        step = int(steps[begin]) - lead
        low, high = np.clip([-step, size - step], 0, length)
        lines, new = source[:, begin:end], target[:, begin:end]
        new[..., low:high] = lines[..., low + step : high + step]
        new[..., :low], new[..., high:] = lines[..., :1], lines[..., -1:]
    return moved


def _gather(planes: torch.Tensor, matrix: tuple[float, ...], interpolation: str) -> torch.Tensor:
    """`warp` by any matrix.

    Every frame and channel takes the same weighted sum of neighbours, so the clip is laid out as one row of T * C
    values for each pixel, and a bag of rows is summed for each output pixel.
    """
    num_frames, channels, height, width = planes.shape
    stacked = planes.view(1, num_frames * channels, height, width)
    rows = stacked.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).view(height * width, -1)
    table = rows.float()
    new = torch.empty_like(planes)
    new_rows = new.view(num_frames * channels, height * width).numpy()
    block = max(_BLOCK // width, 1)
    num_taps = len(_tap_weights(np.zeros(1), interpolation)) ** 2
    all_neighbours = np.empty((block * width, num_taps), np.int32)
    all_weights = np.empty((block * width, num_taps), np.float32)
    for top in range(0, height, block):
        source_x, source_y = _source(matrix, np.arange(top, min(top + block, height)), width)
        inside = np.flatnonzero((source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height))
        across = _taps(source_x.ravel()[inside] - np.float32(0.5), width, interpolation)
        down = _taps(source_y.ravel()[inside] - np.float32(0.5), height, interpolation)
        down = [(line * np.int32(width), weight) for line, weight in down]
        neighbours, weights = all_neighbours[: len(inside)], all_weights[: len(inside)]
        for i, ((line, line_weight), (column, column_weight)) in enumerate(itertools.product(down, across)):
            np.add(line, column, out=neighbours[:, i])
            np.multiply(line_weight, column_weight, out=weights[:, i])
        summed = embedding_bag(
            torch.from_numpy(neighbours), table, per_sample_weights=torch.from_numpy(weights), mode="sum"
        )
        levels = np.full((source_x.size, summed.shape[1]), FILL, np.uint8)
        values = np.empty(tuple(summed.shape), np.uint8)
        cut_off(summed.round_(), torch.from_numpy(values))
        levels[inside] = values
        new_rows[:, top * width : top * width + len(levels)] = levels.T
    return new


def _taps(position: np.ndarray, size: int, interpolation: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Neighbours along one axis, cut off at the edge, and their weights, in the shape of `position`."""
    first = np.floor(position)
    weights = _tap_weights(position - first, interpolation)
    place = first.astype(np.int32) - _lead(interpolation)
    return [(np.minimum(np.maximum(place + k, 0), size - 1), weight) for k, weight in enumerate(weights)]
